"""What this build is, what this machine has, and what is in use."""

import os
import platform
import sys
from typing import Any, TextIO

import numpy as np

from csoftmax._version import __version__
from csoftmax.runtime import core as _core
from csoftmax.runtime import cpus as _cpus
from csoftmax.runtime import dispatch as _dispatch


def runtime_info() -> dict[str, Any]:
    """Describe the build, the machine and the settings in force.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``compile_flags``, ``isa`` (levels ``built``, ``supported`` by build and CPU,
        and the ``active`` one), ``threads`` (the ``active`` number, its ``origin``, ``cpus`` this process may use, the
        ``quota`` in CPUs of the cgroups it is in or None, ``workers`` made so far), ``environment`` (the variables
        that are set), ``python``, ``numpy`` and ``platform``. Only plain values, fit for JSON.

    Notes
    -----
    The origin of the number of threads is one of ``"threads()"``, ``"set_num_threads"``, ``"threadpoolctl"``,
    ``"CSOFTMAX_NUM_THREADS"``, ``"OMP_NUM_THREADS"``, ``"OMP_THREAD_LIMIT"``, ``"cgroup quota"``, ``"affinity"`` and
    ``"CPUs"``, the last meaning all of the machine's.

    Examples
    --------
    >>> import csoftmax
    >>> csoftmax.runtime_info()["isa"]["active"] == csoftmax.get_isa()
    True
    """
    compiler, flags = _dispatch.compiler()
    names = ("CSOFTMAX_ISA", "CSOFTMAX_NUM_THREADS", "CSOFTMAX_STREAM_BYTES", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT")
    return {
        "version": __version__,
        "compiler": compiler,
        "compile_flags": flags,
        "isa": {
            "built": _dispatch.levels_built(),
            "supported": _dispatch.levels_available(),
            "active": _dispatch.get_isa(),
        },
        "threads": {
            "active": _core.get_num_threads(),
            "origin": _core.thread_origin(),
            "cpus": _cpus.usable_cpus()[0],
            "quota": _cpus.quota(),
            "workers": _core.workers(),
        },
        "environment": {name: os.environ[name] for name in names if name in os.environ},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def show_runtime(file: TextIO | None = None) -> None:
    """Print `runtime_info` for people, as bug reports want it.

    Parameters
    ----------
    file : file object, optional
        Where to print; standard output by default.

    Examples
    --------
    >>> import csoftmax
    >>> csoftmax.show_runtime()  # doctest: +ELLIPSIS
    csoftmax ...
    """
    file = sys.stdout if file is None else file
    info = runtime_info()
    isa, threads = info["isa"], info["threads"]
    lines = {
        "csoftmax": info["version"],
        "python": info["python"],
        "numpy": info["numpy"],
        "platform": info["platform"],
        "compiler": info["compiler"],
        "compile flags": info["compile_flags"],
        "isa active": isa["active"],
        "isa supported": ", ".join(isa["supported"]),
        "isa built": ", ".join(isa["built"]),
        "threads": f"{threads['active']} of {threads['cpus']} CPUs (from {threads['origin']})",
        "environment": " ".join(f"{k}={v}" for k, v in info["environment"].items()) or "nothing set",
    }
    for name, value in lines.items():
        print(f"{name:<14} {value}", file=file)


def get_include() -> str:
    """Directory of the C headers, for the include path of a compiler.

    Returns
    -------
    str
        The folder in which ``csoftmax/csoftmax.h`` lies.

    Examples
    --------
    >>> import csoftmax, os
    >>> os.path.isdir(csoftmax.get_include())
    True
    """
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), "include")
