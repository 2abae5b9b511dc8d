"""Makes wrong changes of the kernels, the plan and the threads, and tells which of them the tests notice.

    python tools/mutants.py [--seeds 1 2 3] [--count 50] [--level avx512] [--jobs 2] [TESTS ...]

The changes are drawn by rule (tools/mutant_rules.py), as many of each kind in each place as there are, with a seed. All
of them are built into one copy of the tree, each behind a switch that the environment variable CSM_MUTANT turns on. One
run of the tests without any tells which test reaches which change, and which tests fail in such a build as it is;
then each change is met by the tests that reach it, the likeliest to notice it first, until one fails, crashes, or takes
ten times as long as it did.

A run that was broken off goes on where it was (build/mutants), unless sources, tests or arguments are others. Survivors
that change nothing are named, with the reason, in tools/mutants.toml, and are left out of the share.
"""

import argparse
import contextlib
import fnmatch
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from mutant_rules import RULES, Change, Source, changes_of, switched

ROOT = Path(__file__).parents[1]
PLACES = ("kernels", "kernels", "simd", "plan", "threads")  # in turn
SPARE = 1.6  # times as many changes as asked for are built: some are of code that is not in this machine's build
LANGUAGES = (".pyx", ".pxi", ".pxd", ".h", ".c")
# -O1: many changes in one loop would be unrolled and unswitched into megabytes
CFLAGS = "-O1 -w -fno-unswitch-loops"

HEADER = r"""#ifndef CSM_MUTANT_H
#define CSM_MUTANT_H
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static int csm_mutant;
static volatile unsigned char *csm_mutants_seen;
__attribute__((constructor, unused)) static void csm_mutant_start(void) {
    const char *number = getenv("CSM_MUTANT"), *seen = getenv("CSM_MUTANTS_SEEN");
    int file = seen ? open(seen, O_RDWR) : -1;
    csm_mutant = number ? atoi(number) : 0;
    if (file >= 0) {
        void *bytes = mmap(NULL, @SIZE@, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (bytes != MAP_FAILED) csm_mutants_seen = (volatile unsigned char *)bytes;
        close(file);
    }
}
__attribute__((noinline, cold, unused)) static int csm_mutant_reached(int number) {
    csm_mutants_seen[number] = 1;
    return 0;
}
/* The section tells which changes are in the machine code. */
#define csm_mutant_is(number) (__extension__({ \
    __asm__ volatile(".pushsection .csm_mutants,\"\"\n\t.long %c0\n\t.popsection" : : "i"(number)); \
    __builtin_expect(csm_mutant == (number), 0) || (csm_mutants_seen && csm_mutant_reached(number)); }))
#endif
"""
# what is written before a file's code; @HEADER@ is the header's path
DECLARATIONS = {
    "cython": 'cdef extern from "@HEADER@" nogil:\n    int csm_mutant_is(int) noexcept\n',
    "c": '#include "@HEADER@"\n',
}


# --------------------------------------------------------------------------------------------------- drawing


def files_of(root, package):
    """What changes are made in: Cython and C under the package, but for interoperation and the public header."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", package], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return sorted(f for f in listed if f.endswith(LANGUAGES) and "/interop/" not in f and not f.endswith("csoftmax.h"))


def place_of(file):
    if "/include/" in file or "/simd/" in file:
        return "simd"
    if re.search(r"/runtime/|pool|core|dispatch|threads", file):
        return "threads"
    return "kernels" if re.search(r"/kernels/|kernel|job", file) else "plan"


def drawn(candidates, seed):
    """The changes in an order of chance in which every rule in every place has its turn."""
    chance = random.Random(seed)
    cells = {(place, rule): [] for place in dict.fromkeys(PLACES) for rule in RULES}
    for change in candidates:
        cells[place_of(change.file), change.rule].append(change)
    for cell in cells.values():
        chance.shuffle(cell)
    turns = [(place, rule) for place in PLACES for rule in RULES]
    while any(cells.values()):
        chance.shuffle(turns)
        for turn in turns:
            if cells[turn]:
                yield cells[turn].pop()


class Choice:
    """Changes that do not overlap, in each seed's order."""

    def __init__(self, candidates, seeds, most):
        self.orders = {seed: drawn(candidates, seed) for seed in seeds}
        self.most = most
        self.taken = {}  # by file: parts of the text
        self.numbers = 0

    def draw(self, seed, count):
        """The next changes of a seed that lie in no other's part, as far as there are such."""
        found = []
        while len(found) < count and (change := next(self.orders[seed], None)):
            parts = self.taken.setdefault(change.file, [])
            if self.numbers < self.most and all(change.end <= start or end <= change.start for start, end in parts):
                parts.append((change.start, change.end))
                self.numbers += 1
                found.append(Change(**asdict(change) | {"seed": seed, "number": self.numbers}))
        return found


