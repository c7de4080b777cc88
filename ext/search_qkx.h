/* SPDX-License-Identifier: MIT */
/* The search for a scale and a minimum of one group of values: x ~ scale * code - the_min, codes 0 .. nmax.
 *
 * Source: make_qkx2_quants and make_qkx3_quants of ggml-quants.c, which do nearly the same. The plain grid from the
 * least value (at most 0) to the largest is tried first; then n_steps + 1 others, whose inverse scale is
 * (first + step * k + nmax) / (max - min). Each gives codes, the codes give the scale and minimum of least weighted squares,
 * and the pair of least weighted error (of squares, or with mad of magnitudes) wins. Quirks to keep: the sums of weights and
 * weighted values start from the first value, not from 0; min is overwritten by each winner, so later grids depend on
 * earlier winners; a fit with a minimum above 0 is refitted through 0. Where max is close to the min of a winner, values on
 * the next grids are large: there nearest_int wraps in make_qkx2_quants; make_qkx3_quants (limited, since autumn 2026) limits
 * values to 0 .. nmax before rounding, but not on the plain grid.
 *
 * The codes of a winner are a function of its inverse scale and of the min of that moment, so lanes keep those two.
 */
#ifndef GGUFMIX_SEARCH_QKX_H
#define GGUFMIX_SEARCH_QKX_H

#include "kernel.h"
#include "lanes.h"

struct qkx {
    int nmax;
    float first, step;
    int n_steps, mad, limited;
};

static inline int qkx_code(int nmax, float v) {
    int l = nearest_int(v);
    l = l < nmax ? l : nmax;
    return l > 0 ? l : 0;
}

static inline int qkx_limited_code(int nmax, float v) { return nearest_int(v > 0 ? v < nmax ? v : nmax : 0); }

static inline float qkx_error(int mad, float diff) { return mad ? fabsf(diff) : diff * diff; }

/* Returns the scale; writes n codes and the_min. */
__attribute__((unused)) static float qkx_search(struct qkx q, int n, const float *x, const float *w, uint8_t *codes, float *the_min) {
    uint8_t trial[32];
    float min = x[0], max = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < min) min = x[i];
        if (x[i] > max) max = x[i];
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if (min > 0) min = 0;
    if (max == min) {
        memset(codes, 0, n);
        *the_min = -min;
        return 0.0f;
    }
    float inverse = q.nmax / (max - min), scale = 1 / inverse, least = 0;
    for (int i = 0; i < n; i++) {
        codes[i] = qkx_code(q.nmax, inverse * (x[i] - min));
        least += w[i] * qkx_error(q.mad, scale * codes[i] + min - x[i]);
    }
    for (int k = 0; k <= q.n_steps; k++) {
        inverse = (q.first + q.step * k + q.nmax) / (max - min);
        float sum_l = 0, sum_l2 = 0, sum_xl = 0;
        for (int i = 0; i < n; i++) {
            float v = inverse * (x[i] - min);
            int l = trial[i] = q.limited ? qkx_limited_code(q.nmax, v) : qkx_code(q.nmax, v);
            sum_l += w[i] * l;
            sum_l2 += w[i] * l * l;
            sum_xl += w[i] * l * x[i];
        }
        float det = sum_w * sum_l2 - sum_l * sum_l;
        if (!(det > 0)) continue;
        float s = (sum_w * sum_xl - sum_x * sum_l) / det, m = (sum_l2 * sum_x - sum_l * sum_xl) / det, error = 0;
        if (m > 0) {
            m = 0;
            s = sum_xl / sum_l2;
        }
        for (int i = 0; i < n; i++) error += w[i] * qkx_error(q.mad, s * trial[i] + m - x[i]);
        if (error < least) {
            memcpy(codes, trial, n);
            least = error;
            scale = s;
            min = m;
        }
    }
    *the_min = -min;
    return scale;
}

#if LANES > 1

/* One group per lane. The result is scale and min (see qkx_scale, qkx_the_min); inverse and base, the min of that moment, give
 * the codes; empty marks lanes whose values are all the same and not above 0, plain those where the plain grid won. */
struct qkx_fit {
    vf scale, min, sum_w, inverse, base;
    vm empty, plain;
    vf sum_x, least_x, max, error;
};

/* How a value becomes a code. WRAPS is nearest_int to the bit. LIMITED is qkx_limited_code without leaving the float registers,
 * and the same as WRAPS while no value exceeds 4e6. BELOW is the same where no value can round to more than nmax. */
enum { WRAPS, LIMITED, BELOW };

V_INLINE vf qkx_code_lanes(int how, int nmax, vf v) {
    if (how == WRAPS) return v_of(i_max(i_min(v_nearest(v), i_set(nmax)), i_set(0)));
    v = v_max(v, v_set(0.0f));
    return v_round(how == LIMITED ? v_min(v, v_set(nmax)) : v);
}

