/* SPDX-License-Identifier: MIT
 *
 * Sums over pairs of values. Compiled once per tier.
 *
 * The order of additions: pairs come in chunks of 4096; in a chunk, pair i goes to sum i % 8 of eight; those are added as
 * ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)), and chunk after chunk to the whole. The eight are lanes of as many vectors as the
 * tier needs for them; the last chunk is filled up with zeros.
 */
#include "kernel.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { CHUNK = 4096 };

#if defined(__AVX512F__)
enum { WIDTH = 8, PARTS = 1 };
#elif defined(__AVX__)
enum { WIDTH = 4, PARTS = 2 };
#else
enum { WIDTH = 2, PARTS = 4 };
#endif
typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef double doubles __attribute__((vector_size(8 * WIDTH)));
typedef int64_t integers __attribute__((vector_size(8 * WIDTH)));

static inline doubles load(const float *p) {
    floats f;
    memcpy(&f, p, sizeof f);
    return __builtin_convertvector(f, doubles);
}

static inline double folded(const doubles *parts) {
    double s[8];
    memcpy(s, parts, sizeof s);
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* The sums of one chunk: not a number, or infinite, exactly where one of its values is. */
static struct measured of_chunk(const float *x, const float *y) {
    doubles ee[PARTS] = {{0}}, xx[PARTS] = {{0}}, yy[PARTS] = {{0}}, xy[PARTS] = {{0}}, most[PARTS] = {{0}};
    for (int i = 0; i < CHUNK; i += 8)
        for (int p = 0; p < PARTS; p++) {
            doubles a = load(x + i + p * WIDTH), b = load(y + i + p * WIDTH), e = a - b;
            doubles size = (doubles)((integers)e & INT64_MAX);
            integers more = size > most[p];
            ee[p] += e * e;
            xx[p] += a * a;
            yy[p] += b * b;
            xy[p] += a * b;
            most[p] = (doubles)(((integers)size & more) | ((integers)most[p] & ~more));
        }
    struct measured out = {folded(ee), folded(xx), folded(yy), folded(xy), 0, 0, 0};
    for (int i = 0; i < 8; i++) out.most = most[i / WIDTH][i % WIDTH] > out.most ? most[i / WIDTH][i % WIDTH] : out.most;
    return out;
}

static int is_finite(float f) { return magnitude(f) < 0x7F800000; }

/* The sums of n pairs, a chunk or less; at: where the largest |x - y| is, if it is more than `least`. fx, fy: two chunks of
 * room; x may be the first. */
static struct measured of_pairs(const float *x, const float *y, int n, double least, float *fx, float *fy) {
    if (n < CHUNK) {
        if (x != fx) memcpy(fx, x, (size_t)n * sizeof *fx);
        memcpy(fy, y, (size_t)n * sizeof *fy);
        for (int i = n; i < CHUNK; i++) fx[i] = fy[i] = 0;
        x = fx;
        y = fy;
    }
    struct measured out = of_chunk(x, y);
    if (out.xx - out.xx != 0 || out.yy - out.yy != 0) {
        int64_t broken = 0, first = -1;
        for (int i = 0; i < CHUNK; i++) {
            int fine = is_finite(x[i]) && is_finite(y[i]);
            if (!fine && first < 0) first = i;
            broken += !fine;
            float a = fine ? x[i] : 0, b = fine ? y[i] : 0;
            fx[i] = a;
            fy[i] = b;
        }
        out = of_chunk(fx, fy);
        out.broken = broken;
        out.at = first;
        out.most = INFINITY;
        return out;
    }
    if (out.most > least)
        while (fabs((double)x[out.at] - (double)y[out.at]) != out.most) out.at++;
    return out;
}

static void widen(int xtype, const uint16_t *x, float *f, int n) {
    if (xtype == X_BF16)
        for (int i = 0; i < n; i++) f[i] = f32_from_bf16(x[i]);
    else
        for (int i = 0; i < n; i++) f[i] = f32_from_f16(x[i]);
}

static void measure(int xtype, const void *x, const float *y, int64_t n, struct measured *out) {
    float fx[CHUNK], fy[CHUNK];
    *out = (struct measured){0};
    for (int64_t at = 0; at < n; at += CHUNK) {
        int m = n - at < CHUNK ? (int)(n - at) : CHUNK;
        const float *from = fx;
        if (xtype == X_F32)
            from = (const float *)x + at;
        else
            widen(xtype, (const uint16_t *)x + at, fx, m);
        struct measured part = of_pairs(from, y + at, m, out->most, fx, fy);
        out->ee += part.ee;
        out->xx += part.xx;
        out->yy += part.yy;
        out->xy += part.xy;
        out->broken += part.broken;
        if (part.most > out->most) {
            out->most = part.most;
            out->at = at + part.at;
        }
    }
}

/* Another library of the process may have left the CPU flushing subnormals or rounding elsewhere. */
void FN(measure)(int xtype, const void *x, const float *y, int64_t n, struct measured *out) {
#if defined(__SSE2__)
    unsigned control = _mm_getcsr();
    _mm_setcsr(0x1F80);
#endif
    measure(xtype, x, y, n, out);
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
}
