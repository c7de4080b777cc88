/* SPDX-License-Identifier: MIT
 *
 * Q8_0: x = d * q, q in -127..127. d = max|x| / 127; q = x * (1 / d) to nearest, ties away from zero, with the unrounded d.
 * Block of 32 values: f16 d; i8 q[32]. Importance is ignored.
 * Source: ggml-quants.c, quantize_row_q8_0_ref. Where 1/d is infinite (subnormal d) ggml's integer conversion gives 0: so do we.
 */
#include "kernel.h"

typedef struct {
    uint16_t d;
    int8_t q[32];
} block;
SIZE_IS(block, 34);

/* q = x * id to the nearest, ties away from zero. */
static inline void encode_bytes(const float *x, float id, int8_t *q) {
#if defined(__AVX2__)
    __m256i q_i32x8[4];
    for (int i = 0; i < 4; i++) {
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(id));
        __m256 half = _mm256_or_ps(_mm256_set1_ps(0.49999997f), _mm256_and_ps(y, _mm256_set1_ps(-0.0f)));
        q_i32x8[i] = _mm256_cvttps_epi32(_mm256_add_ps(y, half));
    }
    __m256i a = _mm256_packs_epi32(q_i32x8[0], q_i32x8[1]), b = _mm256_packs_epi32(q_i32x8[2], q_i32x8[3]);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
#else
    for (int j = 0; j < 32; j++) q[j] = (int8_t)round_half_away(x[j] * id);
#endif
}

void FN(Q8_0_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    block *b = (block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = float_of((uint32_t)largest_magnitude(x, 32)) / 127, id = inverse(d);
        b->d = f16_from_f32(d);
        encode_bytes(x, id, b->q);
    }
}

void FN(Q8_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = f32_from_f16(b->d);
        for (int j = 0; j < 32; j++) x[j] = (float)b->q[j] * d;
    }
}
