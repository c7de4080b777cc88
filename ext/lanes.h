/* SPDX-License-Identifier: MIT */
/* Lanes: vectors whose every lane runs the scalar algorithm on a block of its own.
 *
 * A float sum must be added in the order of the scalar code to give its bytes, so a block is never split over lanes.
 * Instead LANES blocks (8 with AVX2, 16 with AVX-512) are transposed: vector i holds value i of every block, and one
 * body of code in this vocabulary serves both widths. LANES is 1 on the base tier, where only scalar code is built.
 *
 *   vf, vi, vm       floats, 32-bit integers, and a mask. + - * / on vf and + - * & | ^ ~ << >> on vi are plain
 *                    operators; with a scalar on one side they broadcast it (x * 2.0f).
 *   v_lt(a, b) ...   C compares: false when a value is NaN (v_ne: true).
 *   v_min, v_max     v_min(a, b) is `a < b ? a : b`, v_max(a, b) is `a > b ? a : b`, so b wins when both are zeros or one
 *                    is NaN: the fold `if (x < min) min = x;` is `min = v_min(x, min);`.
 *   v_pick(m, a, b)  `m ? a : b`: a masked accept is `best = v_pick(better, now, best);`.
 *   v_nearest        to the nearest integer, ties to even, by the bit trick of ggml-quants.c (nearest_int): beyond 2^22
 *                    it wraps just as the scalar code does.
 *   v_round          the same as a float, without leaving the float registers, only for -2^22 <= v < 2^22 - 1.
 *   v_rint           to the nearest integer at any size, as a float; one instruction. -0.4 gives -0, which v_round makes 0.
 *   v_f16, v_of_f16  bits of binary16 (round to nearest even, overflow to infinity, NaN to 0x7E00) and back.
 *   i_of_bytes       LANES bytes as integers; i_count: 0, 1, 2 ...
 *   v_load_lanes     transposes in: vector i of the result has at[k][i] in lane k. n is a multiple of 4.
 *   i_store_lanes    transposes out: 4-byte word i of lane k goes to at[k] + 4 i. Any n.
 * at[] has one address per lane; give the lanes left over in the last group the address of something harmless.
 */
#ifndef GGUFMIX_LANES_H
#define GGUFMIX_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES 16
#elif defined(__AVX2__) && defined(__F16C__)
#define LANES 8
#else
#define LANES 1
#endif

#if LANES > 1
#include <immintrin.h>

#define V_INLINE static inline __attribute__((always_inline, unused))
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

/* What differs between the widths: the names of the intrinsics, and the kind of the mask. */
#if LANES == 16
#define V_OP(name) _mm512_##name
#define V_F(a) ((__m512)(a))
#define V_I(a) ((__m512i)(a))
typedef __mmask16 vm;
#define V_COMPARE(name, predicate) \
    V_INLINE vm name(vf a, vf b) { return _mm512_cmp_ps_mask(V_F(a), V_F(b), predicate); }
