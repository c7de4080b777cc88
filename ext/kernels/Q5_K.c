/* SPDX-License-Identifier: MIT */
/* Q5_K: 256 values, 8 groups of 32; value = d * scale * code - dmin * min, code 0..31; 176 bytes.
 *
 *   0  f16 d, f16 dmin
 *   4  12 bytes: scale and min of each group, six bits each (pack_six_bits in superblock.h)
 *  16  32 bytes: bit k of byte l is the fifth bit of value 32 k + l
 *  48  128 bytes: low four bits; of each 64 values 32 bytes, value l in the low half of byte l and value l + 32 in the high
 *
 * Source: quantize_row_q5_K_ref, quantize_row_q5_K_impl, dequantize_row_q5_K of ggml-quants.c. With importance the six-bit
 * scales are limited to 63 once more after their search, as Q4_K's are not.
 */
#include "superblock.h"

typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
} block;
SIZE_IS(block, 176);

static const struct superblock kind = {32, 63, 1, 2.0f, {31, -0.5f, 0.1f, 15, 0, 0}, {31, -0.9f, 0.05f, 36, 0, 1}};

#if LANES > 1

__attribute__((noinline)) static void encode_lanes(const float *const x[LANES], const float *const importance[LANES], uint8_t *const y[LANES]) {
    struct quantized_lanes z;
    vi words[44];
    if (importance) superblock_encode_lanes(&kind, x, importance, &z);
    else superblock_encode_lanes(&kind, x, NULL, &z);
    words[0] = z.d;
    for (int i = 0; i < 3; i++) words[1 + i] = z.scales[i];
    for (int i = 0; i < 8; i++) {
        vi fifth = i_set(0);
        for (int k = 0; k < 8; k++)
            for (int j = 0; j < 4; j++) fifth |= (z.codes[32 * k + 4 * i + j] >> 4) << (8 * j + k);
        words[4 + i] = fifth;
    }
    for (int i = 0; i < 32; i++) {
        const vi *l = z.codes + 64 * (i / 8) + 4 * (i % 8);
        vi low = l[0] | l[1] << 8 | l[2] << 16 | l[3] << 24, high = l[32] | l[33] << 8 | l[34] << 16 | l[35] << 24;
        words[12 + i] = (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4;
    }
    i_store_lanes(y, 44, words);
}

#else

static void pack(const struct quantized *z, uint8_t *y) {
    block *to = (block *)y;
    to->d = z->d;
    to->dmin = z->dmin;
    memcpy(to->scales, z->scales, 12);
    memset(to->qh, 0, 32);
    for (int i = 0; i < 256; i++) to->qh[i % 32] |= (uint8_t)(z->codes[i] >> 4 << i / 32);
    for (int i = 0; i < 128; i++) {
        const uint8_t *l = z->codes + i / 32 * 64 + i % 32;
        to->qs[i] = (uint8_t)((l[0] & 15) | (l[32] & 15) << 4);
    }
}

#endif

void FN(Q5_K_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
#if LANES > 1
    superblock_rows_lanes(x, importance, y, sizeof(block), n_per_row, n_rows, encode_lanes);
#else
    superblock_rows(&kind, x, importance, y, sizeof(block), n_per_row, n_rows, pack);
#endif
}

void FN(Q5_K_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *from = (const block *)y;
    for (int64_t b = 0; b < n_per_row / 256 * n_rows; b++) {
        uint8_t ls[8], lm[8];
        unpack_six_bits(from[b].scales, ls, lm);
        const float d = f32_from_f16(from[b].d), dmin = f32_from_f16(from[b].dmin);
        for (int j = 0; j < 8; j++) {
            const float scale = d * ls[j], min = dmin * lm[j];
#if LANES > 1
            for (int i = 0; i < 32; i += LANES, x += LANES) {
                vi low = i_of_bytes(from[b].qs + 32 * (j / 2) + i) >> 4 * (j % 2) & 15, fifth = i_of_bytes(from[b].qh + i) >> j & 1;
                v_store(x, scale * v_of(low | fifth << 4) - min);
            }
#else
            for (int i = 0; i < 32; i++) {
                int low = from[b].qs[32 * (j / 2) + i] >> 4 * (j % 2) & 15, fifth = from[b].qh[i] >> j & 1;
                *x++ = scale * (low | fifth << 4) - min;
            }
#endif
        }
    }
}
