/* SPDX-License-Identifier: MIT
 *
 * The rows, the tiers, and which tiers this CPU and its system can run. Compiled for the baseline, so that it runs everywhere.
 */
#include "core.h"

#if defined(GGUFMIX_X86_TIERS)
#include <cpuid.h>
#endif

const struct row rows[N_FORMATS] = {
#define FORMAT(name, id, values, bytes, importance, scale, scale_at, min_at, wipe)                                         \
    [AT_##name] = {#name, id, values, bytes, importance, SCALE_##scale, scale_at, min_at, wipe},
#define ENCODER(name, format)
#include "formats.def"
#undef FORMAT
#undef ENCODER
};

const struct encoder encoders[N_ENCODERS] = {
#define FORMAT(name, ...) [AT_##name] = {#name, AT_##name},
#define ENCODER(name, format) [AT_##name] = {#name, AT_##format},
#include "formats.def"
#undef FORMAT
#undef ENCODER
};

static int always(void) { return 1; }

#if defined(GGUFMIX_X86_TIERS)

/* All bits of `mask` in one output register (0 eax .. 3 edx) of a cpuid leaf. */
static int cpu_has(unsigned leaf, int reg, unsigned mask) {
    unsigned r[4];
    return __get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]) && (r[reg] & mask) == mask;
}

/* The register states in `mask` are saved by the operating system. Called only where the CPU has xgetbv. */
static int system_saves(unsigned mask) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & mask) == mask;
}

/* x86-64-v3: fma, movbe, osxsave, avx, f16c; bmi1, avx2, bmi2; lzcnt; and the ymm state. */
static int has_avx2(void) {
    return cpu_has(1, 2, 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29) &&
           cpu_has(7, 1, 1u << 3 | 1u << 5 | 1u << 8) && cpu_has(0x80000001, 2, 1u << 5) && system_saves(0x06);
}

/* x86-64-v4: avx512 f, dq, cd, bw, vl; and the opmask and zmm states. */
static int has_avx512(void) {
    return has_avx2() && cpu_has(7, 1, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) && system_saves(0xE6);
}

#endif

#define TIER(isa, test)                                                                                                    \
    {#isa, test, encode_rows_##isa, decode_rows_##isa, repack_int4_##isa, repack_mxfp4_##isa, widen_q4_0_##isa,            \
     widen_mxfp4_##isa, recover_lattice_##isa, quantize_fp8_##isa, dequantize_fp8_##isa, measure_##isa},
#define WORK(isa)                                                                                                          \
    struct report encode_rows_##isa(int, int, const void *, const float *, uint8_t *, int64_t, int64_t, void *);           \
    void decode_rows_##isa(int, const uint8_t *, float *, int64_t, int64_t);

WORK(base)
#if defined(GGUFMIX_X86_TIERS)
WORK(avx2)
WORK(avx512)
#endif

/* Slowest first. */
const struct tier tiers[] = {
    TIER(base, always)
#if defined(GGUFMIX_X86_TIERS)
    TIER(avx2, has_avx2)
    TIER(avx512, has_avx512)
#endif
};

const int n_tiers = sizeof tiers / sizeof *tiers;

size_t scratch_bytes(int encoder, int64_t n_per_row, int64_t n_rows, int weighted) {
    const struct row *r = &rows[encoders[encoder].format];
    size_t values = (size_t)(rows_per_chunk(n_per_row, n_rows, weighted) * n_per_row);
    return 4 * values + 8 * (r->values > 1 ? values / (size_t)scale_group(r) : 0) + 64;
}
