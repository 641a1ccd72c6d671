"""What comes, and how long each of it takes: a simulation's two inputs, in columns.

Rules: a tick is a number from 0, and each column has an entry for each tick. So every
setting that is simulated sees the same ticks with the same services, in whatever order
it handles them. Columns are arrays: a day of ticks has to fit into memory. Sans-I/O.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from statistics import NormalDist, fmean, pstdev
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from ..handlers.kinds import Place
from ..ticks import Bar, BookUpdate, Tick, Trade

__all__ = ["KINDS", "Load", "Services"]

KINDS: tuple[type, ...] = (Tick, Trade, BookUpdate, Bar, object)
"""The kinds of items that a load tells apart; the last stands for all others."""

_BY_CHANCE: Final = 0.001
"""How probable it may be that any symbol is taken for a special one, if none is."""
_USUAL: Final = 0.95
"""This share of the ticks is compared as it is."""


@final
@attrs.frozen(slots=True)
class Load:
    """When each tick arrives, and of which symbol and kind it is.

    Raises:
        ConfigError: the columns differ in length, or times go back.
    """

    times: array[float] = attrs.field(repr=False)
    """When each tick arrives, in seconds from the beginning; never going back."""
    symbols: array[int] = attrs.field(repr=False)
    """The place of each tick's symbol in ``names``."""
    names: tuple[str, ...]
    kinds: bytes | None = attrs.field(default=None, repr=False)
    """The place of each tick's kind in ``KINDS``; ``None``: all are quotes."""

    def __attrs_post_init__(self) -> None:
        if len(self.symbols) != len(self.times) or (
            self.kinds is not None and len(self.kinds) != len(self.times)
        ):
            raise ConfigError("the columns of a load must have the same length")
        before = -math.inf
        for moment in self.times:
            if moment < before:
                raise ConfigError("the times of a load must not go back")
            before = moment

    def __len__(self) -> int:
        return len(self.times)

    @property
    def span_s(self) -> float:
        """From the first tick to the last, in seconds."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    @property
    def rate(self) -> float:
        """Ticks a second, on average; infinite if all come at once."""
        count = len(self.times)
        if count < 2:
            return 0.0
        return (count - 1) / self.span_s if self.span_s > 0 else math.inf

    def faster(self, factor: float) -> Load:
        """Return the same ticks, coming *factor* times as fast."""
        if factor == 1:
            return self
        times = array("d", (moment / factor for moment in self.times))
        return attrs.evolve(self, times=times)

    def part(self, begin: int, end: int) -> Load:
        """Return the ticks from number *begin* to before *end*, as a load."""
        first = self.times[begin] if begin < len(self.times) else 0.0
        return Load(
            array("d", (moment - first for moment in self.times[begin:end])),
            self.symbols[begin:end],
            self.names,
            None if self.kinds is None else self.kinds[begin:end],
        )

    def busiest(self, window_s: float) -> tuple[float, int]:
        """Return the highest rate in any *window_s* seconds, and where it begins.

        Returns:
            Ticks a second, and the number of the first tick of that window.
        """
        times, most, where, end = self.times, 0, 0, 0
        count = len(times)
        for begin, moment in enumerate(times):
            limit = moment + window_s
            while end < count and times[end] < limit:
                end += 1
            if end - begin > most:
                most, where = end - begin, begin
        return most / window_s, where

    def windows(self, count: int) -> list[tuple[int, int]]:
        """Cut the load into *count* stretches of equal time; leave out empty ones.

        Returns:
            For each the number of its first tick, and the number behind its last.
        """
        if not self.times:
            return []
        first, step = self.times[0], self.span_s / count
        marks = [bisect_left(self.times, first + step * place) for place in range(1, count)]
        marks = [0, *marks, len(self.times)]
        return [(a, b) for a, b in pairwise(marks) if b > a]

    def counts(self) -> dict[str, int]:
        """Return how many ticks there are of each symbol, the most first."""
        found = [0] * len(self.names)
        for place in self.symbols:
            found[place] += 1
        pairs = sorted(zip(self.names, found, strict=True), key=lambda pair: -pair[1])
        return {name: number for name, number in pairs if number}


@final
@attrs.frozen(slots=True)
class Services:
    """How long the handling of each tick takes, in two parts.

    A table of services, and for each tick its place in the table: a recording of
    millions of ticks is handled with services that were measured on thousands.
    """

    busy: Sequence[float] = attrs.field(repr=False)
    """The table: how long a tick computes, in seconds.

    In the event loop nothing else happens meanwhile; threads wait for the interpreter's
    lock, and the event loop goes on; processes go on."""
    waits: Sequence[float] = attrs.field(repr=False)
    """The table: how long the worker is occupied besides, in seconds."""
    places: Sequence[int] = attrs.field(repr=False)
    """For each tick its place in the table."""
    executor: Place = "loop"
    """Where the ticks are handled: a thread or a process takes several at a time."""
    hand_over_s: float = 0.0
    """How long a worker needs from one batch to the next, in seconds.

    Half of it passes before the batch's first tick begins. Of the event loop, whose
    workers take one tick at a time, it is part of the tables."""
    per_batch: float = 1.0
    """How many ticks a batch held, on average, when this was measured."""

    @classmethod
    def each(cls, seconds: Sequence[float]) -> Services:
        """Return services for as many ticks as *seconds*, during which others go on."""
        return cls(bytes(0), seconds, range(len(seconds)))

    @classmethod
    def drawn(
        cls,
        load: Load,
        busy: Sequence[float],
        waits: Sequence[float],
        symbols: Sequence[int],
        *,
        random: Random,
        least: int = 50,
        **more: Any,
    ) -> Services:
        """Give each tick of *load* a service that was measured on one like it.

        Args:
            load: the ticks.
            busy: of each measured tick; see above.
            waits: of each measured tick.
            symbols: the place of each measured tick's symbol in ``load.names``.
            random: draws which; the same seed gives each tick the same.
            least: a symbol with fewer measured ticks draws from all of them. So does
                one whose ticks take as long as the others'.
            **more: where they were measured, and what a batch cost there: see above.

        Raises:
            ConfigError: nothing was measured.
        """
        if not waits:
            raise ConfigError("no service was measured: the handler has handled no tick")
        everything = list(range(len(waits)))
        own = _pools_of_their_own(list(map(sum, zip(busy, waits, strict=True))), symbols, least)
        pools = [own.get(symbol, everything) for symbol in range(len(load.names))]
        # Like cards: each comes once before any comes again. Drawn independently, a few
        # slow ticks more or less would make a queue overflow that does not.
        common: list[int] = []
        decks = [common if pool is everything else list[int]() for pool in pools]
        places = array("I")
        for symbol in load.symbols:
            deck = decks[symbol]
            if not deck:
                deck += pools[symbol]
                random.shuffle(deck)
            places.append(deck.pop())
        return cls(busy, waits, places, **more)

    def scaled(self, factor: float) -> Services:
        """Return services that take *factor* times as long; not so the batches."""
        return attrs.evolve(
            self,
            busy=array("d", (seconds * factor for seconds in self.busy)),
            waits=array("d", (seconds * factor for seconds in self.waits)),
        )

    def mean_s(self) -> float:
        """Return how long a tick occupies its worker on average, in seconds.

        With its part of what a batch costs, in batches as they were measured.
        """
        return self.mean_busy_s() + self._mean(self.waits) + self.hand_over_s / self.per_batch

    def mean_busy_s(self) -> float:
        """Return how long a tick computes on average, in seconds."""
        return self._mean(self.busy)

    def _mean(self, table: Sequence[float]) -> float:
        if not table or not self.places:
            return 0.0
        return math.fsum(map(table.__getitem__, self.places)) / len(self.places)


def _pools_of_their_own(
    whole: Sequence[float], symbols: Sequence[int], least: int
) -> dict[int, list[int]]:
    """Return the places of those symbols whose handling differs from the others'.

    Where a few ticks take most of the time, each symbol has other ones by chance. To
    give them back to it each time would make it a slow symbol, which it is not. So the
    slowest ticks of all count as if they were only just among these.

    Args:
        whole: how long each measured tick occupied its worker.
        symbols: of each measured tick.
        least: so many ticks are needed to tell.
    """
    pools: dict[int, list[int]] = {}
    for place, symbol in enumerate(symbols):
        pools.setdefault(symbol, []).append(place)
    most = sorted(whole)[int(_USUAL * (len(whole) - 1))]
    whole = [min(each, most) for each in whole]
    mean, deviation = fmean(whole), pstdev(whole)
    # Of many symbols one differs by three standard errors sooner or later.
    most_errors = NormalDist().inv_cdf(1 - _BY_CHANCE / 2 / len(pools))
    return {
        symbol: pool
        for symbol, pool in pools.items()
        if len(pool) >= least
        and abs(fmean(whole[place] for place in pool) - mean)
        > most_errors * deviation / math.sqrt(len(pool))
    }
