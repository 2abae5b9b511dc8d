#!/usr/bin/env bash
# Builds with line tracing and reports the coverage of Python and Cython lines. Run it in a copy of the tree.
# Usage: tools/coverage.sh [PYTEST ARGUMENT...]
set -euo pipefail
CSOFTMAX_COVERAGE=1 CSOFTMAX_BUILD_ISA=baseline CSOFTMAX_CFLAGS=-O0 "${PYTHON:-python}" setup.py -q build_ext -i
# tracing is slow and keeps the GIL, so that tests of speed, threads and levels fail: what counts is which lines ran
"${PYTHON:-python}" -m coverage run -m pytest -q -p no:cacheprovider "$@" || [ $? -eq 1 ]
"${PYTHON:-python}" -m coverage combine -q
"${PYTHON:-python}" -m coverage report
