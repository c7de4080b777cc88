/* SPDX-License-Identifier: MIT
 *
 * Rows of stored weights to blocks: convert a chunk of rows to float, look at its values, call the kernel, look at its scales.
 * Compiled once per tier.
 */
#include "tier.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* Of each scale group: the largest magnitude and the second largest (equal to the largest where it occurs twice). */
struct tops {
    int32_t *first, *second;
};

static inline float load(int xtype, const void *x, int64_t i) {
    return xtype == X_F32    ? ((const float *)x)[i]
           : xtype == X_BF16 ? f32_from_bf16(((const uint16_t *)x)[i])
                             : f32_from_f16(((const uint16_t *)x)[i]);
}

/* One group of n values (a multiple of 8): converted into f unless they are floats already, and its two largest magnitudes. */
#if defined(__AVX2__)

static inline __m256 load_f32x8(int xtype, const void *x, int64_t i) {
    if (xtype == X_F32) return _mm256_loadu_ps((const float *)x + i);
    __m128i h = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + i));
    return xtype == X_F16 ? _mm256_cvtph_ps(h) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline __m256i swapped_i32x8(__m256i v, int step) {
    return step == 4   ? _mm256_permute2x128_si256(v, v, 1)
           : step == 2 ? _mm256_shuffle_epi32(v, 0x4E)
                       : _mm256_shuffle_epi32(v, 0xB1);
}

static inline void scan_group(int xtype, const void *x, int64_t at, float *f, int n, int32_t *first, int32_t *second) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int j = 0; j < n; j += 8) {
        __m256 x_f32x8 = load_f32x8(xtype, x, at + j);
        if (xtype != X_F32) _mm256_storeu_ps(f + at + j, x_f32x8);
        __m256i m = _mm256_and_si256(_mm256_castps_si256(x_f32x8), _mm256_set1_epi32(0x7FFFFFFF));
        b = _mm256_max_epi32(b, _mm256_min_epi32(a, m));
        a = _mm256_max_epi32(a, m);
    }
    for (int step = 4; step; step /= 2) {
        __m256i c = swapped_i32x8(a, step), d = swapped_i32x8(b, step);
        b = _mm256_max_epi32(_mm256_min_epi32(a, c), _mm256_max_epi32(b, d));
        a = _mm256_max_epi32(a, c);
    }
    *first = _mm_cvtsi128_si32(_mm256_castsi256_si128(a));
    *second = _mm_cvtsi128_si32(_mm256_castsi256_si128(b));
}

#else

static inline void scan_group(int xtype, const void *x, int64_t at, float *f, int n, int32_t *first, int32_t *second) {
    int32_t a[8] = {0}, b[8] = {0};
    for (int j = 0; j < n; j += 8)
        for (int i = 0; i < 8; i++) {
            float v = load(xtype, x, at + j + i);
            if (xtype != X_F32) f[at + j + i] = v;
            int32_t m = magnitude(v), low = m < a[i] ? m : a[i];
            b[i] = low > b[i] ? low : b[i];
            a[i] = m > a[i] ? m : a[i];
        }
    for (int step = 4; step; step /= 2)
        for (int i = 0; i < step; i++) {
            int32_t c = a[i + step], d = b[i + step], low = c < a[i] ? c : a[i];
            d = d > b[i] ? d : b[i];
            b[i] = low > d ? low : d;
            a[i] = c > a[i] ? c : a[i];
        }
    *first = a[0];
    *second = b[0];
}

#endif

/* Scan n values in groups. Returns the largest magnitude of all. */
static inline int32_t scan_as(int xtype, const void *x, float *f, int64_t n, int group, struct tops t) {
    int32_t top = 0;
    for (int64_t g = 0; g < n / group; g++) {
        scan_group(xtype, x, g * group, f, group, &t.first[g], &t.second[g]);
        top = t.first[g] > top ? t.first[g] : top;
    }
    return top;
}

static int32_t scan(int xtype, const void *x, float *f, int64_t n, int group, struct tops t) {
    return xtype == X_F32    ? scan_as(X_F32, x, f, n, group, t)
           : xtype == X_BF16 ? scan_as(X_BF16, x, f, n, group, t)
                             : scan_as(X_F16, x, f, n, group, t);
}

