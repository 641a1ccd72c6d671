"""The breaker: a symbol whose handler fails again and again is set aside for a while. Sync, no I/O, no clock of its own.

Rules: time comes in as an argument; what a set-aside symbol's ticks are counted as is the pool's business (``held``).
"""

from __future__ import annotations

import math

import attrs

from .errors import ConfigError

__all__ = ["Breaker", "BreakerState"]


def _check_failures(_instance: object, _field: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"failures must be a whole number, 1 or more, got {value!r}")


def _check_pause(_instance: object, _field: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"pause_s must be a number of seconds, more than 0, got {value!r}")


@attrs.frozen(slots=True)
class Breaker:
    """Set a symbol aside where its handler failed *failures* times in a row; try it again after *pause_s*.

    Its ticks meanwhile are counted as ``held`` and told as a gap with the reason ``breaker`` before the next tick that is handled. That
    one is a trial: where it fails, the symbol is set aside again at once. Other symbols are not concerned.

    A handling with all its tries is one failure, and so is a batch, whatever it held of the symbol. Failures that lie a pause apart are
    not in a row.

    Raises:
        ConfigError: a setting is out of range.
    """

    failures: int = attrs.field(default=5, validator=_check_failures)
    """Failures in a row, of one symbol."""
    pause_s: float = attrs.field(default=30.0, validator=_check_pause)
    """How long the symbol is set aside, in seconds."""


class BreakerState:
    """Which symbols failed of late, and which are set aside. Symbols that are well, or were not heard of for long, take no memory."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failures: dict[str, tuple[int, float]] = {}
        """How often each failed in a row, and when that is forgotten; who failed last is the last. Those set aside are in it too."""
        self._until: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether any symbol has failed of late: only then a success is worth telling."""
        return bool(self._failures)

    @property
    def set_aside(self) -> tuple[str, ...]:
        """The symbols that are set aside, or wait for their trial."""
        return tuple(self._until)

    def failed(self, symbol: str, now: float) -> bool:
        """Note a failure; True where the symbol is set aside by it, and was not before."""
        count, _ = self._failures.pop(symbol, (0, now))
        pause_s = self._breaker.pause_s
        if count + 1 < self._breaker.failures:
            self._failures[symbol] = count + 1, now + pause_s
            return False
        # Kept beyond the pause, so that the trial finds it: one more failure is enough then.
        self._failures[symbol] = count + 1, now + 2 * pause_s
        first = symbol not in self._until
        self._until[symbol] = now + pause_s
        return first

    def succeeded(self, symbol: str) -> bool:
        """Note that a tick of *symbol* was handled; True where the symbol was set aside and is well now."""
        return self._failures.pop(symbol, None) is not None and self._until.pop(symbol, None) is not None

    def forget(self, now: float) -> None:
        """Forget what is long past, the oldest first: a symbol that has gone quiet costs nobody anything."""
        while self._failures:
            symbol, (_count, until) = next(iter(self._failures.items()))
            if now < until:
                return
            del self._failures[symbol]
            self._until.pop(symbol, None)

    def holds(self, symbol: str, now: float) -> bool:
        """Tell whether a tick of *symbol* must not be handled now."""
        return now < self._until.get(symbol, -math.inf)
