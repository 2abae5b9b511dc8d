#!/usr/bin/env bash
# Builds with a compiler that has no OpenMP, in a copy of the tree: it must work on one thread and say so.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
git ls-files -z | xargs -0 cp --parents -t "$work"
cd "$work"
cat > cc <<'CC'
#!/usr/bin/env bash
# A compiler that, like Apple's, knows no -fopenmp.
[[ " $* " == *" -fopenmp "* ]] && exit 1
exec gcc "$@"
CC
chmod +x cc
CC="$work/cc" LDSHARED="$work/cc -shared" CSOFTMAX_BUILD_ISA=baseline "${PYTHON:-python}" setup.py -q build_ext -i
CSOFTMAX_NUM_THREADS=4 "${PYTHON:-python}" - <<'PYTHON'
import csoftmax
import numpy as np

threads = csoftmax.runtime_info()["threads"]
assert (threads["openmp"], threads["active"]) == (0, 1), threads
assert csoftmax.softmax(np.zeros((500, 500)))[499, 499] == 1 / 500
csoftmax.show_runtime()
PYTHON
