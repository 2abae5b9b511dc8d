"""The cells of the full run: those with a target, what else users have, and the sweeps behind the plots."""

from csoftmax.cli.bench import FORMATS, Cell

F32, F64, F16, BF16 = "float32", "float64", "float16", "bfloat16"
SHAPES = (  # softmax in float32: shape, axis, out=, (at least, aim)
    ((1000, 1000), -1, False, (1.4, 1.7)),
    ((32, 50257), -1, False, (1.4, 1.7)),
    ((300, 4097), -1, False, (1.4, 1.7)),
    ((64, 128256), -1, True, (1.3, 1.7)),
    ((8, 12, 512, 512), -1, True, (1.3, 1.7)),
    ((1, 2**24), -1, True, (1.3, 1.7)),
    ((10000, 10), -1, False, (2.5, 4)),
    ((100000, 3), -1, False, (2.5, 4)),
    ((20000, 33), -1, False, (1.4, 2)),
    ((1000, 1000), 0, False, (1.4, 2)),
    ((32, 1000, 14, 14), 1, False, (1.8, 2.5)),
    ((8, 21, 512, 512), 1, False, (2.5, 4)),
    ((10,), -1, False, (3, 4)),
)
SMALL = 2**15  # elements below which one thread does it all
QUICK = 2**21
LENGTHS = (1, 2, 3, 5, 8, 10, 16, 21, 32, 48, 64, 100, 256, 1000, 4097, *(2**k for k in range(14, 25, 2)))
BATCHES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def targets():
    """Every cell with the ratio it must reach and the one aimed at."""
    cells = {Cell("softmax", shape, axis, F32, out): ratios for shape, axis, out, ratios in SHAPES}
    cells |= {
        Cell("softmax", (1000, 1000), -1, F64): (1.4, 1.7),
        Cell("softmax", (8, 12, 512, 512), -1, F64, True): (1.8, 2.5),
        Cell("softmax", (1000, 1000), 0, F64): (1.4, 2),
    }
    for dtype in (F16, BF16):
        cells |= {
            Cell("softmax", (1000, 1000), -1, dtype): (2.2, 3),
            Cell("softmax", (32, 50257), -1, dtype): (2.2, 3),
            Cell("softmax", (8, 12, 512, 512), -1, dtype, True): (2.2, 3),
        }
    cells |= {Cell("log_softmax", shape, axis, F32, out): (1.4, 2) for shape, axis, out, _ in SHAPES}
    cells |= {Cell("logsumexp", shape, axis, F32): (1.4, 2) for shape, axis, _, _ in SHAPES}
    cells |= {
        Cell("softmax_backward", (1000, 1000), -1, F32): (1.1, 1.3),
        Cell("softmax_backward", (8, 12, 512, 512), -1, F32, True): (1.3, 2),
        Cell("softmax_backward", (10000, 10), -1, F32): (1.3, 2),
        Cell("softmax_backward", (1000, 1000), 0, F32): (1.3, 2),
        Cell("log_softmax_backward", (1000, 1000), -1, F32): (1.3, 2),
    }
    for operation, ratios in ("cross_entropy", (2, 3)), ("cross_entropy_with_grad", (2.5, 4)):
        cells |= {Cell(operation, shape, -1, F32): ratios for shape in ((1000, 1000), (256, 50257))}
    return cells


def cells():
    """Every operation on the shapes its users have."""
    found = dict.fromkeys(targets())
    for shape, axis, out, _ in SHAPES:
        found[Cell("softmax", shape, axis, out=not out)] = None
    more = ((20000, 21), -1), ((32, 50257), -1), ((10000, 10), -1), ((1000, 1000), 0), ((2, 21, 256, 256), 1)
    for dtype in FORMATS:
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
    return [Cell("softmax", (max(1, 2**20 // n), n), -1, dtype, True) for dtype in FORMATS for n in LENGTHS]


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
