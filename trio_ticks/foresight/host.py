"""How busy other programs keep this machine while something is measured.

Rules: it reads the system's own counters, and keeps no core busy for it. Where the
system has none (only Linux has ``/proc/stat``), the load average has to do, and where
there is no such thing either, nothing is known. Sans-I/O but for these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, final

__all__ = ["BUSY_CORES", "OthersLoad", "describe_load"]

BUSY_CORES: Final = 0.25
"""From so many cores in use by other programs on, services are not to be trusted.

Not measured: a share of one core that a quiet desktop does not use."""
_STAT: Final = Path("/proc/stat")


def _used_ticks(path: Path) -> int | None:
    """Return for how long all cores were in use since the start, in clock ticks."""
    try:
        fields = path.read_text().partition("\n")[0].split()[1:]
        user, nice, system, _idle, _waiting, interrupts, soft, *steal = map(int, fields)
    except (OSError, ValueError):
        return None
    return user + nice + system + interrupts + soft + (steal[0] if steal else 0)


def _ours_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@final
class OthersLoad:
    """Measures, from its making on, how many cores other programs use.

    Args:
        now_s: the time, in seconds.
        stat: where the system counts.
    """

    def __init__(self, now_s: float, stat: Path = _STAT) -> None:
        self._stat = stat
        self._began = now_s, _used_ticks(stat), _ours_s()

    def cores(self, now_s: float) -> float | None:
        """Return how many cores others used on average; ``None``: it is not known.

        Without counters of the system it is the load average of the last minute, which
        includes this program.
        """
        began_s, before, ours_before_s = self._began
        used = _used_ticks(self._stat)
        if used is None or before is None or now_s <= began_s:
            try:
                return os.getloadavg()[0]
            except (AttributeError, OSError):
                return None
        all_s = (used - before) / os.sysconf("SC_CLK_TCK")
        return max(0.0, (all_s - (_ours_s() - ours_before_s)) / (now_s - began_s))


def describe_load(cores: float | None) -> str:
    """Return in words how many cores others used."""
    if cores is None:
        return "how busy the machine was is not known"
    return f"other programs used {cores:.2f} cores"
