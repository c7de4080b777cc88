/* SPDX-License-Identifier: MIT
 *
 * Weights as E4M3 with a scale for each block of 128 x 128. Compiled once per tier.
 */
#include "fp8_scale.h"

#if defined(__SSE2__)
#define BEGIN                                                                                                              \
    unsigned control = _mm_getcsr();                                                                                       \
    _mm_setcsr(0x1F80)
#define END _mm_setcsr(control)
#if LANES == 1
#include <immintrin.h>
#endif
#else
#define BEGIN
#define END
#endif

static inline float value_of(int xtype, const void *x, int64_t i) {
    return xtype == X_F32    ? ((const float *)x)[i]
           : xtype == X_BF16 ? f32_from_bf16(((const uint16_t *)x)[i])
                             : f32_from_f16(((const uint16_t *)x)[i]);
}

/* The block whose first value is number `at` of x. */
static inline struct fp8_block load_as(int xtype, const void *x, int64_t at, int64_t n_per_row, int rows, int width, float *f) {
    int pitch = (width + 15) & ~15;
    uint32_t top = 0, least = UINT32_MAX, low_bits = 0;
    for (int i = 0; i < rows; i++) {
        float *to = f + i * pitch;
        for (int j = 0; j < width; j++) {
            float v = value_of(xtype, x, at + i * n_per_row + j);
            uint32_t m = (uint32_t)magnitude(v);
            to[j] = v;
            top = m > top ? m : top;
            least = m - 1 < least ? m - 1 : least; /* zero becomes the largest of all */
            low_bits |= m;
        }
        for (int j = width; j < pitch; j++) to[j] = 0;
    }
    return (struct fp8_block){f, rows, width, pitch, (int32_t)top, (int32_t)(least + 1), (low_bits & 0xFFFF) == 0};
}

static struct fp8_block load_block(int xtype, const void *x, int64_t at, int64_t n_per_row, int rows, int width, float *f) {
    return xtype == X_F32    ? load_as(X_F32, x, at, n_per_row, rows, width, f)
           : xtype == X_BF16 ? load_as(X_BF16, x, at, n_per_row, rows, width, f)
                             : load_as(X_F16, x, at, n_per_row, rows, width, f);
}

/* What is counted while a block is gone through. */
struct running {
#if LANES > 1
    sums8 ww, dd, wd, ee, e;
    vi most;
#else
    double ww[8], dd[8], wd[8], ee[8], e[8];
    int32_t most;
#endif
    int64_t saturated, flushed;
};

#if LANES > 1

V_INLINE void count(struct running *r, vf w, vf d, vi code, vf ratio) {
    vf e = v_abs(d - w);
    r->saturated += __builtin_popcount(m_bits(v_gt(ratio, v_set(E4M3_SATURATES))));
    r->flushed += __builtin_popcount(m_bits(m_and(i_eq(code, i_set(0)), v_ne(w, v_set(0)))));
    r->most = i_max(r->most, (vi)e);
    sums8_add_products(&r->ww, w, w);
    sums8_add_products(&r->dd, d, d);
    sums8_add_products(&r->wd, w, d);
    sums8_add_products(&r->ee, e, e);
    sums8_add(&r->e, e);
}

V_INLINE vi quantized(vf w, float scale, struct running *r) {
    vf size = v_abs(w), ratio = size / scale;
    vi code;
    vf d = v_e4m3_of(v_min(ratio, v_set(E4M3_LARGEST)), &code) * scale;
    count(r, size, d, code, ratio);
    return code | (((vi)w >> 24) & 0x80);
}

/* Sixteen weights to codes. */
V_INLINE void quantize_sixteen(const float *f, float scale, uint8_t *to, struct running *r) {
#if LANES == 16
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(V_I(quantized(v_load(f), scale, r))));
#else
    vi low = quantized(v_load(f), scale, r), high = quantized(v_load(f + 8), scale, r);
    _mm_storeu_si128((__m128i *)to, bytes_of_i32x16(V_I(low), V_I(high)));
