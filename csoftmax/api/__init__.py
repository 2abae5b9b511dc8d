"""The functions that users call: a docstring and one call each. This room may import plan alone."""
