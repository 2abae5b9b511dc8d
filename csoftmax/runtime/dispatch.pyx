"""Chooses the ISA level: reads CPUID, imports the one pair of kernel modules that fits, and hands out its table."""

import importlib
import importlib.util
import os
from contextlib import contextmanager

from cpython.pycapsule cimport PyCapsule_GetPointer

from csoftmax.kernels.problem cimport Kernels
from csoftmax.runtime.levels import LEVELS

cdef extern from "csoftmax/simd/cpu.h":
    enum:
        CSM_CPU_FEATURES
    int csm_cpu_features(const char **names)
    const char *CSM_COMPILER
    const char *CSM_CFLAGS

cdef const Kernels *active32 = NULL
cdef const Kernels *active64 = NULL
cdef object active = None


cdef const Kernels *kernels_for(bint wide) noexcept nogil:
    return active64 if wide else active32


def cpu_features():
    """Names of those features that levels need and that this CPU has."""
    cdef const char *names[CSM_CPU_FEATURES]
    cdef int count = csm_cpu_features(names)
    return {names[i].decode() for i in range(count)}


def levels_built():
    """Names of the levels this installation was built with."""
    names = [level.name for level in LEVELS]
    return [name for name in names if importlib.util.find_spec(f"csoftmax.kernels.isa.{name}_f32") is not None]


def levels_available():
    """Names of the levels that were built and that this CPU has, the best last."""
    features = cpu_features()
    runs = {level.name for level in LEVELS if features.issuperset(level.features)}
    return [name for name in levels_built() if name in runs]


def compiler():
    """The C compiler and the flags that every module was built with."""
    return CSM_COMPILER.decode(), CSM_CFLAGS.decode()


def get_isa():
    """Name of the ISA level in use.

    Returns
    -------
    str
        One of those that ``runtime_info()["isa"]["supported"]`` lists.

    Examples
    --------
    >>> import csoftmax
    >>> csoftmax.get_isa() in csoftmax.runtime_info()["isa"]["supported"]
    True
    """
    return active


def activate(name):
    """Make the level `name` the one in use; `ValueError` if this CPU or this build lacks it."""
    global active, active32, active64
    if not isinstance(name, str):
        raise TypeError(f"the ISA level must be a string, not {type(name).__name__}")
    available = levels_available()
    if name not in available:
        raise ValueError(f"ISA level {name!r} is not available; this CPU and build have: {', '.join(available)}")
    tables = [importlib.import_module(f"csoftmax.kernels.isa.{name}_f{bits}").TABLE for bits in (32, 64)]
    active32 = <const Kernels *> PyCapsule_GetPointer(tables[0], "csoftmax.kernels")
    active64 = <const Kernels *> PyCapsule_GetPointer(tables[1], "csoftmax.kernels")
    active = name


@contextmanager
def use_isa(name):
    """Use another ISA level within a ``with`` block, for tests and comparisons.

    The level is one for the whole process, not one a thread.

    Parameters
    ----------
    name : str
        One of those that ``runtime_info()["isa"]["supported"]`` lists, such as ``"baseline"``.

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        If this CPU or this build lacks the level; the message lists those it has.

    Examples
    --------
    >>> import csoftmax
    >>> with csoftmax.use_isa("baseline"):
    ...     csoftmax.get_isa()
    'baseline'
    """
    before = active
    activate(name)
    try:
        yield
    finally:
        activate(before)


def choose():
    """Activate the level that ``CSOFTMAX_ISA`` names, else the best there is."""
    wanted = os.environ.get("CSOFTMAX_ISA")
    available = levels_available()
    if not available:
        folder = os.path.dirname(os.path.dirname(__file__))
        raise ImportError(f"no module of kernels is built in {folder}/kernels/isa: build csoftmax anew")
    if wanted and wanted not in available:
        raise ImportError(
            f"CSOFTMAX_ISA={wanted!r} is not available; this CPU and build have: {', '.join(available)}"
        )
    activate(wanted or available[len(available) - 1])


choose()
