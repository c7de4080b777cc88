/* SPDX-License-Identifier: MIT
 *
 * Block FP8: what fp8.c gives, once per tier.
 */
#ifndef GGUFMIX_FP8_H
#define GGUFMIX_FP8_H

#include <stddef.h>
#include <stdint.h>

enum { FP8_BLOCK = 128, FP8_AREA = FP8_BLOCK * FP8_BLOCK };
enum { MODE_MAX, MODE_RMS, MODE_PERCENTILE, MODE_MSE, MODE_GIVEN };
enum { STORED_BF16, STORED_F32, STORED_POW2 };

/* How the scale of a block is found, and what it is stored as. */
struct fp8_search {
    int mode, stored, grid;
    double factor, percentile;
};

/* Sums over weights w and what is stored for them, d = code * scale in float32; e = d - w in float32. */
struct fp8_sums {
    double ww, dd, wd, ee, e; /* of squares, products, and magnitudes of e */
    double most;              /* the largest magnitude of e */
};

/* What became of the rows. row and col say where (NOT_FINITE); counts are of weights. */
struct fp8_report {
    int status;
    int64_t row, col;
    int64_t saturated; /* stored as 448 scales, but nearer to what would be the next step */
    int64_t flushed;   /* not zero, but stored as zero */
    struct fp8_sums sums;
};

/* Work space, zeroed once: a block as floats, a histogram of its magnitudes, and what occurs in it. */
struct fp8_scratch {
    float block[FP8_AREA];
    double histogram[1 << 15];
    float size[FP8_AREA];
    double weight[FP8_AREA];
};

#define FP8_CODERS(isa)                                                                                                    \
    /* weights: NULL, or n_per_row non-negative floats. scales: one for each block, row of blocks by row of blocks. With     \
     * MODE_GIVEN codes and scales are read, and the report is what was lost on the way to them. */                          \
    struct fp8_report quantize_fp8_##isa(const struct fp8_search *how, int xtype, const void *x, const float *weights,      \
                                         uint8_t *codes, float *scales, int64_t n_per_row, int64_t n_rows,                  \
                                         struct fp8_scratch *scratch);                                                     \
    void dequantize_fp8_##isa(const uint8_t *codes, const float *scales, float *x, int64_t n_per_row, int64_t n_rows);

FP8_CODERS(base)
#if defined(GGUFMIX_X86_TIERS)
FP8_CODERS(avx2)
FP8_CODERS(avx512)
#endif

#endif
