/* SPDX-License-Identifier: MIT */
/* What Q4_1 and Q5_1 share: blocks of 32 values, value = d * code + m.
 *
 *   0  f16 d, f16 m
 *   4  only with codes above 15: 32 bits, bit i being the fifth bit of value i
 *      16 bytes, byte i holding the low four bits of value i in its low half and of value i + 16 in its high half
 *
 * Source: quantize_row_q{4,5}_1_ref and _impl, dequantize_row_q{4,5}_1 of ggml-quants.c. Without importance the codes span the
 * least to the largest value, rounded half up; with it the search of search_qkx.h is used, with weights
 * importance * sqrt(mean of squares of the whole row + x * x).
 */
#ifndef GGUFMIX_BLOCKS_WITH_MIN_H
#define GGUFMIX_BLOCKS_WITH_MIN_H

#include "search_qkx.h"

static inline int with_min_bytes(int nmax) { return nmax > 15 ? 24 : 20; }

/* ---- one block at a time ---- */

static inline void with_min_pack(int nmax, float d, float m, const uint8_t codes[32], uint8_t *y) {
    uint16_t halves[2] = {f16_from_f32(d), f16_from_f32(m)};
    uint32_t fifth = 0;
    for (int i = 0; i < 32; i++) fifth |= (uint32_t)(codes[i] >> 4 & 1) << i;
    memcpy(y, halves, 4);
    if (nmax > 15) memcpy(y + 4, &fifth, 4);
    y += nmax > 15 ? 8 : 4;
    for (int i = 0; i < 16; i++) y[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

/* The least and the largest of 32 values; of equals, which only zeros can show, the first. Eight at a time, to vectorise. */
static inline void with_min_extremes(const float *x, float *min, float *max) {
    float low[8], high[8];
    for (int k = 0; k < 8; k++) low[k] = high[k] = x[k];
    for (int i = 8; i < 32; i += 8) {
        for (int k = 0; k < 8; k++) low[k] = x[i + k] < low[k] ? x[i + k] : low[k];
        for (int k = 0; k < 8; k++) high[k] = x[i + k] > high[k] ? x[i + k] : high[k];
    }
    for (int half = 4; half; half /= 2) {
        for (int k = 0; k < half; k++) low[k] = low[k + half] < low[k] ? low[k + half] : low[k];
        for (int k = 0; k < half; k++) high[k] = high[k + half] > high[k] ? high[k + half] : high[k];
    }
    *min = low[0], *max = high[0];
    if (*min != 0) return;
    for (int i = 31; i >= 0; i--) *min = x[i] == 0 ? x[i] : *min;
    if (*max == 0) *max = *min;
}

static inline void with_min_plain(int nmax, const float *x, uint8_t *y) {
    float min, max;
    uint8_t codes[32];
    with_min_extremes(x, &min, &max);
    const float d = (max - min) / nmax, id = inverse(d);
    for (int i = 0; i < 32; i++) {
        float v = (x[i] - min) * id + 0.5f;
        v = v < 64.0f ? v : 0.0f; /* not a number where max - min is infinite */
        codes[i] = (uint8_t)(int)v;
    }
    with_min_pack(nmax, d, min, codes, y);
}

static inline void with_min_row(const struct qkx *q, const float *x, const float *importance, uint8_t *y, int64_t n) {
    float sum = 0, w[32], the_min;
    uint8_t codes[32];
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    const float sigma2 = sum / n;
    for (; n; n -= 32, x += 32, importance += 32, y += with_min_bytes(q->nmax)) {
        for (int i = 0; i < 32; i++) w[i] = importance[i] * sqrtf(sigma2 + x[i] * x[i]);
        float d = qkx_search(*q, 32, x, w, codes, &the_min);
        with_min_pack(q->nmax, d, -the_min, codes, y);
    }
}

/* ---- one block per lane ---- */

#if LANES > 1

V_INLINE void with_min_pack_lanes(int nmax, vf d, vf m, const vi codes[32], uint8_t *const y[LANES]) {
    vi words[6], fifth = i_set(0);
    for (int i = 0; i < 4; i++) {
        const vi *l = codes + 4 * i;
        vi low = l[0] | l[1] << 8 | l[2] << 16 | l[3] << 24, high = l[16] | l[17] << 8 | l[18] << 16 | l[19] << 24;
        words[(nmax > 15 ? 2 : 1) + i] = (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4;
    }
    for (int i = 0; nmax > 15 && i < 32; i++) fifth |= codes[i] >> 4 << i;
    words[0] = v_f16(d) | v_f16(m) << 16;
    if (nmax > 15) words[1] = fifth;
    i_store_lanes(y, nmax > 15 ? 6 : 5, words);
}

V_INLINE void with_min_plain_lanes(int nmax, const float *const at[LANES], uint8_t *const y[LANES]) {
    vf x[32];
    vi codes[32];
    v_load_lanes(at, 32, x);
    vf min = x[0], max = x[0];
    for (int i = 1; i < 32; i++) {
        min = v_min(x[i], min);
        max = v_max(x[i], max);
    }
    vf d = (max - min) / (float)nmax, id = 1.0f / d;
    id = v_pick(v_lt(id, v_set(INFINITY)), id, v_set(0.0f)); /* as inverse() does */
    for (int i = 0; i < 32; i++) codes[i] = i_max(i_trunc((x[i] - min) * id + 0.5f), i_set(0));
    with_min_pack_lanes(nmax, d, min, codes, y);
}

/* Rows, at most LANES of them. */
__attribute__((unused)) static void with_min_rows_lanes(const struct qkx *q, const float *x, const float *importance, uint8_t *y, int64_t n, int64_t rows) {
    const float *at[LANES], *weights_at[LANES];
    uint8_t *y_at[LANES];
    float sigma2[LANES], own[LANES];
    vf part[32], sum = v_set(0.0f), v[QKX_GROUPS * 32], w[QKX_GROUPS * 32];
    for (int k = 0; k < LANES; k++) at[k] = x + n * (k < rows ? k : rows - 1);
    for (int64_t i = 0; i < n; i += 32) {
        v_load_lanes(at, 32, part);
        for (int j = 0; j < 32; j++) sum += part[j] * part[j];
        for (int k = 0; k < LANES; k++) at[k] += 32;
    }
    v_store(sigma2, sum / (float)n);
    const int64_t per_row = n / 32, blocks = per_row * rows;
    for (int64_t b = 0; b < blocks; b += QKX_GROUPS * LANES) {
        struct qkx_fit fit[QKX_GROUPS];
        for (int g = 0; g < QKX_GROUPS; g++) {
            for (int k = 0; k < LANES; k++) {
                int64_t block = b + g * LANES + k < blocks ? b + g * LANES + k : blocks - 1;
                at[k] = x + 32 * block;
                weights_at[k] = importance + 32 * (block % per_row);
                own[k] = sigma2[block / per_row];
            }
            v_load_lanes(at, 32, v + 32 * g);
            v_load_lanes(weights_at, 32, w + 32 * g);
            for (int i = 32 * g; i < 32 * g + 32; i++) w[i] *= v_sqrt(v_load(own) + v[i] * v[i]);
        }
        qkx_search_lanes(q, 32, QKX_GROUPS, v, w, fit);
        for (int g = 0; g < QKX_GROUPS; g++) {
            vi codes[32];
            for (int i = 0; i < 32; i++) codes[i] = qkx_code_of(q, &fit[g], v[32 * g + i]);
            for (int k = 0; k < LANES; k++) {
                int64_t block = b + g * LANES + k < blocks ? b + g * LANES + k : blocks - 1;
                y_at[k] = y + with_min_bytes(q->nmax) * block;
            }
            with_min_pack_lanes(q->nmax, fit[g].scale, fit[g].min, codes, y_at);
        }
    }
}

#endif

/* ---- all ---- */

static inline void with_min_encode(const struct qkx *q, const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    const int bytes = with_min_bytes(q->nmax);
#if LANES > 1
    for (int64_t row = 0; importance && row < n_rows; row += LANES) {
        int64_t rows = row + LANES < n_rows ? LANES : n_rows - row;
        with_min_rows_lanes(q, x + row * n_per_row, importance, y + n_per_row / 32 * row * bytes, n_per_row, rows);
    }
    const int64_t blocks = n_per_row / 32 * n_rows;
    for (int64_t b = 0; !importance && b < blocks; b += LANES) {
        const float *at[LANES];
        uint8_t *y_at[LANES];
        for (int k = 0; k < LANES; k++) {
            int64_t block = b + k < blocks ? b + k : blocks - 1;
            at[k] = x + 32 * block;
            y_at[k] = y + bytes * block;
        }
        with_min_plain_lanes(q->nmax, at, y_at);
    }
#else
    for (int64_t row = 0; importance && row < n_rows; row++)
        with_min_row(q, x + row * n_per_row, importance, y + n_per_row / 32 * row * bytes, n_per_row);
    for (int64_t b = 0; !importance && b < n_per_row / 32 * n_rows; b++) with_min_plain(q->nmax, x + 32 * b, y + bytes * b);
#endif
}

static inline void with_min_decode(int nmax, const uint8_t *y, float *x, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, y += with_min_bytes(nmax), x += 32) {
        uint16_t halves[2];
        uint32_t fifth = 0;
        memcpy(halves, y, 4);
        if (nmax > 15) memcpy(&fifth, y + 4, 4);
        const uint8_t *qs = y + (nmax > 15 ? 8 : 4);
        const float d = f32_from_f16(halves[0]), m = f32_from_f16(halves[1]);
#if LANES > 1
        for (int i = 0; i < 32; i += LANES) {
            vi low = i_of_bytes(qs + i % 16) >> (i < 16 ? 0 : 4) & 15, high = i_set((int32_t)(fifth >> i)) >> i_count() << 4 & 16;
            v_store(x + i, v_of(nmax > 15 ? low | high : low) * d + m);
        }
#else
        for (int i = 0; i < 16; i++) x[i] = (float)(int)((qs[i] & 15u) | (fifth >> i & 1) << 4) * d + m;
        for (int i = 0; i < 16; i++) x[i + 16] = (float)(int)(qs[i] >> 4 | (fifth >> (i + 16) & 1) << 4) * d + m;
#endif
    }
}

#endif
