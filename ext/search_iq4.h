/* SPDX-License-Identifier: MIT
 *
 * The scale of 32 values stored as indices of sixteen uneven levels: value = scale * level, least weighted squared error.
 * Sixteen inverse scales are tried: 1 / (m / 127) and then (k - 127) / m for k = -7 .. 7, where m is the value of largest
 * magnitude. Each gives the nearest levels q of inverse * x; with a = sum of w q x and b = sum of w q q the best scale for
 * those is a / b, and its gain a a / b. The first of the greatest gains wins, in float arithmetic as written below. The scale
 * may be negative. All values below 1e-15: scale 0.
 * Used by IQ4_NL and IQ4_XS. Source: ggml-quants.c, quantize_row_iq4_nl_impl with ntry 7, and best_index_int8.
 *
 * Nearest: ggml bisects the levels and then compares v - below < above - v. Where the two are nearly equal both differences
 * are exact floats, and the middles are exact floats too, so that this is v < middle: the index is the number of middles that
 * are not above v. A NaN gets the last level, there as here.
 *
 * From k = -7 to 7 a product inverse * x shrinks by 120/134 at most, less than the ratio of any two neighbouring middles: for
 * each x at most one middle is ever passed. So once per x we take that middle and the levels below and above it, make the
 * products that enter a and b for both, and a candidate is one comparison and two choices. Scalar code takes the levels from the
 * first and the last candidate; the lanes look the middle up in sixteen equal buckets of the range. A bucket holds one
 * middle, and no bucket's edge lies where a product of some candidate could pass another one (nearest to it, by 0.2: at 83.95
 * the products of 83.74 and less may pass 79, those from 95.58 on 101).
 */
#ifndef GGUFMIX_SEARCH_IQ4_H
#define GGUFMIX_SEARCH_IQ4_H

#include "kernel.h"
#include "lanes.h"

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* The index of the level nearest to v. */
static inline int index_iq4(float v) {
    int index = 0;
    for (int i = 0; i < 15; i++) index += !(v < 0.5f * (float)(iq4_levels[i] + iq4_levels[i + 1]));
    return index;
}

/* Importance as the search weighs with it; sigma2: twice the mean of the squares of a block. */
static inline float weight_iq4(float importance, float sigma2, float x) { return importance * sqrtf(sigma2 + x * x); }

/* 32 indices of the levels nearest to inverse * x in 16 bytes: value j in the low nibble of byte j, value j + 16 in its high. */
static inline void codes_iq4(const float *x, float inverse, uint8_t *q) {
    for (int j = 0; j < 16; j++) q[j] = (uint8_t)(index_iq4(inverse * x[j]) | index_iq4(inverse * x[j + 16]) << 4);
}

static inline void indices_iq4(const float *restrict x, float inverse, int *restrict indices) {
    for (int j = 0; j < 32; j++) indices[j] = index_iq4(inverse * x[j]);
}

/* a where all bits of mask are set, b where none is: in a form that compilers make vectors of. */
static inline float choose(uint32_t mask, float a, float b) { return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask)); }

static inline float search_iq4(const float *x, const float *w) {
    float m = largest_value(x, 32), scale = 0, best = 0, inverse[16], a[16] = {0}, b[16] = {0};
    int first[32], last[32];
    float middle[32], a_below[32], a_above[32], b_below[32], b_above[32];
    if (fabsf(m) < 1e-15f) return 0;
    for (int c = 0; c < 15; c++) inverse[c] = ((float)(c - 7) - 127.0f) / m;
    inverse[15] = 1 / (m / 127);
    indices_iq4(x, inverse[0], first);
    indices_iq4(x, inverse[14], last);
    for (int j = 0; j < 32; j++) {
        float below = iq4_levels[first[j] < last[j] ? first[j] : last[j]];
        float above = iq4_levels[first[j] < last[j] ? last[j] : first[j]];
        middle[j] = 0.5f * (below + above);
        a_below[j] = w[j] * below * x[j];
        a_above[j] = w[j] * above * x[j];
        b_below[j] = w[j] * below * below;
        b_above[j] = w[j] * above * above;
    }
    for (int j = 0; j < 32; j++)
#pragma GCC unroll 1
        for (int c = 0; c < 16; c++) { /* the candidates side by side */
            uint32_t is_above = inverse[c] * x[j] >= middle[j] ? 0xFFFFFFFF : 0;
            a[c] += choose(is_above, a_above[j], a_below[j]);
            b[c] += choose(is_above, b_above[j], b_below[j]);
        }
    a[15] = b[15] = 0; /* this one's sign is another: it is not of the series */
    indices_iq4(x, inverse[15], first);
    for (int j = 0; j < 32; j++) {
        float q = iq4_levels[first[j]];
        a[15] += w[j] * q * x[j];
        b[15] += w[j] * q * q;
    }
    if (b[15] > 0) scale = a[15] / b[15], best = scale * a[15];
    for (int c = 0; c < 15; c++)
        if (b[c] > 0 && a[c] * a[c] > best * b[c]) {
            scale = a[c] / b[c];
            best = scale * a[c];
        }
    return scale;
}

