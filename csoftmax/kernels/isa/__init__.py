"""The kernels, compiled once for each ISA level and precision: `runtime.dispatch` imports the one pair in use."""
