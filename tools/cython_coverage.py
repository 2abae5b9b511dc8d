"""Reports the coverage of Python lines, from coverage.py, and of Cython lines, from gcov, in one table.

    CSOFTMAX_COVERAGE=1 python setup.py build_ext -i
    python -m coverage run -m pytest
    python tools/cython_coverage.py

A line of a .pyx, .pxi or .pxd counts if gcov counts any of the C that Cython wrote under the comment that quotes
it, and is covered if any of that ran, at any level and precision built. Nothing is traced, so that code without the
GIL counts too. Fails where Python's lines or Cython's are covered by less than fail_under of pyproject.toml.
"""

import functools
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[1]
QUOTE = re.compile(r' +/\* "(csoftmax/[^"]+)":(\d+)$')


def quoted(c_file):
    """The file and line that each line of a C file, from 1, was written for; None where it is nobody's."""
    found, source, in_comment, outlined = [None], None, False, False
    for line in c_file.read_text().splitlines():
        if match := QUOTE.match(line):
            path = ROOT / match[1]  # not there: what Cython generates
            source, in_comment = (str(path), int(match[2])) if path.exists() else None, True
        elif line.startswith("}") or "/* function exit code */" in line:
            source = None
        elif "#pragma omp parallel" in line:
            outlined = True  # the compiler makes a function of the loop that gcov knows nothing of
        elif outlined and "#define unlikely(x) __builtin_expect" in line:
            source, outlined = None, False
        found.append(None if in_comment or outlined else source)
        if in_comment and line.endswith("*/"):
            in_comment = False
    return found


def gcov(notes):
    """(C file, line, how often it ran) of each line of one compilation."""
    printed = subprocess.run(["gcov", "-jt", notes], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    for file in json.loads(printed)["files"]:
        for line in file["lines"]:
            yield file["file"], line["line_number"], line["count"]


@functools.cache
def cython_lines():
    """Of each Cython file its lines, and those that ran in any compilation."""
    files = defaultdict(lambda: (set(), set()))
    for notes in sorted(ROOT.glob("build/**/*.gcno")):
        sources = {}
        for name, number, count in gcov(notes):
            if not name.startswith("csoftmax/") or not name.endswith(".c"):
                continue
            if name not in sources:
                sources[name] = quoted(ROOT / name)
            if sources[name][number]:
                path, line = sources[name][number]
                there, ran = files[path]
                there.add(line)
                if count:
                    ran.add(line)
    return files


class Gcov(coverage.CoveragePlugin):
    """Tells coverage.py which lines a Cython file has."""

    def file_reporter(self, filename):
        return CythonFile(filename)


class CythonFile(coverage.FileReporter):
    def lines(self):
        return cython_lines()[self.filename][0]


def main():
    plugin = Gcov()
    report = coverage.Coverage(plugins=[lambda registry: registry.add_file_tracer(plugin)])
    report.combine()
    files = {path: ran for path, (_, ran) in cython_lines().items()}
    report.get_data().add_lines(files)
    report.get_data().add_file_tracers(dict.fromkeys(files, plugin._coverage_plugin_name))
    wanted = report.get_option("report:fail_under")
    report.report()
    failed = False
    for kind, names in (("Python", "*.py"), ("Cython", ["*.pyx", "*.pxi", "*.pxd"])):
        covered = report.report(include=names, file=io.StringIO())
        failed = failed or covered < wanted
        print(f"{kind} {covered:.2f} % ({wanted} % wanted)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
