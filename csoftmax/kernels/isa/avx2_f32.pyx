# The kernels at the avx2 level in float32.
include "../kernel.pxi"
