/* SPDX-License-Identifier: MIT
 *
 * Q5_0: x = d * (q - 16), q in 0..31; d and q as symmetric.h says, with divisor -16.
 * Block of 32 values: f16 d; u32 high, bit j is the fifth bit of value j; u8 q[16], the low four bits of value j in the low
 * nibble of byte j, those of value j + 16 in its high nibble.
 * Source: ggml-quants.c, quantize_row_q5_0_ref and quantize_row_q5_0_impl.
 */
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

void FN(Q5_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = scale_of_f16(b->d);
        uint32_t high;
        memcpy(&high, b->high, 4);
        for (int j = 0; j < 16; j++) {
            x[j] = (float)(int32_t)(((b->q[j] & 15u) | (high >> j & 1) << 4) - 16) * d;
            x[j + 16] = (float)(int32_t)((b->q[j] >> 4 | (high >> (j + 16) & 1) << 4) - 16) * d;
        }
    }
}
