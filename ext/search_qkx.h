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

/* One group per lane. The result is scale and min (-the_min); inverse and base, the min of that moment, give the codes;
 * plain marks the lanes where the plain grid won. */
struct qkx_fit {
    vf scale, min, sum_w, inverse, base;
    vm plain;
};

/* What else the search keeps of a group. inverse: that of the grid to try. empty: lanes whose values are all the same and not
 * above 0. */
struct qkx_group {
    vf least_x, max, sum_x, error, inverse;
    vm empty;
};

enum { QKX_GROUPS = 4 }; /* at most; four groups in turn keep the pipes busy while the divisions of others are under way */

/* How a value becomes a code. WRAPS is nearest_int to the bit. LIMITED is qkx_limited_code without leaving the float registers,
 * and the same as WRAPS while no value exceeds 4e6. BELOW is the same where no value can round to more than nmax.
 * Integer extremes serve: they order non-negative floats as float ones do, take anything negative for less than 0, the NaN of
 * an invalid operation too (its sign is set), and have more pipes to run on. */
enum { WRAPS, LIMITED, BELOW };

V_INLINE vf qkx_code_lanes(int how, int nmax, vf v) {
    if (how == WRAPS) return v_of(i_max(i_min(v_nearest(v), i_set(nmax)), i_set(0)));
    v = (vf)i_max((vi)v, i_set(0));
    return v_rint(how == LIMITED ? (vf)i_min((vi)v, (vi)v_set(nmax)) : v);
}

V_INLINE vf qkx_error_lanes(int mad, int n, const vf *x, const vf *w, const vf *l, vf scale, vf min) {
    vf error = v_set(0.0f);
    for (int i = 0; i < n; i++) {
        vf diff = scale * l[i] + min - x[i];
        error += w[i] * (mad ? v_abs(diff) : diff * diff);
    }
    return error;
}

/* Tries a grid on each group. l: room for the codes. */
V_INLINE void qkx_try_lanes(int how, const struct qkx *q, int n, int groups, const vf *x, const vf *w, vf *l, struct qkx_group *group,
                            struct qkx_fit *fit) {
    vf scale[QKX_GROUPS], min[QKX_GROUPS];
    vm fits[QKX_GROUPS];
    for (int g = 0; g < groups; g++) {
        const vf inverse = group[g].inverse, base = fit[g].min, sum_w = fit[g].sum_w, sum_x = group[g].sum_x;
        vf sum_l = v_set(0.0f), sum_l2 = sum_l, sum_xl = sum_l;
        for (int i = n * g; i < n * g + n; i++) {
            vf l1 = qkx_code_lanes(how, q->nmax, inverse * (x[i] - base)), wl = w[i] * l1;
            l[i] = l1;
            sum_l += wl;
            sum_l2 += wl * l1;
            sum_xl += wl * x[i];
        }
        vf det = sum_w * sum_l2 - sum_l * sum_l;
        fits[g] = v_gt(det, v_set(0.0f));
        scale[g] = (sum_w * sum_xl - sum_x * sum_l) / det;
        min[g] = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        vm above = v_gt(min[g], v_set(0.0f));
        if (m_any(above)) {
            min[g] = v_pick(above, v_set(0.0f), min[g]);
            scale[g] = v_pick(above, sum_xl / sum_l2, scale[g]);
        }
    }
    for (int g = 0; g < groups; g++) {
        vf error = qkx_error_lanes(q->mad, n, x + n * g, w + n * g, l + n * g, scale[g], min[g]);
        vm better = m_and(fits[g], v_lt(error, group[g].error));
        group[g].error = v_pick(better, error, group[g].error);
        fit[g].scale = v_pick(better, scale[g], fit[g].scale);
        fit[g].inverse = v_pick(better, group[g].inverse, fit[g].inverse);
        fit[g].base = v_pick(better, fit[g].min, fit[g].base);
        fit[g].min = v_pick(better, min[g], fit[g].min);
        fit[g].plain = m_and(fit[g].plain, m_not(better));
    }
}

