"""The settings of a polling feed that most users leave alone, with their checks.

Rules: durations are in seconds; ``None`` switches a setting off where that is allowed.
"""

from __future__ import annotations

import math
from typing import TypedDict, final

import attrs

from ...checks import (
    check_callable,
    check_count,
    check_flag,
    check_instance,
    check_seconds,
    checked,
)
from ..hours import ExpectData
from ..websocket.backoff import BackoffPolicy

__all__ = ["PollingKeywords", "PollingOptions"]


@final
@attrs.frozen(kw_only=True)
class PollingOptions:
    """The settings of :class:`PollingFeed` besides what it asks, and how often.

    Each is a keyword argument of the feed.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """

    timeout: float = attrs.field(default=10.0, validator=checked(check_seconds, positive=True))
    """Seconds that an answer may take; then the call is cancelled, and has failed."""
    stale_after: float | None = attrs.field(
        default=60.0, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Call the feed lost when no new market data has come for this many seconds.

    Answers without data, and with ``newer_only`` those that say nothing new, do not
    count. Choose more than the longest silence that is normal for the symbols;
    ``None``: never.
    """
    symbol_stale_after: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Report a symbol as silent when nothing new of it has come for this many seconds.

    ``None``: after 20 times its own median interval of the last hour, at least 10 s,
    once it has come 20 times; before that after *stale_after*. Only symbols that the
    feed was given are watched.
    """
    expect_data: ExpectData | None = attrs.field(
        default=None,
        validator=checked(
            check_callable,
            shown="a MarketHours, or a function of a datetime that returns a bool",
            or_none=True,
        ),
    )
    """When market data is expected: a :class:`MarketHours`, or a function of the time.

    Outside of it silence is no fault. The feed goes on asking. ``None``: always.
    """
    newer_only: bool = attrs.field(default=True, validator=checked(check_flag))
    """Whether to leave out what an earlier answer has said already.

    Left out and counted as ``duplicates`` is what has a sequence or trade number that
    was seen before, is older than the symbol's last item of its kind, or equals it in
    every field. So items should have the venue's time: with the time of the answer,
    all of them are new.
    """
    max_items: int = attrs.field(default=100_000, validator=checked(check_count))
    """The most items taken from one answer; the rest counts as one malformed item."""
    backoff: BackoffPolicy = attrs.field(
        factory=BackoffPolicy,
        validator=checked(check_instance, kind=BackoffPolicy, shown="a BackoffPolicy"),
    )
    """The waits after failures. The next request is made at the first moment of the
    pace after the wait, so that failures never make the feed ask more often."""
    give_up_after: float = attrs.field(
        default=math.inf, validator=checked(check_seconds, infinite=True)
    )
    """End with an error when no request has succeeded for so many seconds.

    0: after the first failure.
    """


class PollingKeywords(TypedDict, total=False):
    """The fields of :class:`PollingOptions` again, for type checkers."""

    timeout: float
    stale_after: float | None
    symbol_stale_after: float | None
    expect_data: ExpectData | None
    newer_only: bool
    max_items: int
    backoff: BackoffPolicy
    give_up_after: float
