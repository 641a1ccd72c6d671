"""Cuts a plan that fails down to what is needed for the failure.

Rules: every attempt is a whole run; a plan counts as failing whatever it then finds
wrong. What remains is said in the options of ``python -m tests.simulation``.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tests.simulation.plan import Plan

__all__ = ["Cut", "shrunk"]

_MOST_RUNS = 200


@attrs.frozen
class Cut:
    """What is left of the plan of a seed."""

    seed: int
    keep: tuple[int, ...]
    """The indexes of the faults that are kept."""
    ticks: int
    """How many ticks the market makes."""

    def plan(self) -> Plan:
        """Return the plan."""
        return Plan.drawn(self.seed, keep=self.keep, ticks=self.ticks)

    @property
    def command(self) -> str:
        """The line that repeats it."""
        keep = ",".join(map(str, self.keep)) or "none"
        return f"python -m tests.simulation --seed {self.seed} --keep {keep} --ticks {self.ticks}"


def shrunk(seed: int, fails: Callable[[Plan], bool]) -> Cut:
    """Return the plan of *seed* with as few faults and ticks as still *fails*."""
    whole = Plan.drawn(seed)
    cut = Cut(seed, tuple(range(len(whole.faults))), whole.ticks)
    runs = 0

    def still_fails(other: Cut) -> bool:
        nonlocal runs
        runs += 1
        return runs <= _MOST_RUNS and fails(other.plan())

    size = max(1, len(cut.keep))
    while size:
        # Leave out ever smaller parts of the faults.
        at = 0
        while at < len(cut.keep):
            fewer = attrs.evolve(cut, keep=cut.keep[:at] + cut.keep[at + size :])
            if still_fails(fewer):
                cut = fewer
            else:
                at += size
        size //= 2
    while cut.ticks > 1 and still_fails(fewer := attrs.evolve(cut, ticks=cut.ticks // 2)):
        cut = fewer
    return cut
