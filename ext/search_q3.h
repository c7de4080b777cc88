/* SPDX-License-Identifier: MIT
 *
 * The scale of 16 values stored as codes l in -4 .. 3, each weighing its square. The codes start as l = N(x * (-4 / m)), limited,
 * m being the value of largest magnitude; a = sum of w x l, b = sum of w l l. Then up to five passes over the values: each is
 * taken out of the sums, gets the code that suits the others best, and keeps it if that makes a a / b greater. The scale is a / b.
 * Used by Q3_K without importance. Source: ggml-quants.c, make_q3_quants with do_rmse.
 *
 * A pass that changes nothing is the last. The sum without the value must be positive, so values led by a positive one, whose
 * sums are negative, keep their first codes (but for rounding: it is looked at, not assumed). All values below 1e-15: scale 0.
 */
#ifndef GGUFMIX_SEARCH_Q3_H
#define GGUFMIX_SEARCH_Q3_H

#include "groups.h"

/* codes: raised by 4, or all 0 where all values count as zero. */
static inline float search_q3(const float *x, uint8_t codes[16]) {
    float m = largest_value(x, 16), a = 0, b = 0, l[16];
    memset(codes, 0, 16);
    if (fabsf(m) < 1e-15f) return 0;
    float inverse = -4.0f / m;
    for (int i = 0; i < 16; i++) {
        l[i] = (float)limit(nearest_int(inverse * x[i]), -4, 3);
        float w = x[i] * x[i];
        a += w * x[i] * l[i];
        b += w * l[i] * l[i];
    }
    for (int pass = 0, changed = 1; pass < 5 && changed; pass++) {
        changed = 0;
        for (int i = 0; i < 16; i++) {
            float w = x[i] * x[i], a1 = a - w * x[i] * l[i];
            if (!(a1 > 0)) continue;
            float b1 = b - w * l[i] * l[i], now = (float)limit(nearest_int(x[i] * b1 / a1), -4, 3);
            if (now == l[i]) continue;
            a1 += w * x[i] * now;
            b1 += w * now * now;
            if (b1 > 0 && a1 * a1 * b > a * a * b1) l[i] = now, a = a1, b = b1, changed = 1;
        }
    }
    for (int i = 0; i < 16; i++) codes[i] = (uint8_t)((int)l[i] + 4);
    return b > 0 ? a / b : 0;
}

#if LANES > 1

/* The state of LANES groups: their values, weights, weighted values and codes, and the two sums. */
struct q3_lanes {
    vf x[16], w[16], wx[16], l[16], a, b;
};

/* What becomes of the sums if value i takes its best code, and whether it does. */
struct q3_move {
    vm taken;
    vf now, a, b;
};

/* N(v) limited to -4 .. 3, in floats: the low 23 bits that nearest_int keeps, read as the fraction of a float of 2^23 and up. */
V_INLINE vf nearest_q3(vf v) {
    const vf zero = v_set(12582912.0f);
    vf t = (vf)(((vi)(v + zero) & 0x007FFFFF) | 0x4B000000);
    return v_min(v_max(t, zero - 4.0f), zero + 3.0f) - zero;
}

V_INLINE void start_q3(const float *const at[LANES], struct q3_lanes *s) {
    vf top = v_set(0.0f), m = top;
    v_load_lanes(at, 16, s->x);
    for (int i = 0; i < 16; i++) {
        vm more = v_gt(v_abs(s->x[i]), top);
        top = v_max(v_abs(s->x[i]), top);
        m = v_pick(more, s->x[i], m);
    }
    m = v_pick(v_lt(top, v_set(1e-15f)), v_set(1.0f), m); /* then all codes and sums are 0 */
    vf inverse = v_set(-4.0f) / m, a = v_set(0.0f), b = a;
    for (int i = 0; i < 16; i++) {
        s->w[i] = s->x[i] * s->x[i];
        s->wx[i] = s->w[i] * s->x[i];
        s->l[i] = v_min(rounded_qx(inverse * s->x[i]), v_set(3.0f));
        a = a + s->wx[i] * s->l[i];
        b = b + s->w[i] * s->l[i] * s->l[i];
    }
    s->a = a;
    s->b = b;
}

