/* SPDX-License-Identifier: MIT
 *
 * Blocks of 32 values with one scale and no minimum, x = d * (q - nmax) with q in 0 .. 2 nmax - 1 and nmax 8 or 16, by either
 * of two ways. Plain: m is the value of largest magnitude (of equals the first), d = m / divisor, and
 * q = min(2 nmax - 1, trunc(x * (1 / d) + nmax + 0.5)) with the unrounded d. Weighed: the search of search_qx.h, each value
 * weighing importance * sqrt(mean square of its row + x * x).
 * Used by Q4_0, Q4_X and Q5_0. Source: ggml-quants.c, quantize_row_q4_0_ref and _impl, quantize_row_q5_0_ref and _impl.
 * Quirks: a block of zeros has d = -0 and codes nmax; where 1/d is infinite (subnormal d) ggml's conversion gives codes 0.
 * Q4_X is not ggml's and has codes 8 there: unscalable is that code.
 */
#ifndef GGUFMIX_SYMMETRIC_H
#define GGUFMIX_SYMMETRIC_H

#include "search_qx.h"
#include "squares.h"

/* 32 four-bit codes in 16 bytes: value j in the low nibble of byte j, value j + 16 in its high nibble. */
static inline void store_nibbles(const uint8_t codes[32], uint8_t q[16]) {
#if defined(__AVX2__)
    __m128i fifteen = _mm_set1_epi8(15), low = _mm_and_si128(_mm_loadu_si128((const __m128i *)codes), fifteen);
    __m128i high = _mm_and_si128(_mm_loadu_si128((const __m128i *)(codes + 16)), fifteen);
    _mm_storeu_si128((__m128i *)q, _mm_or_si128(low, _mm_slli_epi16(high, 4)));
#else
    for (int j = 0; j < 16; j++) q[j] = (uint8_t)((codes[j] & 15) | codes[j + 16] << 4);
#endif
}

/* Puts the codes of 32 values and their scale into a block. */
typedef void store_block(float d, const uint8_t codes[32], uint8_t *block);

/* Returns the unrounded d. */
static inline float plain_codes(const float *x, float divisor, int nmax, int unscalable, uint8_t codes[32]) {
    float d = largest_value(x, 32) / divisor, id = inverse(d);
    float offset = d != 0 && id == 0 ? (float)unscalable : (float)nmax + 0.5f;
#if defined(__AVX2__)
    __m256i q_i32x8[4];
    for (int i = 0; i < 4; i++) {
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(id));
        q_i32x8[i] = _mm256_cvttps_epi32(_mm256_add_ps(y, _mm256_set1_ps(offset)));
    }
    __m256i q = _mm256_packus_epi16(_mm256_packs_epi32(q_i32x8[0], q_i32x8[1]), _mm256_packs_epi32(q_i32x8[2], q_i32x8[3]));
    q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)codes, _mm256_min_epu8(q, _mm256_set1_epi8((char)(2 * nmax - 1))));
#else
    for (int i = 0; i < 32; i++) {
        int q = (int)(x[i] * id + offset);
        codes[i] = (uint8_t)(q < 2 * nmax - 1 ? q : 2 * nmax - 1);
    }
#endif
    return d;
}

static inline void encode_plain(const float *x, uint8_t *y, int64_t n_blocks, float divisor, int nmax, int unscalable, int bytes,
                                store_block *store) {
    for (int64_t b = 0; b < n_blocks; b++) {
        uint8_t codes[32];
        float d = plain_codes(x + 32 * b, divisor, nmax, unscalable, codes);
        store(d, codes, y + bytes * b);
    }
}

enum { BATCH = 32 }; /* blocks that are searched together */

/* mean: of each block's row. */

#if LANES > 1

static inline void search_weighed(int count, const float *const x[BATCH], const float *const importance[BATCH],
                                  const float mean[BATCH], int nmax, struct qx found[BATCH]) {
    for (int first = 0; first < count; first += QX_GROUPS * LANES) {
        vf v[QX_GROUPS * 32], w[QX_GROUPS * 32];
        struct qx_lanes best[QX_GROUPS];
        for (int g = 0; g < QX_GROUPS; g++) {
            vf s = v_load(mean + first + g * LANES);
            v_load_lanes(x + first + g * LANES, 32, v + 32 * g);
            v_load_lanes(importance + first + g * LANES, 32, w + 32 * g);
            for (int i = 32 * g; i < 32 * g + 32; i++) w[i] = w[i] * v_sqrt(s + v[i] * v[i]);
        }
        search_qx_lanes(32, nmax, v, w, best);
        for (int g = 0; g < QX_GROUPS; g++)
            for (int k = 0; k < LANES; k++) found[first + g * LANES + k] = (struct qx){best[g].scale[k], best[g].inverse[k]};
    }
}

#else

static inline void search_weighed(int count, const float *const x[BATCH], const float *const importance[BATCH],
                                  const float mean[BATCH], int nmax, struct qx found[BATCH]) {
    for (int b = 0; b < count; b++) {
        float w[32];
        for (int i = 0; i < 32; i++) w[i] = importance[b][i] * sqrtf(mean[b] + x[b][i] * x[b][i]);
        found[b] = search_qx(32, nmax, x[b], w);
    }
}

#endif

static inline void encode_weighed(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows,
                                  int nmax, int bytes, store_block *store) {
    enum { ROWS = 16 };
    for (int64_t row = 0; row < n_rows; row += ROWS) {
        int64_t rows = n_rows - row < ROWS ? n_rows - row : ROWS, n_blocks = rows * n_per_row / 32, column = 0, r = 0;
        float mean[ROWS];
        sums_of_squares(x, n_per_row, rows, mean);
        for (int64_t k = 0; k < rows; k++) mean[k] = mean[k] / (float)n_per_row;
        for (int64_t left = n_blocks; left > 0; left -= BATCH) {
            int count = left < BATCH ? (int)left : BATCH;
            const float *values[BATCH], *weights[BATCH];
            float means[BATCH];
            struct qx found[BATCH];
            for (int b = 0; b < BATCH; b++) { /* beyond count, the last again */
                values[b] = b < count ? x : values[b - 1];
                weights[b] = b < count ? importance + column : weights[b - 1];
                means[b] = b < count ? mean[r] : means[b - 1];
                if (b >= count) continue;
                x += 32, column += 32;
                if (column == n_per_row) column = 0, r++;
            }
            search_weighed(count, values, weights, means, nmax, found);
            for (int b = 0; b < count; b++, y += bytes) {
                uint8_t codes[32];
                codes_of_inverse(nmax, values[b], found[b].inverse, codes);
                codes_of_inverse(nmax, values[b] + 16, found[b].inverse, codes + 16);
                store(found[b].scale, codes, y);
            }
        }
    }
}

#endif
