/* SPDX-License-Identifier: MIT
 *
 * Sums of squares of `count` neighbouring runs of n values (rows, superblocks), each added from the left: one run per lane.
 * n is a multiple of 16.
 */
#ifndef GGUFMIX_SQUARES_H
#define GGUFMIX_SQUARES_H

#include "kernel.h"
#include "lanes.h"

static inline void sums_of_squares(const float *x, int64_t n, int64_t count, float *out) {
#if LANES == 1
    for (int64_t r = 0; r < count; r++, x += n) {
        out[r] = 0;
        for (int64_t i = 0; i < n; i++) out[r] += x[i] * x[i];
    }
#else
    for (int64_t r = 0; r < count; r += LANES) {
        const float *at[LANES];
        float row[LANES];
        vf sum = v_set(0.0f), v[16];
        for (int64_t k = 0; k < LANES; k++) at[k] = x + n * (r + k < count ? r + k : count - 1);
        for (int64_t i = 0; i < n; i += 16) {
            v_load_lanes(at, 16, v);
            for (int j = 0; j < 16; j++) sum = sum + v[j] * v[j];
            for (int k = 0; k < LANES; k++) at[k] += 16;
        }
        v_store(row, sum);
        for (int64_t k = 0; k < LANES && r + k < count; k++) out[r + k] = row[k];
    }
#endif
}

#endif
