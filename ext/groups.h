/* SPDX-License-Identifier: MIT
 *
 * Superblocks of 256 values in sixteen groups of 16, each group searched for its scale (search_qx.h). Many superblocks are
 * searched together before any is finished: the end of each is a chain of steps, and such chains overlap.
 * Used by Q6_K and Q3_K.
 */
#ifndef GGUFMIX_GROUPS_H
#define GGUFMIX_GROUPS_H

#include "search_qx.h"

enum { SUPERBLOCKS = 64 };

/* What a value x weighs: its square; its importance; its importance * sqrt(spread of its superblock + x * x). */
enum weighing { SQUARE, IMPORTANCE, SPREAD };

struct groups {
    float scale[SUPERBLOCKS][16], inverse[SUPERBLOCKS][16], weight[SUPERBLOCKS][16]; /* weight: the sum, for SPREAD */
};

/* The importance of `count` superblocks from `column` on; beyond them, of the last again. Returns the next column. */
static inline int64_t columns_of(const float *importance, int64_t n_per_row, int64_t column, int count, const float **at) {
    for (int k = 0; k < SUPERBLOCKS; k++) {
        at[k] = k < count ? importance + column : at[k - 1];
        if (k < count) column = column + 256 < n_per_row ? column + 256 : 0;
    }
    return column;
}

/* The scale of largest magnitude, of equals the first. One that is not a number (values of 1e18 and more) is passed over. */
static inline float largest_scale(const float scale[16]) {
    float m = largest_value(scale, 16);
    if (m == m) return m;
    m = 0;
    for (int g = 0; g < 16; g++) m = fabsf(scale[g]) > fabsf(m) ? scale[g] : m;
    return m;
}

#if LANES > 1

static inline void search_groups(int nmax, enum weighing by, int count, const float *x, const float *const *importance,
                                 const float *spread, struct groups *out) {
    for (int first = 0; first < 16 * count; first += QX_GROUPS * LANES) {
        vf v[QX_GROUPS * 16], w[QX_GROUPS * 16];
        struct qx_lanes found[QX_GROUPS];
        for (int g = 0; g < QX_GROUPS; g++) {
            int s = (first + g * LANES) / 16, part = (first + g * LANES) % 16;
            const float *at[LANES];
            vf sum = v_set(0.0f);
            for (int k = 0; k < LANES; k++) at[k] = x + 256 * (s < count ? s : count - 1) + 16 * (part + k);
            v_load_lanes(at, 16, v + 16 * g);
            for (int k = 0; k < LANES && by != SQUARE; k++) at[k] = importance[s] + 16 * (part + k);
            if (by != SQUARE) v_load_lanes(at, 16, w + 16 * g);
            for (int i = 16 * g; i < 16 * g + 16; i++) {
                if (by == SQUARE) w[i] = v[i] * v[i];
                if (by == SPREAD) w[i] = w[i] * v_sqrt(spread[s < count ? s : count - 1] + v[i] * v[i]);
                if (by == SPREAD) sum = sum + w[i];
            }
            if (by == SPREAD) v_store(&out->weight[s][part], sum);
        }
        search_qx_lanes(16, nmax, v, w, found);
        for (int g = 0; g < QX_GROUPS; g++) {
            int s = (first + g * LANES) / 16, part = (first + g * LANES) % 16;
            v_store(&out->scale[s][part], found[g].scale);
            v_store(&out->inverse[s][part], found[g].inverse);
        }
    }
}

#else

static inline void search_groups(int nmax, enum weighing by, int count, const float *x, const float *const *importance,
                                 const float *spread, struct groups *out) {
    for (int s = 0; s < count; s++)
        for (int g = 0; g < 16; g++, x += 16) {
            float w[16], sum = 0;
            for (int i = 0; i < 16; i++) {
                w[i] = by == SQUARE ? x[i] * x[i] : importance[s][16 * g + i];
                if (by == SPREAD) w[i] = w[i] * sqrtf(spread[s] + x[i] * x[i]);
                sum += w[i];
            }
            struct qx found = search_qx(16, nmax, x, w);
            out->scale[s][g] = found.scale;
            out->inverse[s][g] = found.inverse;
            out->weight[s][g] = sum;
        }
}

#endif
#endif
