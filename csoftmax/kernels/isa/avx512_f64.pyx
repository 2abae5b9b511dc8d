# The kernels at the avx512 level in float64.
include "../kernel.pxi"
