"""From arguments to a problem for the kernels: axes, dtypes, memory, errors.

This room may import runtime, kernels and the vector headers.
"""
