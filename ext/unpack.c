/* SPDX-License-Identifier: MIT
 *
 * What is 4 bits in the source, moved into blocks of Q4_0 and Q8_0 without a change of value. Compiled once per tier.
 */
#include "fp4.h"
#include "lattice.h"
#include "symmetric.h"
#include "unpack.h"

#if defined(__SSE2__)
#include <immintrin.h>
#define BEGIN                                                                                                              \
    unsigned control = _mm_getcsr();                                                                                       \
    _mm_setcsr(0x1F80)
#define END _mm_setcsr(control)
#else
#define BEGIN
#define END
#endif

static inline float value_of(int xtype, const void *x, int64_t i) {
    return xtype == X_F32    ? ((const float *)x)[i]
           : xtype == X_BF16 ? f32_from_bf16(((const uint16_t *)x)[i])
                             : f32_from_f16(((const uint16_t *)x)[i]);
}

static inline void values_of(int xtype, const void *x, int64_t at, float f[32]) {
#if defined(__F16C__) && defined(__AVX2__)
    if (xtype == X_F16) {
        const __m128i *half = (const __m128i *)((const uint16_t *)x + at);
        for (int i = 0; i < 4; i++) _mm256_storeu_ps(f + 8 * i, _mm256_cvtph_ps(_mm_loadu_si128(half + i)));
        return;
    }
#endif
    for (int i = 0; i < 32; i++) f[i] = value_of(xtype, x, at + i);
}

/* Bytes of elements (2k, 2k + 1), low nibble first, as bytes of (j, j + 16). */
static inline void pairs_to_halves(const uint8_t *from, uint8_t *to) {
#if defined(__SSE2__)
    __m128i x = _mm_loadu_si128((const __m128i *)from), low = _mm_set1_epi8(15);
    __m128i even = _mm_and_si128(x, low), odd = _mm_and_si128(_mm_srli_epi16(x, 4), low);
    __m128i first = _mm_unpacklo_epi8(even, odd), second = _mm_unpackhi_epi8(even, odd);
    _mm_storeu_si128((__m128i *)to, _mm_or_si128(first, _mm_slli_epi16(second, 4)));
#else
    uint8_t e[32];
    for (int k = 0; k < 16; k++) e[2 * k] = from[k] & 15, e[2 * k + 1] = from[k] >> 4;
    for (int j = 0; j < 16; j++) to[j] = (uint8_t)(e[j] | e[j + 16] << 4);
#endif
}

static int all_zero(const uint8_t *packed, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (packed[i] != 0x88) return 0;
    return 1;
}

/* n scales, as float16. Returns whether some must be looked at: zero, infinite, NaN, or not the same number. */
static inline int halves_of(int stype, const void *scales, int64_t at, int n, uint16_t *d) {
    int odd = 0, i = 0;
#if defined(__AVX2__)
    for (; stype == X_BF16 && i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)((const uint16_t *)scales + at + i));
        __m256i u = _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16), size = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF));
        __m128i half = _mm256_cvtps_ph(_mm256_castsi256_ps(u), _MM_FROUND_TO_NEAREST_INT);
        __m256i same = _mm256_cmpeq_epi32(_mm256_castps_si256(_mm256_cvtph_ps(half)), u);
        __m256i usual = _mm256_and_si256(_mm256_cmpgt_epi32(size, _mm256_setzero_si256()),
                                         _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7F800000), size));
        odd |= _mm256_movemask_epi8(_mm256_and_si256(same, usual)) != -1;
        _mm_storeu_si128((__m128i *)(d + i), half);
    }
#endif
    for (; i < n; i++) {
        float s = value_of(stype, scales, at + i);
        d[i] = f16_of_scale(s);
        odd |= bits_of(scale_of_f16(d[i])) != bits_of(s);
        odd |= magnitude(s) == 0;
        odd |= magnitude(s) >= 0x7F800000;
    }
    return odd;
}

/* One scale that must be looked at. Counts it in `lost` where it is not exact; d is made finite where that loses nothing. */
static int settle(float s, uint16_t *d, const uint8_t *packed, int64_t n_bytes, int32_t *lost) {
    if (magnitude(s) >= 0x7F800000) return SCALE_NOT_FINITE;
    int infinite = (*d & 0x7FFF) >= 0x7C00;
    if (s != 0 && f32_from_f16(*d) == s) return SCALES_TAKEN;
    if (all_zero(packed, n_bytes)) {
        *d = infinite ? 0 : *d;
        return SCALES_TAKEN;
    }
    if (s == 0) return SCALE_ZERO;
    *lost += 1;
    return infinite ? SCALE_TOO_LARGE : SCALES_TAKEN;
}

/* See unpack.h. */
static inline struct repacked repack(const uint8_t *packed, int stype, const void *scales, uint8_t *y, int64_t n_per_row,
                                     int64_t group, int64_t n_rows, int32_t *inexact) {
    enum { ONCE = 64 };
    int64_t n_groups = n_per_row / group, n_blocks = group / 32;
    for (int64_t row = 0; row < n_rows; row++) {
        int32_t lost = 0;
        for (int64_t g = 0; g < n_groups; g += ONCE) {
            int n = n_groups - g < ONCE ? (int)(n_groups - g) : ONCE;
            int64_t at = row * n_groups + g;
            uint16_t d[ONCE];
            if (halves_of(stype, scales, at, n, d))
                for (int i = 0; i < n; i++) {
                    int status = settle(value_of(stype, scales, at + i), &d[i], packed + i * (group / 2), group / 2, &lost);
                    if (status != SCALES_TAKEN) return (struct repacked){status, row, g + i};
                }
            for (int i = 0; i < n; i++)
                for (int64_t b = 0; b < n_blocks; b++, packed += 16, y += 18) {
                    memcpy(y, &d[i], 2);
                    pairs_to_halves(packed, y + 2);
                }
        }
        inexact[row] = lost;
    }
    return (struct repacked){SCALES_TAKEN, 0, 0};
}

