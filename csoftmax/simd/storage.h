/* The element types that arrays may have in memory, and single elements of them. */
#ifndef CSOFTMAX_STORAGE_H
#define CSOFTMAX_STORAGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum csm_storage {
    CSM_F16, CSM_BF16, CSM_F32, CSM_F64,
    CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_I64, CSM_U64,
    CSM_SWAPPED = 16 /* added to one of the above: the other byte order */
};

/* Copies size bytes from "from" (IN) to "to" (OUT), in reverse order if they are swapped. */
static inline void csm_fetch(void *to, const char *from, size_t size, int swapped) {
    if (!swapped) {
        memcpy(to, from, size);
    } else {
        for (size_t i = 0; i < size; i++) ((char *)to)[i] = from[size - 1 - i];
    }
}

/* The integer of a storage type at p (IN), or -1 if that is not one of integers; what int64_t cannot hold becomes its
 * largest. */
static inline int64_t csm_load_index(int storage, const char *p) {
    const int swapped = storage & CSM_SWAPPED;
    switch (storage & ~CSM_SWAPPED) {
#define CSM_INDEX(T)                                                                                         \
    {                                                                                                        \
        T v;                                                                                                 \
        csm_fetch(&v, p, sizeof v, swapped);                                                                 \
        return (int64_t)v;                                                                                   \
    }
    case CSM_I8: CSM_INDEX(int8_t)
    case CSM_U8: CSM_INDEX(uint8_t)
    case CSM_I16: CSM_INDEX(int16_t)
    case CSM_U16: CSM_INDEX(uint16_t)
    case CSM_I32: CSM_INDEX(int32_t)
    case CSM_U32: CSM_INDEX(uint32_t)
    case CSM_I64: CSM_INDEX(int64_t)
    case CSM_U64: {
        uint64_t v;
        csm_fetch(&v, p, sizeof v, swapped);
        return v > (uint64_t)INT64_MAX ? INT64_MAX : (int64_t)v;
    }
#undef CSM_INDEX
    default: return -1;
    }
}

#endif /* CSOFTMAX_STORAGE_H */