# -------------------------------------------------------------------------------------------------- building


class Tree:
    """A copy of the sources with the changes in it, each behind its switch."""

    def __init__(self, folder, root, package, level, size):
        self.folder, self.root, self.package, self.level = folder, root, package, level
        self.size = size  # changes that there is room for
        self.shifts = {}  # by file: the line that its declaration stands before, and how many lines that is

    def copy(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for file in listed:
            if (self.root / file).is_file():
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / file, self.folder / file)

    def write(self, changes):
        """The sources with these changes; what is the same as it was is left alone."""
        files = {file: [] for file in files_of(self.root, self.package)}
        for change in changes:
            files[change.file].append(change)
        put(self.folder / "mutant.h", HEADER.replace("@SIZE@", str(self.size)))
        for file, found in files.items():
            put(self.folder / file, self.changed(file, found) if found else (self.root / file).read_text())

    def changed(self, file, changes):
        source = Source(self.root, file)
        text, at = source.text, first_line(source)
        for change in sorted(changes, key=lambda c: -c.start):
            part = text[change.start : change.end]
            text = text[: change.start] + switched(change, source.language, part) + text[change.end :]
        declaration = DECLARATIONS[source.language].replace("@HEADER@", str(self.folder / "mutant.h"))
        self.shifts[file] = source.line_of(at), declaration.count("\n")
        return text[:at] + declaration + text[at:]

    def build(self):
        """What is wrong with the build, as text, or nothing."""
        environment = {"CSOFTMAX_CFLAGS": CFLAGS, "CSOFTMAX_BUILD_ISA": self.level, "CSOFTMAX_DEBUG": "1"}
        run = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "-i", f"-j{os.cpu_count()}"],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        return run.stdout + run.stderr if run.returncode else ""

    def blamed(self, output, changes):
        """The changes on the lines that errors of the compilers name."""
        lines = set()
        for line in output.splitlines():
            if not line.startswith("warning:"):
                for file, number in re.findall(r"([\w./-]+\.(?:pyx|pxi|pxd|h|c)):(\d+)", line):
                    file = os.path.normpath(file.removeprefix(f"{self.folder}/"))
                    lines.add(self.origin(file, int(number)))
        return [c for c in changes if any((c.file, n) in lines for n in self.lines(c))]

    def origin(self, file, line):
        """The source's line, of one of the copy, or of what Cython made of it."""
        generated = (self.folder / file).with_suffix(".c")
        if file.endswith(".c") and file not in self.shifts and generated.is_file():
            before = "\n".join(generated.read_text().splitlines()[:line])
            notes = re.findall(r'/\* "([^"]+)":(\d+)\n', before)
            file, line = (os.path.normpath(notes[-1][0]), int(notes[-1][1])) if notes else (file, line)
        after, shift = self.shifts.get(file, (0, 0))
        return file, line - shift if line > after else line

    def lines(self, change):
        """The lines that a change stands on."""
        text = (self.root / change.file).read_text()
        return range(change.line, change.line + text.count("\n", change.start, change.end) + 1)

    def built(self):
        """The numbers of the changes that are in the machine code."""
        numbers = set()
        for library in (self.folder / self.package).rglob("*.so"):
            copied = self.folder / "section"
            copied.unlink(missing_ok=True)
            command = ["objcopy", f"--dump-section=.csm_mutants={copied}", library, "/dev/null"]
            subprocess.run(command, capture_output=True)  # it fails where there is no such section
            data = copied.read_bytes() if copied.exists() else b""
            numbers |= {int.from_bytes(data[i : i + 4], sys.byteorder) for i in range(0, len(data), 4)}
        return numbers


def put(path, text):
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def first_line(source):
    """Where declarations may stand: in Cython after comments and the docstring."""
    if source.language == "c":
        return 0
    first = next((t for t in source.tokens if t.kind != "newline"), None)
    end = first.end if first is not None and first.kind == "string" else first.start if first is not None else 0
    return source.text.find("\n", end) + 1 if first is not None and first.kind == "string" else end


def build(tree, choice, count, say):
    """Draws, builds, drops what does not compile or is not in the build, until there are `count` of each seed."""

    def of(seed, some):
        return [c for c in some if c.seed == seed]

    tree.copy()
    changes = [c for seed in choice.orders for c in choice.draw(seed, int(count * SPARE))]
    while True:
        tree.write(changes)
        say(f"building {len(changes)} changes")
        if output := tree.build():
            blamed = tree.blamed(output, changes)
            if not blamed:
                raise RuntimeError(f"the copy does not build, and not because of a change:\n{output[-3000:]}")
            changes = [c for c in changes if c not in blamed]
            for change in blamed:
                say(f"does not compile: {change}")
            continue
        numbers = tree.built()
        alive = [c for c in changes if c.number in numbers]
        short = {seed: count - len(of(seed, alive)) for seed in choice.orders}
        more = [c for seed, n in short.items() if n > 0 for c in choice.draw(seed, 2 * n)]
        if not more:
            return [c for seed in choice.orders for c in of(seed, alive)[:count]]
        changes = alive + more


