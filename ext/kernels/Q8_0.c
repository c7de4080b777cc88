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

void FN(Q8_0_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    block *b = (block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = float_of((uint32_t)largest_magnitude(x, 32)) / 127, id = inverse(d);
        b->d = f16_from_f32(d);
        for (int j = 0; j < 32; j++) b->q[j] = (int8_t)round_half_away(x[j] * id);
    }
}

void FN(Q8_0_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 32, b++) {
        float d = f32_from_f16(b->d);
        for (int j = 0; j < 32; j++) x[j] = (float)b->q[j] * d;
    }
}
