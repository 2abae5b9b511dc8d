"""The kernels, compiled once for each ISA level and precision: `_dispatch` imports the one pair that is in use."""
