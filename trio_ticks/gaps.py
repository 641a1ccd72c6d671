"""What a strategy is told about items that it will not see.

A gap is delivered in the order of its symbol: before the next item of that symbol that
was not lost.

Rules: each loss is announced exactly once. The ledger counts what is lost in the
channel; items lost before the channel are counted here alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import attrs

__all__ = ["Gap", "GapReason"]

GapReason = Literal[
    "overflow",
    "evicted",
    "stale",
    "held",
    "sequence",
    "reconnect",
    "malformed",
    "breaker",
    "throttle",
    "unsubscribed",
]


@attrs.frozen(slots=True)
class Gap:
    """Items of one symbol that the strategy will not see.

    A gap has a symbol and a timestamp, as ticks do.
    """

    symbol: str
    timestamp: datetime
    """Timestamp of the last item lost, as far as it is known."""
    reason: GapReason
    """Why they were lost; of several losses in one gap, the reason of the first."""
    count: int
    """How many items were lost; 0 where that cannot be known (a reconnect)."""
    first_timestamp: datetime
    """Timestamp of the first item lost, as far as it is known."""

    def joined(self, later: Gap) -> Gap:
        """Return this gap and *later* as one gap, with the reason of this one."""
        return Gap(
            self.symbol,
            later.timestamp,
            self.reason,
            self.count + later.count,
            self.first_timestamp,
        )
