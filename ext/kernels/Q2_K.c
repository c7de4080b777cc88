/* SPDX-License-Identifier: MIT */
/* Q2_K: 256 values, 16 groups of 16; value = d * scale * code - dmin * min, code 0..3; 84 bytes.
 *
 *   0  16 bytes: per group the scale in the low half and the min in the high half
 *  16  64 bytes: of each 128 values 32 bytes, byte l holding values l, l + 32, l + 64, l + 96 at bits 0, 2, 4, 6
 *  80  f16 d, f16 dmin
 *
 * Source: quantize_row_q2_K_ref, quantize_row_q2_K_impl, dequantize_row_q2_K of ggml-quants.c. Without importance the weights
 * are the magnitudes, and errors count by magnitude.
 */
#include "superblock.h"

typedef struct {
    uint8_t scales[16], qs[64];
    uint16_t d, dmin;
} block;
SIZE_IS(block, 84);

static const struct superblock kind = {16, 15, 0, 1.0f, {3, -0.5f, 0.1f, 15, 1, 0}, {3, -0.9f, 0.05f, 36, 0, 1}};

#if LANES > 1

__attribute__((noinline)) static void encode_lanes(const float *const x[LANES], const float *const importance[LANES], uint8_t *const y[LANES]) {
    struct quantized_lanes z;
    vi words[21];
    if (importance) superblock_encode_lanes(&kind, x, importance, &z);
    else superblock_encode_lanes(&kind, x, NULL, &z);
    for (int i = 0; i < 4; i++) words[i] = z.scales[i];
    for (int i = 0; i < 16; i++) {
        vi word = i_set(0);
        for (int k = 0; k < 4; k++)
            for (int j = 0; j < 4; j++) word |= z.codes[128 * (i / 8) + 32 * k + 4 * (i % 8) + j] << (8 * j + 2 * k);
        words[4 + i] = word;
    }
    words[20] = z.d;
    i_store_lanes(y, 21, words);
}

#else

static void pack(const struct quantized *z, uint8_t *y) {
    block *to = (block *)y;
    to->d = z->d;
    to->dmin = z->dmin;
    memcpy(to->scales, z->scales, 16);
    for (int i = 0; i < 64; i++) {
        const uint8_t *l = z->codes + i / 32 * 128 + i % 32;
        to->qs[i] = (uint8_t)(l[0] | l[32] << 2 | l[64] << 4 | l[96] << 6);
    }
}

#endif

void FN(Q2_K_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
#if LANES > 1
    superblock_rows_lanes(x, importance, y, sizeof(block), n_per_row, n_rows, encode_lanes);
#else
    superblock_rows(&kind, x, importance, y, sizeof(block), n_per_row, n_rows, pack);
#endif
}

void FN(Q2_K_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *from = (const block *)y;
    for (int64_t b = 0; b < n_per_row / 256 * n_rows; b++) {
        const float d = f32_from_f16(from[b].d), dmin = f32_from_f16(from[b].dmin);
        for (int j = 0; j < 16; j++) {
            const uint8_t *q = from[b].qs + 32 * (j / 8) + 16 * (j % 2);
            const float scale = d * (from[b].scales[j] & 15), min = dmin * (from[b].scales[j] >> 4);
#if LANES > 1
            for (int i = 0; i < 16; i += LANES, x += LANES) v_store(x, scale * v_of(i_of_bytes(q + i) >> 2 * (j % 8 / 2) & 3) - min);
#else
            for (int i = 0; i < 16; i++) *x++ = scale * (q[i] >> 2 * (j % 8 / 2) & 3) - min;
#endif
        }
    }
}
