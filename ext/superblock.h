/* SPDX-License-Identifier: MIT */
/* What Q2_K, Q4_K and Q5_K share: a superblock of 256 values in groups of 16 or 32, value = d * scale * code - dmin * min,
 * with a small integer scale and min per group and binary16 d and dmin per superblock.
 *
 * Source: quantize_row_q{2,4,5}_K_ref and _impl of ggml-quants.c. Each group is searched on its own (search_qkx.h). Then the
 * scales and mins are themselves quantized: without importance the largest gets the top code, with importance by search
 * (search_qp.h). At last every value gets the code nearest to it under the stored scales. Quirks to keep: a group whose
 * stored scale is 0 keeps the codes of its search; products of stored parts round at each step.
 */
#ifndef GGUFMIX_SUPERBLOCK_H
#define GGUFMIX_SUPERBLOCK_H

#include "search_qkx.h"
#include "search_qp.h"

struct superblock {
    int n;                      /* values per group */
    int top;                    /* largest scale: 63 in six bits (see pack_six_bits), 15 in nibbles (scale low, min high) */
    int mean;                   /* without importance, weight = |x|; if mean, + root mean square of the group */
    float spread;               /* with importance, weight = importance * sqrt(spread * mean of squares + x * x) */
    struct qkx plain, weighted; /* searches without and with importance */
};

/* With importance a group may have a negative scale, whose code wraps to more than 63 (search_qp.h). Of six bits Q4_K stores the
 * low ones, spilling the rest into another group's; Q5_K limits the code. */
static inline int superblock_limits(const struct superblock *s) { return s->top == 63 && s->plain.nmax == 31; }

/* ls, lm: bytes per group. Of groups 4 to 7 the upper two bits are stored above the six bits of groups 0 to 3. */
static inline void pack_six_bits(const uint8_t *ls, const uint8_t *lm, uint8_t bytes[12]) {
    for (int j = 0; j < 4; j++) {
        bytes[j] = (uint8_t)(ls[j] | ls[j + 4] >> 4 << 6);
        bytes[j + 4] = (uint8_t)(lm[j] | lm[j + 4] >> 4 << 6);
        bytes[j + 8] = (uint8_t)((ls[j + 4] & 15) | (lm[j + 4] & 15) << 4);
    }
}

static inline void unpack_six_bits(const uint8_t bytes[12], uint8_t *ls, uint8_t *lm) {
    for (int j = 0; j < 4; j++) {
        ls[j] = bytes[j] & 63;
        lm[j] = bytes[j + 4] & 63;
        ls[j + 4] = (uint8_t)((bytes[j + 8] & 15) | bytes[j] >> 6 << 4);
        lm[j + 4] = (uint8_t)(bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4);
    }
}

/* A superblock before its codes are packed. */
struct quantized {
    uint16_t d, dmin;
    uint8_t scales[16]; /* as stored: 12 bytes of six bits, or 16 of nibbles */
    uint8_t codes[256];
};

static inline void superblock_weights(const struct superblock *s, const float *x, const float *importance, float sigma2, float *w) {
    float sum = 0;
    for (int i = 0; i < s->n; i++) sum += x[i] * x[i];
    float mean = s->mean ? sqrtf(sum / s->n) : 0;
    for (int i = 0; i < s->n; i++) w[i] = importance ? importance[i] * sqrtf(sigma2 + x[i] * x[i]) : mean + fabsf(x[i]);
}

/* Codes of scales (or mins) so that the largest gets top; returns the step between codes. */
static inline float superblock_scales(int top, int n, const float *scales, uint8_t *ls) {
    float max = 0;
    for (int j = 0; j < n; j++) max = scales[j] > max ? scales[j] : max;
    float inverse = max > 0 ? top / max : 0;
    for (int j = 0; j < n; j++) {
        ls[j] = (uint8_t)nearest_int(inverse * scales[j]);
        if (top == 63 && ls[j] > 63) ls[j] = 63;
    }
    return max / top;
}

