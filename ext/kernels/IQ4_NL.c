/* SPDX-License-Identifier: MIT
 *
 * IQ4_NL: x = d * level[q], q in 0..15, the levels uneven from -127 to 113. d is searched over 32 values (search_iq4.h), weighted
 * by their squares, or with importance by importance * sqrt(s + x * x), s twice the mean of the squares. Then q is the level
 * nearest to x * (1 / d), with the unrounded d.
 * Block of 32 values: f16 d; u8 q[16], value j in the low nibble of byte j, value j + 16 in its high nibble.
 * Source: ggml-quants.c, quantize_iq4_nl.
 * Quirks: d is often negative. Where d is 0, and in an all-zero block, the codes are 8, which is level 1.
 */
#include "search_iq4.h"

typedef struct {
    uint16_t d;
    uint8_t q[16];
} block;
SIZE_IS(block, 18);

#if LANES > 1

/* As many blocks as there are lanes; count of them are wanted, the rest repeat the last. */
static void encode_group(const float *x, const float *importance, int64_t column, int64_t n_per_row, int count, block *b) {
    const float *x_at[LANES], *importance_at[LANES];
    uint8_t *to[LANES], spare[16];
    for (int k = 0; k < LANES; k++) {
        x_at[k] = x;
        importance_at[k] = importance ? importance + column : NULL;
        to[k] = k < count ? b[k].q : spare;
        if (k + 1 < count) x += 32, column = column + 32 < n_per_row ? column + 32 : 0;
    }
    vf v[32], w[32];
    v_load_lanes(x_at, 32, v);
    if (importance) {
        vf sigma2 = v_set(0.0f);
        for (int j = 0; j < 32; j++) sigma2 = sigma2 + v[j] * v[j];
        sigma2 = sigma2 * (2.0f / 32);
        v_load_lanes(importance_at, 32, w);
        for (int j = 0; j < 32; j++) w[j] = w[j] * v_sqrt(sigma2 + v[j] * v[j]);
    } else
        for (int j = 0; j < 32; j++) w[j] = v[j] * v[j];

    vf scale = search_iq4_lanes(v, w);
    vi words[4], halves = v_f16(scale);
    codes_iq4_lanes(v, inverse_iq4(scale), words);
    i_store_lanes(to, 4, words);
    int32_t d[LANES];
    memcpy(d, &halves, sizeof d);
    for (int k = 0; k < count; k++) b[k].d = (uint16_t)d[k];
}

void FN(IQ4_NL_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    int64_t n = n_per_row * n_rows / 32;
    for (int64_t i = 0; i < n; i += LANES)
        encode_group(x + 32 * i, importance, 32 * i % n_per_row, n_per_row, n - i < LANES ? (int)(n - i) : LANES, b + i);
}

#else

void FN(IQ4_NL_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    for (int64_t i = 0; i < n_per_row * n_rows; i += 32, x += 32, b++) {
        float w[32], sigma2 = 0;
        for (int j = 0; j < 32; j++) sigma2 += x[j] * x[j];
        sigma2 *= 2.0f / 32;
        for (int j = 0; j < 32; j++) w[j] = importance ? weight_iq4(importance[i % n_per_row + j], sigma2, x[j]) : x[j] * x[j];
        float scale = search_iq4(x, w);
        b->d = f16_from_f32(scale);
        codes_iq4(x, scale != 0 ? 1 / scale : 0, b->q);
    }
}

#endif

void FN(IQ4_NL_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) decode_iq4(b->q, f32_from_f16(b->d), x);
}
