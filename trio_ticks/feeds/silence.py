"""Which symbols are silent for longer than they usually are. Sans-I/O.

Plan: arrivals are counted per symbol and folded, at most twice a second, into a small
histogram of the intervals between them: one bin for each factor of two, in six slices
of ten minutes. The median of the last hour is read from that.

Rules: nothing is kept for a symbol beyond its few bins, and only for symbols that were
asked for; at most ``most`` of them are watched. The caller brings the time, in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final, final

__all__ = ["SymbolWatch"]

_FOLD_S: Final = 0.5
"""Arrivals are folded no more often; intervals shorter than this are alike to us."""
_SLICE_S: Final = 600.0
_SLICES: Final = 6
_LEAST_S: Final = 10.0
_FACTOR: Final = 20.0
_ENOUGH: Final = 20
"""Arrivals after which a symbol's usual interval is known."""


@final
class _Pulse:
    """When one symbol has come, and how often it usually comes."""

    __slots__ = ("arrivals", "last", "slices")

    def __init__(self, now: float) -> None:
        self.last = now
        self.arrivals = 0
        self.slices: list[tuple[float, dict[int, int]]] = []
        """Beginning and histogram of each slice: by the power of two, in seconds, that
        an interval does not exceed, how many intervals."""

    def add(self, now: float, count: int) -> None:
        """Count *count* arrivals at *now*."""
        if not self.slices or now - self.slices[-1][0] >= _SLICE_S:
            self.slices.append((now, {}))
            del self.slices[:-_SLICES]
        bins = self.slices[-1][1]
        bins[-1] = bins.get(-1, 0) + count - 1
        # Of arrivals within one fold, the first ends an interval.
        power = max(-1, math.ceil(math.log2(max(now - self.last, _FOLD_S))))
        bins[power] = bins.get(power, 0) + 1
        self.arrivals += count
        self.last = now

    def median_s(self, now: float) -> float:
        """Return the median interval of the last hour, rounded up to a power of two."""
        bins: Counter[int] = Counter()
        for began, part in self.slices:
            if now - began < _SLICE_S * (_SLICES + 1):
                bins.update(part)
        half = bins.total() / 2
        for power in sorted(bins):
            half -= bins[power]
            if half <= 0 and bins[power]:
                return 2.0**power
        return 0.0


@final
class SymbolWatch:
    """Finds symbols that never came, or went silent.

    A symbol is silent when nothing of it has come for *after_s* seconds. By default
    that is 20 times its own median interval of the last hour, at least 10 s, once it
    has come 20 times; a symbol that has come less often is silent after
    *never_after_s*. What came together in one read counts once.

    Args:
        report: called with a symbol, whether it is silent now, and for how many
            seconds it was.
        after_s: the limit for all symbols; ``None``: by their own interval.
        never_after_s: the limit where no usual interval is known.
        most: the most symbols that are watched.
    """

    def __init__(
        self,
        report: Callable[[str, bool, float], object],
        *,
        after_s: float | None = None,
        never_after_s: float = 60.0,
        most: int = 100_000,
    ) -> None:
        self._report = report
        self._after_s = after_s
        self._never_after_s = never_after_s
        self._most = most
        self._pulses: dict[str, _Pulse] = {}
        self._counts: dict[str, int] = {}
        self._counted_at = -math.inf
        """When the latest of the arrivals in ``_counts`` came."""
        self._folded_at = -math.inf
        self.silent: dict[str, float] = {}
        """The silent symbols, with the time since when."""

    def watch(self, symbols: Iterable[str], now: float) -> None:
        """Begin to watch *symbols*; their silence counts from now on."""
        for symbol in symbols:
            if symbol not in self._pulses and len(self._pulses) < self._most:
                self._pulses[symbol] = _Pulse(now)

    def forget(self, symbols: Iterable[str]) -> None:
        """Watch *symbols* no more."""
        for symbol in symbols:
            self._pulses.pop(symbol, None)
            self._counts.pop(symbol, None)
            self.silent.pop(symbol, None)

    def restart(self, now: float, symbols: Iterable[str] | None = None) -> None:
        """Let the silence of *symbols*, or of all, begin at *now* at the earliest.

        For the end of an outage: nothing could come before.
        """
        for symbol in list(self._pulses) if symbols is None else symbols:
            pulse = self._pulses.get(symbol)
            if pulse is not None:
                pulse.last = max(pulse.last, now)

    def arrived(self, symbols: Collection[str], now: float) -> None:
        """Notice that something of each of *symbols* has arrived."""
        is_due = now - self._folded_at >= _FOLD_S
        if is_due:
            self._fold()
        counts = self._counts
        for symbol in symbols:
            counts[symbol] = counts.get(symbol, 0) + 1
        self._counted_at = now
        if is_due:
            self._fold()
            self._folded_at = now
        elif self.silent and not self.silent.keys().isdisjoint(symbols):
            # That a symbol is back is reported at once.
            self._fold()

    def _fold(self) -> None:
        """Add the arrivals since the last time to the histograms.

        All of them came within half a second up to ``_counted_at``.
        """
        now, counts, self._counts = self._counted_at, self._counts, {}
        for symbol, count in counts.items():
            pulse = self._pulses.get(symbol)
            if pulse is None:
                continue
            was_silent_since = self.silent.pop(symbol, None)
            if was_silent_since is not None:
                self._report(symbol, False, now - was_silent_since)
                # The pause is over; it is no usual interval.
                pulse.last = now
            pulse.add(now, count)

    def check(self, now: float) -> float:
        """Report the symbols that are silent now; return when to check again."""
        self._fold()
        next_at = math.inf
        for symbol, pulse in self._pulses.items():
            if symbol in self.silent:
                continue
            due = pulse.last + self._limit_s(pulse, now)
            if due <= now:
                self.silent[symbol] = pulse.last
                self._report(symbol, True, now - pulse.last)
            else:
                next_at = min(next_at, due)
        return next_at

    def _limit_s(self, pulse: _Pulse, now: float) -> float:
        if self._after_s is not None:
            return self._after_s
        if pulse.arrivals < _ENOUGH:
            return self._never_after_s
        return max(_LEAST_S, _FACTOR * pulse.median_s(now))