V_INLINE struct q3_move move_q3(const struct q3_lanes *s, int i) {
    const vf zero = v_set(0.0f);
    vf a = s->a - s->wx[i] * s->l[i], b = s->b - s->w[i] * s->l[i] * s->l[i], now = nearest_q3(s->x[i] * b / a);
    vm taken = m_and(v_gt(a, zero), v_ne(now, s->l[i]));
    a = a + s->wx[i] * now;
    b = b + s->w[i] * now * now;
    taken = m_and(taken, m_and(v_gt(b, zero), v_gt(a * a * s->b, s->a * s->a * b)));
    return (struct q3_move){taken, now, a, b};
}

V_INLINE vf scale_q3(const struct q3_lanes *s) { return v_pick(v_gt(s->b, v_set(0.0f)), s->a / s->b, v_set(0.0f)); }

enum { Q3_MOST = 16 * SUPERBLOCKS, Q3_ABREAST = 8 };

/* Up to `most` passes over the listed groups, several times LANES at once as each step waits for the one before. Those that the
 * last of the passes still changed are listed in `again`, if that is given, to be started anew; their number is returned. */
static __attribute__((noinline)) int passes_q3(const float *x, const int16_t *list, int n, int most, float *scale, int16_t *again) {
    int n_again = 0;
    for (; n > 0; list += Q3_ABREAST * LANES, n -= Q3_ABREAST * LANES) {
        struct q3_lanes s[Q3_ABREAST];
        unsigned changed[Q3_ABREAST], any = 1;
        int groups = n < Q3_ABREAST * LANES ? (n + LANES - 1) / LANES : Q3_ABREAST;
        for (int g = 0; g < groups; g++) {
            const float *at[LANES];
            for (int k = 0; k < LANES; k++) at[k] = x + 16 * list[LANES * g + k < n ? LANES * g + k : 0];
            start_q3(at, &s[g]);
        }
        for (int pass = 0; pass < most && any; pass++) {
            for (int g = 0; g < groups; g++) changed[g] = 0;
            for (int i = 0; i < 16; i++)
                for (int g = 0; g < groups; g++) {
                    struct q3_move to = move_q3(&s[g], i);
                    s[g].l[i] = v_pick(to.taken, to.now, s[g].l[i]);
                    s[g].a = v_pick(to.taken, to.a, s[g].a);
                    s[g].b = v_pick(to.taken, to.b, s[g].b);
                    changed[g] |= m_bits(to.taken);
                    __asm__ volatile(""); /* else gcc takes two steps of one group together, and they wait for each other */
                }
            any = 0;
            for (int g = 0; g < groups; g++) any |= changed[g];
        }
        for (int g = 0; g < groups; g++) {
            float found[LANES];
            v_store(found, scale_q3(&s[g]));
            for (int k = 0; k < LANES && LANES * g + k < n; k++)
                if (again && changed[g] >> k & 1)
                    again[n_again++] = list[LANES * g + k];
                else
                    scale[list[LANES * g + k]] = found[k];
        }
    }
    return n_again;
}

/* n groups of 16 neighbouring values each. First all are started, and looked at whether any value would move. Those where one
 * does (a fifth of them in usual weights) are gathered for two passes, which is enough for three of four, and the rest for all. */
static inline void search_q3_lanes(int n, const float *x, float *scale) {
    int16_t moving[Q3_MOST], again[Q3_MOST];
    int n_moving = 0;
    for (int g = 0; g < n; g += LANES) {
        const float *at[LANES];
        struct q3_lanes s;
        for (int k = 0; k < LANES; k++) at[k] = x + 16 * (g + k);
        start_q3(at, &s);
        v_store(scale + g, scale_q3(&s));
        vm any = move_q3(&s, 0).taken;
        for (int i = 1; i < 16; i++) any = m_or(any, move_q3(&s, i).taken);
        for (unsigned left = m_bits(any); left; left &= left - 1) moving[n_moving++] = (int16_t)(g + __builtin_ctz(left));
    }
    int n_again = passes_q3(x, moving, n_moving, 2, scale, again);
    passes_q3(x, again, n_again, 5, scale, NULL);
}

#endif

/* n groups of 16 neighbouring values each, n a multiple of 16, up to 16 * SUPERBLOCKS. */
static inline void search_q3_all(int n, const float *x, float *scale) {
#if LANES > 1
    search_q3_lanes(n, x, scale);
#else
    uint8_t codes[16];
    for (int g = 0; g < n; g++) scale[g] = search_q3(x + 16 * g, codes);
#endif
}

#endif
