/* SPDX-License-Identifier: MIT
 *
 * F32: the value itself, little-endian. A block is one value of 4 bytes.
 */
#include "kernel.h"

void FN(F32_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    memcpy(y, x, (size_t)(4 * n_per_row * n_rows));
}

void FN(F32_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    memcpy(x, y, (size_t)(4 * n_per_row * n_rows));
}
