#!/usr/bin/env bash
# Installs a wheel into a new virtual environment, the source tree out of the way, and runs the tests against it.
# Usage: tools/test_wheel.sh PYTHON WHEEL [PYTEST ARGUMENT...]
set -euo pipefail
python=$1 wheel=$(realpath "$2")
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bytes=$(stat -c %s "$wheel")
echo "$(basename "$wheel"): $bytes bytes"
((bytes <= 1500000)) || { echo "larger than 1.5 MB" >&2; exit 1; }

"$python" -m venv "$work/venv"
cd "$root" && cp -r --parents README.md CONTRIBUTING.md pyproject.toml setup.py tests examples docs benchmarks tools "$work" && cd "$work"
# where no compiler is to be found, nor any other program: the wheel and NumPy alone
env PATH=/nowhere "$work/venv/bin/python" -m pip install -q --only-binary :all: "$wheel"
env PATH=/nowhere "$work/venv/bin/python" - <<'EXAMPLE'
import pathlib, re, shutil
assert not any(map(shutil.which, ("cc", "gcc", "clang", "c++", "ld")))
readme = pathlib.Path("README.md").read_text()
exec(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1])
import csoftmax
csoftmax.show_runtime()
EXAMPLE
"$work/venv/bin/pip" install -q "${wheel}[test]"
"$work/venv/bin/python" -m pytest -q -p no:cacheprovider --ignore=tests/trust/test_scratch.py "$@"
