/* SPDX-License-Identifier: MIT
 *
 * The scale of a block of FP8: four ways to find it, each in float64 and then rounded to what is stored.
 */
#ifndef GGUFMIX_FP8_SCALE_H
#define GGUFMIX_FP8_SCALE_H

#include "fp8.h"
#include "fp8_e4m3.h"

/* A block as floats. `pitch` is its width up to the next multiple of 16; what pads it is zero. */
struct fp8_block {
    const float *f;
    int rows, width, pitch;
    int32_t top;     /* largest magnitude, see magnitude() */
    int32_t lowest;  /* smallest magnitude that is not zero */
    int is_bf16;     /* every value is one of bfloat16 */
};

/* No stored scale is zero or subnormal (engines may flush those), and none makes 448 scales infinite. A scale that is a
 * power of two is rounded up, so that rounding never makes a value saturate. */
static float stored_scale(int stored, double raw) {
    const double least = 0x1p-126, most = stored == STORED_BF16 ? 146 * 0x1p112 : stored == STORED_F32 ? 9586980 * 0x1p96 : 0x1p119;
    float s = (float)(raw < least ? least : raw < most ? raw : most);
    if (stored == STORED_BF16) return f32_from_bf16(bf16_from_f32(s));
    if (stored == STORED_POW2) return float_of((bits_of(s) + 0x7FFFFF) & 0x7F800000);
    return s;
}

/* The sum of squares, each times its column's weight. */
static double weighed_squares(const struct fp8_block *b, const double *weight) {
#if LANES > 1
    sums8 s = sums8_zero();
    for (int i = 0; i < b->rows; i++)
        for (int j = 0; j < b->pitch; j += LANES) sums8_add_weighed_squares(&s, v_load(b->f + i * b->pitch + j), weight + j);
    return sums8_folded(s);
#else
    double s[8] = {0};
    for (int i = 0; i < b->rows; i++)
        for (int j = 0; j < b->pitch; j++) {
            double w = b->f[i * b->pitch + j];
            s[j & 7] += w * w * weight[j];
        }
    return folded(s);
#endif
}

static double root_mean_square(const struct fp8_block *b, const double *weight) {
    double all = 0;
    for (int j = 0; j < b->width; j++) all += weight[j];
    return sqrt(weighed_squares(b, weight) / (all * b->rows));
}

/* ---- percentile ---- */

/* How many of the block's values have at most this magnitude. */
static int count_to(const struct fp8_block *b, int32_t size) {
    int n = 0;
    for (int i = 0; i < b->rows * b->pitch; i++) n += magnitude(b->f[i]) <= size;
    return n - b->rows * (b->pitch - b->width);
}

/* The magnitude of rank k (0: the smallest), bit by bit: the largest number with at most k values below it. */
static int32_t ranked(const struct fp8_block *b, int k) {
    int32_t found = 0;
    for (int32_t bit = 1 << 30; bit >= (b->is_bf16 ? 1 << 16 : 1); bit >>= 1)
        if (found + bit <= b->top && count_to(b, found + bit - 1) <= k) found += bit;
    return found;
}

/* Between two ranks linear, as torch.quantile has it. */
static double percentile_of(const struct fp8_block *b, double percentile) {
    double at = percentile / 100 * (b->rows * b->width - 1);
    int k = (int)at;
    int32_t low = ranked(b, k);
    double value = float_of((uint32_t)low), next = value;
    if (at > k) next = float_of((uint32_t)(count_to(b, low) > k + 1 ? low : ranked(b, k + 1)));
    return value + (next - value) * (at - k);
}

/* ---- mse ---- */

/* The magnitudes that occur in a block, each once with the weights of its columns added up: of bfloat16 there are a thousand or
 * two, a tenth of the block. Other values stay what they are. */
struct fp8_occurring {
    const float *size;
    const double *weight;
    int rows, pitch; /* of size; each row meets the same weights */
};

static struct fp8_occurring occurring(const struct fp8_block *b, const double *weight, struct fp8_scratch *scratch) {
    if (!b->is_bf16) return (struct fp8_occurring){b->f, weight, b->rows, b->pitch};
    double *count = scratch->histogram;
    for (int i = 0; i < b->rows; i++)
        for (int j = 0; j < b->width; j++) count[magnitude(b->f[i * b->pitch + j]) >> 16] += weight[j];
    int n = 0;
    count[0] = 0; /* a zero is always exact */
    for (int32_t u = b->lowest >> 16; u <= b->top >> 16; u++) {
        scratch->size[n] = float_of((uint32_t)u << 16);
        scratch->weight[n] = count[u];
        n += count[u] != 0;
        count[u] = 0;
    }
    while (n % 16) scratch->size[n] = 0, scratch->weight[n++] = 0;
    return (struct fp8_occurring){scratch->size, scratch->weight, 1, n};
}

/* The sum of squared errors with this scale, each times its weight. */
static double squared_error(const struct fp8_occurring *o, float scale) {
    int64_t n = o->pitch;
#if LANES > 1
    sums8 s = sums8_zero();
    for (int i = 0; i < o->rows; i++)
        for (int64_t j = 0; j < n; j += LANES) {
            vf size = v_abs(v_load(o->size + i * n + j));
            vi code;
            vf q = v_e4m3_of(v_min(size / scale, v_set(E4M3_LARGEST)), &code);
            sums8_add_weighed_squares(&s, q * scale - size, o->weight + j);
        }
    return sums8_folded(s);
#else
    double s[8] = {0};
    for (int i = 0; i < o->rows; i++)
        for (int64_t j = 0; j < n; j++) {
            float size = fabsf(o->size[i * n + j]), ratio = size / scale;
            int32_t code;
            double e = e4m3_of(ratio < E4M3_LARGEST ? ratio : E4M3_LARGEST, &code) * scale - size;
            s[j & 7] += e * e * o->weight[j];
        }
    return folded(s);
#endif
}

/* From the scale of max to twice that: a smaller one has the same mantissas, and saturates. */
static float least_squares(const struct fp8_block *b, const struct fp8_search *how, const double *weight,
                           struct fp8_scratch *scratch) {
    struct fp8_occurring o = occurring(b, weight, scratch);
    double least = INFINITY;
    float best = 1, scale = 0;
    for (int k = 0; k < how->grid; k++) {
        float next = stored_scale(how->stored, float_of((uint32_t)b->top) * (1 + (double)k / how->grid) / 448);
        if (next == scale) continue;
        scale = next;
        double error = squared_error(&o, scale);
        if (error < least) least = error, best = scale;
    }
    return best;
}

/* ---- */

/* weight: of each of `pitch` columns; those that pad the block, and those that weigh nothing, 0. `even` weighs all alike. */
static float scale_of(const struct fp8_block *b, const struct fp8_search *how, const double *weight, const double *even,
                      struct fp8_scratch *scratch) {
    double top = float_of((uint32_t)b->top), reach = top;
    if (top == 0) return 1;
    if (weight == NULL || weighed_squares(b, weight) == 0) weight = even;
    /* A power of two more has no value that is not there already, one less saturates: nothing to search. */
    if (how->mode == MODE_MSE && how->stored != STORED_POW2) return least_squares(b, how, weight, scratch);
    if (how->mode == MODE_RMS) reach = how->factor * root_mean_square(b, weight);
    if (how->mode == MODE_PERCENTILE) reach = percentile_of(b, how->percentile);
    return stored_scale(how->stored, (reach > 0 ? reach : top) / 448);
}

#endif
