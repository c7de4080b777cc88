/* SPDX-License-Identifier: MIT
 *
 * IQ4_XS: x = d * (s - 32) * level[q], q in 0..15, the levels uneven from -127 to 113, one s in 0..63 per 32 values. Each 32
 * values are searched for their scale (search_iq4.h), weighted by their squares, or with importance by
 * importance * sqrt(t + x * x), t twice the mean of the squares of the superblock. The scale of largest magnitude becomes
 * s = 0: d = scale / -32, and s = N(scale * (1 / d)) + 32, at most 63. Then q is the level nearest to x * (1 / (d * (s - 32))),
 * with the unrounded d; where d * (s - 32) is 0 all q are 8.
 * Superblock of 256 values: f16 d; u16 with the high 2 bits of s number g at bit 2 g; u8[4] with its low 4 bits, in byte g / 2,
 * odd g in the high nibble; u8 q[128], 16 bytes per 32 values: value j in the low nibble of byte j, j + 16 in its high.
 * Source: ggml-quants.c, quantize_iq4_xs.
 * Quirks: an all-zero superblock has d = -0, s = 32 and codes 8.
 */
#include "search_iq4.h"

typedef struct {
    uint16_t d, high;
    uint8_t low[4], q[128];
} block;
SIZE_IS(block, 136);

#if LANES > 1

/* The finish of LANES superblocks, one per lane, from their 8 scales each: d, s and the inverses that give the codes. */
static void finish_lanes(const float *scales, float *inverses, int count, block *b) {
    const float *at[LANES];
    uint8_t *to[LANES];
    vf scale[8], top = v_set(0.0f), m = top;
    vi inverse[8], low = i_set(0), high = i_set(0);
    for (int k = 0; k < LANES; k++) at[k] = scales + 8 * k, to[k] = (uint8_t *)(inverses + 8 * k);
    v_load_lanes(at, 8, scale);
    for (int g = 0; g < 8; g++) {
        vm more = v_gt(v_abs(scale[g]), top);
        top = v_pick(more, v_abs(scale[g]), top);
        m = v_pick(more, scale[g], m);
    }
    vf d = (vf)((vi)m ^ INT32_MIN) / v_set(32.0f), to_s = inverse_iq4(d);
    for (int g = 0; g < 8; g++) {
        vi s = i_min(i_max(v_nearest(to_s * scale[g]), i_set(-32)), i_set(31));
        inverse[g] = (vi)inverse_iq4(d * v_of(s));
        s = s + 32;
        low |= (s & 15) << (4 * g);
        high |= (s >> 4) << (2 * g);
    }
    i_store_lanes(to, 8, inverse);
    int32_t d_i32[LANES], high_i32[LANES], low_i32[LANES];
    d = (vf)v_f16(d);
    memcpy(d_i32, &d, sizeof d);
    memcpy(high_i32, &high, sizeof high);
    memcpy(low_i32, &low, sizeof low);
    for (int k = 0; k < count; k++) {
        b[k].d = (uint16_t)d_i32[k];
        b[k].high = (uint16_t)high_i32[k];
        memcpy(b[k].low, &low_i32[k], 4);
    }
}

/* Twice the mean of the squares of each superblock, one per lane. */
static void find_sigma2(const float *const x[LANES], float *sigma2) {
    vf sum = v_set(0.0f);
    for (int i = 0; i < 256; i += 16) {
        const float *at[LANES];
        vf v[16];
        for (int k = 0; k < LANES; k++) at[k] = x[k] + i;
        v_load_lanes(at, 16, v);
        for (int j = 0; j < 16; j++) sum = sum + v[j] * v[j];
    }
    v_store(sigma2, sum * (2.0f / 256));
}

