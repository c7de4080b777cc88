/* SPDX-License-Identifier: MIT
 *
 * E4M3 (4 bits of exponent, 3 of mantissa, no infinities, the largest 448) and sums in float64, scalar and in lanes.
 *
 * The sums are eight: value i of a row is added to sum i % 8, in the order of i, so that every tier adds alike. Products of
 * two floats are exact in float64.
 */
#ifndef GGUFMIX_FP8_E4M3_H
#define GGUFMIX_FP8_E4M3_H

#include "kernel.h"
#include "lanes.h"

#define E4M3_LARGEST 448.0f
#define E4M3_SATURATES 464.0f /* halfway to what would be the next step: beyond it a value is cut, not rounded */

/* To nearest even, for 0 <= size <= 448. Added to a power of two 2^20 times its own, a float keeps just the three bits
 * of mantissa (below 2^-6 just the multiples of 2^-9), and the sum's low bits count steps. Returns the rounded value. */
static inline float e4m3_of(float size, int32_t *code) {
    int32_t u = (int32_t)bits_of(size), least = 121 << 23;
    int32_t m = ((u > least ? u : least) & 0x7F800000) + (20 << 23);
    float sum = size + float_of((uint32_t)m);
    *code = (int32_t)bits_of(sum) - m + (m >> 20) - 1128;
    return sum - float_of((uint32_t)m);
}

static inline double folded(const double s[8]) { return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])); }

#if LANES > 1

V_INLINE vf v_e4m3_of(vf size, vi *code) {
    vi m = (i_max((vi)size, i_set(121 << 23)) & 0x7F800000) + (20 << 23);
    vf sum = size + (vf)m;
    *code = (vi)sum - m + (m >> 20) - 1128;
    return sum - (vf)m;
}

#if LANES == 16

typedef __m512d sums8;
#define V_LOW(v) _mm512_cvtps_pd(_mm512_castps512_ps256(V_F(v)))
#define V_HIGH(v) _mm512_cvtps_pd(_mm512_extractf32x8_ps(V_F(v), 1))

V_INLINE sums8 sums8_zero(void) { return _mm512_setzero_pd(); }
V_INLINE void sums8_add(sums8 *s, vf a) { *s = *s + V_LOW(a) + V_HIGH(a); }
V_INLINE void sums8_add_products(sums8 *s, vf a, vf b) {
    *s = *s + V_LOW(a) * V_LOW(b);
    *s = *s + V_HIGH(a) * V_HIGH(b);
}
V_INLINE void sums8_add_weighed_squares(sums8 *s, vf a, const double *weight) {
    __m512d low = V_LOW(a), high = V_HIGH(a);
    *s = *s + low * low * _mm512_loadu_pd(weight);
    *s = *s + high * high * _mm512_loadu_pd(weight + 8);
}
V_INLINE double sums8_folded(sums8 s) {
    double each[8];
    _mm512_storeu_pd(each, s);
    return folded(each);
}

#else

typedef struct {
    __m256d low, high;
} sums8;
#define V_LOW(v) _mm256_cvtps_pd(_mm256_castps256_ps128(V_F(v)))
#define V_HIGH(v) _mm256_cvtps_pd(_mm256_extractf128_ps(V_F(v), 1))

V_INLINE sums8 sums8_zero(void) { return (sums8){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
V_INLINE void sums8_add(sums8 *s, vf a) { s->low += V_LOW(a), s->high += V_HIGH(a); }
V_INLINE void sums8_add_products(sums8 *s, vf a, vf b) {
    s->low += V_LOW(a) * V_LOW(b);
    s->high += V_HIGH(a) * V_HIGH(b);
}
V_INLINE void sums8_add_weighed_squares(sums8 *s, vf a, const double *weight) {
    __m256d low = V_LOW(a), high = V_HIGH(a);
    s->low += low * low * _mm256_loadu_pd(weight);
    s->high += high * high * _mm256_loadu_pd(weight + 4);
}
V_INLINE double sums8_folded(sums8 s) {
    double each[8];
    _mm256_storeu_pd(each, s.low);
    _mm256_storeu_pd(each + 4, s.high);
    return folded(each);
}

#endif
#endif
#endif