/* 32 values, each the given step times its level. */
static inline void decode_iq4(const uint8_t *q, float step, float *x) {
#if defined(__AVX2__)
    const __m128i levels = _mm_loadu_si128((const __m128i *)iq4_levels), bytes = _mm_loadu_si128((const __m128i *)q);
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15)), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i q_i8x16[2] = {_mm_shuffle_epi8(levels, low), _mm_shuffle_epi8(levels, high)};
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 16; j += 8) {
            __m128i part = j ? _mm_srli_si128(q_i8x16[h], 8) : q_i8x16[h];
            __m256 level_f32x8 = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(part));
            _mm256_storeu_ps(x + 16 * h + j, _mm256_mul_ps(_mm256_set1_ps(step), level_f32x8));
        }
#else
    for (int j = 0; j < 16; j++) {
        x[j] = step * (float)iq4_levels[q[j] & 15];
        x[j + 16] = step * (float)iq4_levels[q[j] >> 4];
    }
#endif
}

#if LANES > 1

/* By bucket: the middle, a bfloat16, in the high half and the index of the level below it in the low half; and the level above
 * it and the level below it as bfloat16s. */
static const uint32_t iq4_middles[16] = {
    0xC2E70000, 0xC2BB0001, 0xC2BB0001, 0xC2940002, 0xC2640003, 0xC2280004, 0xC1E40005, 0xC1800006,
    0xC0900007, 0x40E00008, 0x41980009, 0x41FC000A, 0x4236000B, 0x4274000C, 0x429E000D, 0x42CA000E,
};
static const uint32_t iq4_sides[16] = {
    0xC2D0C2FE, 0xC2A6C2D0, 0xC2A6C2D0, 0xC282C2A6, 0xC244C282, 0xC20CC244, 0xC1B0C20C, 0xC120C1B0,
    0x3F80C120, 0x41503F80, 0x41C84150, 0x421841C8, 0x42544218, 0x428A4254, 0x42B2428A, 0x42E242B2,
};

/* The bucket of v in the low four bits. */
V_INLINE vi bucket_iq4(vf v) {
    vf place = v * (1 / 13.7f) + (8.5f - 1.75f / 13.7f);
    return (vi)(v_max(v_min(place, v_set(15.0f)), v_set(0.0f)) + 12582912.0f);
}

V_INLINE vi look_up_iq4(const uint32_t table[16], vi bucket) {
#if LANES == 16
    return (vi)_mm512_permutexvar_epi32((__m512i)bucket, _mm512_loadu_si512(table));
#else
    __m256i low = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)table), (__m256i)bucket);
    __m256i high = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)(table + 8)), (__m256i)bucket);
    return (vi)_mm256_blendv_ps((__m256)low, (__m256)high, (__m256)(bucket << 28));
#endif
}

V_INLINE vf high_half_iq4(vi pair) { return (vf)(pair & (int32_t)0xFFFF0000); }
V_INLINE vf low_half_iq4(vi pair) { return (vf)(pair << 16); }

/* The candidates whose sums grow side by side: as many as the registers hold. */
enum { IQ4_TOGETHER = LANES == 16 ? 8 : 4 };

/* What a value brings to a and b: below the middle that its products may pass, and from there on. */
struct iq4_part {
    vf x, middle, a_below, a_above, b_below, b_above;
};

