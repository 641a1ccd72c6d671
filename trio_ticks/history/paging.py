"""Which time ranges to ask for, so that every bar comes once, whatever a venue does.

The venues page by time, without a cursor, and leave open what matters: whether the
bounds of a range belong to it, and which end of a range is kept when it holds more bars
than an answer may have. So nothing here relies on either.

Plan: each range begins just before the last bar that is known. If an answer begins with
that bar, nothing is missing between the two. If it does not, the venue has kept the
newer end of the range, which is then made shorter. An answer without a new bar makes
the range longer: there was a weekend. The first range has no bar to begin with; if its
answer begins late, what lies before is asked for once.

Rules: sans-I/O. Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, final

from .intervals import Interval

__all__ = ["Pages", "Row", "StrangeRangeError"]

_FULL: Final = 0.45
"""A range is made longer if its answer fills less than this part of a page."""
_CLOSEST: Final = 10
"""Bars are at least the interval over this apart. A session may cut one short, if it
begins at a quarter past, for example."""


class Row(NamedTuple):
    """One bar as a venue sends it."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class StrangeRangeError(Exception):
    """A venue answered with bars that cannot be; the text says which."""


@final
class Pages:
    """Asks for the bars that open in a range of time, page by page, oldest first.

        while (window := pages.window()) is not None:
            new = pages.take(rows_of(window))

    Args:
        start_ms: the earliest open.
        end_ms: opens are before this.
        interval: of the bars.
        limit: the most bars that an answer may have.
    """

    def __init__(self, start_ms: int, end_ms: int, interval: Interval, limit: int) -> None:
        self._start = start_ms
        self._end = end_ms
        self._step = interval.least_ms
        self._limit = limit
        self._span = max(1, limit - 2)
        self._known: int | None = None
        """When the last bar opened that was returned."""
        self._empty = 0
        """A span that had no new bar."""
        self._overfull: int | None = None
        """A span that had more bars than came."""
        self._held: list[Row] = []
        """The first answer, while what lies before it is asked for."""
        self._done = start_ms >= end_ms
        self.complete_ms = start_ms
        """All bars that open before this have been returned."""

    def window(self) -> tuple[int, int] | None:
        """Return the first and the last millisecond to ask for; ``None``: all is known.

        At most *limit* bars lie in the first windows, both bounds included.
        """
        if self._done:
            return None
        begin = self._start if self._known is None else self._known
        if self._held:
            return begin - 1, self._held[0].open_ms - 1
        return begin - 1, min(self._end, begin + self._span * self._step)

    def take(self, rows: Sequence[Row]) -> list[Row]:
        """Take in the answer to the window, and return the bars that are new.

        Args:
            rows: in any order, with repetitions or without.

        Raises:
            StrangeRangeError: all of them lie outside of the window, or two of them are
                closer than a tenth of the interval. A venue that answers with a bar a
                millisecond would be asked without end.
        """
        window = self.window()
        assert window is not None
        first, last = window
        inside = {row.open_ms: row for row in rows if first < row.open_ms <= last}
        if rows and not inside and not self._nearly(rows, first, last):
            raise StrangeRangeError("bars of another time")
        found = [inside[moment] for moment in sorted(inside)]
        times = [row.open_ms for row in found]
        if self._known is not None and times and times[0] > self._known:
            times.insert(0, self._known)
        if any((later - earlier) * _CLOSEST < self._step for earlier, later in pairwise(times)):
            raise StrangeRangeError("bars that are too close to each other")
        if self._held:
            held, self._held = self._held, []
            if found and self._can_shorten:
                return self._overflow()
            return self._accept(found or held, last)
        if not found or found[-1].open_ms == self._known:
            self._lengthen(last)
            return []
        if self._known is not None and found[0].open_ms > self._known and self._can_shorten:
            return self._overflow()
        if self._known is None and found[0].open_ms >= self._start + self._step:
            self._held = found
            return []
        return self._accept(found, last)

    def _nearly(self, rows: Sequence[Row], first: int, last: int) -> bool:
        """Tell whether the venue may take a row for part of the window."""
        slack = 2 * self._step
        return any(first - slack <= row.open_ms <= last + slack for row in rows)

    @property
    def _can_shorten(self) -> bool:
        return self._span - self._empty > 1

    def _overflow(self) -> list[Row]:
        self._overfull = self._span
        self._span = (self._empty + self._span + 1) // 2
        return []

    def _lengthen(self, last: int) -> None:
        """Look farther: up to *last* there was nothing new."""
        self.complete_ms = max(self.complete_ms, last)
        if last >= self._end:
            self._finish()
            return
        self._empty = self._span
        overfull = self._overfull
        self._span = self._span * 2 if overfull is None else (self._span + overfull + 1) // 2

    def _accept(self, found: list[Row], last: int) -> list[Row]:
        known = self._start - 1 if self._known is None else self._known
        new = [row for row in found if known < row.open_ms < self._end]
        self._known = found[-1].open_ms
        self.complete_ms = max(self.complete_ms, self._known + 1)
        if self._overfull is None and len(found) < _FULL * self._limit and last < self._end:
            self._span *= 2
        self._empty, self._overfull = 0, None
        if self._known + self._step >= self._end:
            self._finish()
        return new

    def _finish(self) -> None:
        self._done = True
        self.complete_ms = self._end
