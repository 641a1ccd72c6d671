"""Keep a pipeline's recent rates, and draw them as characters.

Rules: bounded, and no third-party package. Rates are differences of the counters in two
snapshots, so that no tick is missed between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from ...metrics.snapshots import PipelineMetrics

__all__ = ["History", "Rates", "bar", "sparkline"]

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@attrs.frozen(slots=True)
class Rates:
    """The rates of one step, in ticks a second."""

    produced: float
    handled: float
    """Ticks whose handler returned."""
    dropped: float
    failed: float = 0.0
    """Ticks whose handler raised."""


class History:
    """Rates of the last *steps* steps of *step_s* seconds each.

    Snapshots may be added more often than that.
    """

    def __init__(self, step_s: float = 0.5, steps: int = 240) -> None:
        self.step_s = step_s
        self._rates: deque[Rates] = deque(maxlen=steps)
        self._last = (0.0, 0, 0, 0, 0)

    def begin(self, metrics: PipelineMetrics) -> None:
        """Count rates from *metrics* on, and not from the pipeline's start."""
        self._rates.clear()
        self._last = self._reading(metrics)

    @staticmethod
    def _reading(metrics: PipelineMetrics) -> tuple[float, int, int, int, int]:
        return (
            metrics.uptime_s,
            metrics.items_produced,
            metrics.items_consumed,
            metrics.items_dropped,
            metrics.items_failed,
        )

    def add(self, metrics: PipelineMetrics) -> None:
        """Add a snapshot, unless the last one added is less than a step older."""
        now = self._reading(metrics)
        elapsed = now[0] - self._last[0]
        if elapsed < 0:  # another pipeline, or the same program started again
            self._rates.clear()
        elif elapsed < self.step_s:
            return
        else:
            # After a busy loop or a suspended laptop, the snapshot is late: its mean
            # rates then stand for all the steps that were missed.
            rates = Rates(
                *((new - old) / elapsed for new, old in zip(now[1:], self._last[1:], strict=True))
            )
            missed = min(round(elapsed / self.step_s), self._rates.maxlen or 1)
            self._rates.extend([rates] * max(1, missed))
        self._last = now

    @property
    def rates(self) -> tuple[Rates, ...]:
        """The steps' rates, oldest first."""
        return tuple(self._rates)

    def recent(self, seconds: float = 2.0) -> Rates:
        """Return the mean rates of the last *seconds*; all 0 before the first step."""
        steps = self.rates[-max(1, round(seconds / self.step_s)) :]
        if not steps:
            return Rates(0.0, 0.0, 0.0)
        number = len(steps)
        return Rates(
            sum(step.produced for step in steps) / number,
            sum(step.handled for step in steps) / number,
            sum(step.dropped for step in steps) / number,
            sum(step.failed for step in steps) / number,
        )


def sparkline(values: Sequence[float], width: int, top: float, *, blocks: str = BLOCKS) -> str:
    """Return the last *width* values as characters, *top* being the full height.

    A value above 0 is drawn with the lowest character at least.
    """
    steps = len(blocks) - 1
    text = ""
    for value in values[-width:] if width > 0 else ():
        level = round(value / top * steps) if top > 0 else 0
        text += blocks[min(steps, max(level, 1 if value > 0 else 0))]
    return text.rjust(max(width, 0))


def bar(fraction: float, width: int, *, plain: bool = False) -> str:
    """Return a bar of *width* cells, filled up to *fraction*.

    Its steps are eighths of a cell, or whole cells if *plain*.
    """
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    if fraction > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    if plain:
        return ("#" * (full + (1 if rest >= 4 or (rest and not full) else 0))).ljust(width, ".")
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)
