"""The command line. This room may import csoftmax as users do, and `_extras`."""
