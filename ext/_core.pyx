# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
# SPDX-License-Identifier: MIT
"""The door to the kernels: check sizes, take pointers, release the GIL, make one call. Only ggufmix.codecs, ggufmix.int4, ggufmix.measures and ggufmix.fp8 come here."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc


cdef extern from "core.h" nogil:
    cdef struct row:
        const char *name
        int ggml_id, values, bytes, importance
        float wipe
    cdef struct encoder:
        const char *name
        int format
    cdef struct c_report "report":
        int status
        int64_t row, col, flushed, wiped
    cdef struct repacked:
        int status
        int64_t row, group
    cdef struct widened:
        int64_t done, rounded, flushed
    cdef struct fp8_search:
        int mode, stored, grid
        double factor, percentile
    cdef struct fp8_sums:
        double ww, dd, wd, ee, e, most
    cdef struct fp8_report:
        int status
        int64_t row, col, saturated, flushed
        fp8_sums sums
    cdef struct fp8_scratch:
        pass
    cdef struct measured:
        double ee, xx, yy, xy, most
        int64_t at, broken
    cdef struct tier:
        const char *name
        int (*supported)() noexcept nogil
        c_report (*encode_rows)(int, int, const void *, const float *, uint8_t *, int64_t, int64_t, void *) noexcept nogil
        void (*decode_rows)(int, const uint8_t *, float *, int64_t, int64_t) noexcept nogil
        repacked (*repack_int4)(const uint8_t *, int, const void *, uint8_t *, int64_t, int64_t, int64_t, int32_t *) noexcept nogil
        void (*repack_mxfp4)(const uint8_t *, const uint8_t *, uint8_t *, int64_t) noexcept nogil
        void (*widen_q4_0)(const uint8_t *, uint8_t *, int64_t) noexcept nogil
        widened (*widen_mxfp4)(const uint8_t *, uint8_t *, int64_t) noexcept nogil
        int64_t (*recover_lattice)(const void *, int, uint8_t *, int64_t) noexcept nogil
        fp8_report (*quantize_fp8)(const fp8_search *, int, const void *, const float *, uint8_t *, float *, int64_t, int64_t, fp8_scratch *) noexcept nogil
        void (*dequantize_fp8)(const uint8_t *, const float *, float *, int64_t, int64_t) noexcept nogil
        void (*measure)(int, const void *, const float *, int64_t, measured *) noexcept nogil
    int N_FORMATS, N_ENCODERS, X_F32, X_F16, X_BF16, MODE_GIVEN
    const row rows[]
    const encoder encoders[]
    const tier c_tiers "tiers"[]
    int n_tiers
    size_t scratch_bytes(int, int64_t, int64_t, int) noexcept nogil


def table():
    """One dict per encoder; its place in the list is the number `encode` takes. Those named as their format also decode."""
    return [
        {
            "name": encoders[i].name.decode(), "format": rows[encoders[i].format].name.decode(),
            "id": rows[encoders[i].format].ggml_id, "values": rows[encoders[i].format].values,
            "bytes": rows[encoders[i].format].bytes, "wipe": rows[encoders[i].format].wipe,
            "importance": ("NONE", "OPTIONAL", "REQUIRED")[rows[i].importance if i < N_FORMATS else 0],
        }
        for i in range(N_ENCODERS)
    ]


def tiers():
    """Names of the tiers that run here, slowest first; a name's place is the number `encode` and `decode` take."""
    return [c_tiers[i].name.decode() for i in range(n_here)]


cdef int n_here = 0  # asked once: cpuid is slow in a virtual machine
while n_here < n_tiers and c_tiers[n_here].supported():
    n_here += 1


cdef int check(int encoder, int limit, int64_t n_per_row, int64_t n_rows, int tier) except -1:
    if not 0 <= encoder < limit or not 0 <= tier < n_here:
        raise ValueError("no such encoder, format or tier")
    if n_per_row <= 0 or n_rows <= 0 or n_per_row % rows[encoders[encoder].format].values or n_per_row > (<int64_t>1 << 40) // n_rows:
        raise ValueError("rows must be whole blocks, and there must be some")
    return 0


def encode(const unsigned char[::1] x, int xtype, int encoder, const unsigned char[::1] importance, unsigned char[::1] out,
           int64_t n_per_row, int64_t n_rows, int tier):
    """Encode rows; returns (status, row, col, flushed, wiped)."""
    check(encoder, N_ENCODERS, n_per_row, n_rows, tier)
    cdef int64_t n = n_per_row * n_rows, width = 4 if xtype == X_F32 else 2
    cdef const row *r = &rows[encoders[encoder].format]
    if xtype not in (X_F32, X_F16, X_BF16) or x.shape[0] != n * width or out.shape[0] != n // r.values * r.bytes:
        raise ValueError("buffers of another size")
    if importance is not None and importance.shape[0] != 4 * n_per_row:
        raise ValueError("importance of another size")
    cdef const float *weights = NULL
    if importance is not None:
        weights = <const float *>&importance[0]
    if <uintptr_t>&x[0] % width or <uintptr_t>weights % 4:
        raise ValueError("buffers not aligned")
    cdef c_report done
    cdef void *scratch = malloc(scratch_bytes(encoder, n_per_row, n_rows, weights != NULL))
    if scratch == NULL:
        raise MemoryError
    with nogil:
        done = c_tiers[tier].encode_rows(encoder, xtype, &x[0], weights, &out[0], n_per_row, n_rows, scratch)
        free(scratch)
    return done.status, done.row, done.col, done.flushed, done.wiped


