#!/usr/bin/env bash
# Builds with gcov's counters and reports the coverage of Python and Cython lines. Run it in a copy of the tree.
# Usage: tools/coverage.sh [PYTEST ARGUMENT...]
set -euo pipefail
python=${PYTHON:-python}
export PYTHONPATH=$PWD  # for the processes that tests start elsewhere
CSOFTMAX_COVERAGE=1 CSOFTMAX_BUILD_ISA=baseline "$python" setup.py -q build_ext -i
# tests/trust measures seconds, bytes and symbols, which this build has other ones of; nor has it the CPU's levels
tests=0
"$python" -m coverage run -m pytest -q -p no:cacheprovider --ignore=tests/trust \
    --deselect=tests/runtime/test_runtime.py::test_every_level_the_cpu_has_is_supported "$@" || tests=$?
"$python" tools/cython_coverage.py
exit $tests
