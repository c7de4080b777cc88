/* SPDX-License-Identifier: MIT */
/* Q4_K: 256 values, 8 groups of 32; value = d * scale * code - dmin * min, code 0..15; 144 bytes.
 *
 *   0  f16 d, f16 dmin
 *   4  12 bytes: scale and min of each group, six bits each (pack_six_bits in superblock.h)
 *  16  128 bytes: of each 64 values 32 bytes, byte l holding value l in its low half and value l + 32 in its high half
 *
 * Source: quantize_row_q4_K_ref, quantize_row_q4_K_impl, dequantize_row_q4_K of ggml-quants.c.
 */
#include "superblock.h"

typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
} block;
SIZE_IS(block, 144);

static const struct superblock kind = {32, 63, 1, 2.0f, {15, -1.0f, 0.1f, 20, 0, 0}, {15, -0.9f, 0.05f, 36, 0, 1}};

#if LANES > 1

__attribute__((noinline)) static void encode_lanes(const float *const x[LANES], const float *const importance[LANES], uint8_t *const y[LANES]) {
    struct quantized_lanes z;
    vi words[36];
    if (importance) superblock_encode_lanes(&kind, x, importance, &z);
    else superblock_encode_lanes(&kind, x, NULL, &z);
    words[0] = z.d;
    for (int i = 0; i < 3; i++) words[1 + i] = z.scales[i];
    for (int i = 0; i < 32; i++) {
        const vi *l = z.codes + 64 * (i / 8) + 4 * (i % 8);
        words[4 + i] = l[0] | l[1] << 8 | l[2] << 16 | l[3] << 24 | l[32] << 4 | l[33] << 12 | l[34] << 20 | l[35] << 28;
    }
    i_store_lanes(y, 36, words);
}

#else

static void pack(const struct quantized *z, uint8_t *y) {
    block *to = (block *)y;
    to->d = z->d;
    to->dmin = z->dmin;
    memcpy(to->scales, z->scales, 12);
    for (int i = 0; i < 128; i++) to->qs[i] = (uint8_t)(z->codes[i / 32 * 64 + i % 32] | z->codes[i / 32 * 64 + 32 + i % 32] << 4);
}

#endif

void FN(Q4_K_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
#if LANES > 1
    superblock_rows_lanes(x, importance, y, sizeof(block), n_per_row, n_rows, encode_lanes);
#else
    superblock_rows(&kind, x, importance, y, sizeof(block), n_per_row, n_rows, pack);
#endif
}

void FN(Q4_K_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *from = (const block *)y;
    for (int64_t b = 0; b < n_per_row / 256 * n_rows; b++) {
        uint8_t ls[8], lm[8];
        unpack_six_bits(from[b].scales, ls, lm);
        const float d = f32_from_f16(from[b].d), dmin = f32_from_f16(from[b].dmin);
        for (int j = 0; j < 8; j++) {
            const float scale = d * ls[j], min = dmin * lm[j];
            for (int i = 0; i < 32; i++) *x++ = scale * (from[b].qs[32 * (j / 2) + i] >> 4 * (j % 2) & 15) - min;
        }
    }
}