# --------------------------------------------------------------------------------------------------- testing


def pytest(tree, tests, environment, limit=None):
    """Run tests in the copy; (exit status or None after `limit` seconds, what was printed)."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mutant_plugin", "-p", "no:cacheprovider", *tests]
    paths = os.pathsep.join([str(tree.folder), str(Path(__file__).parent)])
    with subprocess.Popen(
        command,
        cwd=tree.folder,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            printed = process.communicate(timeout=limit)[0]
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            end_group(process)
            return None, process.communicate()[0]
        finally:
            end_group(process)


def end_group(process):
    """Ends the process and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def record(tree, tests, work):
    """[{test, passed, seconds, seen}] of a run without any change; what the import reaches stands under None."""
    seen = work / "seen"
    seen.write_bytes(bytes(tree.size))
    Path(f"{seen}.tests").unlink(missing_ok=True)
    _, printed = pytest(tree, tests, {"CSM_MUTANTS_SEEN": str(seen)})
    notes = Path(f"{seen}.tests")
    found = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    if not any(entry["test"] and entry["passed"] for entry in found):
        raise RuntimeError(f"no test passes without a change:\n{printed[-3000:]}")
    return found


class Trial:
    """Meets each change with the tests that reach it."""

    def __init__(self, tree, recorded, limit, patience):
        self.tree, self.limit, self.patience = tree, limit, patience
        self.everywhere = {n for entry in recorded if entry["test"] is None for n in entry["seen"]}
        self.tests = [entry for entry in recorded if entry["test"] and entry["passed"]]
        self.kills = Counter()  # by test: the changes that it was the first to notice
        self.lock = threading.Lock()

    def tests_of(self, number):
        """{test: seconds that it may take}, the likeliest to notice first."""
        found = [e for e in self.tests if number in e["seen"] or number in self.everywhere]
        with self.lock:
            found.sort(key=lambda e: (-self.kills[e["test"]], e["seconds"]))
        return {e["test"]: self.patience + 10 * e["seconds"] for e in found}

    def meet(self, change, work):
        """{result: "noticed", "survived" or "not reached"; how; test}"""
        tests = self.tests_of(change.number)
        if not tests:
            return {"result": "not reached", "how": "", "test": ""}
        chosen = work / f"tests-{change.number}.json"
        chosen.write_text(json.dumps(tests))
        files = sorted({test.split("::")[0] for test in tests})
        environment = {"CSM_MUTANT": str(change.number), "CSM_MUTANT_TESTS": str(chosen)}
        status, _ = pytest(self.tree, ["-x", *files], environment, self.limit)
        notes = Path(f"{chosen}.begun")
        noted = notes.read_text() if notes.exists() else ""
        begun = re.findall("^begun (.*)", noted, re.M)
        chosen.unlink()
        notes.unlink(missing_ok=True)
        test = begun[-1] if begun else "the collection of tests"
        if status == 0:
            return {"result": "survived", "how": f"{len(begun)} tests", "test": ""}
        if status is None:
            return {"result": "survived", "how": f"{len(begun)} of {len(tests)} tests in {self.limit} s", "test": ""}
        with self.lock:
            self.kills[test] += 1
        how = "hangs" if "\nTimeout (" in noted else "fails" if status > 0 else "crashes"
        return {"result": "noticed", "how": how, "test": test}


# ----------------------------------------------------------------------------------------------------- report


def verdict_of(change, line, verdicts):
    """The reason why a change changes nothing, or nothing. Fields of a verdict are patterns of the shell's kind."""
    fields = {
        "file": change.file,
        "function": change.function,
        "rule": change.rule,
        "right": change.right,
        "wrong": change.wrong,
        "line": line,
    }
    for verdict in verdicts:
        if all(fnmatch.fnmatchcase(fields[key], pattern) for key, pattern in verdict.items() if key != "reason"):
            return verdict["reason"]
    return ""


