/* SPDX-License-Identifier: MIT
 *
 * Included by every kernel. Each kernel file is compiled once per tier with -DISA=base, avx2 or avx512; FN(name) is name_<ISA>.
 *
 * The contract of a kernel. x: finite floats, rows contiguous. importance: NULL, or n_per_row non-negative floats for every row
 * of the call. n_per_row: a multiple of the block. Kernels hold no state and take at most 64 KiB of stack.
 *
 * The rules of order, so that every tier gives the same bytes. Sums run left to right. Extremes keep the first of equals. SIMD
 * may do element-wise work, extremes and integer sums within a block; float sums only with one block (or one candidate) per lane,
 * each lane adding in scalar order. No fused multiply-add (-ffp-contract=off). No float that may be NaN or out of range reaches
 * an integer cast.
 */
#ifndef GGUFMIX_KERNEL_H
#define GGUFMIX_KERNEL_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FN_PASTE(name, isa) name##_##isa
#define FN_EXPAND(name, isa) FN_PASTE(name, isa)
#define FN(name) FN_EXPAND(name, ISA)

#define SIZE_IS(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size")

#define FORMAT(name, ...)                                                                                                  \
    encode_fn FN(name##_encode);                                                                                           \
    decode_fn FN(name##_decode);
#define ENCODER(name, format) encode_fn FN(name##_encode);
#include "formats.def"
#undef FORMAT
#undef ENCODER

/* ---- bits ---- */

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* |f| as an integer: it orders as the magnitudes do, and integer maxima vectorise where float maxima may not. */
static inline int32_t magnitude(float f) { return (int32_t)(bits_of(f) & 0x7FFFFFFF); }

/* Nearest integer, ties to even, for |v| <= 2^22; beyond that the same wrapped bits as ggml's. */
static inline int32_t nearest_int(float v) { return (int32_t)(bits_of(v + 12582912.0f) & 0x007FFFFF) - 0x00400000; }

/* Nearest integer, ties away from zero: equals roundf for |v| < 2^22, and vectorises. */
static inline int32_t round_half_away(float v) { return (int32_t)(v + copysignf(0.49999997f, v)); }

/* ---- float16 and bfloat16 ---- */

/* To nearest even, with subnormals; too large becomes infinite; -0 stays; NaN becomes 0x7E00 with its sign. */
static inline uint16_t f16_from_f32(float f) {
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000;
    u &= 0x7FFFFFFF;
    if (u > 0x7F800000) return (uint16_t)(sign | 0x7E00);
    if (u >= 0x477FF000) return (uint16_t)(sign | 0x7C00);                                    /* 65520 and above */
    if (u < 0x38800000) return (uint16_t)(sign | (bits_of(float_of(u) + 0.5f) - 0x3F000000)); /* ulp(0.5f) is the f16 step */
    return (uint16_t)(sign | ((u - (112u << 23) + 0xFFF + ((u >> 13) & 1)) >> 13));
}

static inline float f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t special = (h & 0x7C00) == 0x7C00 ? 0x7F800000 : 0;
    return float_of(sign | special | bits_of(float_of((uint32_t)(h & 0x7FFF) << 13) * 0x1p112f));
}

/* The same for a single number such as a scale, by hardware where there is some (loops over many vectorise the code above). */
static inline uint16_t f16_of_scale(float f) {
#if defined(__F16C__)
    return f == f ? _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT) : f16_from_f32(f);
#else
    return f16_from_f32(f);
#endif
}

static inline float scale_of_f16(uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#else
    return f32_from_f16(h);
#endif
}

/* To nearest even; NaN stays one (quiet). */
static inline uint16_t bf16_from_f32(float f) {
    uint32_t u = bits_of(f), nan = (u & 0x7FFFFFFF) > 0x7F800000;
    return (uint16_t)(nan ? (u >> 16) | 64 : (u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

static inline float f32_from_bf16(uint16_t h) { return float_of((uint32_t)h << 16); }

/* ---- blocks ---- */

/* The largest magnitude of n values, as an integer (see magnitude). */
static inline int32_t largest_magnitude(const float *x, int n) {
    int32_t top = 0;
    for (int j = 0; j < n; j++) top = magnitude(x[j]) > top ? magnitude(x[j]) : top;
    return top;
}

/* The value of largest magnitude, with its sign; of equal magnitudes the first, of zeros +0. n: a multiple of 8, up to 64. */
static inline float largest_value(const float *x, int n) {
#if defined(__AVX2__)
    __m256i all = _mm256_set1_epi32(0x7FFFFFFF), top = _mm256_setzero_si256();
    for (int j = 0; j < n; j += 8)
        top = _mm256_max_epi32(top, _mm256_and_si256(all, _mm256_loadu_si256((const __m256i *)(x + j))));
    top = _mm256_max_epi32(top, _mm256_permute2x128_si256(top, top, 1));
    top = _mm256_max_epi32(top, _mm256_shuffle_epi32(top, 0x4E));
    top = _mm256_max_epi32(top, _mm256_shuffle_epi32(top, 0xB1));
    uint64_t equal = 0;
    for (int j = 0; j < n; j += 8) {
        __m256i m = _mm256_and_si256(all, _mm256_loadu_si256((const __m256i *)(x + j)));
        equal |= (uint64_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(m, top))) << j;
    }
    return x[__builtin_ctzll(equal)] + 0.0f;
#else
    int32_t top = largest_magnitude(x, n), first = n - 1;
    for (int j = n - 1; j >= 0; j--) first = magnitude(x[j]) == top ? j : first;
    return x[first] + 0.0f;
#endif
}

/* 1/d, and 0 for d = 0. Where d is so small that 1/d is infinite the block cannot be scaled: 0 as well. */
static inline float inverse(float d) {
    float id = d != 0 ? 1.0f / d : 0.0f;
    return fabsf(id) <= FLT_MAX ? id : 0.0f;
}

#if defined(__AVX2__)

/* The low bytes of 2 x 8 integers within 0..255, in order. */
static inline __m128i bytes_of_i32x16(__m256i a, __m256i b) {
    __m256i u16 = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    return _mm_packus_epi16(_mm256_castsi256_si128(u16), _mm256_extracti128_si256(u16, 1));
}

#endif
#endif
