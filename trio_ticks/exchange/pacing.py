"""Choose the ticks of a client that asked for less than all.

It gets at most a given number of ticks a second: the newest tick of each symbol, and
all symbols in turn.

Rules: sans-I/O. As at venues that conflate, a newer tick of a symbol replaces the one
that waits, and takes its place in line, so that a hot symbol gets no more than its
share. Memory is bounded by the number of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pacer"]

_UNUSED_S = 0.1
"""How long a client may save allowance that it did not use, in seconds."""
_TURN_S = 0.005
"""At high rates, a turn is made of the ticks of this time, in seconds."""


class Pacer:
    """The ticks that wait for one client, and its allowance.

    Args:
        max_rate: ticks a second.
        now: the time, in seconds.
    """

    def __init__(self, max_rate: float, now: float) -> None:
        self.max_rate = max_rate
        self.replaced = 0
        """Ticks that were left out.

        They were replaced while they waited, or no longer subscribed to when their turn
        came.
        """
        self._waiting: dict[str, bytes] = {}
        self._allowance = 0.0
        self._allowed_at = now

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def turn(self) -> float:
        """How many ticks make a turn: one, or a few at high rates."""
        return max(1.0, self.max_rate * _TURN_S)

    @property
    def next_turn(self) -> float:
        """When the allowance will be large enough for a turn."""
        return self._allowed_at + max(0.0, self.turn - self._allowance) / self.max_rate

    def pass_on(
        self, symbols: Sequence[str], frames: Sequence[bytes], now: float
    ) -> tuple[list[str], list[bytes]]:
        """Take in *frames* of *symbols*, and return those whose turn has come."""
        waiting = self._waiting
        for symbol, frame in zip(symbols, frames, strict=True):
            self.replaced += symbol in waiting
            waiting[symbol] = frame
        # A token bucket: the allowance grows with time, up to what may be saved.
        unused = self._allowance + (now - self._allowed_at) * self.max_rate
        self._allowance = min(unused, max(1.0, self.max_rate * _UNUSED_S))
        self._allowed_at = now
        # The small amount makes up for rounding: a turn must not be without a tick.
        count = min(len(waiting), int(self._allowance + 1e-9))
        self._allowance -= count
        return self._take(count)

    def forget(self, symbols: frozenset[str]) -> None:
        """Leave out the ticks of *symbols* that wait."""
        for symbol in symbols & self._waiting.keys():
            del self._waiting[symbol]
            self.replaced += 1

    def flush(self) -> tuple[list[str], list[bytes]]:
        """Return all ticks that wait, since there is no limit any more."""
        return self._take(len(self._waiting))

    def _take(self, count: int) -> tuple[list[str], list[bytes]]:
        symbols = list(self._waiting)[:count]
        return symbols, [self._waiting.pop(symbol) for symbol in symbols]
