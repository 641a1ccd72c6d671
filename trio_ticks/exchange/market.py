"""Synthetic markets: the times of ticks, and their contents.

The times are those of a self-exciting process, the contents those of a random walk on a
price grid.

Rules: sans-I/O and deterministic. For a seed, the sequence of ticks and of their times
is the same however it is cut into batches; so each generator of random numbers serves
one purpose only. Time is seconds since the market opened; the caller maps it to a
clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate

import attrs

from .wire import FlatTick

__all__ = ["Arrivals", "Market", "zipf_weights"]

PRICE_GRID = 100
"""Price steps in one unit of the quote currency: prices are whole cents."""

MEMORY_S = 0.1
"""How long an event goes on causing others, as the mean of an exponential decay."""

MAX_SPREAD = 20
"""The widest spread, in price steps."""


@attrs.define(slots=True)
class Arrivals:
    """Times of a self-exciting (Hawkes) process with an exponential kernel.

    Each event raises the intensity by ``burst / memory_s`` a second, and that
    excitement decays with the time constant ``memory_s``: an event has ``burst``
    children on average, so of all events the share ``burst`` is caused by others. The
    mean rate is ``rate`` whatever ``burst`` is; counts in windows much longer than
    ``memory_s / (1 - burst)`` have a variance ``1 / (1 - burst) ** 2`` times their
    mean. With ``burst=0`` it is a Poisson process.

    The simulation is exact (no thinning, no time steps): the next event is the earlier
    one of the next background event and the next caused one, whose waiting time has a
    closed form (Dassios and Zhao, 2013, "Exact simulation of Hawkes process with
    exponentially decaying intensity"). It begins at the mean intensity, so it needs no
    warm-up.
    """

    rate: float
    burst: float
    memory_s: float
    _rng: random.Random
    next_at: float = attrs.field(default=0.0, init=False)
    """The time of the next event, in seconds since the start."""
    _excitement: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._excitement = self.rate * self.burst
        self._step()

    def _step(self) -> None:
        """Move on to the next event."""
        decay, draw = 1.0 / self.memory_s, self._rng.random
        # 1 - random() is never 0, for which log() raises.
        wait = -math.log(1.0 - draw()) / (self.rate * (1.0 - self.burst))
        if self.burst:
            remaining = 1.0 + decay * math.log(1.0 - draw()) / self._excitement
            if remaining > 0.0:
                wait = min(wait, -math.log(remaining) / decay)
            self._excitement = self._excitement * math.exp(-decay * wait) + self.burst * decay
        self.next_at += wait

    def take(self, until: float, limit: int) -> int:
        """Step over the events up to the time *until*, and return how many there were.

        There are at most *limit* of them.
        """
        count = 0
        while self.next_at <= until and count < limit:
            self._step()
            count += 1
        return count


def zipf_weights(count: int, skew: float) -> list[float]:
    """Return the share of each of *count* symbols.

    It is proportional to ``1 / rank ** skew``; a *skew* of 0 is even.
    """
    weights = [1.0 / rank**skew for rank in range(1, count + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


class _Walk:
    """The quote of one symbol, in whole price steps."""

    __slots__ = ("ask_size", "bid", "bid_size", "spread", "symbol", "volume")

    def __init__(self, symbol: str, seed: object) -> None:
        rng = random.Random(f"{seed}/{symbol}")
        self.symbol = symbol
        self.bid = round(PRICE_GRID * rng.lognormvariate(math.log(150.0), 0.6))
        self.spread = rng.randint(1, 4)
        self.bid_size = 100 * rng.randint(1, 32)
        self.ask_size = 100 * rng.randint(1, 32)
        self.volume = 1000 * rng.randint(100, 2000)


class Market:
    """A market of several symbols, from which :meth:`take` gets the ticks that are due.

    Each tick changes one thing: mostly the size on one side, at times the price by one
    step, at times the spread (1 to 20 steps, pulled back to the narrow end). Each adds
    some traded volume, so the volume of a symbol strictly grows and shows the order of
    its ticks.

    Args:
        symbols: the names, the hottest first.
        rate: ticks a second, of all symbols together; ``math.inf`` makes a tick due
            whenever it is asked for.
        burst: the share of events that are caused by earlier ones, from 0 (Poisson) to
            less than 1.
        seed: the same seed makes the same market.
        skew: how much hotter the first symbols are (:func:`zipf_weights`).
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        rate: float,
        burst: float = 0.0,
        seed: int = 0,
        skew: float = 1.0,
    ) -> None:
        self.symbols = tuple(symbols)
        self.left_out = 0
        self.ended = False
        self.wants_more = False
        self._arrivals: Arrivals | None = None
        if math.isfinite(rate):
            self._arrivals = Arrivals(rate, burst, MEMORY_S, random.Random(f"{seed}/arrivals"))
        self._pick = random.Random(f"{seed}/symbols").choices
        self._bits = random.Random(f"{seed}/steps").getrandbits
        self._walks = [_Walk(symbol, seed) for symbol in self.symbols]
        self._shares = list(accumulate(zipf_weights(len(self.symbols), skew)))

    @property
    def next_at(self) -> float:
        """When the next tick is due, in seconds since the market opened."""
        return self._arrivals.next_at if self._arrivals else 0.0

    async def read_ahead(self) -> None:
        """Do nothing: unlike a recording, a synthetic market has nothing to read.

        Cancellation: never; not a checkpoint.
        """

    def close(self) -> None:
        """Do nothing."""

    def quotes(self, stamp: str) -> list[FlatTick]:
        """Return the present quotes of all symbols, with the timestamp *stamp*."""
        return [
            FlatTick(
                walk.symbol,
                stamp,
                walk.bid / PRICE_GRID,
                (walk.bid + walk.spread) / PRICE_GRID,
                walk.bid_size,
                walk.ask_size,
                walk.volume,
            )
            for walk in self._walks
        ]

    def take(self, until: float, limit: int, stamp: str) -> list[FlatTick]:
        """Return the ticks due up to the time *until*, with the timestamp *stamp*.

        There are at most *limit* of them.
        """
        count = self._arrivals.take(until, limit) if self._arrivals else limit
        bits = self._bits
        ticks = []
        for walk in self._pick(self._walks, cum_weights=self._shares, k=count):
            # One draw decides the whole tick: bits 0 to 3 which field changes, bit 4
            # the direction, bits 12 to 16 the size or the narrowing, bits 17 to 23 the
            # volume.
            draw = bits(24)
            kind = draw & 15
            if kind < 5:
                walk.bid_size = 100 * (1 + (draw >> 12 & 31))
            elif kind < 10:
                walk.ask_size = 100 * (1 + (draw >> 12 & 31))
            elif kind < 14:
                # Reflected at one step above 0: the price of a share stays positive.
                walk.bid += 1 if draw & 16 or walk.bid <= 1 else -1
            elif draw >> 12 & 31 < walk.spread:
                walk.spread = max(1, walk.spread - 1)
            else:
                walk.spread = min(
                    MAX_SPREAD, walk.spread + 1 if draw & 16 else max(1, walk.spread - 1)
                )
            walk.volume += 1 + (draw >> 17)
            bid = walk.bid
            ticks.append(
                FlatTick(
                    walk.symbol,
                    stamp,
                    bid / PRICE_GRID,
                    (bid + walk.spread) / PRICE_GRID,
                    walk.bid_size,
                    walk.ask_size,
                    walk.volume,
                )
            )
        return ticks
