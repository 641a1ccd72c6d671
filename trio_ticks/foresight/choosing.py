"""Which settings to try, and which of those that were tried to advise. Sans-I/O.

Rules: the fewest workers that meet the target, then the shortest queue, with room to
spare. A queue that never fills costs nothing, so its size is rounded up; a queue that
is longer than it need be makes ticks old in an overload, so not by much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..simulation.loads import Load
from .plans import Row, Target

__all__ = [
    "MOST_WORKERS",
    "best",
    "hot_symbol",
    "knee_of",
    "lowest",
    "patience_s",
    "room_for",
    "rounded",
    "sizes_around",
    "workers_around",
]

MOST_WORKERS = 256
"""More workers than this are not tried unless they are asked for."""
_SPARE = 1.5
"""The queue is advised so many times as large as it was ever filled."""
_LOST = 0.01
"""Where nothing may be lost, losing this share misses the target by once as much."""
_BETTER = 0.2
"""A step that improves by less than this share is beyond the knee."""


def rounded(number: float) -> int:
    """Return *number* rounded up to two digits, such as 1,300; at least 1."""
    if number <= 10:
        return max(1, math.ceil(number))
    unit = int(10 ** (math.floor(math.log10(number)) - 1))
    return math.ceil(number / unit - 1e-9) * unit


def room_for(peak: int) -> int:
    """Return the size of a queue that was filled up to *peak*, with room to spare."""
    return max(10, rounded(peak * _SPARE))


def workers_around(load: Load, mean_s: float, factor: float, most: int) -> tuple[int, ...]:
    """Return up to six numbers of workers to try.

    They go from what the average rate needs to what the busiest tenth of a second
    needs, and more.

    Args:
        load: as it was recorded.
        mean_s: how long a tick occupies a worker, in seconds.
        factor: how many times as fast the ticks come.
        most: no more than this.
    """
    rate = load.rate if math.isfinite(load.rate) else load.busiest(1.0)[0]
    # A window of the recorded ticks is shorter when they come faster.
    low = max(1, math.floor(rate * factor * mean_s))
    high = math.ceil(load.busiest(0.1 * factor)[0] * factor * mean_s * 1.5)
    low, high = min(low, most), min(max(high, 2 * low, 4), most)
    steps = 5
    ratio = (high / low) ** (1 / steps)
    return tuple(sorted({round(low * ratio**step) for step in range(steps + 1)}))


def sizes_around(peak: int, held: int) -> tuple[int, ...]:
    """Return six sizes of the queue to try.

    Args:
        peak: how many ticks an unbounded queue held at most.
        held: how many ticks the workers handle within the lag that is allowed: a longer
            queue is of no use where it cannot be drained.
    """
    high = max(20, min(2 * peak, max(10 * held, 1000)))
    low = max(1, min(high // 50, max(1, held // 4)))
    ratio = (high / low) ** (1 / 5)
    return tuple(sorted({rounded(low * ratio**step) for step in range(6)}))


def lowest(rows: Iterable[Row], target: Target) -> Row | None:
    """Return the row that meets *target* with the fewest workers, then least room."""
    fitting = [row for row in rows if row.meets(target)]
    return min(fitting, key=lambda row: (row.workers, row.maxsize), default=None)


def best(rows: Iterable[Row], target: Target) -> Row:
    """Return the row that misses *target* by the least, of several with fewest workers.

    A row misses it by as many times as it loses more than it may, or than 1 %, and by
    as many times as it is later than it may be; the worse of the two counts.
    """
    found = sorted(rows, key=lambda row: (row.workers, row.maxsize))
    least = min(_missed_by(row, target) for row in found)
    return next(row for row in found if _missed_by(row, target) <= least * 1.05)


def _missed_by(row: Row, target: Target) -> float:
    lost = row.drop_rate / max(target.max_drop_rate, _LOST)
    late = math.inf if math.isnan(row.p99_lag_s) else row.p99_lag_s / target.p99_lag_s
    return max(lost, late)


def knee_of(values: Sequence[tuple[int, float]], least: float) -> int | None:
    """Return the first setting behind which the value hardly falls any more.

    Args:
        values: settings in ascending order, each with what should be low.
        least: what is lower than this is as good as nothing.

    Returns:
        ``None`` where the value falls to the last setting that was tried.
    """
    for place, (setting, value) in enumerate(values[:-1]):
        later = min(each for _setting, each in values[place + 1 :])
        if value <= least or value - later <= _BETTER * value:
            return setting
    last = values[-1] if values else None
    return last[0] if last is not None and last[1] <= least else None


def patience_s(p99_lag_s: float) -> float:
    """Return the ``write_timeout`` for a lag that is allowed, in seconds.

    The feed may be behind by as much as its ticks may be late, but no longer than the
    default of a second.
    """
    return float(f"{min(1.0, max(0.01, p99_lag_s)):.2g}")


def hot_symbol(load: Load, mean_s: float, factor: float) -> str | None:
    """Return the symbol whose own ticks keep more than one worker busy, if one does.

    With order by symbol no number of workers helps it.
    """
    span_s = load.span_s / factor
    for name, count in load.counts().items():
        return name if span_s > 0 and count * mean_s > 0.85 * span_s else None
    return None
