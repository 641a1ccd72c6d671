"""The wait before the next connection: exponential backoff with full jitter.

``Retry-After`` headers are parsed here too.

Rules: no I/O, no clock and no trio here; time and randomness come in as arguments. The
caller decides which event counts as a success.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import final

import attrs

from ...checks import check_seconds, checked
from ...errors import ConfigError

__all__ = ["Backoff", "BackoffPolicy", "parse_retry_after"]


@attrs.frozen(kw_only=True)
class BackoffPolicy:
    """The schedule: a bound that doubles from *initial_s* up to *maximum_s*.

    Each wait is a uniformly random part of the bound ("full jitter"). So a thousand
    clients that lost the same server at the same moment do not all return at once.

    Raises:
        ConfigError: a duration is not a positive number, or the first is longer than
            the last.
    """

    initial_s: float = attrs.field(default=1.0, validator=checked(check_seconds, positive=True))
    """The bound of the first wait, in seconds."""
    maximum_s: float = attrs.field(default=60.0, validator=checked(check_seconds, positive=True))
    """The bound at which the doubling stops, in seconds."""
    max_retry_after_s: float = attrs.field(
        default=300.0, validator=checked(check_seconds, positive=True)
    )
    """The longest wait that a ``Retry-After`` can cause, in seconds."""
    uniform: Callable[[], float] | None = attrs.field(default=None, repr=False, eq=False)
    """Returns a random number in [0, 1), for tests and simulations.

    ``None``: the pipeline's source of chance does it.
    """

    def __attrs_post_init__(self) -> None:
        if self.initial_s > self.maximum_s:
            raise ConfigError(
                f"initial_s ({self.initial_s!r}) must not exceed maximum_s ({self.maximum_s!r})"
            )


@final
class Backoff:
    """The place of one connection in the schedule of its policy.

    ``next_delay`` moves on, ``reset`` starts over. Call ``reset`` after a connection
    that has lived, not when one was opened: a server that accepts every connection only
    to drop it would otherwise be asked again and again without a pause.

    Args:
        policy: the schedule.
        uniform: returns a random number in [0, 1); unused if *policy* has its own
            function for that.
    """

    __slots__ = ("_bound", "_policy", "_uniform", "failures")

    def __init__(self, policy: BackoffPolicy, uniform: Callable[[], float]) -> None:
        self._policy = policy
        self._uniform = uniform if policy.uniform is None else policy.uniform
        self._bound = policy.initial_s
        self.failures = 0
        """Waits since the last reset."""

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return how many seconds to wait now, and move on in the schedule.

        Args:
            retry_after: the seconds that the server asked for. The wait is at least as
                long, up to the policy's ``max_retry_after_s``.
        """
        self.failures += 1
        delay = self._bound * self._uniform()
        self._bound = min(self._bound * 2, self._policy.maximum_s)
        if retry_after is None:
            return delay
        return max(delay, min(retry_after, self._policy.max_retry_after_s))

    def reset(self) -> None:
        """Start over with the shortest wait."""
        self._bound = self._policy.initial_s
        self.failures = 0


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for.

    ``None`` if the value is neither of the two forms of RFC 9110, section 10.2.3.

    Args:
        value: the header's value: whole seconds, or an HTTP date.
        now: the present time, aware, from which an HTTP date is counted. A date that
            has passed gives 0.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # A longer number makes no sense as a wait, and could take long to convert.
        return float(value) if len(value) <= 15 else math.inf
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
