"""Estimates how far a venue's clock is from ours, by the timestamps of its items.

Goal: one wrong timestamp, or one in ten, must not move the estimate, and a lasting jump
of a clock must be followed soon. A plain minimum filter, as in NTP, fails at the first:
one timestamp from the future would make all other items look old.

Plan: a sample is our time of arrival less the item's timestamp: the clocks' difference
and the way here. Samples are judged in blocks, by a low quantile, and the estimate is
the least quantile of the last one to two windows; older ones are forgotten, since
clocks drift. A block that lies below the estimate lowers it at once. A block above it
is either a delay or a jump. A delay cannot grow faster than time passes, because items
of one venue arrive in their order; a jump does. So samples that rise faster put the
estimate in doubt, and a block of steady ones then replaces it.

Rules: sans-I/O, times are given in, memory is constant. While the estimate is in doubt
nobody should call an item old because of it.
"""

from __future__ import annotations

import math
from array import array
from typing import Final, final

__all__ = ["ClockOffset", "ClockOffsets"]

_WINDOW_S: Final = 60.0
"""Estimates are kept for one to two of these, in seconds."""
_BLOCK: Final = 32
"""Samples in a block."""
_DOUBT_BLOCK: Final = 64
"""Samples in a block that replaces an estimate in doubt."""
_DOUBT_S: Final = 1.0
"""An estimate is in doubt for at least this long before it is replaced, in seconds."""
_ODD: Final = 8
"""So many samples that no delay explains put the estimate in doubt."""
_EARLY: Final = (4, 8, 16)
"""Sizes at which the first block already counts, so that the estimate is soon good."""
_EXACT_S: Final = 0.1
"""Samples closer to the estimate than this always agree with it, in seconds."""
_COARSE_S: Final = 1.0
"""Samples farther away never do: the coarsest timestamps are whole seconds."""
_FUTURE_S: Final = 0.1
"""A timestamp is from the future if it is ahead of our clock by more, in seconds."""