V_INLINE vf v_pick(vm m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, V_F(b), V_F(a)); }
V_INLINE vi i_pick(vm m, vi a, vi b) { return (vi)_mm512_mask_blend_epi32(m, V_I(b), V_I(a)); }
V_INLINE vm i_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask(V_I(a), V_I(b)); }
V_INLINE vm i_gt(vi a, vi b) { return _mm512_cmpgt_epi32_mask(V_I(a), V_I(b)); }
V_INLINE vm m_and(vm a, vm b) { return (vm)(a & b); }
V_INLINE vm m_or(vm a, vm b) { return (vm)(a | b); }
V_INLINE vm m_not(vm a) { return (vm)~a; }
V_INLINE unsigned m_bits(vm a) { return a; }
V_INLINE vi i_of_bytes(const uint8_t *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vf v_rint(vf a) { return (vf)_mm512_roundscale_ps(V_F(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#define V_F16_BITS(v) ((vi)_mm512_cvtepu16_epi32(_mm512_cvtps_ph(V_F(v), 0)))
#define V_OF_F16(h) ((vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(V_I(h))))
#else
#define V_OP(name) _mm256_##name
#define V_F(a) ((__m256)(a))
#define V_I(a) ((__m256i)(a))
typedef __m256 vm;
#define V_COMPARE(name, predicate) \
    V_INLINE vm name(vf a, vf b) { return _mm256_cmp_ps(V_F(a), V_F(b), predicate); }
V_INLINE vf v_pick(vm m, vf a, vf b) { return (vf)_mm256_blendv_ps(V_F(b), V_F(a), m); }
V_INLINE vi i_pick(vm m, vi a, vi b) { return (vi)_mm256_blendv_ps(V_F(b), V_F(a), m); }
V_INLINE vm i_eq(vi a, vi b) { return (vm)_mm256_cmpeq_epi32(V_I(a), V_I(b)); }
V_INLINE vm i_gt(vi a, vi b) { return (vm)_mm256_cmpgt_epi32(V_I(a), V_I(b)); }
V_INLINE vm m_and(vm a, vm b) { return _mm256_and_ps(a, b); }
V_INLINE vm m_or(vm a, vm b) { return _mm256_or_ps(a, b); }
V_INLINE vm m_not(vm a) { return _mm256_xor_ps(a, (vm)_mm256_set1_epi32(-1)); }
V_INLINE unsigned m_bits(vm a) { return (unsigned)_mm256_movemask_ps(a); }
V_INLINE vi i_of_bytes(const uint8_t *p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
V_INLINE vf v_rint(vf a) { return (vf)_mm256_round_ps(V_F(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#define V_F16_BITS(v) ((vi)_mm256_cvtepu16_epi32(_mm256_cvtps_ph(V_F(v), 0)))
#define V_OF_F16(h) ((vf)_mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(V_I(h)), _mm256_extracti128_si256(V_I(h), 1))))
#endif

V_COMPARE(v_lt, _CMP_LT_OQ)
V_COMPARE(v_le, _CMP_LE_OQ)
V_COMPARE(v_gt, _CMP_GT_OQ)
V_COMPARE(v_ge, _CMP_GE_OQ)
V_COMPARE(v_eq, _CMP_EQ_OQ)
V_COMPARE(v_ne, _CMP_NEQ_UQ)
V_INLINE int m_any(vm a) { return m_bits(a) != 0; }
V_INLINE int m_all(vm a) { return m_bits(a) == (1u << LANES) - 1; }

V_INLINE vf v_set(float a) { return (vf)V_OP(set1_ps)(a); }
V_INLINE vi i_set(int32_t a) { return (vi)V_OP(set1_epi32)(a); }
V_INLINE vi i_count(void) {
    vi a;
    for (int k = 0; k < LANES; k++) a[k] = k;
    return a;
}
V_INLINE vf v_load(const float *p) { return (vf)V_OP(loadu_ps)(p); }
V_INLINE void v_store(float *p, vf a) { V_OP(storeu_ps)(p, V_F(a)); }
V_INLINE vf v_min(vf a, vf b) { return (vf)V_OP(min_ps)(V_F(a), V_F(b)); }
V_INLINE vf v_max(vf a, vf b) { return (vf)V_OP(max_ps)(V_F(a), V_F(b)); }
V_INLINE vf v_sqrt(vf a) { return (vf)V_OP(sqrt_ps)(V_F(a)); }
V_INLINE vf v_abs(vf a) { return (vf)((vi)a & 0x7FFFFFFF); }
V_INLINE vi i_min(vi a, vi b) { return (vi)V_OP(min_epi32)(V_I(a), V_I(b)); }
V_INLINE vi i_max(vi a, vi b) { return (vi)V_OP(max_epi32)(V_I(a), V_I(b)); }
V_INLINE vi i_trunc(vf a) { return (vi)V_OP(cvttps_epi32)(V_F(a)); }
V_INLINE vf v_of(vi a) { return (vf)V_OP(cvtepi32_ps)(V_I(a)); }
V_INLINE vf v_round(vf a) { return (a + 12582912.0f) - 12582912.0f; }
V_INLINE vi v_nearest(vf a) { return ((vi)(a + 12582912.0f) & 0x007FFFFF) - 0x00400000; }
V_INLINE vf v_of_f16(vi bits) { return V_OF_F16(bits); }
V_INLINE vi v_f16(vf a) {
    return i_pick(v_ne(a, a), (((vi)a >> 16) & 0x8000) | 0x7E00, V_F16_BITS(a));
}

/* Transposes 4 x 4 values within each 128-bit part; its own inverse. */
V_INLINE void v_transpose4(vf r[4]) {
    vf a = (vf)V_OP(unpacklo_ps)(V_F(r[0]), V_F(r[1])), b = (vf)V_OP(unpackhi_ps)(V_F(r[0]), V_F(r[1]));
    vf c = (vf)V_OP(unpacklo_ps)(V_F(r[2]), V_F(r[3])), d = (vf)V_OP(unpackhi_ps)(V_F(r[2]), V_F(r[3]));
    r[0] = (vf)V_OP(shuffle_ps)(V_F(a), V_F(c), 0x44);
    r[1] = (vf)V_OP(shuffle_ps)(V_F(a), V_F(c), 0xEE);
    r[2] = (vf)V_OP(shuffle_ps)(V_F(b), V_F(d), 0x44);
    r[3] = (vf)V_OP(shuffle_ps)(V_F(b), V_F(d), 0xEE);
}

/* Part p (of LANES / 4) of row j belongs to lane 4 p + j: then transposing 4 x 4 in each part is the whole transpose. */
V_INLINE void v_load_lanes(const float *const at[LANES], int n, vf *out) {
    for (int i = 0; i < n; i += 4) {
        vf r[4];
        for (int j = 0; j < 4; j++) {
            __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at[j] + i)), _mm_loadu_ps(at[j + 4] + i), 1);
#if LANES == 16
            __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at[j + 8] + i)), _mm_loadu_ps(at[j + 12] + i), 1);
            r[j] = (vf)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
            r[j] = (vf)low;
#endif
        }
        v_transpose4(r);
        for (int j = 0; j < 4; j++) out[i + j] = r[j];
    }
}

V_INLINE void v_parts(vf v, __m128 part[LANES / 4]) {
#if LANES == 16
    part[0] = _mm512_castps512_ps128(V_F(v)), part[1] = _mm512_extractf32x4_ps(V_F(v), 1);
    part[2] = _mm512_extractf32x4_ps(V_F(v), 2), part[3] = _mm512_extractf32x4_ps(V_F(v), 3);
#else
    part[0] = _mm256_castps256_ps128(V_F(v)), part[1] = _mm256_extractf128_ps(V_F(v), 1);
#endif
}

V_INLINE void i_store_lanes(uint8_t *const at[LANES], int n, const vi *words) {
    for (int i = 0; i < n; i += 4) {
        vf r[4];
        for (int j = 0; j < 4; j++) r[j] = i + j < n ? (vf)words[i + j] : v_set(0.0f);
        v_transpose4(r);
        for (int j = 0; j < 4; j++) {
            __m128 part[LANES / 4];
            v_parts(r[j], part);
            for (int p = 0; p < LANES / 4; p++) {
                uint8_t *to = at[4 * p + j] + 4 * i;
                if (n - i >= 4) _mm_storeu_ps((float *)to, part[p]);
                else if (n - i == 1) _mm_store_ss((float *)to, part[p]);
                else memcpy(to, &part[p], 4 * (n - i));
            }
        }
    }
}

#endif
#endif
