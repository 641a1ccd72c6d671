"""What a client gets that has asked for less: at most so many ticks a second, the newest of each symbol, every symbol in its turn.

Sans-I/O, as venues that conflate do it: a tick that waits is replaced by a newer one of its symbol and keeps its place in line, so that a
hot symbol gets no more than its share. Memory is bounded by the number of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pacer"]

_UNUSED_S = 0.1
"""What a client did not use is good for so long."""
_TURN_S = 0.005
"""At high rates, the ticks of so long make a turn."""


class Pacer:
    """The ticks that wait for one client, and its allowance.

    Args:
        max_rate: ticks a second.
        now: the time, in seconds.
    """

    def __init__(self, max_rate: float, now: float) -> None:
        self.max_rate = max_rate
        self.replaced = 0
        """Ticks that were left out: replaced while they waited, or of no interest any more when their turn came."""
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
        """When the allowance will be good for a turn."""
        return self._allowed_at + max(0.0, self.turn - self._allowance) / self.max_rate

    def pass_on(self, symbols: Sequence[str], frames: Sequence[bytes], now: float) -> tuple[list[str], list[bytes]]:
        """Take in *frames* of *symbols*, and return those whose turn has come."""
        waiting = self._waiting
        for symbol, frame in zip(symbols, frames, strict=True):
            self.replaced += symbol in waiting
            waiting[symbol] = frame
        unused = self._allowance + (now - self._allowed_at) * self.max_rate
        self._allowance = min(unused, max(1.0, self.max_rate * _UNUSED_S))
        self._allowed_at = now
        count = min(len(waiting), int(self._allowance + 1e-9))  # what rounding takes away must not make a turn come to nothing
        self._allowance -= count
        return self._take(count)

    def forget(self, symbols: frozenset[str]) -> None:
        """Leave out what waits of *symbols*."""
        for symbol in symbols & self._waiting.keys():
            del self._waiting[symbol]
            self.replaced += 1

    def flush(self) -> tuple[list[str], list[bytes]]:
        """Return all that waits: there is no limit any more."""
        return self._take(len(self._waiting))

    def _take(self, count: int) -> tuple[list[str], list[bytes]]:
        symbols = list(self._waiting)[:count]
        return symbols, [self._waiting.pop(symbol) for symbol in symbols]
