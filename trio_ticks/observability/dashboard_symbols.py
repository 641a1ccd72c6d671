"""Which symbols bring the most, and which lose the most: counts by symbol over the last seconds, bounded. Sync.

Rules: one call a batch, and only while somebody looks. Counts are exact for up to ``MOST_SYMBOLS`` different symbols in a window; where
there are more, a window ends early, and its rates are those of the stretch until then: a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import nlargest
from operator import attrgetter
from typing import Any, Final

from ..ledger import INTENTIONAL, DropReason

__all__ = ["MOST_SYMBOLS", "SymbolTable"]

MOST_SYMBOLS: Final = 16_384
_WINDOW_S: Final = 5.0
_SHOWN: Final = 12

_symbol_of = attrgetter("symbol")


class _Window:
    """The counts of one stretch of time."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended: float | None = None
        self.is_full = False
        self.received: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.intentional: Counter[str] = Counter()

    def span(self, now: float) -> float:
        return (now if self.ended is None else self.ended) - self.began


class SymbolTable:
    """Counts by symbol over the last five to ten seconds.

    Args:
        clock: returns the time in seconds.
        most: how many symbols a window may hold; a batch may bring it above that once.
    """

    def __init__(self, clock: Callable[[], float], most: int = MOST_SYMBOLS) -> None:
        self._clock = clock
        self._most = most
        self._previous: _Window | None = None
        self._current = _Window(clock())

    def start(self) -> None:
        """Begin anew: what was counted before somebody looked away says nothing of now."""
        self._previous, self._current = None, _Window(self._clock())

    def count(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Count *items*, which a sender brought, or which were dropped for *reason*: the channel's ``on_items``."""
        window = self._current
        if window.ended is not None:
            return
        if reason is None:
            window.received.update(map(_symbol_of, items))
            if len(window.received) > self._most:
                window.ended = self._clock()
                window.is_full = True
        else:
            # What is dropped has been received; not always in this window, but then in no more symbols than the queue holds.
            (window.intentional if reason in INTENTIONAL else window.lost).update(map(_symbol_of, items))

    def read(self) -> dict[str, Any]:
        """Return the top symbols by what they bring and by what they lose, in ticks a second; begin a new window when it is time."""
        now, current, previous = self._clock(), self._current, self._previous
        windows = [current] if previous is None else [previous, current]
        span = sum(window.span(now) for window in windows)
        received, lost, intentional = (_sum([getattr(window, name) for window in windows]) for name in ("received", "lost", "intentional"))
        result = {
            "window_s": round(span, 1),
            "distinct": len(received),
            "exact": not any(window.is_full for window in windows),
            "by_rate": [self._row(symbol, received, lost, intentional, span) for symbol in _top(received)],
            "by_loss": [self._row(symbol, received, lost, intentional, span) for symbol in _top(lost)],
        }
        if now - current.began >= _WINDOW_S:
            current.ended = now if current.ended is None else current.ended
            self._previous, self._current = current, _Window(now)
        return result

    @staticmethod
    def _row(symbol: str, received: Counter[str], lost: Counter[str], intentional: Counter[str], span: float) -> dict[str, Any]:
        named = {"received_per_s": received, "lost_per_s": lost, "intentional_per_s": intentional}
        return {"symbol": symbol, **{name: round(counts[symbol] / span, 1) if span > 0 else 0.0 for name, counts in named.items()}}


def _sum(counts: Sequence[Counter[str]]) -> Counter[str]:
    if len(counts) == 1:
        return counts[0]
    whole = counts[0].copy()
    whole.update(counts[1])
    return whole


def _top(counts: Counter[str]) -> list[str]:
    """Return the symbols with the greatest counts, in an order that does not depend on which came first."""
    return sorted(nlargest(_SHOWN, counts, key=counts.__getitem__), key=lambda symbol: (-counts[symbol], symbol))
