/* What this CPU and its operating system support, and what suits them. */
#ifndef CSOFTMAX_CPU_H
#define CSOFTMAX_CPU_H

#include <stddef.h>

#if defined(__GNUC__)
#define CSM_UNUSED __attribute__((unused))
#else
#define CSM_UNUSED
#endif

/* Room for the names that csm_cpu_features writes. */
enum { CSM_CPU_FEATURES = 16 };

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

/* Where CPUID says that the CPU has a feature: the leaf, the word of what it returns (eax, ebx, ecx, edx) and the bit.
 * And the bits of XCR0 by which the operating system says that it saves the registers (2: XMM, 4: YMM, 0xe0: masks and
 * ZMM). The names are those of /proc/cpuinfo; "abm" has LZCNT. Features of one leaf stand together. */
static const struct {
    const char *name;
    unsigned leaf, word, bit, xcr0;
} csm_x86_features[] = {
    {"fma", 1, 2, 12, 0x06},       {"movbe", 1, 2, 22, 0},        {"f16c", 1, 2, 29, 0x06},
    {"bmi1", 7, 1, 3, 0},          {"avx2", 7, 1, 5, 0x06},       {"bmi2", 7, 1, 8, 0},
    {"avx512f", 7, 1, 16, 0xe6},   {"avx512dq", 7, 1, 17, 0xe6},  {"avx512cd", 7, 1, 28, 0xe6},
    {"avx512bw", 7, 1, 30, 0xe6},  {"avx512vl", 7, 1, 31, 0xe6},  {"abm", 0x80000001u, 2, 5, 0},
};

/* Writes the names of the features that this CPU and its operating system have to names (OUT); returns how many. */
CSM_UNUSED static int csm_cpu_features(const char **names) {
    const unsigned osxsave = 1u << 27;
    unsigned r[4], read = 1, last, last_extended, xcr0;
    int count = 0;
    csm_cpuid(0, r);
    last = r[0];
    csm_cpuid(0x80000000u, r);
    last_extended = r[0];
    csm_cpuid(1, r);
    xcr0 = r[2] & osxsave ? csm_xcr0() : 0;
    for (size_t i = 0; i < sizeof csm_x86_features / sizeof *csm_x86_features; i++) {
        const unsigned leaf = csm_x86_features[i].leaf, needed = csm_x86_features[i].xcr0;
        if (leaf > (leaf >> 31 ? last_extended : last)) continue;
        if (leaf != read) csm_cpuid(read = leaf, r); /* slow in virtual machines */
        if (r[csm_x86_features[i].word] >> csm_x86_features[i].bit & 1 && (xcr0 & needed) == needed)
            names[count++] = csm_x86_features[i].name;
    }
    return count;
}

/* Whether stores past the caches pay: a core of AMD's fills its write-combining buffers as fast as memory takes them;
 * one of Intel's servers does not, and its ordinary stores are a third faster. */
CSM_UNUSED static int csm_cpu_streams(void) {
    unsigned r[4];
    csm_cpuid(0, r);
    return r[1] == 0x68747541u && r[3] == 0x69746e65u && r[2] == 0x444d4163u; /* AuthenticAMD */
}
#else
#if defined(__aarch64__) || defined(_M_ARM64)
CSM_UNUSED static int csm_cpu_features(const char **names) {
    names[0] = "asimd";
    return 1;
}
#else
CSM_UNUSED static int csm_cpu_features(const char **names) {
    (void)names;
    return 0;
}
#endif
CSM_UNUSED static int csm_cpu_streams(void) { return 0; }
#endif

/* The compiler, and the flags it was given, as text. */
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
