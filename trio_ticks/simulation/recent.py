"""The recent past of a running pipeline, small enough to be kept: for advice.

Plan: fifty times a second the counters are looked at, which are there anyway. So
arrivals are known to 20 ms, and nothing is done for a tick. Services come out of the
histogram of the latencies.

Rules: memory is bounded: a minute of looks, a thousand names. Sans-I/O; times are
arguments.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from random import Random
from typing import Final, final

import attrs

from ..handlers.kinds import Place
from ..metrics.latency import BOUNDS_S, quantiles_s
from .loads import Load, Services

__all__ = ["EVERY_S", "Look", "Recent", "services"]

EVERY_S: Final = 0.02
"""How often to look, in seconds."""
_LOOKS: Final = 3000
_MOST_TICKS: Final = 6_000
"""A load has so many ticks at most: simulating it takes about 40 ms of a core."""
_MOST_NAMES: Final = 1000
_TABLE: Final = 200
"""Services are drawn from so many quantiles."""
_COMPUTES: Final = 0.7
"""The handlers compute if the loop's thread was busy for more than this share."""


@final
@attrs.frozen(slots=True)
class Look:
    """Counters at one moment."""

    at: float
    produced: int
    lost: int
    """Ticks that were dropped without being asked for."""
    handled: int
    busy_s: float
    """How long workers did not wait for ticks, summed over workers."""
    thread_s: float
    """Processor time of the event loop's thread."""


@final
class Recent:
    """What came lately, what was lost of it, and how long handling took."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque(maxlen=_LOOKS)
        self._names: dict[str, int] = {}

    def note(self, look: Look, symbol: str | None) -> None:
        """Add a look, and the symbol of a tick that had just come, if one is known."""
        self._looks.append(look)
        if symbol is not None and (symbol in self._names or len(self._names) < _MOST_NAMES):
            self._names[symbol] = self._names.get(symbol, 0) + 1

    def stretch(self) -> tuple[Look, ...]:
        """Return the looks from before the last losses to after them.

        If nothing was lost, the last ones. The ticks between are as many as may be
        simulated, at most.
        """
        looks = list(self._looks)
        end = len(looks) - 1
        while end > 0 and looks[end].lost == looks[end - 1].lost:
            end -= 1
        end = end or len(looks) - 1
        begin = end
        while begin > 0 and looks[end].produced - looks[begin - 1].produced <= _MOST_TICKS:
            begin -= 1
        return tuple(looks[begin : end + 1])

    def load(self, stretch: Sequence[Look], random: Random) -> Load:
        """Return what came between the looks of *stretch*: evenly between two looks."""
        times = array("d")
        for before, after in pairwise(stretch):
            count, span_s = after.produced - before.produced, after.at - before.at
            begin = before.at - stretch[0].at
            times.extend(begin + span_s * (number + 0.5) / count for number in range(count))
        names = tuple(self._names) or ("?",)
        weights = list(accumulate(self._names.values())) or [1]
        symbols = random.choices(range(len(names)), cum_weights=weights, k=len(times))
        return Load(times, array("I", symbols), names)


def services(
    stretch: Sequence[Look],
    counts: Sequence[int],
    load: Load,
    executor: Place,
    per_batch: float,
    random: Random,
) -> Services | None:
    """Return services like those that were measured; ``None`` if none was.

    Args:
        stretch: looks between which ticks were handled.
        counts: how many handlings took how long, by the buckets of ``BOUNDS_S``.
        load: the ticks.
        executor: where they were handled.
        per_batch: how many ticks a worker took at a time there, on average.
        random: draws.
    """
    first, last = stretch[0], stretch[-1]
    handled, span_s = last.handled - first.handled, last.at - first.at
    if not sum(counts) or handled <= 0 or span_s <= 0:
        return None
    table = quantiles_s(
        counts, [(number + 0.5) / _TABLE for number in range(_TABLE)], maximum=BOUNDS_S[-1]
    )
    mean_s = sum(table) / _TABLE
    places = array("I", random.choices(range(_TABLE), k=len(load)))
    if (last.thread_s - first.thread_s) / span_s > _COMPUTES and mean_s > 0:
        scale = span_s / handled / mean_s
        busy = array("d", (each * scale for each in table))
        return Services(busy, array("d", [0.0]) * _TABLE, places, executor)
    turnaround_s = max(0.0, (last.busy_s - first.busy_s) / handled - mean_s)
    nothing = array("d", [0.0]) * _TABLE
    if executor == "loop":
        waits = array("d", (each + turnaround_s for each in table))
        return Services(nothing, waits, places)
    return Services(nothing, table, places, executor, turnaround_s * per_batch, per_batch)
