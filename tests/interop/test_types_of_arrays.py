"""A user's file that imports the integrations of array libraries passes mypy --strict, and wrong arguments do not."""

import subprocess
import sys
from pathlib import Path

import pytest

import csoftmax

pytestmark = pytest.mark.interop

PACKAGE = Path(csoftmax.__file__).parents[1]
# as for an installed package, of which mypy reports nothing
CONFIGURATION = "[mypy]\nstrict = True\n[mypy-csoftmax.*]\nignore_errors = True\n"
RIGHT = """
import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from csoftmax.interop import autoray, dask, numba
from csoftmax.interop.jax import log_softmax, logsumexp, softmax

p: jax.Array = softmax(jnp.zeros((2, 3)), [0, 1], temperature=jnp.float32(2.0), where=jnp.ones(3, bool))
log_p: jax.Array = log_softmax([1.0, 2.0], axis=None, temperature=2.0)
total: jax.Array = logsumexp(np.zeros(3), (0,), keepdims=True)


def entropy(logits: jax.Array, t: jax.Array) -> jax.Array:
    return -(softmax(logits, temperature=t) * log_softmax(logits, temperature=t)).sum(-1)


row: NDArray[np.float32] = numba.softmax(np.zeros(3, np.float32), -1, 2.0)
log_row: NDArray[np.float64] = numba.log_softmax(np.zeros(3), out=np.zeros(3))
sums: float = numba.logsumexp(np.zeros(3))
autoray.register()
autoray.register("jax")
lazy: da.Array = dask.softmax(da.zeros((2, 3)), temperature=2.0, where=np.ones(3, bool))
log_lazy: da.Array = dask.log_softmax([1.0, 2.0], dtype=np.float32)
lazy_sum: da.Array = dask.logsumexp(np.zeros(3), [0], keepdims=True)
loss: da.Array = dask.cross_entropy(lazy, np.zeros(2, int), weight=[1.0, 2.0, 3.0], reduction="sum")
"""
WRONG = {
    'dask.cross_entropy(lazy, [0, 0], reduction="median")': '"Literal[\'median\']"; expected "Literal[\'mean\', ',
    'autoray.register("cupy")': '"Literal[\'cupy\']"; expected "Literal[\'numpy\', ',
    "softmax(p, dim=1)": 'Unexpected keyword argument "dim"',
    "softmax(p, temperature=None)": 'Argument "temperature" to "softmax" has incompatible type "None"',
    "dask.softmax(lazy, out=lazy)": 'Unexpected keyword argument "out"',
    "numba.softmax(np.zeros(3, np.int64))": "cannot be",
    "row = softmax(p)": "Incompatible types in assignment",
}


def test_users_files(tmp_path):
    (tmp_path / "mypy.ini").write_text(CONFIGURATION)
    (tmp_path / "user.py").write_text(RIGHT + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "user.py"]
    environment = {"MYPYPATH": str(PACKAGE), "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    *errors, summary = done.stdout.splitlines()
    assert summary == f"Found {len(WRONG)} errors in 1 file (checked 1 source file)", done.stdout + done.stderr
    first = RIGHT.count("\n") + 1
    for line, (statement, message) in enumerate(WRONG.items(), first):
        (error,) = [error for error in errors if error.startswith(f"user.py:{line}: error: ")]
        assert message in error, statement
