"""How many cores this process may use.

The answer is the least of three: the cores of the machine, those that the process is
bound to, and the quota of its control groups.

Rules: it reads a few small files and is asked once, or seldom. A file that cannot be
read sets no limit. Nothing here knows trio.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["gil_enabled", "quota_cores", "usable_cores"]


def gil_enabled() -> bool:
    """Tell whether only one thread at a time can run Python code."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cores(root: Path = Path("/")) -> float:
    """Return how many cores this process may keep busy; it may be a fraction.

    Args:
        root: the folder that holds ``proc`` and the mounts that are named there.
    """
    return min(float(_scheduled_cores()), quota_cores(root))


def _scheduled_cores() -> int:
    """Return how many cores the scheduler may run this process on."""
    count = getattr(os, "process_cpu_count", None)  # Since 3.13; heeds PYTHON_CPU_COUNT.
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def quota_cores(root: Path = Path("/")) -> float:
    """Return how many cores' time the control groups of this process allow.

    It reads both versions of control groups. Infinite where nothing limits it. A quota
    may be set for the process's own group or for any above it; the smallest one holds.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        kind, _source, options = _parts(rest, 3)
        _id, _parent, _device, mounted, place = _parts(fields, 5)
        if kind == "cgroup2":
            read, ours = _quota_v2, _group(groups, "")
        elif kind == "cgroup" and "cpu" in options.split(","):
            read, ours = _quota_v1, _group(groups, "cpu")
        else:
            continue
        if ours is not None:
            quotas += [read(folder) for folder in _folders(root / place.lstrip("/"), mounted, ours)]
    return min(quotas)


def _group(groups: list[str], controller: str) -> str | None:
    """Return the path of our group in the hierarchy that has *controller*.

    The hierarchy of version 2 has no name: for it *controller* is empty.
    """
    for line in groups:
        _number, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (controller or not controllers):
            return path
    return None


def _folders(place: Path, mounted: str, ours: str) -> Iterator[Path]:
    """Yield the folder of our group and the folders of the groups above it.

    The last one is the mount at *place*, which shows the group *mounted*. In a
    container our path may be the host's, and the mount may show only the end of it, or
    nothing: folders that do not exist are passed over.
    """
    path = ours.removeprefix(mounted) if mounted != "/" else ours
    folder = place if ".." in path else place / path.lstrip("/")
    while folder != place and place in folder.parents:
        yield folder
        folder = folder.parent
    yield place


def _quota_v2(folder: Path) -> float:
    quota, period = _parts(_read(folder / "cpu.max"), 2)
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float:
    """Return *quota* in *period*; "max", -1 and an empty text mean no limit."""
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf
    return share if share > 0 else math.inf


def _parts(text: str, count: int) -> list[str]:
    """Return the first *count* words of *text*, filled up with empty ones."""
    words = text.split()[:count]
    return words + [""] * (count - len(words))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
