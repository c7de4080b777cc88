/* SPDX-License-Identifier: MIT
 *
 * Q5_0: x = d * (q - 16), q in 0..31; d and q as symmetric.h says, with divisor -16.
 * Block of 32 values: f16 d; u32 high, bit j is the fifth bit of value j; u8 q[16], the low four bits of value j in the low
 * nibble of byte j, those of value j + 16 in its high nibble.
 * Source: ggml-quants.c, quantize_row_q5_0_ref and quantize_row_q5_0_impl.
 */
#include "scaled.h"
#include "symmetric.h"

typedef struct {
    uint16_t d;
    uint8_t high[4], q[16];
} block;
SIZE_IS(block, 22);

static inline void store(float d, const uint8_t codes[32], uint8_t *y) {
    block *b = (block *)y;
    b->d = f16_of_scale(d);
#if defined(__AVX2__)
    uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(_mm256_loadu_si256((const __m256i *)codes), 3));
#else
    uint32_t high = 0;
    for (int j = 0; j < 32; j++) high |= (uint32_t)(codes[j] >> 4) << j;
#endif
    memcpy(b->high, &high, 4);
    store_nibbles(codes, b->q);
}

void FN(Q5_0_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    if (importance)
        encode_weighed(x, importance, y, n_per_row, n_rows, 16, sizeof(block), store);
    else
        encode_plain(x, y, n_per_row * n_rows / 32, -16, 16, 0, sizeof(block), store);
}

/* From nibbles less 8 to codes less 16: adds 16 where the fifth bit is set, and takes 8 off. */
static inline void add_high(const uint8_t high[4], int8_t q[32]) {
#if defined(__AVX2__)
    uint32_t all;
    memcpy(&all, high, 4);
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)all), byte_of), bit_of);
    __m256i add = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit_of), _mm256_set1_epi8(16));
    __m128i first = _mm_loadu_si128((const __m128i *)q), second = _mm_loadu_si128((const __m128i *)(q + 16));
    __m256i codes = _mm256_add_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1), add);
    _mm256_storeu_si256((__m256i *)q, _mm256_sub_epi8(codes, _mm256_set1_epi8(8)));
#else
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) q[8 * i + j] = (int8_t)(q[8 * i + j] + (high[i] >> j & 1) * 16 - 8);
#endif
}

void FN(Q5_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = scale_of_f16(b->d);
        int8_t q[32];
        centred_nibbles(b->q, q);
        add_high(b->high, q);
        scaled(q, d, x);
        scaled(q + 16, d, x + 16);
    }
}
