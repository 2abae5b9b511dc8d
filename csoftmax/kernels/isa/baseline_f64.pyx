# The kernels at the baseline level in float64.
include "../kernel.pxi"