/* Sets the inverse scales of a grid. Returns whether every value of every lane stays within 4e6: the largest is grid, give or
 * take two roundings, and the least is that of least_x, as rounding is monotonic. */
V_INLINE int qkx_set_grid(int groups, float grid, struct qkx_group *group, const struct qkx_fit *fit) {
    vm tame = v_eq(v_set(0.0f), v_set(0.0f));
    for (int g = 0; g < groups; g++) {
        vf range = group[g].max - fit[g].min;
        group[g].inverse = grid / range;
        tame = m_and(tame, v_gt(range, v_set(0.0f)));
        tame = m_and(tame, v_gt(group[g].inverse * (group[g].least_x - fit[g].min), v_set(-4e6f)));
    }
    return m_all(tame);
}

/* qkx_search of groups * LANES groups: values x[g * n + i], weights likewise. */
V_INLINE void qkx_search_lanes(const struct qkx *q, int n, int groups, const vf *x, const vf *w, struct qkx_fit *fit) {
    struct qkx_group group[QKX_GROUPS];
    vf l[QKX_GROUPS * 32];
    for (int g = 0; g < groups; g++) {
        vf min = x[g * n], max = min, sum_w = w[g * n], sum_x = sum_w * min;
        for (int i = 1; i < n; i++) {
            vf x1 = x[g * n + i], w1 = w[g * n + i];
            min = v_min(x1, min);
            max = v_max(x1, max);
            sum_w += w1;
            sum_x += w1 * x1;
        }
        group[g].least_x = min;
        fit[g].min = fit[g].base = min = v_pick(v_gt(min, v_set(0.0f)), v_set(0.0f), min);
        group[g].empty = v_eq(max, min);
        fit[g].plain = v_eq(min, min);
        fit[g].sum_w = sum_w;
        group[g].max = v_pick(group[g].empty, min + 1.0f, max); /* a harmless search, whose result is not used */
        group[g].sum_x = sum_x;
    }
    const int tame = qkx_set_grid(groups, q->nmax, group, fit);
    for (int g = 0; g < groups; g++) {
        const vf inverse = fit[g].inverse = group[g].inverse, min = fit[g].min;
        if (tame) for (int i = n * g; i < n * g + n; i++) l[i] = qkx_code_lanes(BELOW, q->nmax, inverse * (x[i] - min));
        else for (int i = n * g; i < n * g + n; i++) l[i] = qkx_code_lanes(WRAPS, q->nmax, inverse * (x[i] - min));
        fit[g].scale = 1.0f / inverse;
        group[g].error = qkx_error_lanes(q->mad, n, x + n * g, w + n * g, l + n * g, fit[g].scale, min);
    }
    for (int k = 0; k <= q->n_steps; k++) {
        const float grid = q->first + q->step * k + q->nmax;
        const int tame = qkx_set_grid(groups, grid, group, fit);
        if (tame && grid < q->nmax + 0.49f) qkx_try_lanes(BELOW, q, n, groups, x, w, l, group, fit);
        else if (tame || q->limited) qkx_try_lanes(LIMITED, q, n, groups, x, w, l, group, fit);
        else qkx_try_lanes(WRAPS, q, n, groups, x, w, l, group, fit);
    }
    for (int g = 0; g < groups; g++) {
        fit[g].scale = v_pick(group[g].empty, v_set(0.0f), fit[g].scale);
        fit[g].min = v_pick(group[g].empty, group[g].least_x, fit[g].min);
        fit[g].inverse = v_pick(group[g].empty, v_set(0.0f), fit[g].inverse);
    }
}

/* The code that the search gave a value. */
V_INLINE vi qkx_code_of(const struct qkx *q, const struct qkx_fit *fit, vf x) {
    vf v = fit->inverse * (x - fit->base);
    vi wraps = i_max(i_min(v_nearest(v), i_set(q->nmax)), i_set(0));
    return q->limited ? i_pick(fit->plain, wraps, i_trunc(qkx_code_lanes(LIMITED, q->nmax, v))) : wraps;
}

#endif
#endif