/* The same where a block is one value. */
static inline int32_t convert_as(int xtype, const void *x, float *f, int64_t n) {
    int32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        float v = load(xtype, x, i);
        if (xtype != X_F32) f[i] = v;
        top = magnitude(v) > top ? magnitude(v) : top;
    }
    return top;
}

static int32_t convert(int xtype, const void *x, float *f, int64_t n) {
    return xtype == X_F32 ? convert_as(X_F32, x, f, n) : xtype == X_BF16 ? convert_as(X_BF16, x, f, n) : convert_as(X_F16, x, f, n);
}

/* Whether any of n stored values is infinite or NaN: all bits of the exponent set. */
static int any_special(int xtype, const void *x, int64_t n) {
    int any = 0;
    if (xtype == X_F32) {
        for (int64_t i = 0; i < n; i++) any |= magnitude(((const float *)x)[i]) >= 0x7F800000;
    } else {
        uint16_t exponent = xtype == X_F16 ? 0x7C00 : 0x7F80;
        for (int64_t i = 0; i < n; i++) any |= (((const uint16_t *)x)[i] & exponent) == exponent;
    }
    return any;
}

static int64_t first_special(int xtype, const void *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (magnitude(load(xtype, x, i)) >= 0x7F800000) return i;
    return n;
}

/* ---- what the kernel stored ---- */

enum { USUAL, ZERO, INFINITE };

static inline int scale_state(int kind, const uint8_t *at) {
    uint32_t u = 0, special = 0, size = kind == SCALE_F32 ? 4 : kind == SCALE_F16 || kind == SCALE_BF16 ? 2 : 1;
    memcpy(&u, at, size); /* little-endian, as GGUF is */
    switch (kind) {
    case SCALE_F32: u &= 0x7FFFFFFF, special = 0x7F800000; break;
    case SCALE_F16: u &= 0x7FFF, special = 0x7C00; break;
    case SCALE_BF16: u &= 0x7FFF, special = 0x7F80; break;
    case SCALE_UE4M3: u &= 0x7F, special = 0x7F; break;
    case SCALE_E8M0: return u == 0xFF ? INFINITE : USUAL; /* its smallest is 2^-127, never zero */
    default: return USUAL;
    }
    return u >= special ? INFINITE : u ? USUAL : ZERO;
}

/* No format multiplies a float16 scale by more than 4096. Beyond what that reaches, the sums of a search for the best scale
 * overflow, and what it stores is finite but means nothing. */
#define OUT_OF_REACH (65504.0f * 4096)

/* Counts flushed and wiped groups. Returns the first group whose scale is infinite (or should have been), or n_groups. */
static inline int64_t inspect_as(int kind, const struct row *r, const uint8_t *y, int64_t n_groups, struct tops t,
                                 struct report *out) {
    int64_t per_block = r->values / scale_group(r);
    for (int64_t g = 0; g < n_groups; g++) {
        const uint8_t *block = y + g / per_block * r->bytes;
        int state = scale_state(kind, block + r->scale_at + g % per_block);
        if (r->min_at >= 0) {
            int least = scale_state(kind, block + r->min_at);
            state = state == INFINITE || least == INFINITE ? INFINITE : state == ZERO && least == ZERO ? ZERO : USUAL;
        }
        if (state == INFINITE || (kind == SCALE_F16 && t.first[g] > magnitude(OUT_OF_REACH))) return g;
        if (state == ZERO)
            out->flushed += t.first[g] != 0;
        else
            out->wiped += t.second[g] != 0 && float_of((uint32_t)t.second[g]) < r->wipe * float_of((uint32_t)t.first[g]);
    }
    return n_groups;
}

static int64_t inspect(const struct row *r, const uint8_t *y, int64_t n_groups, struct tops t, struct report *out) {
    return r->scale == SCALE_F16 ? inspect_as(SCALE_F16, r, y, n_groups, t, out) : inspect_as(r->scale, r, y, n_groups, t, out);
}

/* Zeros among n values of 16 bits, n at most 4096, and the largest of them without its sign. */
static int zeros16(const uint8_t *y, int n, int16_t *largest) {
    int16_t top = 0, zeros = 0;
    for (int64_t i = 0; i < n; i++) {
        int16_t m;
        memcpy(&m, y + 2 * i, 2);
        m &= 0x7FFF;
        top = m > top ? m : top;
        zeros = (int16_t)(zeros + (m == 0));
    }
    *largest = top;
    return zeros;
}

