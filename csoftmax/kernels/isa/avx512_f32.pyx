# The kernels at the avx512 level in float32.
include "../kernel.pxi"