def decode(const unsigned char[::1] blocks, int format, unsigned char[::1] out, int64_t n_per_row, int64_t n_rows, int tier):
    """Decode rows into the bytes of float32 values."""
    check(format, N_FORMATS, n_per_row, n_rows, tier)
    cdef int64_t n = n_per_row * n_rows
    if blocks.shape[0] != n // rows[format].values * rows[format].bytes or out.shape[0] != 4 * n or <uintptr_t>&out[0] % 4:
        raise ValueError("buffers of another size")
    with nogil:
        c_tiers[tier].decode_rows(format, &blocks[0], <float *>&out[0], n_per_row, n_rows)


def repack_int4(const unsigned char[::1] packed, int stype, const unsigned char[::1] scales, unsigned char[::1] out, int[::1] inexact,
                int64_t n_per_row, int64_t group, int tier):
    """Packed int4 rows to blocks of Q4_0; returns (status, row, group) of the scales, and counts inexact groups by row."""
    cdef int64_t n_rows = inexact.shape[0], n = n_per_row * n_rows, width = 4 if stype == X_F32 else 2
    if not 0 <= tier < n_here or n_rows <= 0 or group <= 0 or group % 32 or n_per_row <= 0 or n_per_row % group:
        raise ValueError("rows must be whole groups of whole blocks")
    if stype not in (X_F32, X_F16, X_BF16) or packed.shape[0] != n // 2 or scales.shape[0] != n // group * width or out.shape[0] != n // 32 * 18:
        raise ValueError("buffers of another size")
    if <uintptr_t>&scales[0] % width:
        raise ValueError("buffers not aligned")
    cdef repacked done
    with nogil:
        done = c_tiers[tier].repack_int4(&packed[0], stype, &scales[0], &out[0], n_per_row, group, n_rows, <int32_t *>&inexact[0])
    return done.status, done.row, done.group


def repack_mxfp4(const unsigned char[::1] packed, const unsigned char[::1] scales, unsigned char[::1] out, int tier):
    """Packed MXFP4 rows to blocks of MXFP4."""
    cdef int64_t n = scales.shape[0]
    if not 0 <= tier < n_here or n <= 0 or packed.shape[0] != n * 16 or out.shape[0] != n * 17:
        raise ValueError("buffers of another size")
    with nogil:
        c_tiers[tier].repack_mxfp4(&packed[0], &scales[0], &out[0], n)


def widen_q4_0(const unsigned char[::1] blocks, unsigned char[::1] out, int tier):
    """Blocks of Q4_0 to blocks of Q8_0."""
    cdef int64_t n = blocks.shape[0] // 18
    if not 0 <= tier < n_here or n <= 0 or blocks.shape[0] != n * 18 or out.shape[0] != n * 34:
        raise ValueError("buffers of another size")
    with nogil:
        c_tiers[tier].widen_q4_0(&blocks[0], &out[0], n)


def widen_mxfp4(const unsigned char[::1] blocks, unsigned char[::1] out, int tier):
    """Blocks of MXFP4 to blocks of Q8_0; returns how many were done before one that is too large, are rounded, and are zeros by that."""
    cdef int64_t n = blocks.shape[0] // 17
    cdef widened found
    if not 0 <= tier < n_here or n <= 0 or blocks.shape[0] != n * 17 or out.shape[0] != n * 34:
        raise ValueError("buffers of another size")
    with nogil:
        found = c_tiers[tier].widen_mxfp4(&blocks[0], &out[0], n)
    return found.done, found.rounded, found.flushed


def recover_lattice(const unsigned char[::1] x, int xtype, unsigned char[::1] blocks, int tier):
    """Count groups that lie on an int4 lattice, and write them over blocks of Q4_0 unless that is None."""
    cdef int64_t width = 4 if xtype == X_F32 else 2, n = x.shape[0] // (32 * width), found
    cdef uint8_t *y = NULL
    if not 0 <= tier < n_here or xtype not in (X_F32, X_F16, X_BF16) or n <= 0 or x.shape[0] != n * 32 * width:
        raise ValueError("values must be whole groups")
    if blocks is not None:
        if blocks.shape[0] != n * 18:
            raise ValueError("blocks of another size")
        y = &blocks[0]
    if <uintptr_t>&x[0] % width:
        raise ValueError("values not aligned")
    with nogil:
        found = c_tiers[tier].recover_lattice(&x[0], xtype, y, n)
    return found