V_INLINE void sum_iq4(const struct iq4_part part[32], int count, const vf *inverse, vf *a_out, vf *b_out) {
    vf a[IQ4_TOGETHER], b[IQ4_TOGETHER];
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) a[c] = b[c] = v_set(0.0f);
    for (int j = 0; j < 32; j++)
#pragma GCC unroll 8
        for (int c = 0; c < count; c++) {
            vm above = v_ge(inverse[c] * part[j].x, part[j].middle);
            a[c] = a[c] + v_pick(above, part[j].a_above, part[j].a_below);
            b[c] = b[c] + v_pick(above, part[j].b_above, part[j].b_below);
        }
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) a_out[c] = a[c], b_out[c] = b[c];
}

/* One block of 32 per lane: vector j holds value j of each. */
V_INLINE vf search_iq4_lanes(const vf *x, const vf *w) {
    const vf zero = v_set(0.0f);
    struct iq4_part part[32];
    vf top = zero, m = zero, a[16], b[16], inverse[15];
    for (int j = 0; j < 32; j++) {
        vm more = v_gt(v_abs(x[j]), top);
        top = v_max(v_abs(x[j]), top);
        m = v_pick(more, x[j], m);
    }
    vm nothing = v_lt(top, v_set(1e-15f));
    m = v_pick(nothing, v_set(1.0f), m);
    const vf first = v_set(1.0f) / (m / v_set(127.0f));
#pragma GCC unroll 15
    for (int k = -7; k <= 7; k++) inverse[k + 7] = v_set((float)(k - 127)) / m;

    vf a_first = zero, b_first = zero;
    for (int j = 0; j < 32; j++) {
        vf v = first * x[j];
        vi bucket = bucket_iq4(v), sides = look_up_iq4(iq4_sides, bucket);
        vm above = v_ge(v, high_half_iq4(look_up_iq4(iq4_middles, bucket)));
        vf q = v_pick(above, high_half_iq4(sides), low_half_iq4(sides)), wq = w[j] * q;
        a_first = a_first + wq * x[j];
        b_first = b_first + wq * q;

        bucket = bucket_iq4(inverse[7] * x[j]);
        sides = look_up_iq4(iq4_sides, bucket);
        vf q_above = high_half_iq4(sides), q_below = low_half_iq4(sides), wq_above = w[j] * q_above, wq_below = w[j] * q_below;
        part[j] = (struct iq4_part){
            x[j],         high_half_iq4(look_up_iq4(iq4_middles, bucket)),
            wq_below * x[j],    wq_above * x[j],
            wq_below * q_below, wq_above * q_above,
        };
    }
#pragma GCC unroll 4
    for (int c = 0; c < 15; c += IQ4_TOGETHER)
        sum_iq4(part, 15 - c < IQ4_TOGETHER ? 15 - c : IQ4_TOGETHER, inverse + c, a + c, b + c);

    vf scale = v_pick(v_gt(b_first, zero), a_first / b_first, zero), best = scale * a_first;
#pragma GCC unroll 15
    for (int c = 0; c < 15; c++) {
        vf now = a[c] / b[c];
        vm better = m_and(v_gt(b[c], zero), v_gt(a[c] * a[c], best * b[c]));
        scale = v_pick(better, now, scale);
        best = v_pick(better, now * a[c], best);
    }
    return v_pick(nothing, zero, scale);
}

V_INLINE vi index_iq4_lanes(vf v) {
    v = v_max(v_min(v, v_set(120.0f)), v_set(-120.0f)); /* NaN: 120 */
    vi middle = look_up_iq4(iq4_middles, bucket_iq4(v));
    return i_pick(v_ge(v, high_half_iq4(middle)), (middle & 15) + 1, middle & 15);
}

/* codes_iq4, as four words. */
V_INLINE void codes_iq4_lanes(const vf *x, vf inverse, vi words[4]) {
    for (int i = 0; i < 4; i++) {
        words[i] = i_set(0);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vi low = index_iq4_lanes(inverse * x[4 * i + j]), high = index_iq4_lanes(inverse * x[4 * i + j + 16]);
            words[i] |= (low | high << 4) << (8 * j);
        }
    }
}

/* 1 / v, and 0 for 0. */
V_INLINE vf inverse_iq4(vf v) { return v_pick(v_ne(v, v_set(0.0f)), v_set(1.0f) / v, v_set(0.0f)); }

#endif
#endif
