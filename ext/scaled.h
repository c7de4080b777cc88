/* SPDX-License-Identifier: MIT
 *
 * The end of decoding: 16 codes, already around zero, times their scale.
 */
#ifndef GGUFMIX_SCALED_H
#define GGUFMIX_SCALED_H

#include "kernel.h"
#include "lanes.h"

static inline void scaled(const int8_t *restrict q, float step, float *restrict x) {
#if LANES == 16
    __m512i q_i32x16 = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q));
    _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_cvtepi32_ps(q_i32x16), _mm512_set1_ps(step)));
#elif LANES == 8
    for (int i = 0; i < 16; i += 8) {
        __m256i q_i32x8 = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + i)));
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_cvtepi32_ps(q_i32x8), _mm256_set1_ps(step)));
    }
#else
    for (int i = 0; i < 16; i++) x[i] = (float)q[i] * step;
#endif
}

/* 32 four-bit codes, value j in the low nibble of byte j, value j + 16 in its high nibble: each less 8. */
static inline void centred_nibbles(const uint8_t nibbles[16], int8_t q[32]) {
#if LANES > 1
    __m128i all = _mm_loadu_si128((const __m128i *)nibbles), fifteen = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    _mm_storeu_si128((__m128i *)q, _mm_sub_epi8(_mm_and_si128(all, fifteen), eight));
    _mm_storeu_si128((__m128i *)(q + 16), _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(all, 4), fifteen), eight));
#else
    for (int j = 0; j < 16; j++) {
        q[j] = (int8_t)((nibbles[j] & 15) - 8);
        q[j + 16] = (int8_t)((nibbles[j] >> 4) - 8);
    }
#endif
}

#endif
