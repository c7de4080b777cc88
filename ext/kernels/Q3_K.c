/* SPDX-License-Identifier: MIT
 *
 * Q3_K: x = d * (s - 32) * (q - 4), q in 0..7, one s in 0..63 per 16 values. Without importance each 16 values are searched for
 * their scale as search_q3.h says; the scale of largest magnitude becomes s - 32 = -32 and d = 1 / (-32 / scale). With importance
 * each value weighs importance * sqrt(twice the mean of squares of its superblock + x * x), the 16 values are searched as
 * search_qx.h says, and so are the 16 scales, each weighing the sum of its weights; that gives d and s. Then
 * q = N(x / (d * (s - 32))) + 4 with the stored d; where d * (s - 32) is 0, the codes of the search.
 * Superblock of 256 values: u8 high[32], bit k of byte j is the third bit of value 32 k + j; u8 low[64], in each half of 128
 * values byte j holds the low two bits of values j, j + 32, j + 64, j + 96 from bit 0 up; u8 s[12], the low four bits of s of
 * group g in the low (g < 8) or high nibble of byte g % 8, its high two bits in byte 8 + g % 4 at bit 2 * (g / 4); f16 d.
 * Source: ggml-quants.c, quantize_row_q3_K_ref and quantize_row_q3_K_impl.
 * Quirks: if all scales are 0 every s is stored as 0; 16 values below 1e-15 in another superblock have codes 0, not 4.
 */
#include "groups.h"
#include "scaled.h"
#include "search_q3.h"
#include "squares.h"

typedef struct {
    uint8_t high[32], low[64], s[12];
    uint16_t d;
} block;
SIZE_IS(block, 110);

/* The stored scale and the s of each group, from the scale of largest magnitude. */
static inline float fit(const float *scale, uint8_t s[16]) {
    float m = largest_scale(scale), to_s = m != 0 ? -32.0f / m : 0;
    codes_of_inverse(32, scale, to_s, s);
    return m != 0 ? 1 / to_s : 0;
}

/* The same with importance: the scale of `count` superblocks' scales, and the inverse that tells their s. */
static void fit_weighed(int count, const struct groups *g, float *d, float *inverse) {
#if LANES > 1
    for (int first = 0; first < count; first += QX_GROUPS * LANES) {
        vf v[QX_GROUPS * 16], w[QX_GROUPS * 16];
        struct qx_lanes found[QX_GROUPS];
        for (int h = 0; h < QX_GROUPS; h++) {
            const float *scale[LANES], *weight[LANES];
            for (int k = 0; k < LANES; k++) {
                int s = first + h * LANES + k;
                scale[k] = g->scale[s < count ? s : count - 1];
                weight[k] = g->weight[s < count ? s : count - 1];
            }
            v_load_lanes(scale, 16, v + 16 * h);
            v_load_lanes(weight, 16, w + 16 * h);
        }
        search_qx_lanes(16, 32, v, w, found);
        for (int h = 0; h < QX_GROUPS; h++) {
            v_store(d + first + h * LANES, found[h].scale);
            v_store(inverse + first + h * LANES, found[h].inverse);
        }
    }
#else
    for (int s = 0; s < count; s++) {
        struct qx found = search_qx(16, 32, g->scale[s], g->weight[s]);
        d[s] = found.scale;
        inverse[s] = found.inverse;
    }
#endif
}

/* Stores d and s, and puts d * (s - 32) in the place of the scales. */
static inline void store_scales(float d, const uint8_t s[16], float scale[16], block *b) {
    b->d = f16_of_scale(d);
    d = scale_of_f16(b->d);
    for (int g = 0; g < 16; g++) scale[g] = d * (float)(s[g] - 32);
    for (int j = 0; j < 8; j++) b->s[j] = (uint8_t)((s[j] & 15) | (s[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++)
        b->s[8 + j] = (uint8_t)(s[j] >> 4 | s[j + 4] >> 4 << 2 | s[j + 8] >> 4 << 4 | s[j + 12] >> 4 << 6);
}

/* inverse: of the search with importance, or NULL. */
static inline void pack(const float *x, const float step[16], const float *inverse, block *b) {
    uint8_t q[256];
    for (int g = 0; g < 16; g++)
        if (step[g] != 0)
            codes_of_step(4, x + 16 * g, step[g], q + 16 * g);
        else if (inverse)
            codes_of_inverse(4, x + 16 * g, inverse[g], q + 16 * g);
        else
            search_q3(x + 16 * g, q + 16 * g);
    for (int j = 0; j < 32; j++) {
        uint8_t high = 0;
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) high |= (uint8_t)(q[32 * k + j] >> 2 << k);
        b->high[j] = high;
    }
    for (int h = 0; h < 2; h++) {
        const uint8_t *p = q + 128 * h;
        for (int j = 0; j < 32; j++)
            b->low[32 * h + j] = (uint8_t)((p[j] & 3) | (p[j + 32] & 3) << 2 | (p[j + 64] & 3) << 4 | (p[j + 96] & 3) << 6);
    }
}

void FN(Q3_K_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    int64_t column = 0;
    for (int64_t left = n_per_row * n_rows / 256; left > 0; left -= SUPERBLOCKS) {
        int count = left < SUPERBLOCKS ? (int)left : SUPERBLOCKS;
        uint8_t s[16];
        struct groups found;
        if (importance) {
            const float *at[SUPERBLOCKS];
            float spread[SUPERBLOCKS] = {0}, d[SUPERBLOCKS], inverse[SUPERBLOCKS];
            column = columns_of(importance, n_per_row, column, count, at);
            sums_of_squares(x, 256, count, spread);
            for (int k = 0; k < count; k++) spread[k] = 2 * spread[k] / 256;
            search_groups(4, SPREAD, count, x, at, spread, &found);
            fit_weighed(count, &found, d, inverse);
            for (int k = 0; k < count; k++) {
                codes_of_inverse(32, found.scale[k], inverse[k], s);
                store_scales(d[k], s, found.scale[k], b + k);
            }
        } else {
            search_q3_all(16 * count, x, found.scale[0]);
            for (int k = 0; k < count; k++) {
                float d = fit(found.scale[k], s);
                store_scales(d, s, found.scale[k], b + k);
            }
        }
        for (int k = 0; k < count; k++, x += 256) pack(x, found.scale[k], importance ? found.inverse[k] : NULL, b++);
    }
}

void FN(Q3_K_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 256, b++) {
        float d = scale_of_f16(b->d);
        int8_t q[256];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            const uint8_t *low = b->low + k / 4 * 32;
            for (int j = 0; j < 32; j++) q[32 * k + j] = (int8_t)(((low[j] >> (k % 4 * 2) & 3) | (b->high[j] >> k & 1) << 2) - 4);
        }
        for (int g = 0; g < 16; g++) {
            int s = (b->s[g % 8] >> (g / 8 * 4) & 15) | (b->s[8 + g % 4] >> (g / 4 * 2) & 3) << 4;
            scaled(q + 16 * g, d * (float)(s - 32), x + 16 * g);
        }
    }
}