def report(tree, changes, results, verdicts, say):
    """Says what was noticed; (changes that change anything, those of them that were noticed)."""
    counted, noticed, excused = [], [], []
    for change in changes:
        result = results[change.number]
        line = (tree.root / change.file).read_text().splitlines()[change.line - 1].strip()
        if result["result"] == "noticed":
            noticed.append(change)
        elif reason := verdict_of(change, line, verdicts):
            excused.append(f"{change}: {reason}")
            continue
        else:
            say(f"{result['result']} ({result['how']}), seed {change.seed}: {change}\n    {line}")
        counted.append(change)
    for text in excused:
        say(f"changes nothing: {text}")
    hows = Counter(results[c.number]["how"] for c in noticed)
    say(", ".join(f"{n} {how}" for how, n in sorted(hows.items())))
    return len(counted), len(noticed), len(excused)


def key_of(options, root, package):
    """Changes with sources, tests and arguments."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", package, "tests", "setup.py"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    key = hashlib.sha256(repr((options.seeds, options.count, options.level, options.only, options.tests)).encode())
    for file in listed:
        if (root / file).is_file():
            key.update(file.encode() + (root / file).read_bytes())
    return key.hexdigest()


def prepared(options, tree, work, say):
    """The changes, built into the tree, and what the run without any recorded; from the last run if nothing changed."""
    key, state = key_of(options, options.root, options.package), work / "state.json"
    if state.exists() and (found := json.loads(state.read_text()))["key"] == key:
        return [Change(**c) for c in found["changes"]], found["recorded"]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    candidates = [
        change
        for file in files_of(options.root, options.package)
        if fnmatch.fnmatchcase(file, options.only)
        for change in changes_of(options.root, file)
    ]
    say(f"{len(candidates)} places for a change")
    changes = build(tree, Choice(candidates, options.seeds, tree.size - 1), options.count, say)
    say(f"running the tests without any of {len(changes)} changes")
    recorded = record(tree, options.tests, work)
    failed = [entry["test"] for entry in recorded if not entry["passed"]]
    say(f"{len(recorded) - 1} tests, {len(failed)} of which fail without a change and are left out: {' '.join(failed)}")
    state.write_text(json.dumps({"key": key, "changes": [asdict(c) for c in changes], "recorded": recorded}))
    return changes, recorded


def meet_all(options, tree, changes, recorded, work, console):
    """{number: result}, kept as they come in build/mutants/results.jsonl."""
    from rich.progress import MofNCompleteColumn, Progress

    store = work / "results.jsonl"
    lines = store.read_text().splitlines() if store.exists() else []
    results = {entry.pop("number"): entry for entry in map(json.loads, lines)}
    trial = Trial(tree, recorded, options.limit, options.patience)
    trial.kills.update(r["test"] for r in results.values() if r["test"])
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        task = progress.add_task("changes", total=len(changes), completed=len(results))

        def meet(change):
            result = trial.meet(change, work)
            with trial.lock:
                results[change.number] = result
                with open(store, "a") as file:
                    file.write(json.dumps({"number": change.number, **result}) + "\n")
                progress.advance(task)
                progress.console.print(f"{result['result']}: {change}", markup=False, highlight=False)

        for _ in pool.map(meet, [c for c in changes if c.number not in results]):
            pass
    return results


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="by default 1")
    parser.add_argument("--count", type=int, default=50, help="changes of each seed, by default 50")
    parser.add_argument("--level", default="", help="ISA levels to build beside the baseline, by default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="changes that are tried at a time")
    parser.add_argument("--limit", type=int, default=900, help="seconds that a change is tried for, by default 900")
    parser.add_argument("--patience", type=float, default=20, help="seconds of a test beyond ten times its own")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="change these files alone")
    parser.add_argument("--at-least", type=float, default=0, metavar="PERCENT", help="exit with 1 if fewer are noticed")
    parser.add_argument("--verdicts", type=Path, default=ROOT / "tools" / "mutants.toml", help="what changes nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project, by default this one")
    parser.add_argument("--package", default="csoftmax", help="its folder of sources")
    parser.add_argument("tests", nargs="*", default=["tests"], help="what pytest is given, by default tests")
    return parser.parse_args()


def main():
    from rich.console import Console

    options, console = arguments(), Console(soft_wrap=True)

    def say(text):
        console.print(text, markup=False, highlight=False)

    options.root = options.root.resolve()
    work = options.root / "build" / "mutants"
    size = -(-(8 * len(options.seeds) * options.count + 4096) // 4096) * 4096
    tree = Tree(work / "tree", options.root, options.package, options.level, size)
    changes, recorded = prepared(options, tree, work, say)
    results = meet_all(options, tree, changes, recorded, work, console)
    verdicts = tomllib.loads(options.verdicts.read_text())["verdict"] if options.verdicts.exists() else []
    counted, noticed, excused = report(tree, changes, results, verdicts, say)
    share = 100 * noticed / max(counted, 1)
    say(f"changes={len(changes)} without_effect={excused} noticed={noticed} share={share:.1f}")
    return int(share < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