@final
class ClockOffset:
    """Our clock less the clock of one source, plus its quickest way here.

    Args:
        window_s: estimates are kept for one to two of these; infinite: until a jump.
        first: how many samples the first estimate needs. With 1, a first timestamp that
            is not from the future is believed at once, since two synchronised clocks
            are the usual case; one from the future needs three more beside it.
    """

    __slots__ = (
        "_agreed_at",
        "_before",
        "_block",
        "_delay_s",
        "_doubted_at",
        "_drains",
        "_first",
        "_recent",
        "_tolerance_s",
        "_turn",
        "_window_s",
        "_young",
        "is_known",
        "jumped_at",
        "odd",
        "offset_s",
    )

    def __init__(self, window_s: float = _WINDOW_S, first: int = 1) -> None:
        self._window_s = window_s
        self._first = first
        self.offset_s = math.inf
        """The estimate, in seconds; infinite before the first."""
        self.is_known = False
        """Whether there is an estimate, and no doubt about it."""
        self.jumped_at = -math.inf
        """When the last jump was followed. What arrived before belongs to another
        offset."""
        self._block = array("d")
        # Whether the first block is not complete yet.
        self._young = True
        # Whether the last block was the way down from a delay. So may the first be.
        self._drains = True
        # The least quantile of this window and of the one before; when this one ends.
        self._recent = self._before = math.inf
        self._turn = -math.inf
        self._tolerance_s = _EXACT_S
        self.odd = 0
        """How many samples no delay explains, since the last one that agreed with the
        estimate."""
        # When a sample last agreed with the estimate; the greatest delay that was
        # possible when the first odd one came; when they became a doubt.
        self._agreed_at = -math.inf
        self._delay_s = math.inf
        self._doubted_at = math.inf

    def observe(self, difference_s: float, now: float) -> float:
        """Add a sample; return by how much the clocks have jumped, if it showed that.

        Args:
            difference_s: our time of an item's arrival less its timestamp, in seconds.
            now: a time that only goes forward, in seconds.

        Returns:
            The difference of the new estimate and the old one, in seconds; 0: no jump.
        """
        block = self._block
        block.append(difference_s)
        above = difference_s - self.offset_s
        if above > self._tolerance_s:
            if not self.odd:
                # The estimate may be lower by a tolerance than it was at _agreed_at.
                self._delay_s = now - self._agreed_at + 2 * self._tolerance_s + _EXACT_S
            if above > self._delay_s:
                self.odd += 1
                if self.odd == _ODD and self.is_known:
                    self.is_known = False
                    self._doubted_at = now
                    del block[:]
        elif above >= -self._tolerance_s:
            self._agreed_at = now
            self.odd = 0
        elif self.offset_s == math.inf:
            self._begin(difference_s, now)
        size = len(block)
        if size < (_BLOCK if self._doubted_at == math.inf else _DOUBT_BLOCK):
            if self._young and size in _EARLY and self.is_known:
                self._lower(sorted(block)[size // 2], now)
            return 0.0
        samples = sorted(block)
        del block[:]
        if self._doubted_at < math.inf:
            return self._resolve(samples, now)
        return self._close(samples, now)

    def _begin(self, difference_s: float, now: float) -> None:
        """Make the first estimate, if the samples suffice."""
        if self._first == 1 and difference_s >= -_FUTURE_S:
            self._set(difference_s, now)
        elif (size := len(self._block)) >= max(self._first, _EARLY[0]):
            self._set(sorted(self._block)[size // 2], now)

    def _set(self, offset_s: float, now: float) -> None:
        self.offset_s = self._recent = offset_s
        self._before = math.inf
        self._turn = now + self._window_s
        self._agreed_at = now
        self.odd = 0
        self._doubted_at = math.inf
        self.is_known = True

    def _lower(self, quantile_s: float, now: float) -> None:
        if now >= self._turn:
            self._turn, self._before, self._recent = now + self._window_s, self._recent, math.inf
        self._recent = min(self._recent, quantile_s)
        self.offset_s = min(self._recent, self._before)

    def _close(self, samples: list[float], now: float) -> float:
        """Judge a complete block: three in eight samples may be from the future."""
        quantile_s = samples[_BLOCK * 3 // 8]
        scatter_s = samples[_BLOCK * 7 // 8] - samples[_BLOCK // 8]
        self._tolerance_s = min(max(_EXACT_S, scatter_s), _COARSE_S)
        below = quantile_s - self.offset_s
        if below < -self._tolerance_s:
            if _half_scatter_s(samples) > -below / 4:
                # A backlog drains, or a jump was in the middle of this block.
                quantile_s = samples[_BLOCK * 5 // 8]
                self._drains = quantile_s - self.offset_s < -self._tolerance_s
            elif not self._drains:
                return self._jump(quantile_s, now)
        else:
            self._drains = False
        self._young = False
        self._lower(quantile_s, now)
        return 0.0

    def _resolve(self, samples: list[float], now: float) -> float:
        """End the doubt, if *samples* agree with the old estimate or on a new one."""
        quantile_s = samples[_DOUBT_BLOCK * 3 // 8]
        above = quantile_s - self.offset_s
        if abs(above) <= self._tolerance_s:
            self._agreed_at = now
            self.odd = 0
            self._doubted_at = math.inf
            self.is_known = True
            return 0.0
        steady = _half_scatter_s(samples) <= max(self._tolerance_s, abs(above) / 4)
        if steady and now - self._doubted_at >= _DOUBT_S:
            return self._jump(quantile_s, now)
        return 0.0

    def _jump(self, offset_s: float, now: float) -> float:
        jumped_s = offset_s - self.offset_s
        self._set(offset_s, now)
        self._young = self._drains = False
        self.jumped_at = now
        return jumped_s


def _half_scatter_s(samples: list[float]) -> float:
    """Return how far the lower middle half of the sorted *samples* is spread."""
    return samples[len(samples) * 5 // 8] - samples[len(samples) // 8]


@final
class ClockOffsets:
    """The offsets of one channel's symbols, whose venues may have different clocks.

    A symbol has an estimate of its own once enough of its items have come. Until then,
    and for symbols beyond the first *most_symbols*, the shared estimate holds. A symbol
    that has been quiet for ten minutes makes room for another one.
    """

    __slots__ = (
        "_last_at",
        "_last_s",
        "_most",
        "_own",
        "_seen",
        "_sweep_at",
        "_turn",
        "jumps",
        "shared",
    )

    _OWN_FIRST = 8
    _SHARED_ONE_IN = 4
    """The shared estimate takes one in so many samples of the symbols that do not need
    it, to save time, and all while a jump seems to begin."""
    _QUIET_S = 600.0
    _SAME_S = 0.5
    _SAME_FOR_S = 120.0
    """If a clock jumps, each symbol shows it, the quiet ones later. Jumps that differ
    by less than ``_SAME_S`` and are less than ``_SAME_FOR_S`` apart are one."""

    def __init__(self, most_symbols: int = 1024) -> None:
        self._most = most_symbols
        self.shared = ClockOffset()
        """The estimate from the items of all symbols."""
        self.jumps = 0
        """How often a clock has jumped: one of all symbols together counts once."""
        self._own: dict[str, ClockOffset] = {}
        # When each of them was last observed; when to look for quiet ones.
        self._seen: dict[str, float] = {}
        self._sweep_at = -math.inf
        self._turn = 0
        self._last_s = 0.0
        self._last_at = -math.inf

    def __len__(self) -> int:
        return len(self._own)

    def observe(self, symbol: str, difference_s: float, now: float) -> float:
        """Add a sample; return by how much a clock has jumped, if that is news.

        Args:
            symbol: of the item that arrived.
            difference_s: our time of its arrival less its timestamp, in seconds.
            now: a time that only goes forward, in seconds.
        """
        own = self._own.get(symbol)
        jumped_s = 0.0
        self._turn += 1
        if (
            own is None
            or own.offset_s == math.inf
            or self.shared.odd
            or self._turn % self._SHARED_ONE_IN == 0
        ):
            jumped_s = self.shared.observe(difference_s, now)
        if own is None:
            if len(self._own) >= self._most and not self._sweep(now):
                return self._news(jumped_s, -math.inf, now)
            own = self._own[symbol] = ClockOffset(first=self._OWN_FIRST)
        self._seen[symbol] = now
        before = own.jumped_at
        own_jumped_s = own.observe(difference_s, now)
        if own_jumped_s:
            return self._news(own_jumped_s, before, now)
        # Symbols with estimates of their own show a jump by themselves. The shared one
        # also moves where a feed whose clock differs stops: no clock has jumped then.
        if jumped_s and own.offset_s == math.inf:
            return self._news(jumped_s, -math.inf, now)
        return 0.0

    def offset_s(self, symbol: str, arrived: float) -> float | None:
        """Return the offset for an item of *symbol* that arrived at *arrived*.

        Returns:
            The offset in seconds; ``None``: it is not known, or in doubt, or a jump was
            followed since the item's arrival.
        """
        estimate = self._own.get(symbol)
        if estimate is None or estimate.offset_s == math.inf:
            estimate = self.shared
        if not estimate.is_known or arrived < estimate.jumped_at:
            return None
        return estimate.offset_s

    def _news(self, jumped_s: float, before: float, now: float) -> float:
        """Return *jumped_s* if that jump was not counted yet.

        A symbol that has jumped since the last counted jump (*before*) shows a new one,
        even if it is as large.
        """
        if not jumped_s or (
            abs(jumped_s - self._last_s) < self._SAME_S
            and now - self._last_at < self._SAME_FOR_S
            and before < self._last_at
        ):
            return 0.0
        self.jumps += 1
        self._last_s, self._last_at = jumped_s, now
        return jumped_s

    def _sweep(self, now: float) -> bool:
        """Forget quiet symbols, at most once a minute; tell whether there is room."""
        if now < self._sweep_at:
            return False
        self._sweep_at = now + _WINDOW_S
        for symbol in [each for each, seen in self._seen.items() if now - seen > self._QUIET_S]:
            del self._own[symbol], self._seen[symbol]
        return len(self._own) < self._most
