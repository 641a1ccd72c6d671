"""Answer what an orchestrator asks: is the pipeline alive, and is it ready? Sync.

Rules: the caller brings the time. Nothing here runs per tick: arrivals are noticed by
comparing counters at each :meth:`Health.refresh`, so the time of the last data is as
exact as the calls are frequent.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs

from ..checks import check_number, check_seconds
from ..metrics.observed import Observed
from ..metrics.rates import Rates, RecentRates
from ..metrics.reporting import is_connected
from ..metrics.snapshots import Overdue
from .shown import shown

__all__ = ["Health", "HealthReport"]

_AWAY_S: Final = 10.0
"""For how long the broker of an ingest may be away before it is not ready, in seconds.

Meanwhile the ingest's own queue and its overflow strategy bear it, and a broker that is
restarted is back by then.
"""


@attrs.frozen(slots=True)
class HealthReport:
    """An answer: yes or no, and why."""

    ok: bool
    facts: dict[str, Any]


class Health:
    """The health of one pipeline.

    Args:
        pipeline: the pipeline to judge.
        fresh_s: for how many seconds after market data a feed is fresh; ``math.inf``:
            for ever after the first data.
        max_failure_rate: the share of the handled ticks that may fail, from 0
            up to but not 1, before the pipeline is not ready; ``None``: failures do not
            matter. It is taken over the last 5 seconds.

    Raises:
        ConfigError: *fresh_s* is not positive, or *max_failure_rate* is no share.
    """

    def __init__(
        self,
        pipeline: Observed,
        fresh_s: float = 30.0,
        max_failure_rate: float | None = None,
    ) -> None:
        check_seconds("fresh_s", fresh_s, positive=True, infinite=True)
        if max_failure_rate is not None:
            check_number("max_failure_rate", max_failure_rate, below=1.0)
        self._max_failure_rate = max_failure_rate
        self._rates = Rates(pipeline.began_at)
        self._recent = RecentRates()
        self._pipeline = pipeline
        self._fresh_s = fresh_s
        self._seen = 0
        self.last_data_at: float | None = None
        """When a refresh last found new data; ``None`` before the first."""
        self._broker_at: float | None = None
        self.ingest = None if pipeline.ingest is None else Health(pipeline.ingest, fresh_s)
        """The health of the ingest that runs beside *pipeline*, if there is one."""

    def refresh(self, now: float) -> None:
        """Notice whether market data has arrived since the last call.

        And whether the broker is there, if there is a buffer between processes.
        """
        if self.ingest is not None:
            self.ingest.refresh(now)
        ledger, buffer = self._pipeline.ledger, self._pipeline.buffer_statistics
        if buffer is not None and buffer.connected:
            self._broker_at = now
        self._recent = self._rates.read(
            now, ledger.produced, ledger.consumed, ledger.dropped, ledger.failed
        )
        # Heartbeats and junk are no data: a venue that has lost the subscription may go
        # on sending them.
        seen = ledger.produced
        if seen != self._seen:
            self._seen, self.last_data_at = seen, now

    @property
    def connected(self) -> bool:
        """Whether the feed is connected, and neither ended nor stopped."""
        return is_connected(self._pipeline)

    def alive(self) -> HealthReport:
        """Return whether the pipeline is at work.

        A process that does not even answer is to be taken as not alive.
        """
        state = self._pipeline.phase
        facts = {**self._half(), "state": state, "unaccounted": self._pipeline.ledger.unaccounted}
        if self.ingest is not None:
            # The workers' half is the last to stop.
            facts["ingest"] = self.ingest.alive().facts
        return HealthReport(state != "stopped", facts)

    def ready(self, now: float) -> HealthReport:
        """Return whether it runs, is connected, gets fresh data and has room.

        What a full queue is called depends on what it does: ``not_shedding`` is false
        while it discards ticks, ``not_full`` while it lets the feed wait.

        A pipeline that is paused is not ready. While the market is closed nothing is
        expected of the feed. The broker of an ingest must be there, or must have been a
        short time ago. The workers' half is ready while the broker is there: it is
        usual that nothing comes from it, and also that its queue is full. Both halves
        in one program are ready if each is.

        How many ticks fail, whether a handler does not return, and how late the event
        loop was are always among the facts. Failures are a reason not to be ready only
        where there is a ``max_failure_rate``.
        """
        self.refresh(now)
        if self._pipeline.half == "work":
            return self._work_ready(now)
        age = math.inf if self.last_data_at is None else now - self.last_data_at
        market_open = self._pipeline.feed_stats.expects_data
        room = "not_shedding" if self._pipeline.pressure.sheds else "not_full"
        checks = {
            "running": self._pipeline.phase == "running",
            "connected": self.connected,
            "fresh": age <= self._fresh_s and self.last_data_at is not None,
            room: self._pipeline.pressure.state != "shed",
        }
        needed = set(checks) if market_open else {"running", room}
        facts: dict[str, Any] = {
            **self._half(),
            **checks,
            **self._pause(),
            "last_message_age_s": None if math.isinf(age) else round(age, 3),
        }
        if self._pipeline.half is not None:
            away = math.inf if self._broker_at is None else now - self._broker_at
            checks["broker"] = facts["broker"] = away <= _AWAY_S
            needed.add("broker")
            facts["broker_away_s"] = None if math.isinf(away) else round(away, 3)
        if not market_open:
            facts["market"] = "closed"
        failing = self._judge_failures(now, facts)
        return HealthReport(not failing and all(checks[name] for name in needed), facts)

    def _work_ready(self, now: float) -> HealthReport:
        checks = {"running": self._pipeline.phase == "running", "connected": self.connected}
        facts: dict[str, Any] = {**self._half(), **checks, **self._pause()}
        ok = not self._judge_failures(now, facts) and all(checks.values())
        if self.ingest is not None:
            ingest = self.ingest.ready(now)
            ok, facts["ingest"] = ok and ingest.ok, ingest.facts
        return HealthReport(ok, facts)

    def _pause(self) -> dict[str, Any]:
        paused = self._pipeline.paused
        return {} if paused is None else {"paused": paused}

    def _judge_failures(self, now: float, facts: dict[str, Any]) -> bool:
        """Add the failure figures to *facts*; return whether they are too many."""
        statistics = self._pipeline.worker_statistics()
        recent, last = self._recent, statistics.last_failure
        figures: dict[str, Any] = {
            "per_s": round(recent.failed_per_s, 3),
            "share": round(recent.failed_share, 6),
            "last_error": None if last is None else shown(last.error),
            "last_symbol": None if last is None else shown(last.symbol),
            "last_age_s": None
            if last is None
            else round(now + self._pipeline.clock.offset_s - last.at.timestamp(), 3),
        }
        facts["failures"] = figures
        facts["overdue"] = _overdue(statistics.overdue)
        watch = self._pipeline.loop_watch
        facts["loop"] = {
            "delay_s": 0.0 if watch is None else round(watch.delay_s(), 3),
            "blocks": 0 if watch is None else watch.blocks,
        }
        if self._max_failure_rate is None:
            return False
        failing = recent.failed_share > self._max_failure_rate
        facts["not_failing"] = not failing
        figures["max_share"] = self._max_failure_rate
        if failing:
            facts["reason"] = (
                f"{recent.failed_share:.1%} of the handled ticks fail, more than "
                f"{self._max_failure_rate:.1%}; the last by {figures['last_error']}, "
                f"of {figures['last_symbol']}"
            )
        return failing

    def _half(self) -> dict[str, Any]:
        half = self._pipeline.half
        return {} if half is None else {"half": half}


def _overdue(overdue: Overdue | None) -> dict[str, Any] | None:
    """Return the ticks whose handler does not return, as a fact."""
    if overdue is None:
        return None
    return {
        "workers": overdue.workers,
        "for_s": round(overdue.for_s, 3),
        "symbol": shown(overdue.symbol),
    }
