/* SPDX-License-Identifier: MIT
 *
 * Sources of 4 bits: what unpack.c gives, once per tier.
 */
#ifndef GGUFMIX_UNPACK_H
#define GGUFMIX_UNPACK_H

#include <stdint.h>

enum { SCALES_TAKEN, SCALE_NOT_FINITE, SCALE_ZERO, SCALE_TOO_LARGE };

/* What became of the scales: at the first that cannot be stored, its row and group. */
struct repacked {
    int status;
    int64_t row, group;
};

/* Blocks done: fewer than asked for where the next is too large; those in which something was lost, at most 2^-25; and those of
 * them that are zeros now. */
struct widened {
    int64_t done, rounded, flushed;
};

#define UNPACKERS(isa)                                                                                                     \
    /* Codes q + 8, two per byte, low nibble first, with a scale for each `group` (a multiple of 32) columns: as blocks of  \
     * Q4_0. The codes stay, d is the nearest float16 of the scale; inexact gets, for each row, the groups in which that is \
     * another number and some code is not zero. SCALE_ZERO and SCALE_TOO_LARGE where codes other than zero would be lost.  \
     */                                                                                                                    \
    struct repacked repack_int4_##isa(const uint8_t *packed, int stype, const void *scales, uint8_t *y, int64_t n_per_row,  \
                                      int64_t group, int64_t n_rows, int32_t *inexact);                                    \
    /* The same for MXFP4: codes of E2M1 and a byte of E8M0 for each 32, as blocks of MXFP4. */                            \
    void repack_mxfp4_##isa(const uint8_t *packed, const uint8_t *scales, uint8_t *y, int64_t n_blocks);                   \
    /* Blocks of Q4_0 as blocks of Q8_0: the same d, the code as a byte. */                                                \
    void widen_q4_0_##isa(const uint8_t *blocks, uint8_t *y, int64_t n_blocks);                                            \
    /* Blocks of MXFP4 as blocks of Q8_0: d is the step, the code its magnitude as a byte. Steps that are no float16 are     \
     * shifted into the codes. */                                                                                          \
    struct widened widen_mxfp4_##isa(const uint8_t *blocks, uint8_t *y, int64_t n_blocks);                                 \
    /* Counts the groups of 32 that lie on an int4 lattice, and writes them over blocks of Q4_0 unless that is NULL. */     \
    int64_t recover_lattice_##isa(const void *x, int xtype, uint8_t *blocks, int64_t n_blocks);

UNPACKERS(base)
#if defined(GGUFMIX_X86_TIERS)
UNPACKERS(avx2)
UNPACKERS(avx512)
#endif

#endif
