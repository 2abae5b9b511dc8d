/* The element types that arrays may have in memory. */
#ifndef CSOFTMAX_STORAGE_H
#define CSOFTMAX_STORAGE_H

enum csm_storage {
    CSM_F16, CSM_BF16, CSM_F32, CSM_F64,
    CSM_B1, CSM_I8, CSM_U8, CSM_I16, CSM_U16, CSM_I32, CSM_U32, CSM_I64, CSM_U64,
    CSM_SWAPPED = 16 /* added to one of the above: the other byte order */
};

#endif /* CSOFTMAX_STORAGE_H */
