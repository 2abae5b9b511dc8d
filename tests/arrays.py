"""Arrays that the tests run on: values without rounding in x - max, guarded memory, every memory layout."""

import ml_dtypes  # noqa: F401 (gives NumPy the name "bfloat16")
import numpy as np

DTYPES = ["float32", "float64"]
FLOATS = [*DTYPES, "float16", "bfloat16"]
# Error allowed where differences are exact; 16-bit results are float32's, rounded once.
MAX_ULP = {"float32": 4, "float64": 4, "float16": 0.502, "bfloat16": 0.502}
# A probability also has the error of a product and of the sum, which NumPy's formula takes to 8 or 9 ulp.
SOFTMAX_ULP = MAX_ULP | {"float32": 8, "float64": 8}
SHAPES = [(), (5,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 4)]


def widths(dtype):
    """Every length of a row that is tested; fewer for the 16-bit types, which run float32's kernels."""
    return range(1, 1101) if dtype in DTYPES else [*range(1, 131), *range(131, 1101, 7)]


# As fine as keeps differences of numbers below 32 exact, in float32 for the 16-bit types.
GRID = {"float32": 2**-18, "float64": 2**-46}


def exact_differences(rng, shape, dtype, spread=5, grid=None):
    """Normal values on a grid, so that x - max is exact and leaves the kernel's own error alone."""
    grid = grid or GRID.get(dtype, 2**-6)
    return (np.round(rng.standard_normal(shape) * spread / grid) * grid).astype(dtype)


class Guarded:
    """A C-ordered `array` at `offset` elements into a larger `memory` that is full of `fill`.

    NaN around an input shows in the result when a kernel reads too far; `intact` tells if one wrote too far.
    """

    def __init__(self, shape, dtype, offset=0, fill=np.nan, values=None):
        size = int(np.prod(shape))
        self.fill = fill
        self.memory = np.full(offset + size + 32, fill, dtype)
        self.array = self.memory[offset : offset + size].reshape(shape)
        self.before, self.after = self.memory[:offset], self.memory[offset + size :]
        if values is not None:
            self.array[...] = values

    def intact(self):
        return bool((self.before == self.fill).all() and (self.after == self.fill).all())


class Subclass(np.ndarray):
    """An ndarray subclass with nothing of its own."""


def _misaligned(a, dtype=None):
    dtype = dtype or a.dtype
    memory = np.empty(a.nbytes + 1, np.uint8)[1:]
    out = memory.view(dtype).reshape(a.shape)
    out[...] = a
    return out


def _field(a):
    records = np.zeros(a.shape, [("tag", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def _first_field(a):
    """What the data pointer fits and the strides, of the last axis too, do not."""
    records = np.zeros(a.shape, [("value", a.dtype), ("tag", "u1")])
    records["value"] = a
    return records["value"]


def _subarray_field(a):
    """Whole elements apart along the last axis, and not along the others."""
    records = np.zeros(a.shape[:-1], [("value", a.dtype, a.shape[-1:]), ("tag", "u1", 2)])
    records["value"] = a
    return records["value"]


def _sliced(a):
    spread = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
    inner = spread[tuple(slice(1, None, 2) for _ in a.shape)]
    inner[...] = a
    return inner


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


# Each builds an array equal to `a` (3-d), but in another layout.
WRITABLE_LAYOUTS = {
    "C": np.array,
    "F": lambda a: np.array(a, order="F"),
    "transposed": lambda a: np.array(a.transpose(2, 0, 1), order="C").transpose(1, 2, 0),
    "sliced": _sliced,
    "last axis strided": lambda a: np.repeat(a, 3, axis=-1)[..., ::3],
    "first axis sliced": lambda a: np.repeat(a, 2, axis=0)[::2],
    "all axes reversed": lambda a: a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "last axis reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "reversed F": lambda a: np.array(a[:, ::-1], order="F")[:, ::-1],
    "misaligned": _misaligned,
    "field of records": _field,
    "first field of records": _first_field,
    "field of records of rows": _subarray_field,
    "subclass": lambda a: a.copy().view(Subclass),
}
LAYOUTS = WRITABLE_LAYOUTS | {
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped F": lambda a: np.asarray(a, order="F").astype(a.dtype.newbyteorder()),
    "byte-swapped and misaligned": lambda a: _misaligned(a, a.dtype.newbyteorder()),
    "read-only": _read_only,
}
# These repeat their elements, so their values are their own.
BROADCAST_LAYOUTS = {
    "stride 0 last": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "stride 0 first": lambda a: np.broadcast_to(a[:1], a.shape),
    "stride 0 everywhere": lambda a: np.broadcast_to(a[0, 0, 0], a.shape),
    "overlapping windows": lambda a: np.lib.stride_tricks.sliding_window_view(
        a[:, 0], a.shape[-1] // 2, axis=-1
    ),
}
