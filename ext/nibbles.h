/* SPDX-License-Identifier: MIT
 *
 * 32 four-bit codes in 16 bytes: value j in the low nibble of byte j, value j + 16 in its high nibble.
 */
#ifndef GGUFMIX_NIBBLES_H
#define GGUFMIX_NIBBLES_H

#include "kernel.h"

/* q = min(15, trunc(x * id + 8.5)), for |x * id| <= 8 but for rounding. */
static inline void encode_nibbles(const float *x, float id, uint8_t *q) {
#if defined(__AVX2__)
    __m256i q_i32x8[4];
    for (int i = 0; i < 4; i++) {
        __m256 y = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(id)), _mm256_set1_ps(8.5f));
        q_i32x8[i] = _mm256_min_epi32(_mm256_cvttps_epi32(y), _mm256_set1_epi32(15));
    }
    _mm_storeu_si128((__m128i *)q, bytes_of_i32x16(_mm256_or_si256(q_i32x8[0], _mm256_slli_epi32(q_i32x8[2], 4)),
                                                   _mm256_or_si256(q_i32x8[1], _mm256_slli_epi32(q_i32x8[3], 4))));
#else
    for (int j = 0; j < 16; j++) {
        int low = (int)(x[j] * id + 8.5f), high = (int)(x[j + 16] * id + 8.5f);
        q[j] = (uint8_t)((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
    }
#endif
}

#endif
