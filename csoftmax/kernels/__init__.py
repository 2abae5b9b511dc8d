"""The arithmetic, written once for all ISA levels and precisions. This room may import the vector headers alone."""