__attribute__((unused)) static void superblock_encode(const struct superblock *s, const float *x, const float *importance, struct quantized *z) {
    const int n = s->n, groups = 256 / n;
    float scales[16], mins[16], sum_w[16], w[32], sum = 0;
    uint8_t ls[16], lm[16];
    for (int i = 0; i < 256; i++) sum += x[i] * x[i];
    const float sigma2 = s->spread * sum / 256;
    for (int j = 0; j < groups; j++) {
        superblock_weights(s, x + n * j, importance ? importance + n * j : NULL, sigma2, w);
        sum_w[j] = 0;
        for (int i = 0; i < n; i++) sum_w[j] += w[i];
        scales[j] = qkx_search(importance ? s->weighted : s->plain, n, x + n * j, w, z->codes + n * j, &mins[j]);
    }
    z->d = f16_from_f32(importance ? qp_search(groups, s->top, scales, sum_w, ls) : superblock_scales(s->top, groups, scales, ls));
    z->dmin = f16_from_f32(importance ? qp_search(groups, s->top, mins, sum_w, lm) : superblock_scales(s->top, groups, mins, lm));
    for (int j = 0; superblock_limits(s) && j < groups; j++) ls[j] = ls[j] < 63 ? ls[j] : 63, lm[j] = lm[j] < 63 ? lm[j] : 63;
    if (s->top == 63) {
        pack_six_bits(ls, lm, z->scales);
        unpack_six_bits(z->scales, ls, lm);
    } else {
        for (int j = 0; j < groups; j++) z->scales[j] = (uint8_t)(ls[j] | lm[j] << 4), ls[j] = z->scales[j] & 15, lm[j] = z->scales[j] >> 4;
    }
    for (int j = 0; j < groups; j++) {
        const float d = f32_from_f16(z->d) * ls[j], m = f32_from_f16(z->dmin) * lm[j];
        if (d == 0) continue;
        for (int i = n * j; i < n * (j + 1); i++) z->codes[i] = (uint8_t)qkx_code(s->plain.nmax, (x[i] + m) / d);
    }
}

#if LANES > 1

/* LANES superblocks, one per lane, before their codes are packed. */
struct quantized_lanes {
    vi d, scales[4]; /* as stored, in words: d | dmin << 16, then 12 or 16 bytes */
    union {
        vf x[256]; /* each value makes room for its code */
        vi codes[256];
    };
};

V_INLINE void superblock_weights_lanes(const struct superblock *s, const vf *x, const float *const importance[LANES], vf sigma2, vf *w) {
    if (importance) {
        v_load_lanes(importance, s->n, w);
        for (int i = 0; i < s->n; i++) w[i] *= v_sqrt(sigma2 + x[i] * x[i]);
        return;
    }
    vf mean = v_set(0.0f);
    if (s->mean) {
        for (int i = 0; i < s->n; i++) mean += x[i] * x[i];
        mean = v_sqrt(mean / (float)s->n);
    }
    for (int i = 0; i < s->n; i++) w[i] = mean + v_abs(x[i]);
}

V_INLINE vf superblock_scales_lanes(int top, int n, const vf *scales, vi *ls) {
    vf max = v_set(0.0f);
    for (int j = 0; j < n; j++) max = v_max(scales[j], max);
    vf inverse = v_pick(v_gt(max, v_set(0.0f)), (float)top / max, v_set(0.0f));
    for (int j = 0; j < n; j++) {
        ls[j] = v_nearest(inverse * scales[j]) & 0xFF;
        if (top == 63) ls[j] = i_min(ls[j], i_set(63));
    }
    return max / (float)top;
}

/* As stored: packs ls and lm into words and replaces them by what a reader unpacks. */
V_INLINE void superblock_pack_lanes(int top, vi *ls, vi *lm, vi words[4]) {
    words[0] = words[1] = words[2] = words[3] = i_set(0);
    if (top == 63) {
        for (int j = 0; j < 4; j++) {
            vi low = (ls[j] | ls[j + 4] >> 4 << 6) & 0xFF, mid = (lm[j] | lm[j + 4] >> 4 << 6) & 0xFF;
            vi high = (ls[j + 4] & 15) | (lm[j + 4] & 15) << 4;
            words[0] |= low << 8 * j, words[1] |= mid << 8 * j, words[2] |= high << 8 * j;
            ls[j] = low & 63, lm[j] = mid & 63;
            ls[j + 4] = (high & 15) | low >> 6 << 4, lm[j + 4] = high >> 4 | mid >> 6 << 4;
        }
    } else {
        for (int j = 0; j < 16; j++) {
            vi both = (ls[j] | lm[j] << 4) & 0xFF;
            words[j / 4] |= both << 8 * (j % 4);
            ls[j] = both & 15, lm[j] = both >> 4;
        }
    }
}

V_INLINE vi superblock_code_lanes(int nmax, vf x, vf m, vf step) {
    return i_max(i_min(v_nearest((x + m) / step), i_set(nmax)), i_set(0));
}

