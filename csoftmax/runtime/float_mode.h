/* The processor's floating-point mode: rounding, what becomes of subnormal numbers, which exceptions trap.
 *
 * The kernels need the mode that every process starts in. A library may have set another one, such as flush-to-zero,
 * for the thread that calls: it is set aside during the work and put back. The status flags, which say what has
 * happened, are not part of the mode and stay as the work leaves them. */
#ifndef CSOFTMAX_FLOAT_MODE_H
#define CSOFTMAX_FLOAT_MODE_H

#if defined(__GNUC__)
#define CSM_MODE_FN __attribute__((unused)) static inline
#else
#define CSM_MODE_FN static inline
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#define CSM_STATUS_FLAGS 0x3fu
#define CSM_DEFAULT_MODE 0x1f80u
CSM_MODE_FN unsigned long long csm_read_mode(void) { return _mm_getcsr() & ~CSM_STATUS_FLAGS; }
CSM_MODE_FN void csm_write_mode(unsigned long long mode) {
    _mm_setcsr((unsigned)mode | (_mm_getcsr() & CSM_STATUS_FLAGS));
}
#elif defined(__aarch64__)
#define CSM_DEFAULT_MODE 0u
CSM_MODE_FN unsigned long long csm_read_mode(void) {
    unsigned long long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode) : : "memory");
    return mode;
}
CSM_MODE_FN void csm_write_mode(unsigned long long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#elif defined(_M_ARM64)
#include <intrin.h>
#define CSM_DEFAULT_MODE 0u
CSM_MODE_FN unsigned long long csm_read_mode(void) { return (unsigned long long)_ReadStatusReg(ARM64_FPCR); }
CSM_MODE_FN void csm_write_mode(unsigned long long mode) { _WriteStatusReg(ARM64_FPCR, (__int64)mode); }
#else
#define CSM_DEFAULT_MODE 0u
CSM_MODE_FN unsigned long long csm_read_mode(void) { return CSM_DEFAULT_MODE; }
CSM_MODE_FN void csm_write_mode(unsigned long long mode) { (void)mode; }
#endif

/* Sets the default mode; the caller's own, for csm_leave_mode. */
CSM_MODE_FN unsigned long long csm_enter_mode(void) {
    unsigned long long mode = csm_read_mode();
    if (mode != CSM_DEFAULT_MODE) csm_write_mode(CSM_DEFAULT_MODE);
    return mode;
}

CSM_MODE_FN void csm_leave_mode(unsigned long long mode) {
    if (mode != CSM_DEFAULT_MODE) csm_write_mode(mode);
}

#endif
