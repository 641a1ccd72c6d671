"""How long to wait before connecting again: exponential backoff with full jitter, and what a server asks for in ``Retry-After``.

Rules: no I/O, no clock and no trio here; time and randomness come in as arguments. Whoever uses it decides what a success is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import final

import attrs

from ..errors import ConfigError

__all__ = ["Backoff", "BackoffPolicy", "parse_retry_after"]


def _seconds(_instance: object, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{field.name} must be a positive number of seconds, got {value!r}")


@attrs.frozen(kw_only=True)
class BackoffPolicy:
    """The schedule: *initial_s* doubling up to *maximum_s*, of which a uniformly random part is waited ("full jitter").

    Full jitter is what spreads a thousand clients that lost the same server at the same moment.

    Raises:
        ConfigError: a duration is not a positive number, or the first is longer than the last.
    """

    initial_s: float = attrs.field(default=1.0, validator=_seconds)
    """The bound of the first wait, in seconds."""
    maximum_s: float = attrs.field(default=60.0, validator=_seconds)
    """The bound that the doubling stops at, in seconds."""
    max_retry_after_s: float = attrs.field(default=300.0, validator=_seconds)
    """No server can make us wait longer than this, whatever its ``Retry-After`` says, in seconds."""
    uniform: Callable[[], float] = attrs.field(default=random.random, repr=False, eq=False)
    """Gives a random number in [0, 1); tests and simulations bring their own."""

    def __attrs_post_init__(self) -> None:
        if self.initial_s > self.maximum_s:
            raise ConfigError(f"initial_s ({self.initial_s!r}) must not exceed maximum_s ({self.maximum_s!r})")


@final
class Backoff:
    """Where one connection stands in the schedule of its policy.

    ``next_delay`` moves on, ``reset`` starts over. Call ``reset`` when something was really received, not when a connection was made: a
    server that accepts every connection only to drop it would otherwise be asked again and again without a pause.
    """

    __slots__ = ("_bound", "_policy", "failures")

    def __init__(self, policy: BackoffPolicy) -> None:
        self._policy = policy
        self._bound = policy.initial_s
        self.failures = 0
        """Waits since the last reset."""

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return how many seconds to wait now, and move on in the schedule.

        Args:
            retry_after: what the server asked for, in seconds; waited at least, within the policy's bound.
        """
        self.failures += 1
        delay = self._bound * self._policy.uniform()
        self._bound = min(self._bound * 2, self._policy.maximum_s)
        if retry_after is None:
            return delay
        return max(delay, min(retry_after, self._policy.max_retry_after_s))

    def reset(self) -> None:
        """Start over with the shortest wait."""
        self._bound = self._policy.initial_s
        self.failures = 0


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3), or ``None`` where it says nothing usable.

    Args:
        value: the header's value: whole seconds, or an HTTP date.
        now: the present, aware; what an HTTP date is counted from. A date that has passed gives 0.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Longer numbers than this are nonsense, and int() takes its time with them.
        return float(value) if len(value) <= 15 else math.inf
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