def quantize_fp8(const unsigned char[::1] x, int xtype, const unsigned char[::1] weights, unsigned char[::1] codes, float[::1] scales,
                 int64_t n_per_row, int64_t n_rows, int mode, int stored, double factor, double percentile, int grid, int tier):
    """Rows as E4M3; returns (status, row, col, saturated, flushed, sums)."""
    check_fp8(x, xtype, codes.shape[0], scales.shape[0], n_per_row, n_rows, tier)
    if not 0 <= mode < 4 or not 0 <= stored < 3:
        raise ValueError("no such mode or scale")
    cdef const float *a = NULL
    if weights is not None:
        if weights.shape[0] != 4 * n_per_row:
            raise ValueError("weights of another size")
        a = <const float *>&weights[0]
    if <uintptr_t>a % 4:
        raise ValueError("weights not aligned")
    return run_fp8(fp8_search(mode, stored, grid, factor, percentile), x, xtype, a, &codes[0], &scales[0], n_per_row, n_rows, tier)


def compare_fp8(const unsigned char[::1] x, int xtype, const unsigned char[::1] codes, const float[::1] scales, int64_t n_per_row,
                int64_t n_rows, int tier):
    """The same about codes and scales that are there."""
    check_fp8(x, xtype, codes.shape[0], scales.shape[0], n_per_row, n_rows, tier)
    return run_fp8(fp8_search(MODE_GIVEN, 0, 0, 0, 0), x, xtype, NULL, <uint8_t *>&codes[0], <float *>&scales[0], n_per_row, n_rows, tier)


cdef int64_t fp8_blocks(int64_t n_per_row, int64_t n_rows):
    return ((n_per_row + 127) // 128) * ((n_rows + 127) // 128)


cdef int check_fp8(const unsigned char[::1] x, int xtype, int64_t n_codes, int64_t n_scales, int64_t n_per_row, int64_t n_rows, int tier) except -1:
    cdef int64_t width = 4 if xtype == X_F32 else 2
    if not 0 <= tier < n_here or n_per_row <= 0 or n_rows <= 0 or n_per_row > (<int64_t>1 << 40) // n_rows:
        raise ValueError("no such tier, or no rows")
    if xtype not in (X_F32, X_F16, X_BF16) or x.shape[0] != n_per_row * n_rows * width or n_codes != n_per_row * n_rows:
        raise ValueError("buffers of another size")
    if n_scales != fp8_blocks(n_per_row, n_rows):
        raise ValueError("scales of another size")
    if <uintptr_t>&x[0] % width:
        raise ValueError("buffers not aligned")
    return 0


cdef run_fp8(fp8_search search, const unsigned char[::1] x, int xtype, const float *weights, uint8_t *codes, float *scales,
             int64_t n_per_row, int64_t n_rows, int tier):
    cdef fp8_report done
    cdef fp8_scratch *scratch = <fp8_scratch *>calloc(1, sizeof(fp8_scratch))
    if scratch == NULL:
        raise MemoryError
    with nogil:
        done = c_tiers[tier].quantize_fp8(&search, xtype, &x[0], weights, codes, scales, n_per_row, n_rows, scratch)
        free(scratch)
    return done.status, done.row, done.col, done.saturated, done.flushed, done.sums


def dequantize_fp8(const unsigned char[::1] codes, const float[::1] scales, float[::1] out, int64_t n_per_row, int64_t n_rows, int tier):
    """Rows of E4M3 as float32."""
    if not 0 <= tier < n_here or n_per_row <= 0 or n_rows <= 0:
        raise ValueError("no such tier, or no rows")
    if codes.shape[0] != n_per_row * n_rows or out.shape[0] != codes.shape[0] or scales.shape[0] != fp8_blocks(n_per_row, n_rows):
        raise ValueError("buffers of another size")
    with nogil:
        c_tiers[tier].dequantize_fp8(&codes[0], &scales[0], &out[0], n_per_row, n_rows)


def measure(const unsigned char[::1] x, int xtype, const unsigned char[::1] y, int tier):
    """Sums over pairs of x and y, the bytes of float32."""
    cdef int64_t n = y.shape[0] // 4, width = 4 if xtype == X_F32 else 2
    if not 0 <= tier < n_here or xtype not in (X_F32, X_F16, X_BF16) or n <= 0 or y.shape[0] != 4 * n or x.shape[0] != n * width:
        raise ValueError("buffers of another size")
    if <uintptr_t>&x[0] % width or <uintptr_t>&y[0] % 4:
        raise ValueError("buffers not aligned")
    cdef measured done
    with nogil:
        c_tiers[tier].measure(xtype, &x[0], <const float *>&y[0], n, &done)
    return done