struct repacked FN(repack_int4)(const uint8_t *packed, int stype, const void *scales, uint8_t *y, int64_t n_per_row,
                                int64_t group, int64_t n_rows, int32_t *inexact) {
    BEGIN;
    struct repacked out = stype == X_F32    ? repack(packed, X_F32, scales, y, n_per_row, group, n_rows, inexact)
                          : stype == X_BF16 ? repack(packed, X_BF16, scales, y, n_per_row, group, n_rows, inexact)
                                            : repack(packed, X_F16, scales, y, n_per_row, group, n_rows, inexact);
    END;
    return out;
}

void FN(repack_mxfp4)(const uint8_t *packed, const uint8_t *scales, uint8_t *y, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, packed += 16, y += 17) {
        y[0] = scales[b];
        pairs_to_halves(packed, y + 1);
    }
}

void FN(widen_q4_0)(const uint8_t *blocks, uint8_t *y, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, blocks += 18, y += 34) {
        memcpy(y, blocks, 2);
#if defined(__SSE2__)
        __m128i x = _mm_loadu_si128((const __m128i *)(blocks + 2)), low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
        __m128i first = _mm_and_si128(x, low), second = _mm_and_si128(_mm_srli_epi16(x, 4), low);
        _mm_storeu_si128((__m128i *)(y + 2), _mm_sub_epi8(first, eight));
        _mm_storeu_si128((__m128i *)(y + 18), _mm_sub_epi8(second, eight));
#else
        for (int j = 0; j < 16; j++) {
            y[2 + j] = (uint8_t)((blocks[2 + j] & 15) - 8);
            y[18 + j] = (uint8_t)((blocks[2 + j] >> 4) - 8);
        }
#endif
    }
}

/* A block whose step 2^(e - 128) is no float16: the nearest one, and the codes shifted by the difference; below 2^-24 they are
 * rounded, ties to even. Returns 0 where one is too large for a byte. */
static int widen_far(const uint8_t *block, uint8_t *y, struct widened *found) {
    int up = block[0] - 143, down = 104 - block[0], lost = 0, any = 0;
    for (int j = 0; j < 32; j++) {
        int m = fp4_magnitudes[block[1 + j % 16] >> (j < 16 ? 0 : 4) & 15], size = m < 0 ? -m : m, code = size;
        if (up > 3 && m) return 0;
        if (down > 0) {
            int by = down < 6 ? down : 6, whole = size >> by, rest = size - (whole << by), half = 1 << by >> 1;
            code = whole + (rest > half || (rest == half && whole & 1));
            lost |= rest;
        } else if (m)
            code = size << up;
        any |= code;
        y[2 + j] = (uint8_t)(m < 0 ? -code : code);
    }
    uint16_t d = !any ? 0 : up > 0 ? 0x7800 : 1;
    memcpy(y, &d, 2);
    found->rounded += lost != 0;
    found->flushed += lost && !any;
    return 1;
}

struct widened FN(widen_mxfp4)(const uint8_t *blocks, uint8_t *y, int64_t n_blocks) {
    struct widened found = {0, 0, 0};
    for (; found.done < n_blocks; found.done++, blocks += 17, y += 34) {
        int e = blocks[0];
        if (e < 104 || e > 143) {
            if (!widen_far(blocks, y, &found)) break;
            continue;
        }
        uint16_t d = (uint16_t)(e < 114 ? 1 << (e - 104) : (e - 113) << 10);
        memcpy(y, &d, 2);
#if defined(__AVX2__)
        const __m128i table = _mm_loadu_si128((const __m128i *)fp4_magnitudes), low = _mm_set1_epi8(15);
        __m128i x = _mm_loadu_si128((const __m128i *)(blocks + 1));
        _mm_storeu_si128((__m128i *)(y + 2), _mm_shuffle_epi8(table, _mm_and_si128(x, low)));
        _mm_storeu_si128((__m128i *)(y + 18), _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(x, 4), low)));
#else
        for (int j = 0; j < 16; j++) {
            y[2 + j] = (uint8_t)fp4_magnitudes[blocks[1 + j] & 15];
            y[18 + j] = (uint8_t)fp4_magnitudes[blocks[1 + j] >> 4];
        }
#endif
    }
    return found;
}

static inline int64_t recover(const void *x, int xtype, uint8_t *blocks, int64_t n_blocks) {
    int64_t found = 0;
    for (int64_t b = 0; b < n_blocks; b++) {
        float f[32];
        uint8_t codes[32];
        uint16_t d;
        values_of(xtype, x, 32 * b, f);
        if (!on_lattice(xtype, f, codes, &d)) continue;
        found++;
        if (blocks == NULL) continue;
        memcpy(blocks + 18 * b, &d, 2);
        store_nibbles(codes, blocks + 18 * b + 2);
    }
    return found;
}

int64_t FN(recover_lattice)(const void *x, int xtype, uint8_t *blocks, int64_t n_blocks) {
    BEGIN;
    int64_t found = xtype == X_F32    ? recover(x, X_F32, blocks, n_blocks)
                    : xtype == X_BF16 ? recover(x, X_BF16, blocks, n_blocks)
                                      : recover(x, X_F16, blocks, n_blocks);
    END;
    return found;
}
