# The kernels at the avx2 level in float64.
include "../kernel.pxi"
