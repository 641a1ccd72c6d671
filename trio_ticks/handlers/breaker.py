"""The breaker: a symbol whose handler fails again and again is set aside for a while.

Rules: sync, no I/O, no clock: times are arguments. The pool decides how the ticks of a
symbol that is set aside are counted (as ``held``).
"""

from __future__ import annotations

import math

import attrs

from ..checks import check_count, check_seconds, checked

__all__ = ["Breaker", "BreakerState"]


@attrs.frozen(slots=True)
class Breaker:
    """Set a symbol aside if its handler fails several times in a row.

    After *failures* failures the symbol is set aside for *pause_s* seconds. Its ticks
    meanwhile are counted as ``held``, and announced as a gap with the reason
    ``breaker`` before the next tick that is handled. That tick is a trial: if it fails,
    the symbol is set aside again at once. Other symbols are not affected.

    A handling with all its tries counts as one failure, and so does a batch, however
    many ticks of the symbol it held. Failures that lie *pause_s* or more apart are not
    in a row.

    Raises:
        ConfigError: a setting is out of range.
    """

    failures: int = attrs.field(default=5, validator=checked(check_count))
    """How many failures of one symbol, in a row, set it aside."""
    pause_s: float = attrs.field(default=30.0, validator=checked(check_seconds, positive=True))
    """How long the symbol is set aside, in seconds."""


class BreakerState:
    """Which symbols failed recently, and which are set aside.

    A symbol takes memory only from a failure until its next success, or until its
    failure is so long past that it is forgotten. At most *most* symbols are kept: the
    one whose failure is longest past is forgotten for a new one.
    """

    most = 10_000

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failures: dict[str, tuple[int, float]] = {}
        """For each symbol: its failures in a row, and when they are forgotten.

        The symbol that failed last comes last. Symbols set aside are among them.
        """
        self._until: dict[str, float] = {}
        """For each symbol set aside: when its trial may begin."""
        self.forgotten = 0
        """Symbols that were forgotten before their time, because too many failed."""

    def __bool__(self) -> bool:
        """Whether any symbol failed recently; if not, record no successes."""
        return bool(self._failures)

    @property
    def set_aside(self) -> tuple[str, ...]:
        """The symbols that are set aside, or wait for their trial."""
        return tuple(self._until)

    def failed(self, symbol: str, now: float) -> bool:
        """Record a failure; return whether it sets aside a symbol that was not."""
        count, _ = self._failures.pop(symbol, (0, now))
        if len(self._failures) >= self.most:
            oldest = next(iter(self._failures))
            del self._failures[oldest]
            self._until.pop(oldest, None)
            self.forgotten += 1
        pause_s = self._breaker.pause_s
        if count + 1 < self._breaker.failures:
            self._failures[symbol] = count + 1, now + pause_s
            return False
        # Keep the count beyond the pause, so that one more failure, of the trial, is
        # enough.
        self._failures[symbol] = count + 1, now + 2 * pause_s
        first = symbol not in self._until
        self._until[symbol] = now + pause_s
        return first

    def succeeded(self, symbol: str) -> bool:
        """Record a success; return whether *symbol* was set aside until now."""
        return (
            self._failures.pop(symbol, None) is not None
            and self._until.pop(symbol, None) is not None
        )

    def forget(self, now: float) -> None:
        """Forget failures long past, so that symbols gone quiet take no memory.

        The one that is forgotten first need not be the first in the dictionary, since a
        symbol set aside is kept longer; the next call finds it.
        """
        while self._failures:
            symbol, (_count, until) = next(iter(self._failures.items()))
            if now < until:
                return
            del self._failures[symbol]
            self._until.pop(symbol, None)

    def holds(self, symbol: str, now: float) -> bool:
        """Tell whether a tick of *symbol* must not be handled now."""
        return now < self._until.get(symbol, -math.inf)
