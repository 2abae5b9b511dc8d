"""The caller's floating-point mode: the same bits whatever it is, and it is as before when the call is over."""

import contextlib
import ctypes
import itertools
import platform
import threading
from functools import partial

import numpy as np
import pytest
from arrays import FLOATS
from test_capi import SUFFIX, function

import csoftmax

X86 = platform.machine() in ("x86_64", "AMD64")
# where glibc's fenv_t has the control word, and what it is by default and in each mode that is tried
OFFSET, DEFAULT = (7, 0x1F80) if X86 else (0, 0)
STATUS = 0x3F if X86 else 0
FLUSH, ZEROS, UP, DOWN = (0x8000, 0x0040, 0x4000, 0x2000) if X86 else (1 << 24, 1 << 0, 1 << 22, 2 << 22)
MODES = {
    "results flushed": DEFAULT | FLUSH,
    "flushed and taken as zero": DEFAULT | FLUSH | ZEROS,
    "rounded up": DEFAULT | UP,
    "rounded down and flushed": DEFAULT | DOWN | FLUSH,
}
if X86:
    MODES["trapping"] = DEFAULT & ~0x0680  # invalid operations, divisions by zero and overflows
pytestmark = pytest.mark.linux("the layout of fenv_t is that of glibc")


def environment():
    libm = ctypes.CDLL("libm.so.6")
    words = (ctypes.c_uint32 * 8)()
    libm.fegetenv(words)
    return libm, words


def mode_now():
    """The mode of this thread, without its status flags."""
    return environment()[1][OFFSET] & ~STATUS


@contextlib.contextmanager
def mode(control):
    """Work in a mode, and see that it has stayed as it was set."""
    libm, words = environment()
    before = words[OFFSET]
    words[OFFSET] = control
    libm.fesetenv(words)
    try:
        yield
    finally:
        after = mode_now()
        words[OFFSET] = before
        libm.fesetenv(words)
    assert after == control & ~STATUS


def subnormal_inputs(dtype, shape=(3, 40)):
    """Logits whose probabilities reach from 1 down to below the least subnormal; and some that are subnormal."""
    spread = {"float16": 20, "bfloat16": 110, "float32": 110, "float64": 750}[np.dtype(dtype).name]
    x = np.linspace(-spread, 0, shape[0] * shape[1], dtype=np.float64).reshape(shape)
    x[0, :5] = np.finfo(np.float64).tiny if dtype == np.float64 else 2.0**-130
    return x.astype(dtype)


def target_of(x, axis=-1):
    return np.arange(x.size // x.shape[axis]).reshape(np.delete(x.shape, axis)) % x.shape[axis]


LEAST = 2.0**-1050
P, LOGS = csoftmax.softmax, csoftmax.log_softmax
# Every public function that computes, over strategies: from logits, what to call and with what. What NumPy makes of the
# logits beforehand is to be made in the default mode.
CALLS = {
    "softmax": lambda x: partial(P, x),
    "softmax of one row": lambda x: partial(P, x[0]),
    "softmax, first axis": lambda x: partial(P, x, 0),
    "softmax, masked": lambda x: partial(P, x, where=x < x.max()),
    "softmax, backwards": lambda x: partial(P, x[:, ::-1]),
    "softmax, tiny temperature": lambda x: partial(P, np.zeros_like(x), temperature=5e-324),
    "log_softmax": lambda x: partial(LOGS, x, temperature=3.0),
    "logsumexp": lambda x: partial(csoftmax.logsumexp, x * LEAST),
    "logsumexp, masked": lambda x: partial(csoftmax.logsumexp, x, where=x < x.max()),
    "softmax_backward": lambda x: partial(csoftmax.softmax_backward, P(x), P(x)),
    "softmax_backward, first axis": lambda x: partial(csoftmax.softmax_backward, P(x), P(x), 0),
    "softmax_jvp": lambda x: partial(csoftmax.softmax_jvp, x, P(x), temperature=7.0),
    "log_softmax_backward": lambda x: partial(csoftmax.log_softmax_backward, P(x), LOGS(x)),
    "log_softmax_jvp": lambda x: partial(csoftmax.log_softmax_jvp, P(x), LOGS(x)),
    "softmax_jacobian": lambda x: partial(csoftmax.softmax_jacobian, P(x)),
    "cross_entropy": lambda x: partial(
        csoftmax.cross_entropy, x, target_of(x), weight=np.full(x.shape[-1], LEAST), label_smoothing=0.1
    ),
    "cross_entropy, each": lambda x: partial(csoftmax.cross_entropy, x, target_of(x), reduction="none"),
    "cross_entropy_with_grad": lambda x: partial(
        csoftmax.cross_entropy_with_grad, x, target_of(x), reduction="sum", grad_output=LEAST
    ),
    "cross_entropy_with_grad, single": lambda x: partial(
        csoftmax.cross_entropy_with_grad, x, target_of(x), grad_output=np.float32(1e-45)
    ),
    "cross_entropy_with_grad, probabilities": lambda x: partial(csoftmax.cross_entropy_with_grad, x, P(x)),
    "cross_entropy_with_grad, first axis": lambda x: partial(csoftmax.cross_entropy_with_grad, x, target_of(x, 0), 0),
}


def bits(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part).tobytes() for part in parts]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", CALLS)
def test_the_bits_are_those_of_the_default_mode(name):
    for dtype, shape in itertools.product(FLOATS, [(3, 40), (70, 90)]):
        call = CALLS[name](subnormal_inputs(dtype, shape))
        want = bits(call())
        for control in MODES.values():
            with mode(control):
                got = call()
            assert bits(got) == want, (dtype, shape, control)


