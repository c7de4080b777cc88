/* SPDX-License-Identifier: MIT */
/* The search for one scale of n values that are mostly not negative: x ~ scale * code, codes up to nmax, weights w.
 *
 * Source: make_qp_quants of ggml-quants.c; it quantizes the scales and the minima of a superblock when importance is given.
 * Nine inverse scales (nmax + 0.1 k) / max, k = 0 first, are compared by weighted squared error; the codes of the best then
 * go through at most five rounds in which each code may move to where the others' least-squares scale wants it. Quirks to keep:
 * codes are bytes, so those of negative values wrap; the very first codes are not limited to nmax.
 */
#ifndef GGUFMIX_SEARCH_QP_H
#define GGUFMIX_SEARCH_QP_H

#include "kernel.h"
#include "lanes.h"

static inline int qp_code(int nmax, float v) {
    int l = nearest_int(v);
    return l < nmax ? l : nmax;
}

/* Returns the scale; writes n codes. */
__attribute__((unused)) static float qp_search(int n, int nmax, const float *x, const float *w, uint8_t *codes) {
    float max = 0;
    for (int i = 0; i < n; i++) max = max > x[i] ? max : x[i];
    if (max < 1e-15f) {
        memset(codes, 0, n);
        return 0.0f;
    }
    float inverse = nmax / max, scale = 1 / inverse, least = 0;
    for (int i = 0; i < n; i++) {
        float diff = x[i] - scale * (uint8_t)nearest_int(inverse * x[i]);
        least += w[i] * diff * diff;
    }
    for (int k = -4; k <= 4; k++) {
        if (k == 0) continue;
        float try_inverse = (0.1f * k + nmax) / max, try_scale = 1 / try_inverse, error = 0;
        for (int i = 0; i < n; i++) {
            float diff = x[i] - try_scale * qp_code(nmax, try_inverse * x[i]);
            error += w[i] * diff * diff;
        }
        if (error < least) {
            least = error;
            inverse = try_inverse;
        }
    }
    float sum_lx = 0, sum_l2 = 0;
    for (int i = 0; i < n; i++) {
        int l = qp_code(nmax, inverse * x[i]);
        codes[i] = (uint8_t)l;
        sum_lx += w[i] * x[i] * l;
        sum_l2 += w[i] * l * l;
    }
    for (int round = 0, changed = 1; round < 5 && changed; round++) {
        changed = 0;
        for (int i = 0; i < n; i++) {
            float slx = sum_lx - w[i] * x[i] * codes[i], sl2 = sum_l2 - w[i] * codes[i] * codes[i];
            if (!(slx > 0 && sl2 > 0)) continue;
            int l = qp_code(nmax, x[i] * sl2 / slx);
            if (l == codes[i]) continue;
            slx += w[i] * x[i] * l;
            sl2 += w[i] * l * l;
            if (slx * slx * sum_l2 > sum_lx * sum_lx * sl2) {
                codes[i] = (uint8_t)l;
                sum_lx = slx;
                sum_l2 = sl2;
                changed = 1;
            }
        }
    }
    return sum_l2 > 0 ? sum_lx / sum_l2 : 0.0f;
}

#if LANES > 1

V_INLINE vi qp_code_lanes(int nmax, vf v) { return i_min(v_nearest(v), i_set(nmax)); }

/* qp_search in every lane. A round that changes nothing in a lane would change nothing again, so lanes may run on. */
__attribute__((unused, noinline)) static vf qp_search_lanes(int n, int nmax, const vf *x, const vf *w, vi *codes) {
    vf max = v_set(0.0f), least = v_set(0.0f), sum_lx = v_set(0.0f), sum_l2 = v_set(0.0f);
    for (int i = 0; i < n; i++) max = v_max(max, x[i]);
    vm empty = v_lt(max, v_set(1e-15f));
    vf inverse = (float)nmax / max, scale = 1.0f / inverse;
    for (int i = 0; i < n; i++) {
        vf diff = x[i] - scale * v_of(v_nearest(inverse * x[i]) & 0xFF);
        least += w[i] * diff * diff;
    }
    for (int k = -4; k <= 4; k++) {
        if (k == 0) continue;
        vf try_inverse = (0.1f * k + nmax) / max, try_scale = 1.0f / try_inverse, error = v_set(0.0f);
        for (int i = 0; i < n; i++) {
            vf diff = x[i] - try_scale * v_of(qp_code_lanes(nmax, try_inverse * x[i]));
            error += w[i] * diff * diff;
        }
        vm better = v_lt(error, least);
        least = v_pick(better, error, least);
        inverse = v_pick(better, try_inverse, inverse);
    }
    for (int i = 0; i < n; i++) {
        vi l = qp_code_lanes(nmax, inverse * x[i]);
        codes[i] = l & 0xFF;
        sum_lx += w[i] * x[i] * v_of(l);
        sum_l2 += w[i] * v_of(l) * v_of(l);
    }
    for (int round = 0, changed = 1; round < 5 && changed; round++) {
        changed = 0;
        for (int i = 0; i < n; i++) {
            vf old = v_of(codes[i]), slx = sum_lx - w[i] * x[i] * old, sl2 = sum_l2 - w[i] * old * old;
            vm moves = m_and(v_gt(slx, v_set(0.0f)), v_gt(sl2, v_set(0.0f)));
            vi l = qp_code_lanes(nmax, x[i] * sl2 / slx);
            moves = m_and(moves, m_not(i_eq(l, codes[i])));
            if (!m_any(moves)) continue;
            slx += w[i] * x[i] * v_of(l);
            sl2 += w[i] * v_of(l) * v_of(l);
            moves = m_and(moves, v_gt(slx * slx * sum_l2, sum_lx * sum_lx * sl2));
            codes[i] = i_pick(moves, l & 0xFF, codes[i]);
            sum_lx = v_pick(moves, slx, sum_lx);
            sum_l2 = v_pick(moves, sl2, sum_l2);
            changed |= m_any(moves);
        }
    }
    for (int i = 0; i < n; i++) codes[i] = i_pick(empty, i_set(0), codes[i]);
    return v_pick(m_and(m_not(empty), v_gt(sum_l2, v_set(0.0f))), sum_lx / sum_l2, v_set(0.0f));
}

#endif
#endif
