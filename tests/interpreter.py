"""Code in an interpreter of its own, without the settings of the one that tests."""

import os
import subprocess
import sys


def python(code, first="import csoftmax", **environment):
    """Run `code` in a fresh interpreter whose warnings are errors."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CSOFTMAX_", "OMP_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{first}\n{code}"],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def output(code, first="import csoftmax", **environment):
    """What `code` prints; it must neither fail nor print anything else."""
    run = python(code, first, **environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout.strip()
