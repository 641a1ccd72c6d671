"""What an orchestrator asks: is it alive, and is it ready? Sync; whoever asks brings the time.

Rules: nothing here runs per tick. That something has arrived is seen by looking at the counters now and then, so "when" is known as
exactly as somebody looks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..pipeline import Pipeline

__all__ = ["Health", "HealthReport"]


@attrs.frozen(slots=True)
class HealthReport:
    """An answer: yes or no, and why."""

    ok: bool
    facts: dict[str, Any]


class Health:
    """The health of one pipeline.

    Args:
        pipeline: whose.
        fresh_s: a feed is fresh for so many seconds after a message; ``math.inf`` once anything has come.

    Raises:
        ConfigError: *fresh_s* is not positive.
    """

    def __init__(self, pipeline: Pipeline[Any], fresh_s: float = 30.0) -> None:
        if isinstance(fresh_s, bool) or not isinstance(fresh_s, int | float) or not fresh_s > 0:
            raise ConfigError(f"fresh_s must be a positive number of seconds, got {fresh_s!r}")
        self._pipeline = pipeline
        self._fresh_s = fresh_s
        self._seen = (0, 0)
        self.last_message_at: float | None = None
        """When a look first saw that something had arrived; ``None`` before anything had."""

    def look(self, now: float) -> None:
        """Look whether anything has arrived since the last look."""
        # A feed of the user's may count no messages; its ticks are counted in any case.
        seen = (self._pipeline.feed_stats.messages, self._pipeline.ledger.produced)
        if seen != self._seen:
            self._seen, self.last_message_at = seen, now

    @property
    def connected(self) -> bool:
        """Whether the feed is connected, and has not ended."""
        return self._pipeline.feed_stats.connected and not self._pipeline._feed_ended.is_set()

    def alive(self) -> HealthReport:
        """Tell whether the pipeline is at work. A process that cannot even answer is not alive either."""
        state = self._pipeline._phase
        return HealthReport(state != "stopped", {"state": state, "unaccounted": self._pipeline.ledger.unaccounted})

    def ready(self, now: float) -> HealthReport:
        """Tell whether the pipeline does what it is for: it runs, is connected, is fresh and does not shed."""
        self.look(now)
        age = math.inf if self.last_message_at is None else now - self.last_message_at
        checks = {
            "running": self._pipeline._phase == "running",
            "connected": self.connected,
            "fresh": age <= self._fresh_s and self.last_message_at is not None,
            "not_shedding": self._pipeline.pressure.state != "shed",
        }
        return HealthReport(all(checks.values()), {**checks, "last_message_age_s": None if math.isinf(age) else round(age, 3)})
