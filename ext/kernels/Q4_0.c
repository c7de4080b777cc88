/* SPDX-License-Identifier: MIT
 *
 * Q4_0: x = d * (q - 8), q in 0..15. m is the value of largest magnitude (of equals the first); d = m / -8, so m itself is code 0;
 * q = min(15, trunc(x * (1 / d) + 8.5)), with the unrounded d.
 * Block of 32 values: f16 d; u8 q[16], value j in the low nibble of byte j, value j + 16 in its high nibble.
 * Source: ggml-quants.c, quantize_row_q4_0_ref.
 * Quirks: an all-zero block has d = -0 and codes 8; where 1/d is infinite (subnormal d) ggml's integer conversion gives codes 0.
 */
#include "kernel.h"
#include "nibbles.h"

typedef struct {
    uint16_t d;
    uint8_t q[16];
} block;
SIZE_IS(block, 18);

void FN(Q4_0_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    block *b = (block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = largest_value(x, 32) / -8, id = inverse(d);
        b->d = f16_from_f32(d);
        if (d != 0 && id == 0)
            memset(b->q, 0, 16);
        else
            encode_nibbles(x, id, b->q);
    }
}

void FN(Q4_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = f32_from_f16(b->d);
        for (int j = 0; j < 16; j++) {
            x[j] = (float)((b->q[j] & 15) - 8) * d;
            x[j + 16] = (float)((b->q[j] >> 4) - 8) * d;
        }
    }
}