#endif
}

/* Sixteen weights beside the codes that they have, whose values are in a table. */
V_INLINE void compare_sixteen(const float *f, float scale, const uint8_t *codes, const float *values, struct running *r) {
    for (int i = 0; i < 16; i += LANES) {
        float each[LANES];
        for (int k = 0; k < LANES; k++) each[k] = values[codes[i + k]];
        vf w = v_load(f + i);
        count(r, w, v_load(each), i_of_bytes(codes + i) & 0x7F, v_abs(w) / scale);
    }
}

static double total(sums8 s) { return sums8_folded(s); }

static int32_t largest(vi sizes) {
    int32_t each[LANES], most = 0;
    memcpy(each, &sizes, sizeof each);
    for (int i = 0; i < LANES; i++) most = each[i] > most ? each[i] : most;
    return most;
}

#else

static void count(struct running *r, int i, float w, float d, int32_t code, float ratio) {
    float e = fabsf(d - w);
    r->saturated += ratio > E4M3_SATURATES;
    r->flushed += code == 0 && w != 0;
    r->most = magnitude(e) > r->most ? magnitude(e) : r->most;
    r->ww[i & 7] += (double)w * w;
    r->dd[i & 7] += (double)d * d;
    r->wd[i & 7] += (double)w * d;
    r->ee[i & 7] += (double)e * e;
    r->e[i & 7] += e;
}

static void quantize_sixteen(const float *f, float scale, uint8_t *to, struct running *r) {
    for (int i = 0; i < 16; i++) {
        float size = fabsf(f[i]), ratio = size / scale;
        int32_t code;
        float d = e4m3_of(ratio < E4M3_LARGEST ? ratio : E4M3_LARGEST, &code) * scale;
        count(r, i, size, d, code, ratio);
        to[i] = (uint8_t)((uint32_t)code | ((bits_of(f[i]) >> 24) & 0x80));
    }
}

static void compare_sixteen(const float *f, float scale, const uint8_t *codes, const float *values, struct running *r) {
    for (int i = 0; i < 16; i++) count(r, i, f[i], values[codes[i]], codes[i] & 0x7F, fabsf(f[i]) / scale);
}

static double total(const double s[8]) { return folded(s); }

static int32_t largest(int32_t size) { return size; }

#endif

static void add(const struct running *r, struct fp8_report *out) {
    double most = float_of((uint32_t)largest(r->most));
    out->saturated += r->saturated;
    out->flushed += r->flushed;
    out->sums.ww += total(r->ww);
    out->sums.dd += total(r->dd);
    out->sums.wd += total(r->wd);
    out->sums.ee += total(r->ee);
    out->sums.e += total(r->e);
    out->sums.most = most > out->sums.most || most != most ? most : out->sums.most; /* a NaN stays */
}

static void quantize_block(const struct fp8_block *b, float scale, uint8_t *codes, int64_t n_per_row, struct fp8_report *out) {
    struct running r;
    memset(&r, 0, sizeof r);
    int whole = b->width & ~15;
    for (int i = 0; i < b->rows; i++) {
        const float *f = b->f + i * b->pitch;
        uint8_t *to = codes + i * n_per_row, edge[16];
        for (int j = 0; j < whole; j += 16) quantize_sixteen(f + j, scale, to + j, &r);
        if (whole == b->width) continue;
        quantize_sixteen(f + whole, scale, edge, &r);
        memcpy(to + whole, edge, (size_t)(b->width - whole));
    }
    add(&r, out);
}

