"""Threads, scratch memory, the ISA level in use, and what this machine has.

This room may import kernels and the vector headers.
"""
