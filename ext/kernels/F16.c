/* SPDX-License-Identifier: MIT
 *
 * F16: IEEE half precision, little-endian, 2 bytes; rounded to nearest even, subnormals included. Too large for it becomes
 * infinite, which the driver reports as an outlier. Source: ggml-impl.h, ggml_compute_fp32_to_fp16.
 */
#include "kernel.h"

void FN(F16_encode)(const float *x, const float *importance, uint8_t *y, int64_t n_per_row, int64_t n_rows) {
    (void)importance;
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= n_per_row * n_rows; i += 8)
        _mm_storeu_si128((__m128i *)(y + 2 * i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n_per_row * n_rows; i++) {
        uint16_t h = f16_from_f32(x[i]);
        memcpy(y + 2 * i, &h, 2);
    }
}

void FN(F16_decode)(const uint8_t *y, float *x, int64_t n_per_row, int64_t n_rows) {
    for (int64_t i = 0; i < n_per_row * n_rows; i++) {
        uint16_t h;
        memcpy(&h, y + 2 * i, 2);
        x[i] = f32_from_f16(h);
    }
}
