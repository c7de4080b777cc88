/* SPDX-License-Identifier: MIT
 *
 * Four-bit floats (E2M1): code c in 0..15 is sign and magnitude, the magnitudes doubled to integers: 0 1 2 3 4 6 8 12, and 8..15
 * their negatives. 32 or 16 values with one step: x = step * magnitude.
 * Used by MXFP4 and NVFP4. Source: ggml-quants.c, best_index_mxfp4.
 *
 * Nearest: ggml takes the first code with the least |step * magnitude - x|. Steps have at most four significant bits, so that
 * step * magnitude and the middles between neighbours are exact floats, and so are the two distances near a middle: a tie goes
 * to the smaller magnitude, and the code counts the middles that |x| is above. Minus zero never comes first: it is not used.
 */
#ifndef GGUFMIX_FP4_H
#define GGUFMIX_FP4_H

#include "kernel.h"

static const int8_t fp4_magnitudes[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* The code of x, half being half of the step. */
static inline int32_t code_fp4(float x, float half) {
    float m = fabsf(x);
    int32_t n = (m > half) + (m > 3 * half) + (m > 5 * half) + (m > 7 * half) + (m > 10 * half) + (m > 14 * half) + (m > 20 * half);
    return n | (n ? (int32_t)(bits_of(x) >> 28 & 8) : 0);
}

#if defined(__AVX2__)

/* The middles have zeros in the low half of their bits, so |x| > middle is told by the high half of |x| - 1, as integers. */
struct middles_fp4 {
    __m256i i16x16[7];
};

static inline struct middles_fp4 middles_fp4(float half) {
    __m256 all_f32x8 = _mm256_mul_ps(_mm256_setr_ps(1, 3, 5, 7, 10, 14, 20, 0), _mm256_set1_ps(half));
    __m256i high_i32x8 = _mm256_sub_epi32(_mm256_srai_epi32(_mm256_castps_si256(all_f32x8), 16), _mm256_set1_epi32(1));
    __m256i i16x8 = _mm256_permute4x64_epi64(_mm256_packs_epi32(high_i32x8, high_i32x8), 0x88);
    struct middles_fp4 out;
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++) out.i16x16[i] = _mm256_shuffle_epi8(i16x8, _mm256_set1_epi16((int16_t)(0x0100 + 0x0202 * i)));
    return out;
}

/* The codes of 16 values, in the order 0-3 8-11 4-7 12-15. */
static inline __m256i codes_i16x16(const float *x, const struct middles_fp4 *middles) {
    __m256i a = _mm256_loadu_si256((const __m256i *)x), b = _mm256_loadu_si256((const __m256i *)(x + 8));
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF), one = _mm256_set1_epi32(1);
    __m256i sign = _mm256_packs_epi32(a, b), n = _mm256_setzero_si256();
    a = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_and_si256(a, no_sign), one), 16);
    b = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_and_si256(b, no_sign), one), 16);
    __m256i m = _mm256_packs_epi32(a, b);
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++) n = _mm256_sub_epi16(n, _mm256_cmpgt_epi16(m, middles->i16x16[i]));
    sign = _mm256_and_si256(_mm256_srli_epi16(sign, 12), _mm256_set1_epi16(8));
    return _mm256_or_si256(n, _mm256_and_si256(sign, _mm256_cmpgt_epi16(n, _mm256_setzero_si256())));
}

/* 16 words below 256 in that order to bytes in order. */
static inline __m128i bytes_in_order(__m256i words) {
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    return _mm_shuffle_epi32(_mm_packus_epi16(low, high), 0xD8);
}

/* 32 values in 16 bytes: value j in the low nibble of byte j, value j + 16 in its high nibble. */
static inline void codes_fp4_32(const float *x, float half, uint8_t *q) {
    struct middles_fp4 middles = middles_fp4(half);
    __m256i low = codes_i16x16(x, &middles), high = codes_i16x16(x + 16, &middles);
    _mm_storeu_si128((__m128i *)q, bytes_in_order(_mm256_or_si256(low, _mm256_slli_epi16(high, 4))));
}

/* 16 values in 8 bytes: value j in the low nibble of byte j, value j + 8 in its high nibble. */
static inline void codes_fp4_16(const float *x, float half, uint8_t *q) {
    struct middles_fp4 middles = middles_fp4(half);
    __m128i codes = bytes_in_order(codes_i16x16(x, &middles));
    _mm_storel_epi64((__m128i *)q, _mm_or_si128(codes, _mm_slli_epi16(_mm_srli_si128(codes, 8), 4)));
}

#else

static inline void codes_fp4_32(const float *restrict x, float half, uint8_t *restrict q) {
    for (int j = 0; j < 16; j++) q[j] = (uint8_t)(code_fp4(x[j], half) | code_fp4(x[j + 16], half) << 4);
}

static inline void codes_fp4_16(const float *restrict x, float half, uint8_t *restrict q) {
    for (int j = 0; j < 8; j++) q[j] = (uint8_t)(code_fp4(x[j], half) | code_fp4(x[j + 8], half) << 4);
}

#endif

/* 2 n values, value j in the low nibble of byte j, value j + n in its high nibble. */
static inline void decode_fp4(int n, const uint8_t *restrict q, float step, float *restrict x) {
#if defined(__AVX2__)
    const __m128i table = _mm_loadu_si128((const __m128i *)fp4_magnitudes), nibble = _mm_set1_epi8(15);
    for (int j = 0; j < n; j += 8) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(q + j));
        __m128i low_i8x8 = _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble));
        __m128i high_i8x8 = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
        _mm256_storeu_ps(x + j, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low_i8x8)), _mm256_set1_ps(step)));
        _mm256_storeu_ps(x + j + n, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high_i8x8)), _mm256_set1_ps(step)));
    }
#else
    for (int j = 0; j < n; j++) {
        x[j] = (float)fp4_magnitudes[q[j] & 15] * step;
        x[j + n] = (float)fp4_magnitudes[q[j] >> 4] * step;
    }
#endif
}

#endif
