#!/usr/bin/env bash
# Builds with line tracing in a copy of the tree and reports the coverage of Python and Cython lines.
# Usage: tools/coverage.sh [PYTEST ARGUMENT...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
git ls-files -z | xargs -0 cp --parents -t "$work"
cd "$work"
CSOFTMAX_COVERAGE=1 CSOFTMAX_BUILD_ISA=baseline CSOFTMAX_CFLAGS=-O0 "${PYTHON:-python}" setup.py -q build_ext -i
"${PYTHON:-python}" -m coverage run -m pytest -q -p no:cacheprovider "$@" || [ $? -eq 1 ]
"${PYTHON:-python}" -m coverage report
