/* SPDX-License-Identifier: MIT
 *
 * How far values are from each other: what measure.c gives, once per tier.
 */
#ifndef GGUFMIX_MEASURE_H
#define GGUFMIX_MEASURE_H

#include <stdint.h>

/* Sums in float64 over pairs (x, y). A pair of which one is NaN or infinite is broken: it counts as two zeros that are
 * infinitely far apart. */
struct measured {
    double ee, xx, yy, xy; /* of (x - y) squared, x * x, y * y, x * y */
    double most;           /* the largest |x - y|, */
    int64_t at;            /* and the first pair that has it */
    int64_t broken;
};

#define MEASURERS(isa)                                                                                                     \
    void measure_##isa(int xtype, const void *x, const float *y, int64_t n, struct measured *out);

MEASURERS(base)
#if defined(GGUFMIX_X86_TIERS)
MEASURERS(avx2)
MEASURERS(avx512)
#endif

#endif