/* superblock_encode in every lane. x, importance: one address per lane; importance may be NULL. */
V_INLINE void superblock_encode_lanes(const struct superblock *s, const float *const at[LANES], const float *const importance[LANES],
                                      struct quantized_lanes *z) {
    const int n = s->n, groups = 256 / n;
    vf *const x = z->x, w[QKX_GROUPS * 32], scales[16], mins[16], sum_w[16], sigma2 = v_set(0.0f);
    struct qkx_fit fit[16];
    vi ls[16], lm[16];
    v_load_lanes(at, 256, x);
    if (importance) {
        for (int i = 0; i < 256; i++) sigma2 += x[i] * x[i];
        sigma2 = s->spread * sigma2 / 256.0f;
    }
    for (int j = 0; j < groups; j += QKX_GROUPS) {
        for (int g = 0; g < QKX_GROUPS; g++) {
            const float *from[LANES];
            for (int k = 0; importance && k < LANES; k++) from[k] = importance[k] + n * (j + g);
            superblock_weights_lanes(s, x + n * (j + g), importance ? from : NULL, sigma2, w + n * g);
        }
        qkx_search_lanes(importance ? &s->weighted : &s->plain, n, QKX_GROUPS, x + n * j, w, fit + j);
        for (int g = j; g < j + QKX_GROUPS; g++) {
            scales[g] = fit[g].scale;
            mins[g] = -fit[g].min;
            sum_w[g] = fit[g].sum_w;
        }
    }
    vi d = v_f16(importance ? qp_search_lanes(groups, s->top, scales, sum_w, ls) : superblock_scales_lanes(s->top, groups, scales, ls));
    vi dmin = v_f16(importance ? qp_search_lanes(groups, s->top, mins, sum_w, lm) : superblock_scales_lanes(s->top, groups, mins, lm));
    for (int j = 0; superblock_limits(s) && j < groups; j++) ls[j] = i_min(ls[j], i_set(63)), lm[j] = i_min(lm[j], i_set(63));
    superblock_pack_lanes(s->top, ls, lm, z->scales);
    z->d = d | dmin << 16;
    for (int j = 0; j < groups; j++) {
        vf step = v_of_f16(d) * v_of(ls[j]), m = v_of_f16(dmin) * v_of(lm[j]);
        vm keep = v_eq(step, v_set(0.0f));
        if (m_any(keep)) {
            for (int i = n * j; i < n * (j + 1); i++) {
                vi kept = qkx_code_of(importance ? &s->weighted : &s->plain, &fit[j], x[i]);
                z->codes[i] = i_pick(keep, kept, superblock_code_lanes(s->plain.nmax, x[i], m, step));
            }
        } else {
            for (int i = n * j; i < n * (j + 1); i++) z->codes[i] = superblock_code_lanes(s->plain.nmax, x[i], m, step);
        }
    }
}

/* Rows as one run of superblocks, LANES at a time; lanes past the last repeat it, and write the same bytes. */
V_INLINE void superblock_rows_lanes(const float *x, const float *importance, uint8_t *y, int bytes, int64_t n_per_row, int64_t n_rows,
                                    void (*encode)(const float *const x[LANES], const float *const importance[LANES], uint8_t *const y[LANES])) {
    const int64_t blocks_per_row = n_per_row / 256, n_blocks = blocks_per_row * n_rows;
    for (int64_t b = 0; b < n_blocks; b += LANES) {
        const float *x_at[LANES], *importance_at[LANES];
        uint8_t *y_at[LANES];
        for (int k = 0; k < LANES; k++) {
            int64_t at = b + k < n_blocks ? b + k : n_blocks - 1;
            x_at[k] = x + 256 * at;
            y_at[k] = y + bytes * at;
            if (importance) importance_at[k] = importance + 256 * (at % blocks_per_row);
        }
        encode(x_at, importance ? importance_at : NULL, y_at);
    }
}

#else

/* Rows as one run of superblocks. */
static inline void superblock_rows(const struct superblock *s, const float *x, const float *importance, uint8_t *y, int bytes, int64_t n_per_row,
                                   int64_t n_rows, void (*pack)(const struct quantized *z, uint8_t *y)) {
    const int64_t blocks_per_row = n_per_row / 256;
    for (int64_t b = 0; b < blocks_per_row * n_rows; b++) {
        struct quantized z;
        superblock_encode(s, x + 256 * b, importance ? importance + 256 * (b % blocks_per_row) : NULL, &z);
        pack(&z, y + bytes * b);
    }
}

#endif
#endif
