/* SPDX-License-Identifier: MIT
 *
 * Q4_0: x = d * (q - 8), q in 0..15; d and q as symmetric.h says, with divisor -8.
 * Block of 32 values: block_Q4_0.h.
 * Source: ggml-quants.c, quantize_row_q4_0_ref and quantize_row_q4_0_impl.
 */
#include "block_Q4_0.h"
#include "scaled.h"

void FN(Q4_0_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    if (importance)
        encode_weighed(x, importance, y, n_per_row, n_rows, 8, sizeof(block), store);
    else
        encode_plain(x, y, n_per_row * n_rows / 32, -8, 8, 0, sizeof(block), store);
}

void FN(Q4_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = scale_of_f16(b->d);
        int8_t q[32];
        centred_nibbles(b->q, q);
        scaled(q, d, x);
        scaled(q + 16, d, x + 16);
    }
}
