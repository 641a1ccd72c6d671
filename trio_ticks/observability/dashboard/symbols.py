"""Find the symbols that bring the most ticks, and those that lose the most. Sync.

Counts by symbol over the last seconds, bounded. The table has a field that says whether
its counts are exact.

Rules: one call a batch, and only while there is a viewer. Up to ``MOST_PER_S`` ticks a
second, every tick is counted. Above that, whole batches are left out at random, and the
rates are those of the sample, scaled. A window that has met ``MOST_SYMBOLS`` different
symbols ends early, and its rates are those of the time until then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest
from operator import attrgetter
from random import Random
from typing import Any, Final

from ...ledger import INTENTIONAL, DropReason
from ..shown import shown

__all__ = ["MOST_PER_S", "MOST_SYMBOLS", "SymbolTable"]

MOST_PER_S: Final = 200_000
MOST_SYMBOLS: Final = 16_384
_WINDOW_S: Final = 5.0
_SHOWN: Final = 12

_symbol_of = attrgetter("symbol")


class _Tally:
    """Counts by symbol, of the ``counted`` ticks; ``seen`` is the number of all."""

    __slots__ = ("counted", "counts", "seen")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.counted = 0
        self.seen = 0

    def add(self, other: _Tally) -> None:
        self.counts.update(other.counts)
        self.counted += other.counted
        self.seen += other.seen

    def per_s(self, symbol: str, span: float) -> float:
        scale = self.seen / self.counted if self.counted else 0.0
        return round(self.counts[symbol] * scale / span, 1) if span > 0 else 0.0

    def top(self) -> list[str]:
        """Return the symbols with the greatest counts, equal counts in name order."""
        counts = self.counts
        return sorted(
            nlargest(_SHOWN, counts, key=counts.__getitem__),
            key=lambda symbol: (-counts[symbol], symbol),
        )


class _Window:
    """The counts of one stretch of time."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended: float | None = None
        self.is_full = False
        self.received, self.lost, self.intentional = _Tally(), _Tally(), _Tally()

    def span(self, now: float) -> float:
        return (now if self.ended is None else self.ended) - self.began


class SymbolTable:
    """Counts by symbol over the last five to ten seconds.

    Args:
        clock: returns the time in seconds.
        most: how many symbols a window may hold; a batch may bring it above that once.
        chance: returns a number from 0 to 1, to decide which batches to leave out. By
            default it is not the pipeline's generator: a viewer must not change what a
            pipeline does.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        most: int = MOST_SYMBOLS,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._most = most
        self._chance = Random(0).random if chance is None else chance
        self.start()

    def start(self) -> None:
        """Begin anew: counts from before a pause without viewers are out of date."""
        now = self._clock()
        self._previous: _Window | None = None
        self._current = _Window(now)
        self._share = 1.0
        self._seen_since = 0
        self._read_at = now

    def count(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Count *items*, which a sender brought, or which were dropped for *reason*.

        The board adds this to the ``item_listeners`` of its pipeline.
        """
        window, number = self._current, len(items)
        self._seen_since += number
        if window.ended is not None:
            return
        tally = (
            window.received
            if reason is None
            else window.intentional
            if reason in INTENTIONAL
            else window.lost
        )
        tally.seen += number
        if self._share < 1.0 and self._chance() >= self._share:
            return
        tally.counted += number
        tally.counts.update(map(_symbol_of, items))
        # Dropped ticks have been received before: they bring no further symbols but
        # those of the ticks that were in the queue already.
        if reason is None and len(tally.counts) > self._most:
            window.ended = self._clock()
            window.is_full = True

    def read(self) -> dict[str, Any]:
        """Return the top symbols by received and by lost ticks a second.

        It begins a new window if the current one is over.
        """
        now, current, previous = self._clock(), self._current, self._previous
        windows = [current] if previous is None else [previous, current]
        span = sum(window.span(now) for window in windows)
        received, lost, intentional = (
            _sum(getattr(window, name) for window in windows)
            for name in ("received", "lost", "intentional")
        )

        def rows(symbols: Iterable[str]) -> list[dict[str, Any]]:
            named = {
                "received_per_s": received,
                "lost_per_s": lost,
                "intentional_per_s": intentional,
            }
            return [
                {
                    "symbol": shown(symbol),
                    **{name: tally.per_s(symbol, span) for name, tally in named.items()},
                }
                for symbol in symbols
            ]

        result = {
            "window_s": round(span, 1),
            "distinct": len(received.counts),
            "exact": not any(window.is_full for window in windows)
            and all(t.counted == t.seen for t in (received, lost, intentional)),
            "by_rate": rows(received.top()),
            "by_loss": rows(lost.top()),
        }
        self._turn(now)
        return result

    def _turn(self, now: float) -> None:
        """Set the share of batches to count, and begin a new window if it is time."""
        elapsed, self._read_at = now - self._read_at, now
        if elapsed > 0:
            # The share that would have kept the last stretch at MOST_PER_S.
            self._share = min(1.0, MOST_PER_S * elapsed / max(self._seen_since, 1))
            self._seen_since = 0
        current = self._current
        if now - current.began >= _WINDOW_S:
            current.ended = now if current.ended is None else current.ended
            self._previous, self._current = current, _Window(now)


def _sum(tallies: Iterable[_Tally]) -> _Tally:
    whole = _Tally()
    for tally in tallies:
        whole.add(tally)
    return whole
