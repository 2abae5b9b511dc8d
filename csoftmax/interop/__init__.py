"""csoftmax inside other libraries: one module a library, which only that module imports."""