static int zeros32(const float *x, int n) {
    int zeros = 0;
    for (int64_t i = 0; i < n; i++) zeros += magnitude(x[i]) == 0;
    return zeros;
}

/* The same where a block is one value, stored as 16 bits: infinite values, and zeros that were not. */
static int64_t inspect_values(const struct row *r, const float *x, const uint8_t *y, int64_t n, struct report *out) {
    for (int64_t from = 0; r->scale != SCALE_F32 && from < n; from += 4096) {
        int part = n - from < 4096 ? (int)(n - from) : 4096;
        int16_t top;
        out->flushed += zeros16(y + 2 * from, part, &top) - zeros32(x + from, part);
        for (int i = 0; top >= (r->scale == SCALE_F16 ? 0x7C00 : 0x7F80) && i < part; i++)
            if (scale_state(r->scale, y + 2 * (from + i)) == INFINITE) return from + i;
    }
    return n;
}

/* ---- rows ---- */

struct report FN(encode_rows)(int encoder, int xtype, const void *x, const float *importance, uint8_t *y, int64_t n_per_row,
                              int64_t n_rows, void *scratch);
void FN(decode_rows)(int format, const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows);

static struct report encode_all(int encoder, int xtype, const void *x, const float *importance, uint8_t *y, int64_t n_per_row,
                                int64_t n_rows, void *scratch) {
    const struct row *r = &rows[encoders[encoder].format];
    struct report out = {OK, 0, 0, 0, 0};
    int64_t step = rows_per_chunk(n_per_row, n_rows, importance != NULL), row_bytes = n_per_row / r->values * r->bytes;
    int64_t x_bytes = n_per_row * (xtype == X_F32 ? 4 : 2);
    int group = scale_group(r), copies = r->values == 1 && xtype == r->ggml_id;
    float *f = scratch;
    struct tops tops = {(int32_t *)(f + step * n_per_row), (int32_t *)(f + step * n_per_row) + step * n_per_row / group};

    for (int64_t row = 0; row < n_rows; row += step) {
        int64_t n = (row + step < n_rows ? step : n_rows - row) * n_per_row, bad;
        const void *from = (const uint8_t *)x + row * x_bytes;
        const float *values = xtype == X_F32 ? from : f;
        uint8_t *to = y + row * row_bytes;

        int special = copies          ? any_special(xtype, from, n)
                      : r->values > 1 ? scan(xtype, from, f, n, group, tops) >= 0x7F800000
                                      : convert(xtype, from, f, n) >= 0x7F800000;
        if (special) {
            bad = first_special(xtype, from, n);
            return (struct report){NOT_FINITE, row + bad / n_per_row, bad % n_per_row, 0, 0};
        }
        if (copies) {
            memcpy(to, from, (size_t)(n / n_per_row * row_bytes));
            continue;
        }
        FN(encoders)[encoder](values, importance, to, n_per_row, n / n_per_row);
        bad = r->values > 1 ? group * inspect(r, to, n / group, tops, &out) : inspect_values(r, values, to, n, &out);
        if (bad < n) {
            int32_t top = r->values > 1 ? tops.first[bad / group] : magnitude(values[bad]);
            while (magnitude(values[bad]) != top) bad++;
            return (struct report){OUTLIER, row + bad / n_per_row, bad % n_per_row, 0, 0};
        }
    }
    return out;
}

/* Another library of the process may have left the CPU flushing subnormals or rounding elsewhere: the bytes must not change. */
struct report FN(encode_rows)(int encoder, int xtype, const void *x, const float *importance, uint8_t *y, int64_t n_per_row,
                              int64_t n_rows, void *scratch) {
#if defined(__SSE2__)
    unsigned control = _mm_getcsr();
    _mm_setcsr(0x1F80);
#endif
    struct report out = encode_all(encoder, xtype, x, importance, y, n_per_row, n_rows, scratch);
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
    return out;
}

void FN(decode_rows)(int format, const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
#if defined(__SSE2__)
    unsigned control = _mm_getcsr();
    _mm_setcsr(0x1F80);
#endif
    FN(decoders)[format](y, x, n_per_row, n_rows);
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
}