def test_subnormal_probabilities_are_there():
    """Else the test above would pass with all of them flushed."""
    for dtype in FLOATS:
        p = csoftmax.softmax(subnormal_inputs(dtype)).astype(np.float64)
        least = 2.0**-14 if np.dtype(dtype) == np.float16 else float(np.finfo(np.float32).tiny)
        least = np.finfo(np.float64).tiny if np.dtype(dtype) == np.float64 else least
        assert np.count_nonzero((p > 0) & (p < least)) > 1


@pytest.mark.parametrize("shape", [(400, 1000), (3, 300_000), (1000, 400)], ids=str)
def test_threads_of_the_pool_are_in_the_default_mode(shape):
    x = np.linspace(-110, 0, shape[0] * shape[1], dtype=np.float32).reshape(shape)[:, ::-1]
    for axis in (0, 1):
        want = csoftmax.softmax(x, axis)
        for control in MODES.values():
            with mode(control), csoftmax.threads(4):
                got = csoftmax.softmax(x, axis)
            assert np.array_equal(got.view("u4"), want.view("u4"))


@pytest.mark.parametrize("name", MODES)
def test_a_python_thread_keeps_its_own_mode(name):
    x, seen = subnormal_inputs("float32"), []
    want = bits(csoftmax.softmax(x))

    def work():
        with mode(MODES[name]):
            seen.append(bits(csoftmax.softmax(x)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [want]
    assert mode_now() == DEFAULT


def test_a_call_that_fails_puts_the_mode_back():
    for control in MODES.values():
        for wrong in (
            lambda: csoftmax.softmax([1.0], temperature=-1),
            lambda: csoftmax.cross_entropy([[1.0, 2.0]], [7]),
            lambda: csoftmax.softmax_jacobian([1.0], axis=5),
        ):
            with mode(control), pytest.raises((ValueError, IndexError)):
                wrong()


C_FUNCTIONS = ["softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward", "cross_entropy"]
C_FUNCTIONS += ["cross_entropy_with_grad", "log_softmax_jvp"]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_c_api(dtype):
    suffix = SUFFIX[np.dtype(dtype).name]
    x = subnormal_inputs(dtype, (3, 40))
    p = csoftmax.softmax(x)
    logs = csoftmax.log_softmax(x)
    loss_type = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    target = np.array([0, 5, 39])

    c = {name: function(f"{name}_{suffix}") for name in C_FUNCTIONS}
    data = [a.ctypes.data for a in (x, p, logs, target)]

    def run():
        results = [np.empty_like(x) for _ in range(6)] + [np.empty(3, dtype), *np.empty((2, 3), loss_type)]
        x_, p_, logs_, target_ = data
        y, y2, y3, y4, y5, y6, s, l1, l2 = [a.ctypes.data for a in results]
        status = [
            c["softmax"](3, 40, x_, 40, 1, y, 40, 1, 1.0),
            c["log_softmax"](3, 40, x_, 40, 1, y2, 40, 1, 5e-324),
            c["logsumexp"](3, 40, x_, 40, 1, s, 1),
            c["softmax_backward"](3, 40, p_, 40, 1, p_, 40, 1, y3, 40, 1, 1.0),
            c["log_softmax_backward"](3, 40, p_, 40, 1, logs_, 40, 1, y4, 40, 1, 1.0),
            c["log_softmax_jvp"](3, 40, p_, 40, 1, logs_, 40, 1, y6, 40, 1, 1.0),
            c["cross_entropy"](3, 40, x_, 40, 1, target_, 1, -100, l1, 1),
            c["cross_entropy_with_grad"](3, 40, x_, 40, 1, target_, 1, -100, l2, 1, y5, 40, 1, LEAST),
        ]
        return status, [a.tobytes() for a in results]

    want = run()
    assert want[0] == [0] * 8
    for control in MODES.values():
        with mode(control):
            got = run()
        assert got == want, control
        with mode(control):
            assert c["softmax"](3, -1, 0, 0, 0, 0, 0, 0, 1.0) == 1
            assert c["softmax_backward"](3, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0) == 1
