/* SPDX-License-Identifier: MIT
 *
 * The scale of n values stored as codes l in -nmax .. nmax-1: value = scale * l, with the least weighted squared error.
 * Nineteen inverse scales are tried, -(nmax + 0.1 k) / m for k = 0 first and then -9 .. 9, where m is the value of largest
 * magnitude. Each gives codes l = N(inverse * x), limited; with a = sum of w x l and b = sum of w l l the best scale for
 * those codes is a / b, and its gain a a / b. The first of the greatest gains wins, in float arithmetic as written below.
 * Used by Q6_K, Q3_K, Q4_0 and Q5_0. Source: ggml-quants.c, make_qx_quants with rmse_type 1.
 *
 * The scale may be negative. The codes are not kept but told by the inverse: see codes_of_inverse. All values below 1e-15: scale 0.
 * Once a k is given the product inverse * x is at most nmax - 0.6, nmax + 0.4 or nmax + 0.9 (k <= -6, k <= 4, k <= 9), so
 * it is far from where nearest_int wraps, and the lanes leave out the limits that cannot matter.
 */
#ifndef GGUFMIX_SEARCH_QX_H
#define GGUFMIX_SEARCH_QX_H

#include "kernel.h"
#include "lanes.h"

struct qx {
    float scale, inverse; /* inverse is 0 only where all values count as zero */
};

static inline int32_t limit(int32_t l, int32_t low, int32_t high) { return l < low ? low : l > high ? high : l; }

#if LANES > 1

static inline void store_codes(int nmax, const vf v[16 / LANES], uint8_t codes[16]) {
    vi q[16 / LANES];
    for (int i = 0; i < 16 / LANES; i++) q[i] = i_min(i_max(v_nearest(v[i]), i_set(-nmax)), i_set(nmax - 1)) + nmax;
#if LANES == 16
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8((__m512i)q[0]));
#else
    _mm_storeu_si128((__m128i *)codes, bytes_of_i32x16((__m256i)q[0], (__m256i)q[1]));
#endif
}

#endif

/* The codes of 16 values for the inverse that was found, raised by nmax; all 0 where the values count as zero. */
static inline void codes_of_inverse(int nmax, const float *x, float inverse, uint8_t codes[16]) {
    if (inverse == 0) {
        memset(codes, 0, 16);
        return;
    }
#if LANES > 1
    vf v[16 / LANES];
    for (int i = 0; i < 16 / LANES; i++) v[i] = inverse * v_load(x + LANES * i);
    store_codes(nmax, v, codes);
#else
    for (int i = 0; i < 16; i++) codes[i] = (uint8_t)(limit(nearest_int(inverse * x[i]), -nmax, nmax - 1) + nmax);
#endif
}

/* The same for a stored scale other than 0. */
static inline void codes_of_step(int nmax, const float *x, float step, uint8_t codes[16]) {
#if LANES > 1
    vf v[16 / LANES];
    for (int i = 0; i < 16 / LANES; i++) v[i] = v_load(x + LANES * i) / step;
    store_codes(nmax, v, codes);
#else
    for (int i = 0; i < 16; i++) codes[i] = (uint8_t)(limit(nearest_int(x[i] / step), -nmax, nmax - 1) + nmax);
#endif
}

static inline struct qx search_qx(int n, int nmax, const float *x, const float *w) {
    float m = largest_value(x, n), best = 0;
    if (fabsf(m) < 1e-15f) return (struct qx){0, 0};
    struct qx found = {0, 0};
    for (int t = 0; t < 19; t++) {
        int k = t == 0 ? 0 : t < 10 ? t - 10 : t - 9;
        float inverse = -((float)nmax + 0.1f * (float)k) / m, a = 0, b = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)limit(nearest_int(inverse * x[i]), -nmax, nmax - 1);
            a += w[i] * x[i] * l;
            b += w[i] * l * l;
        }
        if (k == 0 || (b > 0 && a * a > best * b)) {
            found.scale = b != 0 ? a / b : 0;
            found.inverse = inverse;
            best = found.scale * a;
        }
    }
    return found;
}

#if LANES > 1

/* QX_GROUPS groups of LANES blocks are searched at once, as a choice is a long chain that waits for itself; in each group
 * the sums of QX_TOGETHER candidates grow side by side, as many as the registers hold. */
enum { QX_GROUPS = 2, QX_TOGETHER = LANES == 16 ? 5 : 4 };

struct qx_lanes {
    vf scale, inverse;
};

