# The kernels, which Cython translates once; setup.py compiles the C for every ISA level and precision.
include "../kernel.pxi"
