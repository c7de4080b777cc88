/* SPDX-License-Identifier: MIT */
/* Checks ext/lanes.h against scalar C; prints the number of lanes, returns the number of failures. Built by test_lanes.py. */
#include <math.h>
#include <stdio.h>
#include "lanes.h"

#if LANES > 1
static int failures;
#define CHECK(what, condition) \
    do { if (!(condition)) { printf("%s failed\n", what); failures++; } } while (0)

static int32_t nearest_int(float v) {
    v += 12582912.0f;
    int32_t i;
    memcpy(&i, &v, 4);
    return (i & 0x007FFFFF) - 0x00400000;
}

static void check(void) {
    enum { N = 256 };
    static float x[LANES][N], back[LANES][N + 4];
    static vf t[N];
    const float *at[LANES];
    uint8_t *to[LANES];
    for (int k = 0; k < LANES; k++) {
        for (int i = 0; i < N; i++) x[k][i] = (float)(k * 1000 + i);
        at[k] = x[k];
        to[k] = (uint8_t *)back[k];
    }
    v_load_lanes(at, N, t);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < LANES; k++) CHECK("v_load_lanes", t[i][k] == x[k][i]);
    for (int n = 1; n <= N; n = n < 24 ? n + 1 : n + 29) {
        memset(back, 0, sizeof back);
        i_store_lanes(to, n, (const vi *)t);
        for (int k = 0; k < LANES; k++) {
            CHECK("i_store_lanes", memcmp(back[k], x[k], 4 * n) == 0);
            CHECK("i_store_lanes end", back[k][n] == 0.0f);
        }
    }
    const uint8_t bytes[16] = {255, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128};
    for (int k = 0; k < LANES; k++) CHECK("i_of_bytes", i_of_bytes(bytes)[k] == bytes[k] && i_count()[k] == k);
    const float odd[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY, 1.5f, 2.5f, -0.5f, 0.49999997f, 5e6f, -5e6f, 1e-42f, 65519.0f, 65520.0f, 3e-8f, -2.9802322e-8f};
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++) {
            float p = odd[a], q = odd[b], least = p < q ? p : q, most = p > q ? p : q;
            vf u = v_set(p), v = v_set(q), low = v_min(u, v), high = v_max(u, v);
            CHECK("v_min", memcmp((float *)&low + 1, &least, 4) == 0);
            CHECK("v_max", memcmp((float *)&high + 1, &most, 4) == 0);
            CHECK("compares", m_any(v_lt(u, v)) == (p < q) && m_all(v_ge(u, v)) == (p >= q) && m_all(v_ne(u, v)) == (p != q)
                                  && m_any(m_not(v_eq(u, v))) == !(p == q) && v_pick(v_le(u, v), v_set(1), v_set(2))[3] == (p <= q ? 1 : 2));
            CHECK("v_nearest", v_nearest(u)[0] == nearest_int(p));
            float whole = rintf(p), got = v_rint(u)[1];
            CHECK("v_rint", memcmp(&whole, &got, 4) == 0);
            if (p >= -4e6f && p < 4e6f) CHECK("v_round", v_round(u)[0] == (float)nearest_int(p));
        }
    const int bits[] = {0, 0x8000, 0x7E00, 0x7C00, 0xFC00, 0x3E00, 0x4100, 0xB800, 0x3800, 0x7C00, 0xFC00, 0, 0x7BFF, 0x7C00, 1, 0x8000};
    for (int a = 0; a < 16; a++) CHECK("v_f16", (v_f16(v_set(odd[a]))[LANES - 1] & (a == 2 ? 0x7FFF : 0xFFFF)) == bits[a]);
    for (int h = 0; h < 0x7C00; h++) CHECK("v_of_f16", v_f16(v_of_f16(i_set(h)))[1] == h && v_f16(v_of_f16(i_set(h | 0x8000)))[LANES - 1] == (h | 0x8000));
}
#else
enum { failures };
static void check(void) {}
#endif

int main(void) {
    check();
    printf("%d\n", LANES);
    return failures != 0;
}
