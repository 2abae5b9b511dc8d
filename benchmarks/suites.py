"""The cells of the full run: those with a target, what else users have, and the sweeps behind the plots."""

from cases import DTYPES, Cell
from cells import SHAPES, targets

SMALL = 2**15  # elements below which one thread does it all
QUICK = 2**21
LENGTHS = (
    1,
    2,
    3,
    5,
    8,
    10,
    16,
    21,
    32,
    48,
    64,
    100,
    256,
    1000,
    4097,
    2**14,
    2**16,
    2**18,
    2**20,
    2**22,
    2**24,
)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def cells():
    """Every operation on the shapes its users have."""
    found = dict.fromkeys(targets())
    for shape, axis, out, _ in SHAPES:
        found[Cell("softmax", shape, axis, out=not out)] = None
    more = ((20000, 21), -1), ((32, 50257), -1), ((10000, 10), -1), ((1000, 1000), 0), ((2, 21, 256, 256), 1)
    for dtype in DTYPES:
        for shape, axis in more:
            found[Cell("softmax", shape, axis, dtype)] = None
        for operation in "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward":
            found[Cell(operation, (1000, 1000), -1, dtype)] = None
        for operation in "cross_entropy", "cross_entropy_with_grad":
            found[Cell(operation, (1000, 1000), -1, dtype)] = None
    for operation in "softmax_backward", "log_softmax_backward":
        for shape, axis, out in (
            ((32, 50257), -1, False),
            ((8, 12, 512, 512), -1, True),
            ((10000, 10), -1, False),
            ((1000, 1000), 0, False),
            ((10,), -1, False),
        ):
            found[Cell(operation, shape, axis, out=out)] = None
    for operation in "cross_entropy", "cross_entropy_with_grad":
        found[Cell(operation, (10000, 10))] = None
    found[Cell("cross_entropy_with_grad", (256, 50257), out=True)] = None
    return list(found)


def row_lengths():
    """Softmax of about a million elements in rows of every length, and of one row where that is longer."""
    return [Cell("softmax", (max(1, 2**20 // n), n), -1, dtype, True) for dtype in DTYPES for n in LENGTHS]


def batches():
    """Softmax of 1 to 65536 rows of 1000, and the machine's copy of the same bytes."""
    return [Cell(operation, (rows, 1000), out=True) for rows in BATCHES for operation in ("softmax", "copy")]


def suite(threads, quick):
    """The run's cells as (name of the suite, cell)."""
    chosen = [("cells", cell) for cell in cells()] + [("batches", cell) for cell in batches()]
    if threads > 1:
        chosen = [(name, cell) for name, cell in chosen if cell.size >= SMALL]
    else:
        chosen += [("row_lengths", cell) for cell in row_lengths()]
    return [(name, cell) for name, cell in chosen if cell.size <= QUICK] if quick else chosen
