/* SPDX-License-Identifier: MIT
 *
 * What the door (_core.pyx), the dispatcher and the tiers share. Compiled at every tier, so it holds no code that differs.
 */
#ifndef GGUFMIX_CORE_H
#define GGUFMIX_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "fp8.h"
#include "measure.h"
#include "unpack.h"

enum { NONE, OPTIONAL, REQUIRED };                                       /* importance */
enum { SCALE_NOTHING, SCALE_F32, SCALE_F16, SCALE_BF16, SCALE_E8M0, SCALE_UE4M3 };
enum { X_F32 = 0, X_F16 = 1, X_BF16 = 30 };                              /* input types, numbered as in GGUF */
enum { OK, NOT_FINITE, OUTLIER };                                        /* status */

/* Formats first, then the further encoders: a position below N_FORMATS is both, one above is an encoder only. */
enum {
#define FORMAT(name, ...) AT_##name,
#define ENCODER(name, format)
#include "formats.def"
#undef FORMAT
#undef ENCODER
    N_FORMATS,
    BEFORE_ENCODERS = N_FORMATS - 1,
#define FORMAT(name, ...)
#define ENCODER(name, format) AT_##name,
#include "formats.def"
#undef FORMAT
#undef ENCODER
    N_ENCODERS
};

/* A row of formats.def. */
struct row {
    const char *name;
    int ggml_id, values, bytes, importance, scale, scale_at, min_at;
    float wipe;
};

/* A way to write a format: each format's own comes first, at the format's position. Further ones take no importance. */
struct encoder {
    const char *name;
    int format;
};

/* What became of the rows. row and col say where (NOT_FINITE, OUTLIER); counts are of blocks. */
struct report {
    int status;
    int64_t row, col;
    int64_t flushed; /* blocks with a non-zero value that were stored with a zero scale */
    int64_t wiped;   /* blocks in which one value is so large that all others are lost */
};

typedef void encode_fn(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows);
typedef void decode_fn(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows);

/* The work of one tier. scratch: scratch_bytes(...) bytes, aligned for float. */
struct tier {
    const char *name;
    int (*supported)(void);
    struct report (*encode_rows)(int encoder, int xtype, const void *x, const float *importance, uint8_t *y,
                                 int64_t n_per_row, int64_t n_rows, void *scratch);
    void (*decode_rows)(int format, const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows);
    struct repacked (*repack_int4)(const uint8_t *packed, int stype, const void *scales, uint8_t *y, int64_t n_per_row,
                                   int64_t group, int64_t n_rows, int32_t *inexact);
    void (*repack_mxfp4)(const uint8_t *packed, const uint8_t *scales, uint8_t *y, int64_t n_blocks);
    void (*widen_q4_0)(const uint8_t *blocks, uint8_t *y, int64_t n_blocks);
    struct widened (*widen_mxfp4)(const uint8_t *blocks, uint8_t *y, int64_t n_blocks);
    int64_t (*recover_lattice)(const void *x, int xtype, uint8_t *blocks, int64_t n_blocks);
    struct fp8_report (*quantize_fp8)(const struct fp8_search *how, int xtype, const void *x, const float *weights,
                                      uint8_t *codes, float *scales, int64_t n_per_row, int64_t n_rows,
                                      struct fp8_scratch *scratch);
    void (*dequantize_fp8)(const uint8_t *codes, const float *scales, float *x, int64_t n_per_row, int64_t n_rows);
    void (*measure)(int xtype, const void *x, const float *y, int64_t n, struct measured *out);
};

extern const struct row rows[N_FORMATS];
extern const struct encoder encoders[N_ENCODERS];
extern const struct tier tiers[];
extern const int n_tiers;

/* Rows converted at once: about 16 Ki values (64 KiB, at home in L2), and with importance a register full of rows. */
static inline int64_t rows_per_chunk(int64_t n_per_row, int64_t n_rows, int weighted) {
    int64_t n = (16 << 10) / n_per_row, least = weighted ? 8 : 1;
    n = n < least ? least : n;
    return n < n_rows ? n : n_rows;
}

/* Values that share one stored scale. */
static inline int scale_group(const struct row *r) { return r->scale == SCALE_UE4M3 ? 16 : r->values; }

size_t scratch_bytes(int encoder, int64_t n_per_row, int64_t n_rows, int weighted);

#endif
