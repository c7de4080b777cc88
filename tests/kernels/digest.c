/* SPDX-License-Identifier: MIT
 *
 * Encodes, decodes and measures rows made by formula with every encoder, in every tier that runs here, and prints a digest
 * of each: the same lines on every CPU and from every compiler. Links with the files of ext/ alone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

enum { COLS = 768, ROWS = 40 };
enum { FP8_COLS = 700, FP8_ROWS = ROWS * COLS / FP8_COLS, FP8_SCALES = 6 };

static uint32_t state = 1;

static uint32_t next(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* A sum of four uniform numbers from -1..1 as bfloat16, times a power of two that changes by row; zeros, and runs of them. */
static float value(int row, int col) {
    int32_t sum = -2 * 255;
    for (int i = 0; i < 4; i++) sum += (int32_t)(next() & 255);
    if (row % 5 == 1 && next() % 3 == 0) sum = 0;
    if (row % 7 == 2 && col % 64 < 32) sum = 0;
    if (row % 11 == 3) sum = sum > 0 ? 255 : -255;
    if (row % 13 == 4 && next() % 100 == 0) sum *= 60;
    float x = (float)sum / 256;
    for (int i = 0; i < row % 17; i++) x *= 0.25f;
    if (row == ROWS - 1) x *= 1e-30f;
    return x;
}

static uint64_t digest(const void *bytes, size_t n) {
    uint64_t h = 0xCBF29CE484222325;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3;
    return h;
}

/* The same values in rows of another length, in each mode of FP8; codes and scales that are compared with, and sums. */
static void fp8(const struct tier *tier, const float *x, const float *importance) {
    static uint8_t codes[FP8_ROWS * FP8_COLS];
    static float scales[FP8_SCALES], back[FP8_ROWS * FP8_COLS];
    struct fp8_scratch *scratch = calloc(1, sizeof *scratch);
    for (int mode = MODE_MAX; mode < MODE_GIVEN; mode++)
        for (int stored = STORED_BF16; stored <= STORED_POW2; stored++)
            for (int weighed = 0; weighed < 2; weighed++) {
                struct fp8_search how = {mode, stored, 11, 2.5, 99.3}, given = {.mode = MODE_GIVEN};
                const float *weights = weighed ? importance : NULL;
                struct fp8_report a = tier->quantize_fp8(&how, X_F32, x, weights, codes, scales, FP8_COLS, FP8_ROWS, scratch);
                struct fp8_report b = tier->quantize_fp8(&given, X_F32, x, NULL, codes, scales, FP8_COLS, FP8_ROWS, scratch);
                tier->dequantize_fp8(codes, scales, back, FP8_COLS, FP8_ROWS);
                printf("%s FP8,%d,%d,%d %" PRId64 " %" PRId64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64
                       " %016" PRIx64 "\n",
                       tier->name, mode, stored, weighed, a.saturated, a.flushed, digest(codes, sizeof codes),
                       digest(scales, sizeof scales), digest(back, sizeof back), digest(&a.sums, sizeof a.sums),
                       digest(&b.sums, sizeof b.sums));
            }
    free(scratch);
}

int main(void) {
    static float x[ROWS * COLS], importance[COLS], back[ROWS * COLS];
    static uint8_t y[ROWS * COLS * 4];
    for (int i = 0; i < ROWS * COLS; i++) x[i] = value(i / COLS, i % COLS);
    for (int i = 0; i < COLS; i++) importance[i] = i % 96 < 16 ? 0 : (float)(next() % 1000) / 64;

    for (int t = 0; t < n_tiers; t++)
        for (int e = 0; tiers[t].supported() && e < N_ENCODERS; e++)
            for (int weighed = 0; weighed < 2; weighed++) {
                const struct row *r = &rows[encoders[e].format];
                int uses = e < N_FORMATS ? r->importance : NONE;
                if (weighed ? uses == NONE : uses == REQUIRED) continue;
                size_t bytes = (size_t)(ROWS * COLS / r->values * r->bytes);
                void *scratch = malloc(scratch_bytes(e, COLS, ROWS, weighed));
                memset(y, 0, sizeof y);
                struct report done = tiers[t].encode_rows(e, X_F32, x, weighed ? importance : NULL, y, COLS, ROWS, scratch);
                free(scratch);
                tiers[t].decode_rows(encoders[e].format, y, back, COLS, ROWS);
                printf("%s %s%s %d %" PRId64 " %" PRId64 " %016" PRIx64 " %016" PRIx64 "\n", tiers[t].name, encoders[e].name,
                       weighed ? ",importance" : "", done.status, done.flushed, done.wiped, digest(y, bytes),
                       digest(back, sizeof back));
            }
    for (int t = 0; t < n_tiers; t++)
        if (tiers[t].supported()) fp8(&tiers[t], x, importance);
    for (int t = 0; t < n_tiers; t++)
        for (int n = 1; tiers[t].supported() && n <= ROWS * COLS; n = 3 * n + 7) {
            struct measured m;
            tiers[t].measure(X_F32, x, back, n, &m);
            printf("%s measured %d %016" PRIx64 "\n", tiers[t].name, n, digest(&m, sizeof m));
        }
    return 0;
}
