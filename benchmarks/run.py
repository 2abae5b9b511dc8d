"""The whole benchmark: one process with one thread, one with all, then the report.

    python benchmarks/run.py            # about 20 minutes on two cores
    python benchmarks/run.py --quick    # the short form, a few minutes
    python benchmarks/run.py -k softmax # what follows is pytest's

The raw figures stay in benchmarks/results/, the report is docs/benchmarks.md.
"""

import subprocess
import sys
from pathlib import Path

from measure import CPUS

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main():
    RESULTS.mkdir(exist_ok=True)
    files, failed = [], 0
    for threads in sorted({1, len(CPUS)}):
        files.append(RESULTS / f"{threads}-threads.json")
        pytest = [sys.executable, "-m", "pytest", "-q", "--benchmark-enable", HERE / "bench_peers.py"]
        options = [f"--threads={threads}", f"--benchmark-json={files[-1]}", "--benchmark-columns=median,min"]
        failed |= subprocess.run([*pytest, *options, *sys.argv[1:]]).returncode
    subprocess.run([sys.executable, HERE / "report.py", *files], check=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
