# The kernels at the avx512 level in float64.
include "../_kernel.pxi"
