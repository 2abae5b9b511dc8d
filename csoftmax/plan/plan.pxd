# What the modules that users call ask of the plan: in C where they are compiled, else in Python.

cpdef forward(int operation, x, axis, temperature, where, out, dtype, dict explained=*)

cpdef logsumexp(x, axis, where, keepdims, out, dtype, dict explained=*)

cpdef backward(int operation, v, output, axis, temperature, where, out, name, dict explained=*)
