# The kernels at the neon level in float32.
include "../_kernel.pxi"