struct qx_sums {
    vf inverse[19], a[19], b[19]; /* by k + 9 */
    vm nothing;
};

/* To the nearest integer, ties to even. The sign of a zero result may differ from the scalar code's, which no sum can show. */
V_INLINE vf rounded_qx(vf v) {
#if LANES == 16
    return (vf)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (vf)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
}

/* The sums of the candidates first .. first + count - 1 (by k + 9). low, high: whether their codes can pass that limit. */
V_INLINE void sum_some_qx(int n, int nmax, const vf *x, const vf *w, const vf *wx, struct qx_sums *sums, int first, int count,
                          int low, int high) {
    vf a[QX_TOGETHER], b[QX_TOGETHER];
#pragma GCC unroll 5
    for (int c = 0; c < count; c++) a[c] = b[c] = v_set(0.0f);
    for (int i = 0; i < n; i++)
#pragma GCC unroll 5
        for (int c = 0; c < count; c++) {
            vf l = rounded_qx(sums->inverse[first + c] * x[i]);
            if (high) l = v_min(l, v_set((float)(nmax - 1)));
            if (low) l = v_max(l, v_set((float)-nmax));
            a[c] = a[c] + wx[i] * l;
            b[c] = b[c] + w[i] * l * l;
        }
#pragma GCC unroll 5
    for (int c = 0; c < count; c++) sums->a[first + c] = a[c], sums->b[first + c] = b[c];
}

/* The same for k = first .. last - 1. */
V_INLINE void sum_qx(int n, int nmax, const vf *x, const vf *w, const vf *wx, struct qx_sums *sums, int first, int last) {
#pragma GCC unroll 5
    for (int k = first; k < last; k += QX_TOGETHER)
        sum_some_qx(n, nmax, x, w, wx, sums, k + 9, last - k < QX_TOGETHER ? last - k : QX_TOGETHER, last > 5, last > -5);
}

/* All candidates of one group. */
V_INLINE void try_qx(int n, int nmax, const vf *x, const vf *w, struct qx_sums *sums) {
    vf top = v_set(0.0f), m = top, wx[32];
    for (int i = 0; i < n; i++) {
        vm more = v_gt(v_abs(x[i]), top);
        top = v_max(v_abs(x[i]), top);
        m = v_pick(more, x[i], m);
        wx[i] = w[i] * x[i];
    }
    sums->nothing = v_lt(top, v_set(1e-15f));
    m = v_pick(sums->nothing, v_set(1.0f), m); /* then all codes and sums are 0 */
#pragma GCC unroll 19
    for (int k = -9; k <= 9; k++) sums->inverse[k + 9] = v_set(-((float)nmax + 0.1f * (float)k)) / m;
    sum_qx(n, nmax, x, w, wx, sums, -9, -5);
    sum_qx(n, nmax, x, w, wx, sums, -5, 0);
    sum_qx(n, nmax, x, w, wx, sums, 0, 5);
    sum_qx(n, nmax, x, w, wx, sums, 5, 10);
}

/* x and w hold n vectors for each of the groups. */
V_INLINE void search_qx_lanes(int n, int nmax, const vf *x, const vf *w, struct qx_lanes found[QX_GROUPS]) {
    const vf zero = v_set(0.0f);
    struct qx_sums sums[QX_GROUPS];
    vf best[QX_GROUPS];
    for (int g = 0; g < QX_GROUPS; g++) {
        try_qx(n, nmax, x + g * n, w + g * n, &sums[g]);
        found[g].scale = v_pick(v_ne(sums[g].b[9], zero), sums[g].a[9] / sums[g].b[9], zero);
        found[g].inverse = sums[g].inverse[9];
        best[g] = found[g].scale * sums[g].a[9];
    }
#pragma GCC unroll 19
    for (int c = 0; c < 19; c++) {
        if (c == 9) continue;
#pragma GCC unroll 2
        for (int g = 0; g < QX_GROUPS; g++) {
            vf a = sums[g].a[c], b = sums[g].b[c], scale = a / b;
            vm better = m_and(v_gt(b, zero), v_gt(a * a, best[g] * b));
            found[g].scale = v_pick(better, scale, found[g].scale);
            found[g].inverse = v_pick(better, sums[g].inverse[c], found[g].inverse);
            best[g] = v_pick(better, scale * a, best[g]);
        }
    }
    for (int g = 0; g < QX_GROUPS; g++) found[g].inverse = v_pick(sums[g].nothing, zero, found[g].inverse);
}

#endif
#endif
