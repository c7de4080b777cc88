/* SPDX-License-Identifier: MIT
 *
 * MXFP4: x = 2^(e - 128) * magnitude[q] (fp4.h), the magnitudes being doubled E2M1. e = floor(log2(max|x|)) + 125, so that the
 * largest value has magnitude 8 or 12; q is the nearest.
 * Block of 32 values: u8 e (E8M0); u8 q[16], value j in the low nibble of byte j, value j + 16 in its high nibble.
 * Importance is ignored. Source: ggml-quants.c, quantize_row_mxfp4_ref.
 * Quirks: an all-zero block has e = 0. ggml takes log2f: a float just below a power of two has the power's logarithm, rounded.
 * Below 2^-125 e wraps around to 254 and less, and all codes are 0. We differ where it would be 255, which is NaN and which
 * llama.cpp writes and then refuses to load (max|x| from 2^-126 to 2^-125): e is 0 there, which holds such values.
 */
#include "fp4.h"

typedef struct {
    uint8_t e;
    uint8_t q[16];
} block;
SIZE_IS(block, 17);

/* floorf(log2f(m)) for finite m > 0. With m = 2^k (1 - n / 2^24) the logarithm rounds up to k where n / ln 2 / 2^24 is less than
 * half the distance of k from the float below it. */
static inline int32_t floor_log2(float m) {
    int32_t k = 1;
    if (m < FLT_MIN) m *= 0x1p24f, k -= 24;
    int32_t bits = magnitude(m), below = 0x800000 - (bits & 0x7FFFFF);
    k += (bits >> 23) - 127;
    if (below <= 88) {
        int32_t at = k > 0 ? k - 1 : -k, half = 128;
        while (half > at) half /= 2;
        if (below <= (int32_t)((float)half * 0.6931472f)) return k;
    }
    return k - 1;
}

/* 2^(e - 128) */
static inline float step_of(uint8_t e) { return float_of(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }

#if defined(__AVX2__)

/* Where the step is a power of two, quarters of octaves of |x| / step (up to and including their ends, hence the minus one) tell
 * the code: that is the upper bits of a float, minus those of the step. Between 0.5 and 1 all four quarters have code 1. */
static inline void codes_of_power(const float *x, float step, uint8_t *q) {
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF), start = _mm256_set1_epi32((int32_t)bits_of(step) + 1);
    __m256i v[4], place[4];
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_si256((const __m256i *)(x + 8 * i));
        place[i] = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_and_si256(v[i], no_sign), start), 21);
    }
    /* order: 0-3 8-11 16-19 24-27 4-7 12-15 20-23 28-31 */
    __m256i sign = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    __m256i at = _mm256_packs_epi16(_mm256_packs_epi32(place[0], place[1]), _mm256_packs_epi32(place[2], place[3]));
    const __m256i codes = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
    const __m256i one = _mm256_set1_epi8(1), none = _mm256_set1_epi8(-5);
    __m256i index = _mm256_min_epi8(_mm256_add_epi8(_mm256_max_epi8(at, _mm256_set1_epi8(-1)), one), _mm256_set1_epi8(15));
    __m256i code = _mm256_or_si256(_mm256_shuffle_epi8(codes, index),
                                   _mm256_and_si256(_mm256_srli_epi16(sign, 4), _mm256_set1_epi8(8)));
    code = _mm256_and_si256(code, _mm256_cmpgt_epi8(at, none));
    code = _mm256_or_si256(code, _mm256_slli_epi16(_mm256_srli_si256(code, 8), 4));
    _mm_storeu_si128((__m128i *)q, _mm_unpacklo_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1)));
}

#endif

void FN(MXFP4_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    block *b = (block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        int32_t top = largest_magnitude(x, 32);
        int32_t e = top ? floor_log2(float_of((uint32_t)top)) + 125 : 0;
        b->e = (uint8_t)(e == -1 ? 0 : e);
#if defined(__AVX2__)
        if (b->e > 2) { /* half a step is no subnormal */
            codes_of_power(x, step_of(b->e), b->q);
            continue;
        }
#endif
        codes_fp4_32(x, 0.5f * step_of(b->e), b->q);
    }
}

void FN(MXFP4_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) decode_fp4(16, b->q, step_of(b->e), x);
}
