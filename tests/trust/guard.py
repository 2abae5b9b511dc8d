"""Sweeps every function over arrays that touch a page nobody may touch: one byte too far and we die.

    python tests/trust/guard.py LEVEL DTYPE STEP

Run by `test_guard_pages`, in a process of its own. It notes each block of calls on stderr, so that the last
note names what a killed process was at, and prints the number of calls at the end.
"""

import ctypes
import itertools
import mmap
import os
import sys

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np

import csoftmax

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


class Fence:
    """Memory between two protected pages."""

    def __init__(self, size):
        pages = -(-size // PAGE)
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for guard in (address, address + (pages + 1) * PAGE):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = np.frombuffer(self.map, np.uint8, pages * PAGE, PAGE)
        self.bytes[:] = 0xFF
        self.inside = slice(0, 0)

    def place(self, shape, dtype, where):
        """An array right behind the first guard, right before the last, or a byte from it; 0xff around."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = {"start": 0, "end": self.bytes.size - size, "odd": self.bytes.size - size - 1}[where]
        self.bytes[self.inside] = 0xFF
        self.inside = slice(start, start + size)
        return self.bytes[self.inside].view(dtype).reshape(shape)

    def intact(self):
        """Nothing within a page around the array was written."""
        start, stop = self.inside.start, self.inside.stop
        around = self.bytes[max(0, start - PAGE) : start], self.bytes[stop : stop + PAGE]
        return all((part == 0xFF).all() for part in around)


# Each makes an array of `rows` rows of `width` along an axis, with a `place` to put the memory.
LAYOUTS = {
    "rows": lambda place, rows, width: (place((rows, width)), -1),
    "columns": lambda place, rows, width: (place((width, rows)), 0),
    "middle axis": lambda place, rows, width: (place((2, width, rows)), 1),
    "every second": lambda place, rows, width: (place((rows, 2 * width))[:, 1::2], -1),
    "every second from the front": lambda place, rows, width: (place((rows, 2 * width))[:, ::2], -1),
    "reversed": lambda place, rows, width: (place((rows, width))[:, ::-1], -1),
    "reversed columns": lambda place, rows, width: (place((width, rows))[::-1, ::-1], 0),
    # panels taller than the cache holds; here it is the columns that have every width
    "wide panels": lambda place, rows, width: (place((260 + rows, width)), 0),
    # rows that compete for lines of the cache, in several panels
    "rival rows": lambda place, rows, width: (place((1 + rows % 7, 1024 * (1 + width % 3) + 512)), 0),
}


def calls(x, p, axis, mask, target, out, small):
    """Every function on fenced arrays; `small` is a fenced result of the reduced shape."""
    yield csoftmax.softmax(x, axis, out=out)
    yield csoftmax.softmax(x, axis, out=out, where=mask)
    yield csoftmax.log_softmax(x, axis, out=out)
    yield csoftmax.logsumexp(x, axis, out=small)
    yield csoftmax.logsumexp(x, axis, where=mask, out=small)
    yield csoftmax.softmax_backward(x, p, axis, out=out)
    yield csoftmax.softmax_jvp(x, p, axis, out=out, temperature=2.0)
    yield csoftmax.log_softmax_backward(x, p, axis, out=out)
    yield csoftmax.log_softmax_jvp(x, p, axis, out=out)
    yield csoftmax.cross_entropy(x, target, axis)
    yield csoftmax.cross_entropy(x, p, axis, label_smoothing=0.1)
    yield csoftmax.cross_entropy_with_grad(x, target, axis, out=out, reduction="none")[1]
    yield csoftmax.cross_entropy_with_grad(x, p, axis, out=out)[1]
    if x.shape[axis] < 40:
        yield csoftmax.softmax_jacobian(p, axis)
    yield csoftmax.softmax(x, axis, out=x)


def sweep(dtype, widths):
    """All layouts, placements and widths; the number of calls."""
    fences = {name: Fence(300 * 300 * 8) for name in ("x", "p", "out", "small", "mask", "target")}
    rng, count = np.random.default_rng(1), 0
    for layout, where, rows in itertools.product(LAYOUTS, ("start", "end", "odd"), (1, 5, 33)):
        os.write(2, f"{layout}, {where}, {rows} rows\n".encode())
        for width in widths:

            def put(name, kind, layout=layout, where=where, rows=rows, width=width):
                return LAYOUTS[layout](lambda shape: fences[name].place(shape, kind, where), rows, width)

            x, axis = put("x", dtype)
            p, out, mask = put("p", dtype)[0], put("out", dtype)[0], put("mask", bool)[0]
            reduced = np.delete(x.shape, axis)
            small = fences["small"].place(reduced, dtype, where)
            target = fences["target"].place(reduced, "i8" if width > 127 else "i1", where)
            x[...] = rng.standard_normal(x.shape)
            p[...] = -rng.uniform(0.1, 1, x.shape)
            mask[...] = rng.integers(0, 3, x.shape) > 0
            mask[(*[slice(None)] * (axis % x.ndim), 0)] = True
            target[...] = rng.integers(0, min(x.shape[axis], 127 if target.itemsize == 1 else 300), reduced)
            for k, result in enumerate(calls(x, p, axis, mask, target, out, small)):
                assert not np.isnan(result).any(), (layout, where, rows, width, k, "read too far")
                count += 1
            assert all(f.intact() for f in fences.values()), (layout, where, rows, width, "wrote too far")
    return count


if __name__ == "__main__":
    if sys.argv[1] == "overrun":
        np.lib.stride_tricks.as_strided(Fence(1).place(8, "u1", "end"), (9,)).sum()
    with csoftmax.use_isa(sys.argv[1]):
        print(sweep(sys.argv[2], range(1, 301, int(sys.argv[3]))))
