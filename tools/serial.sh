#!/usr/bin/env bash
# Builds with a compiler that has no OpenMP, and sees that it works on one thread and says so.
# Run it in a copy of the tree.
set -euo pipefail
cat > cc <<'CC'
#!/usr/bin/env bash
# A compiler that, like Apple's, knows no -fopenmp.
[[ " $* " == *" -fopenmp "* ]] && exit 1
exec gcc "$@"
CC
chmod +x cc
CC="$PWD/cc" LDSHARED="$PWD/cc -shared" CSOFTMAX_BUILD_ISA=baseline "${PYTHON:-python}" setup.py -q build_ext -i
CSOFTMAX_NUM_THREADS=4 "${PYTHON:-python}" - <<'PYTHON'
import csoftmax
import numpy as np

threads = csoftmax.runtime_info()["threads"]
assert (threads["openmp"], threads["active"]) == (0, 1), threads
assert csoftmax.softmax(np.zeros((500, 500)))[499, 499] == 1 / 500
csoftmax.show_runtime()
PYTHON
