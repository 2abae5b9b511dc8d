# The kernels at the neon level in float32.
include "../kernel.pxi"