static void compare_block(const struct fp8_block *b, float scale, const uint8_t *codes, int64_t n_per_row, const float *values,
                          struct fp8_report *out) {
    struct running r;
    memset(&r, 0, sizeof r);
    float scaled[256];
    for (int i = 0; i < 256; i++) scaled[i] = values[i] * scale;
    int whole = b->width & ~15;
    for (int i = 0; i < b->rows; i++) {
        const float *f = b->f + i * b->pitch;
        const uint8_t *from = codes + i * n_per_row;
        uint8_t edge[16] = {0};
        for (int j = 0; j < whole; j += 16) compare_sixteen(f + j, scale, from + j, scaled, &r);
        if (whole == b->width) continue;
        memcpy(edge, from + whole, (size_t)(b->width - whole));
        compare_sixteen(f + whole, scale, edge, scaled, &r);
    }
    add(&r, out);
}

static float e4m3_value(int code) {
    int size = code & 0x7F, exponent = size >> 3, mantissa = size & 7;
    float value = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return copysignf(size == 0x7F ? NAN : value, code & 0x80 ? -1.0f : 1.0f);
}

static struct fp8_report quantize(const struct fp8_search *how, int xtype, const void *x, const float *weights, uint8_t *codes,
                                  float *scales, int64_t n_per_row, int64_t n_rows, struct fp8_scratch *scratch) {
    struct fp8_report out = {.status = OK};
    float values[256];
    double even[FP8_BLOCK], weight[FP8_BLOCK];
    for (int i = 0; i < 256; i++) values[i] = e4m3_value(i);
    if (how->mode != MODE_RMS && how->mode != MODE_MSE) weights = NULL;
    for (int64_t row = 0; row < n_rows; row += FP8_BLOCK)
        for (int64_t col = 0; col < n_per_row; col += FP8_BLOCK, scales++) {
            int rows = n_rows - row < FP8_BLOCK ? (int)(n_rows - row) : FP8_BLOCK;
            int width = n_per_row - col < FP8_BLOCK ? (int)(n_per_row - col) : FP8_BLOCK;
            struct fp8_block b = load_block(xtype, x, row * n_per_row + col, n_per_row, rows, width, scratch->block);
            uint8_t *to = codes + row * n_per_row + col;
            if (b.top >= 0x7F800000) {
                int64_t i = row * n_per_row; /* the first may be in another block */
                while (magnitude(value_of(xtype, x, i)) < 0x7F800000) i++;
                return (struct fp8_report){.status = NOT_FINITE, .row = i / n_per_row, .col = i % n_per_row};
            }
            if (how->mode == MODE_GIVEN) {
                compare_block(&b, *scales, to, n_per_row, values, &out);
                continue;
            }
            for (int j = 0; j < FP8_BLOCK; j++) {
                even[j] = j < width;
                weight[j] = weights != NULL && j < width ? weights[col + j] : 0;
            }
            *scales = scale_of(&b, how, weights != NULL ? weight : NULL, even, scratch);
            quantize_block(&b, *scales, to, n_per_row, &out);
        }
    return out;
}

struct fp8_report FN(quantize_fp8)(const struct fp8_search *how, int xtype, const void *x, const float *weights, uint8_t *codes,
                                   float *scales, int64_t n_per_row, int64_t n_rows, struct fp8_scratch *scratch) {
    BEGIN;
    struct fp8_report out = quantize(how, xtype, x, weights, codes, scales, n_per_row, n_rows, scratch);
    END;
    return out;
}

void FN(dequantize_fp8)(const uint8_t *codes, const float *scales, float *x, int64_t n_per_row, int64_t n_rows) {
    BEGIN;
    float value[256];
    for (int i = 0; i < 256; i++) value[i] = e4m3_value(i);
    int64_t n_blocks = (n_per_row + FP8_BLOCK - 1) / FP8_BLOCK;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t b = 0; b < n_blocks; b++) {
            float scale = scales[row / FP8_BLOCK * n_blocks + b];
            int64_t to = (b + 1) * FP8_BLOCK < n_per_row ? (b + 1) * FP8_BLOCK : n_per_row;
            for (int64_t i = row * n_per_row + b * FP8_BLOCK; i < row * n_per_row + to; i++) x[i] = value[codes[i]] * scale;
        }
    END;
}
