/* SPDX-License-Identifier: MIT */
/* Q4_1: 32 values; value = d * code + m, code 0..15; 20 bytes. Layout, method and source: blocks_with_min.h. */
#include "blocks_with_min.h"

static const struct qkx search = {15, -0.9f, 0.05f, 36, 0, 1};

void FN(Q4_1_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    with_min_encode(&search, x, importance, y, n_per_row, n_rows);
}

void FN(Q4_1_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    with_min_decode(search.nmax, y, x, n_per_row / 32 * n_rows);
}
