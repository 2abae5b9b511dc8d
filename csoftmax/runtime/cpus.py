"""How many threads a process gets unless it says so: environment, affinity, the quota of its cgroups.

Plain Python over files of Linux, below a root that tests can choose.
"""

import math
import os
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""


def _ratio(quota: str, period: str) -> float | None:
    """CPUs of a quota and its period, both in microseconds; None where there is no quota."""
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return cpus if cpus > 0 else None


def _quota_v1(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _unescape(field: str) -> str:
    """A path of mountinfo, which has blanks in octal."""
    return field.encode("latin-1", "surrogateescape").decode("unicode_escape") if "\\" in field else field


def _mounts(root: Path) -> list[tuple[str, str, str]]:
    """Of each place where CPU quotas are to be found: version ("1" or "2"), which group is mounted, and where."""
    found = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        where, what = fields.split(" "), rest.split(" ")
        if len(where) < 5 or len(what) < 3:
            continue
        if what[0] == "cgroup2":
            found.append(("2", _unescape(where[3]), _unescape(where[4])))
        elif what[0] == "cgroup" and "cpu" in what[2].split(","):
            found.append(("1", _unescape(where[3]), _unescape(where[4])))
    return found


def _groups(root: Path) -> dict[str, str]:
    """The process's own group in the hierarchy of each version."""
    found = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found["2"] = group
        elif "cpu" in controllers.split(","):
            found["1"] = group
    return found


def _ancestors(group: str, mounted: str) -> list[str]:
    """`group` and those that it lies in, as far as they can be seen below the mounted one."""
    path = PurePosixPath(group)
    if not path.is_relative_to(mounted):
        return ["."]  # it lies elsewhere, as in a container that sees the names of its host
    below = path.relative_to(mounted)
    return [str(below), *map(str, below.parents)]


def quota(root: Path = ROOT) -> float | None:
    """CPUs that this process may use by the quotas of its cgroup and of all that it lies in; None without one."""
    groups = _groups(root)
    found = []
    for version, mounted, point in _mounts(root):
        if version in groups:
            read = _quota_v2 if version == "2" else _quota_v1
            for ancestor in _ancestors(groups[version], mounted):
                found.append(read(root / point.lstrip("/") / ancestor))
    return min((cpus for cpus in found if cpus is not None), default=None)


def usable_cpus(root: Path = ROOT) -> tuple[int, str]:
    """CPUs this process may use, and what decides it: "affinity", "CPUs" or "cgroup quota"."""
    if hasattr(os, "sched_getaffinity"):
        cpus, origin = len(os.sched_getaffinity(0)), "affinity"
    else:
        cpus, origin = os.cpu_count() or 1, "CPUs"
    if cpus == os.cpu_count():
        origin = "CPUs"
    share = quota(root)
    if share is not None and math.ceil(share) < cpus:
        return max(1, math.ceil(share)), "cgroup quota"
    return cpus, origin


def default_threads(most: int, root: Path = ROOT) -> tuple[int, str]:
    """Threads of a large call, and where the number comes from; from 1 to `most`."""

    def count(name: str) -> int | None:
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most:
            return int(text)
        if text and name == "CSOFTMAX_NUM_THREADS":
            raise ImportError(f"CSOFTMAX_NUM_THREADS={text!r} is not an integer from 1 to {most}")
        return None

    wanted = count("CSOFTMAX_NUM_THREADS")
    if wanted is not None:
        return wanted, "CSOFTMAX_NUM_THREADS"
    wanted = count("OMP_NUM_THREADS")
    threads, origin = usable_cpus(root) if wanted is None else (wanted, "OMP_NUM_THREADS")
    limit = count("OMP_THREAD_LIMIT")
    if limit is not None and limit < threads:
        return limit, "OMP_THREAD_LIMIT"
    return threads, origin
