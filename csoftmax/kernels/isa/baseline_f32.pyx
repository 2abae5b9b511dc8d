# The kernels at the baseline level in float32.
include "../kernel.pxi"
