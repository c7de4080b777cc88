/* SPDX-License-Identifier: MIT
 *
 * Q6_K: x = d * s * (q - 32), q in 0..63, one s in -128..127 per 16 values. Each 16 values are searched for their scale, weighted
 * by their squares or by importance as it is. The scale of largest magnitude becomes s = -128: d = 1 / (-128 / scale), and
 * s = N(scale * (-128 / scale of largest magnitude)). Then q = N(x / (d * s)) + 32 with the stored d; where d * s is 0, the
 * codes of the search.
 * Superblock of 256 values: u8 low[128]; u8 high[64]; i8 s[16]; f16 d. In each half of 128 values, of value j: its low 4 bits are
 * in byte j % 64 of low (64 bytes per half), the values 64 and above in the high nibble; its high 2 bits in byte j % 32 of high
 * (32 per half) at bit 2 * (j / 32).
 * Source: ggml-quants.c, quantize_row_q6_K_ref and quantize_row_q6_K_impl.
 * Quirks: if no scale reaches 1e-15 all bytes are zero; 16 values below 1e-15 in another superblock have codes 0, not 32.
 */
#include "groups.h"
#include "scaled.h"

typedef struct {
    uint8_t low[128], high[64];
    int8_t s[16];
    uint16_t d;
} block;
SIZE_IS(block, 210);

/* Stores d and s, and puts d * s in the place of the scales. Where nothing is to be stored all steps and codes become 0. */
static inline void fit(float scale[16], float inverse[16], block *b) {
    float m = largest_scale(scale), to_s = -128.0f / m;
    if (fabsf(m) < 1e-15f) {
        memset(b, 0, sizeof(block));
        memset(scale, 0, 16 * sizeof(float));
        memset(inverse, 0, 16 * sizeof(float));
        return;
    }
    uint8_t s[16]; /* raised by 128 */
    codes_of_inverse(128, scale, to_s, s);
    b->d = f16_of_scale(1 / to_s);
    float d = scale_of_f16(b->d);
    for (int g = 0; g < 16; g++) scale[g] = d * (float)(s[g] - 128);
    for (int g = 0; g < 16; g++) b->s[g] = (int8_t)(s[g] - 128);
}

static inline void pack(const float *x, const float step[16], const float inverse[16], block *b) {
    uint8_t q[256];
    for (int g = 0; g < 16; g++)
        if (step[g] != 0)
            codes_of_step(32, x + 16 * g, step[g], q + 16 * g);
        else
            codes_of_inverse(32, x + 16 * g, inverse[g], q + 16 * g);
    for (int h = 0; h < 2; h++) {
        const uint8_t *p = q + 128 * h;
        for (int j = 0; j < 64; j++) b->low[64 * h + j] = (uint8_t)((p[j] & 15) | p[j + 64] << 4);
        for (int j = 0; j < 32; j++)
            b->high[32 * h + j] = (uint8_t)(p[j] >> 4 | p[j + 32] >> 4 << 2 | p[j + 64] >> 4 << 4 | p[j + 96] >> 4 << 6);
    }
}

void FN(Q6_K_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    block *b = (block *)y;
    int64_t column = 0;
    for (int64_t left = n_per_row * n_rows / 256; left > 0; left -= SUPERBLOCKS) {
        int count = left < SUPERBLOCKS ? (int)left : SUPERBLOCKS;
        struct groups found;
        if (importance) {
            const float *at[SUPERBLOCKS];
            column = columns_of(importance, n_per_row, column, count, at);
            search_groups(32, IMPORTANCE, count, x, at, NULL, &found);
        } else
            search_groups(32, SQUARE, count, x, NULL, NULL, &found);
        for (int k = 0; k < count; k++) fit(found.scale[k], found.inverse[k], b + k);
        for (int k = 0; k < count; k++, x += 256) pack(x, found.scale[k], found.inverse[k], b++);
    }
}

void FN(Q6_K_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; x += 256, b++) {
        float d = scale_of_f16(b->d);
        int8_t q[256];
        for (int h = 0; h < 2; h++)
            for (int j = 0; j < 32; j++) {
                uint8_t a = b->low[64 * h + j], c = b->low[64 * h + 32 + j], high = b->high[32 * h + j];
                int8_t *p = q + 128 * h + j;
                p[0] = (int8_t)(((a & 15) | (high & 3) << 4) - 32);
                p[32] = (int8_t)(((c & 15) | (high >> 2 & 3) << 4) - 32);
                p[64] = (int8_t)((a >> 4 | (high >> 4 & 3) << 4) - 32);
                p[96] = (int8_t)((c >> 4 | high >> 6 << 4) - 32);
            }
        for (int g = 0; g < 16; g++) scaled(q + 16 * g, d * (float)b->s[g], x + 16 * g);
    }
}