/* As many superblocks as there are lanes; count of them are wanted, the rest repeat the last. */
static void encode_group(const float *const x[LANES], const float *const importance[LANES], int count, block *b) {
    float sigma2[LANES], scales[8 * LANES] = {0}, inverses[8 * LANES];
    uint8_t spare[16];
    if (importance[0]) find_sigma2(x, sigma2);
    for (int g = 0; g < count; g += LANES / 8) { /* the groups of 32 of so many superblocks fill the lanes */
        const float *at[LANES];
        vf v[32], w[32];
        for (int k = 0; k < LANES; k++) at[k] = x[g + k / 8] + 32 * (k % 8);
        v_load_lanes(at, 32, v);
        if (importance[0]) {
            float t[LANES];
            for (int k = 0; k < LANES; k++) at[k] = importance[g + k / 8] + 32 * (k % 8), t[k] = sigma2[g + k / 8];
            v_load_lanes(at, 32, w);
            for (int j = 0; j < 32; j++) w[j] = w[j] * v_sqrt(v_load(t) + v[j] * v[j]);
        } else
            for (int j = 0; j < 32; j++) w[j] = v[j] * v[j];
        v_store(scales + 8 * g, search_iq4_lanes(v, w));
    }
    finish_lanes(scales, inverses, count, b);
    for (int g = 0; g < count; g += LANES / 8) {
        const float *at[LANES];
        uint8_t *to[LANES];
        vf v[32];
        vi words[4];
        for (int k = 0; k < LANES; k++) at[k] = x[g + k / 8] + 32 * (k % 8);
        for (int k = 0; k < LANES; k++) to[k] = g + k / 8 < count ? b[g + k / 8].q + 16 * (k % 8) : spare;
        v_load_lanes(at, 32, v);
        codes_iq4_lanes(v, v_load(inverses + 8 * g), words);
        i_store_lanes(to, 4, words);
    }
}

void FN(IQ4_XS_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    int64_t n = n_per_row * n_rows / 256;
    for (int64_t i = 0; i < n; i += LANES) {
        const float *values[LANES], *weights[LANES];
        for (int k = 0; k < LANES; k++) {
            int64_t at = 256 * (i + k < n ? i + k : n - 1);
            values[k] = x + at;
            weights[k] = importance ? importance + at % n_per_row : NULL;
        }
        encode_group(values, weights, n - i < LANES ? (int)(n - i) : LANES, b + i);
    }
}

#else

static void finish(const float *x, const float *scale, block *b) {
    float m = 0;
    for (int g = 0; g < 8; g++) m = fabsf(scale[g]) > fabsf(m) ? scale[g] : m;
    float d = -m / 32, to_s = d != 0 ? 1 / d : 0;
    b->d = f16_from_f32(d);
    b->high = 0;
    memset(b->low, 0, 4);
    for (int g = 0; g < 8; g++) {
        int32_t s = nearest_int(to_s * scale[g]);
        s = s < -32 ? -32 : s > 31 ? 31 : s;
        float step = d * (float)s;
        codes_iq4(x + 32 * g, step != 0 ? 1 / step : 0, b->q + 16 * g);
        b->low[g / 2] |= (uint8_t)(((s + 32) & 15) << (4 * (g % 2)));
        b->high |= (uint16_t)((s + 32) >> 4 << (2 * g));
    }
}

void FN(IQ4_XS_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    for (int64_t i = 0; i < n_per_row * n_rows; i += 256, x += 256, b++) {
        float w[256], scale[8], sigma2 = 0;
        for (int j = 0; j < 256; j++) sigma2 += x[j] * x[j];
        sigma2 *= 2.0f / 256;
        for (int j = 0; j < 256; j++) w[j] = importance ? weight_iq4(importance[i % n_per_row + j], sigma2, x[j]) : x[j] * x[j];
        for (int g = 0; g < 8; g++) scale[g] = search_iq4(x + 32 * g, w + 32 * g);
        finish(x, scale, b);
    }
}

#endif

void FN(IQ4_XS_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 256, b++)
        for (int g = 0; g < 8; g++) {
            int s = (b->low[g / 2] >> (4 * (g % 2)) & 15) | (b->high >> (2 * g) & 3) << 4;
            decode_iq4(b->q + 16 * g, f32_from_f16(b->d) * (float)(s - 32), x + 32 * g);
        }
}