/* Tries a grid on `groups` groups side by side, which hides the latency of their sums. l: room for their codes. */
V_INLINE void qkx_try_lanes(int how, const struct qkx *q, int n, int groups, const vf *x, const vf *w, vf *l, float grid,
                            struct qkx_fit *fit) {
    vf inverse[4], min[4], sum_l[4], sum_l2[4], sum_xl[4], s[4], m[4], error[4];
    vm fits[4];
    for (int g = 0; g < groups; g++) {
        min[g] = fit[g].min;
        inverse[g] = v_set(grid) / (fit[g].max - min[g]);
        sum_l[g] = sum_l2[g] = sum_xl[g] = error[g] = v_set(0.0f);
    }
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < groups; g++) {
            vf x1 = x[g * n + i], l1 = qkx_code_lanes(how, q->nmax, inverse[g] * (x1 - min[g])), wl = w[g * n + i] * l1;
            l[g * n + i] = l1;
            sum_l[g] += wl;
            sum_l2[g] += wl * l1;
            sum_xl[g] += wl * x1;
        }
    }
    for (int g = 0; g < groups; g++) {
        vf sum_w = fit[g].sum_w, sum_x = fit[g].sum_x, det = sum_w * sum_l2[g] - sum_l[g] * sum_l[g];
        fits[g] = v_gt(det, v_set(0.0f));
        s[g] = (sum_w * sum_xl[g] - sum_x * sum_l[g]) / det;
        m[g] = (sum_l2[g] * sum_x - sum_l[g] * sum_xl[g]) / det;
        vm above = v_gt(m[g], v_set(0.0f));
        if (m_any(above)) {
            m[g] = v_pick(above, v_set(0.0f), m[g]);
            s[g] = v_pick(above, sum_xl[g] / sum_l2[g], s[g]);
        }
    }
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < groups; g++) {
            vf diff = s[g] * l[g * n + i] + m[g] - x[g * n + i];
            error[g] += w[g * n + i] * (q->mad ? v_abs(diff) : diff * diff);
        }
    }
    for (int g = 0; g < groups; g++) {
        vm better = m_and(fits[g], v_lt(error[g], fit[g].error));
        fit[g].error = v_pick(better, error[g], fit[g].error);
        fit[g].scale = v_pick(better, s[g], fit[g].scale);
        fit[g].min = v_pick(better, m[g], min[g]);
        fit[g].inverse = v_pick(better, inverse[g], fit[g].inverse);
        fit[g].base = v_pick(better, min[g], fit[g].base);
        fit[g].plain = m_and(fit[g].plain, m_not(better));
    }
}

/* Whether a grid keeps every value of every lane within 4e6. The largest value then is grid, give or take two
 * roundings, and the least is that of least_x, as rounding is monotonic. */
V_INLINE int qkx_is_tame(int groups, float grid, const struct qkx_fit *fit) {
    vm tame[4];
    for (int g = 0; g < groups; g++) {
        vf range = fit[g].max - fit[g].min;
        tame[g] = m_and(v_gt(range, v_set(0.0f)), v_gt(v_set(grid) / range * (fit[g].least_x - fit[g].min), v_set(-4e6f)));
    }
    for (int g = 1; g < groups; g++) tame[0] = m_and(tame[0], tame[g]);
    return m_all(tame[0]);
}

/* qkx_search of groups * LANES groups: values x[g * n + i], weights likewise. */
V_INLINE void qkx_search_lanes(const struct qkx *q, int n, int groups, const vf *x, const vf *w, struct qkx_fit *fit) {
    vf l[4 * 32];
    for (int g = 0; g < groups; g++) {
        vf min = x[g * n], max = min, sum_w = w[g * n], sum_x = sum_w * min;
        for (int i = 1; i < n; i++) {
            vf x1 = x[g * n + i], w1 = w[g * n + i];
            min = v_min(x1, min);
            max = v_max(x1, max);
            sum_w += w1;
            sum_x += w1 * x1;
        }
        fit[g].least_x = min;
        fit[g].min = min = v_pick(v_gt(min, v_set(0.0f)), v_set(0.0f), min);
        fit[g].empty = v_eq(max, min);
        fit[g].max = v_pick(fit[g].empty, min + 1.0f, max);     /* a harmless search, whose result is not used */
        fit[g].sum_w = sum_w;
        fit[g].sum_x = sum_x;
        fit[g].base = min;
        fit[g].plain = v_eq(min, min);
        vf inverse = fit[g].inverse = (float)q->nmax / (fit[g].max - min), scale = 1.0f / inverse, error = v_set(0.0f);
        for (int i = 0; i < n; i++) {
            vf diff = scale * qkx_code_lanes(WRAPS, q->nmax, inverse * (x[g * n + i] - min)) + min - x[g * n + i];
            error += w[g * n + i] * (q->mad ? v_abs(diff) : diff * diff);
        }
        fit[g].scale = scale;
        fit[g].error = error;
    }
    for (int k = 0; k <= q->n_steps; k++) {
        const float grid = q->first + q->step * k + q->nmax;
        const int tame = qkx_is_tame(groups, grid, fit);
        if (tame && grid < q->nmax + 0.49f) qkx_try_lanes(BELOW, q, n, groups, x, w, l, grid, fit);
        else if (tame || q->limited) qkx_try_lanes(LIMITED, q, n, groups, x, w, l, grid, fit);
        else qkx_try_lanes(WRAPS, q, n, groups, x, w, l, grid, fit);
    }
}

/* What the search returns: the scale, and -min as the_min. */
V_INLINE vf qkx_scale(const struct qkx_fit *fit) { return v_pick(fit->empty, v_set(0.0f), fit->scale); }
V_INLINE vf qkx_the_min(const struct qkx_fit *fit) { return -v_pick(fit->empty, fit->least_x, fit->min); }

/* The code that the search gave a value. */
V_INLINE vi qkx_code_of(const struct qkx *q, const struct qkx_fit *fit, vf x) {
    vf v = fit->inverse * (x - fit->base);
    vi wraps = i_max(i_min(v_nearest(v), i_set(q->nmax)), i_set(0)), limited = i_trunc(qkx_code_lanes(LIMITED, q->nmax, v));
    return i_pick(fit->empty, i_set(0), q->limited ? i_pick(fit->plain, wraps, limited) : wraps);
}

#endif
#endif
