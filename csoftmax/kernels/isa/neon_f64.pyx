# The kernels at the neon level in float64.
include "../kernel.pxi"
