/* SPDX-License-Identifier: MIT
 *
 * Groups of 32 values that were dequantized from symmetric int4, put back on their lattice: x = R(q * d) with q in -8..7, d a
 * float16, and R the rounding to the dtype that x comes in.
 *
 * Of the value of largest magnitude, q is tried as 7, -8, 6, 5 .. 1. Its rounding is off by at most 2^-9 of it, so d = top / q
 * is near enough that rint(x / d) are the true codes if this q is. The bfloat16 or float16 next to it is mostly the scale; where
 * it is not, every x says between which two numbers d must lie: the middles between x and its neighbours in the dtype, by |q|.
 * Where all agree, the float16 numbers between are tried, first the
 * one that is a bfloat16 too (most checkpoints have such scales), and one is taken only if R(q * d) == x for all 32 (-0 counts
 * as 0). So nothing is accepted that is not exact; and if the scale was one that float16 holds, it is among those tried, so
 * nothing is missed.
 *
 * Plain loops with integer reductions: the compiler finds the lanes of each tier, and all tiers give the same.
 */
#ifndef GGUFMIX_LATTICE_H
#define GGUFMIX_LATTICE_H

#include "kernel.h"

/* v rounded to nearest even in the dtype. For F16, what is too large becomes 65536 and more, which no finite x equals. */
static inline float rounded_to(int xtype, float v) {
    uint32_t u = bits_of(v);
    if (xtype == X_F32) return v;
    if (xtype == X_BF16) return float_of((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000u);
    uint32_t sign = u & 0x80000000u, m = u & 0x7FFFFFFF;
    float small = (float_of(m) + 0.5f) - 0.5f; /* a multiple of 2^-24, the step of its subnormals */
    uint32_t usual = (m + 0xFFF + ((m >> 13) & 1)) & ~0x1FFFu;
    return float_of(sign | (m < 0x38800000 ? bits_of(small) : usual));
}

/* The middles between a magnitude and its neighbours in the dtype; for F32 the neighbours. */
static inline float middle_below(int xtype, float v) {
    uint32_t u = bits_of(v), step = xtype == X_BF16 ? 0x8000 : xtype == X_F16 ? 0x1000 : 1;
    float usual = float_of(u > step ? u - step : 0), small = v - 0x1p-25f;
    return xtype == X_F16 && u <= 0x38800000 ? small : usual;
}

static inline float middle_above(int xtype, float v) {
    uint32_t u = bits_of(v), step = xtype == X_BF16 ? 0x8000 : xtype == X_F16 ? 0x1000 : 1;
    return xtype == X_F16 && u < 0x38800000 ? v + 0x1p-25f : float_of(u + step);
}

/* Whether every x * id lies near a whole number within -8..7; q gets these numbers. */
static inline int near_whole(const float *x, float id, int n, float *q) {
    int far = 0;
    for (int i = 0; i < n; i++) {
        float t = x[i] * id, r = (t + 12582912.0f) - 12582912.0f;
        far |= magnitude(t - r) > 0x3D4CCCCD; /* 0.05, where 8 * 2^-8 would do */
        far |= r < -8.0f;
        far |= r > 7.0f;
        q[i] = r;
    }
    return !far;
}

static inline int reproduces(int xtype, const float *x, const float *q, float d) {
    int wrong = 0;
#if defined(__F16C__) && defined(__AVX2__)
    if (xtype == X_F16) {
        for (int i = 0; i < 32; i += 8) {
            __m128i half = _mm256_cvtps_ph(_mm256_mul_ps(_mm256_loadu_ps(q + i), _mm256_set1_ps(d)), _MM_FROUND_TO_NEAREST_INT);
            __m256 same = _mm256_cmp_ps(_mm256_cvtph_ps(half), _mm256_loadu_ps(x + i), _CMP_EQ_OQ);
            wrong |= _mm256_movemask_ps(same) ^ 0xFF;
        }
        return !wrong;
    }
#endif
    for (int i = 0; i < 32; i++) wrong |= rounded_to(xtype, q[i] * d) != x[i];
    return !wrong;
}

/* The magnitude of a scale for codes q, as float16 bits, or -1: the one that lies near, if it gives the values. It mostly does,
 * and the interval takes 64 divisions. */
static inline int scale_at(int xtype, const float *x, const float *q, float sign, float near) {
    uint16_t usual = f16_of_scale(f32_from_bf16(bf16_from_f32(near))), other = f16_of_scale(near);
    if (xtype != X_F32 && usual < 0x7C00 && reproduces(xtype, x, q, sign * scale_of_f16(usual))) return usual;
    if (xtype != X_BF16 && other < 0x7C00 && reproduces(xtype, x, q, sign * scale_of_f16(other))) return other;
    return -1;
}

/* The same, of all numbers that it may be. */
static inline int scale_between(int xtype, const float *x, const float *q, float sign) {
    int32_t low = 0, high = 0x7F800000; /* floats above zero, which order as integers */
    for (int i = 0; i < 32; i++) {
        float v = fabsf(x[i]), n = fabsf(q[i]), by = n > 0 ? n : 1;
        int32_t a = (int32_t)bits_of(middle_below(xtype, v) / by), b = (int32_t)bits_of(middle_above(xtype, v) / by);
        a = n > 0 && a > 0 ? a : 0;
        b = n > 0 ? b : 0x7F800000;
        low = a > low ? a : low;
        high = b < high ? b : high;
    }
    low = low > 4 ? low - 4 : 0; /* what the divisions may have rounded away */
    high = high < 0x7F800000 - 4 ? high + 4 : high;
    if (low > high) return -1;
    float bottom = float_of((uint32_t)low), top = float_of((uint32_t)high);
    int first = f16_of_scale(bottom), last = f16_of_scale(top);
    first += scale_of_f16((uint16_t)first) < bottom;
    last = last > 0x7BFF ? 0x7BFF : last;
    last -= scale_of_f16((uint16_t)last) > top;
    int at = f16_of_scale(f32_from_bf16(bf16_from_f32(bottom + (top - bottom) / 2)));
    if (at < first || at > last) at = (first + last) / 2;
    for (int k = 0; k <= last - first; k++) {
        if (reproduces(xtype, x, q, sign * scale_of_f16((uint16_t)at))) return at;
        at = at == last ? first : at + 1;
    }
    return -1;
}

/* Codes (stored, 0..15) and scale of 32 finite values. Returns 0 where they lie on no lattice. */
static inline int on_lattice(int xtype, const float x[32], uint8_t codes[32], uint16_t *d) {
    static const float tries[8] = {7, -8, 6, 5, 4, 3, 2, 1};
    float top = largest_value(x, 32), q[32];
    if (top == 0) {
        memset(codes, 8, 32);
        *d = 0;
        return 1;
    }
    for (int t = 0; t < 8; t++) {
        float near = tries[t] < 0 ? top / tries[t] : fabsf(top) / tries[t], id = inverse(near);
        if (id == 0 || !near_whole(x, id, 8, q) || !near_whole(x + 8, id, 24, q + 8)) continue;
        float sign = near < 0 ? -1.0f : 1.0f;
        int found = scale_at(xtype, x, q, sign, fabsf(near));
        if (found < 0) found = scale_between(xtype, x, q, sign);
        if (found < 0) continue;
        for (int i = 0; i < 32; i++) codes[i] = (uint8_t)((int)q[i] + 8);
        *d = (uint16_t)(found | (near < 0 ? 0x8000 : 0));
        return 1;
    }
    return 0;
}

#endif
