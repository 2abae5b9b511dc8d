/* What this CPU and its operating system support, and what suits them. */
#ifndef CSOFTMAX_CPU_H
#define CSOFTMAX_CPU_H

#if defined(__GNUC__)
#define CSM_UNUSED __attribute__((unused))
#else
#define CSM_UNUSED
#endif

enum { CSM_CPU_AVX2 = 1, CSM_CPU_AVX512 = 2, CSM_CPU_NEON = 4 };

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
static void csm_cpuid(unsigned leaf, unsigned *r) { __cpuidex((int *)r, (int)leaf, 0); }
static unsigned csm_xcr0(void) { return (unsigned)_xgetbv(0); }
#else
#include <cpuid.h>
static void csm_cpuid(unsigned leaf, unsigned *r) { __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]); }
static unsigned csm_xcr0(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif

/* leaf 1 ecx: FMA, MOVBE, OSXSAVE, AVX, F16C; leaf 7 ebx: BMI1, AVX2, BMI2; 0x80000001 ecx: LZCNT */
#define CSM_ECX1 (1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29)
#define CSM_EBX7 (1u << 3 | 1u << 5 | 1u << 8)
#define CSM_LZCNT (1u << 5)
/* leaf 7 ebx: AVX-512 F, DQ, CD, BW, VL */
#define CSM_EBX7_512 (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)
/* XCR0: the system saves XMM and YMM; also opmask and ZMM */
#define CSM_XCR0_256 0x06u
#define CSM_XCR0_512 0xe6u

CSM_UNUSED static int csm_cpu_levels(void) {
    unsigned r[4], features, xcr0;
    int levels = 0;
    csm_cpuid(0, r);
    if (r[0] < 7) return 0;
    csm_cpuid(1, r);
    if ((r[2] & CSM_ECX1) != CSM_ECX1) return 0;
    csm_cpuid(7, r);
    features = r[1];
    csm_cpuid(0x80000001u, r);
    xcr0 = csm_xcr0();
    if ((features & CSM_EBX7) == CSM_EBX7 && (r[2] & CSM_LZCNT) && (xcr0 & CSM_XCR0_256) == CSM_XCR0_256)
        levels |= CSM_CPU_AVX2;
    if (levels && (features & CSM_EBX7_512) == CSM_EBX7_512 && (xcr0 & CSM_XCR0_512) == CSM_XCR0_512)
        levels |= CSM_CPU_AVX512;
    return levels;
}

/* Whether stores past the caches pay: a core of AMD's fills its write-combining buffers as fast as memory takes them;
 * one of Intel's servers does not, and its ordinary stores are a third faster. */
CSM_UNUSED static int csm_cpu_streams(void) {
    unsigned r[4];
    csm_cpuid(0, r);
    return r[1] == 0x68747541u && r[3] == 0x69746e65u && r[2] == 0x444d4163u; /* AuthenticAMD */
}
#elif defined(__aarch64__) || defined(_M_ARM64)
CSM_UNUSED static int csm_cpu_levels(void) { return CSM_CPU_NEON; }
CSM_UNUSED static int csm_cpu_streams(void) { return 0; }
#else
CSM_UNUSED static int csm_cpu_levels(void) { return 0; }
CSM_UNUSED static int csm_cpu_streams(void) { return 0; }
#endif

#if defined(__clang__)
#define CSM_COMPILER "Clang " __clang_version__
#elif defined(__GNUC__)
#define CSM_COMPILER "GCC " __VERSION__
#elif defined(_MSC_VER)
#define CSM_STRING_(x) #x
#define CSM_STRING(x) CSM_STRING_(x)
#define CSM_COMPILER "MSVC " CSM_STRING(_MSC_VER)
#else
#define CSM_COMPILER "unknown"
#endif

#ifndef CSM_CFLAGS
#define CSM_CFLAGS ""
#endif

#endif /* CSOFTMAX_CPU_H */
