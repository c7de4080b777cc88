/* SPDX-License-Identifier: MIT
 *
 * NVFP4: x = s / 2 * magnitude[q] (fp4.h), the magnitudes being doubled E2M1, one s per 16 values. s = max|x| / 6, rounded to
 * UE4M3: four bits of exponent (bias 7) and three of mantissa, without sign; q is the nearest. There is no scale of the tensor.
 * Block of 64 values: u8 s[4]; u8 q[32], 8 bytes per 16 values: value j in the low nibble of byte j, value j + 8 in its high.
 * Importance is ignored. Source: ggml-quants.c, quantize_row_nvfp4_ref, and ggml_fp32_to_ue4m3 of ggml-impl.h.
 * Quirks: s is rounded half up, and below 2^-6 on the grid of 2^-9 but to at most 7; where it would be 256 or more it is 448.
 * Values far above 448 * 6 are all equally far from every code as floats: the first code wins, 0.
 */
#include "fp4.h"

typedef struct {
    uint8_t s[4];
    uint8_t q[32];
} block;
SIZE_IS(block, 36);

/* s for v >= 0 */
static inline uint8_t ue4m3_from_f32(float v) {
    if (v < 0x1p-6f) {
        int32_t s = (int32_t)(v * 512 + 0.5f);
        return (uint8_t)(s < 7 ? s : 7);
    }
    uint32_t s = (bits_of(v) + (1u << 19) - (120u << 23)) >> 20; /* the bias 127 becomes 7 */
    return (uint8_t)(s < 0x78 ? s : 0x7E);
}

/* s / 2; the NaN 0x7F counts as 0 and the topmost bit for nothing, there as here. */
static inline float step_of(uint8_t s) { return s == 0x7F ? 0 : float_of((uint32_t)(s & 0x7F) << 20) * 0x1p119f; }

/* Where floats are coarser than the steps: the distances themselves. */
static int32_t nearest_fp4(float x, float step) {
    int32_t code = 0;
    for (int32_t c = 1; c < 16; c++)
        if (fabsf((float)fp4_magnitudes[c] * step - x) < fabsf((float)fp4_magnitudes[code] * step - x)) code = c;
    return code;
}

void FN(NVFP4_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    block *b = (block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; b++, x += 64) {
        float top[4], step[4];
        for (int g = 0; g < 4; g++) top[g] = float_of((uint32_t)largest_magnitude(x + 16 * g, 16));
        for (int g = 0; g < 4; g++) {
            b->s[g] = ue4m3_from_f32(top[g] / 6);
            step[g] = step_of(b->s[g]);
        }
        for (int g = 0; g < 4; g++) {
            const float *v = x + 16 * g;
            uint8_t *q = b->q + 8 * g;
            if (top[g] < 0x1p20f && step[g] > 0)
                codes_fp4_16(v, 0.5f * step[g], q);
            else
                for (int j = 0; j < 8; j++) q[j] = (uint8_t)(nearest_fp4(v[j], step[g]) | nearest_fp4(v[j + 8], step[g]) << 4);
        }
    }
}

void FN(NVFP4_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    const block *b = (const block *)y;
    for (const float *end = x + n_per_row * n_rows; x < end; b++)
        for (int g = 0; g < 4; g++, x += 16) decode_fp4(8, b->q + 8 * g, step_of(b->s[g]), x);
}
