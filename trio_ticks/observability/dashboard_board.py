"""What the live page shows of now: one snapshot for all who look, made four times a second while somebody does.

Rules: reads counters, and never writes one; without a viewer it looks at a few numbers, and nothing is counted by symbol. All of a snapshot
is read at one checkpoint, so that its sums agree.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn
from weakref import WeakSet

import attrs
import msgspec
import trio

from ..errors import ConfigError, LedgerError
from ..ledger import INTENTIONAL, REASONS
from .dashboard_history import ConnectionLog, Gauges, History, Reading
from .dashboard_symbols import SymbolTable
from .symbols import hear_items, stop_hearing_items

if TYPE_CHECKING:
    from ..channel_state import ChannelState
    from ..pipeline import Pipeline

__all__ = ["INTERVAL_S", "Board"]

INTERVAL_S: Final = 0.25
_RATE_LOOKS: Final = 8
"""Rates are those of the last two seconds, in looks."""
_BUSY_READS: Final = 3
"""A worker's load is that of the last two or three seconds, in reads."""
_WATCHED_S: Final = 5.0
"""For how long somebody who asked for a snapshot counts as a viewer."""
_SHOWN_MOMENTS: Final = 12

_watched: WeakSet[ChannelState[Any]] = WeakSet()
"""Channels that have a board: they tell their items to one only."""


class Board:
    """One pipeline as the live page sees it. Made in the pipeline's event loop."""

    def __init__(self, pipeline: Pipeline[Any], title: str) -> None:
        self._pipeline = pipeline
        self._state = pipeline._state
        self._title = title
        self._run = secrets.token_hex(8)
        self._sequence = 0
        self._clock = self._state.now
        self._wall_offset = time.time() - self._clock()
        self._connection = ConnectionLog()
        self._symbols = SymbolTable(self._clock)
        self._counting = False
        self.history = History(self._read(), self._read)
        self._rates: deque[tuple[float, dict[str, int]]] = deque([(self._clock(), self._totals())], maxlen=_RATE_LOOKS + 1)
        self._busy: deque[dict[str, tuple[float, float]]] = deque(maxlen=_BUSY_READS)
        self._slow: dict[str, Any] = {}
        """What is read once a second: it costs more, and says nothing over less."""
        self._streams = 0
        self._wanted_until = -math.inf
        self._published = trio.Event()
        self._latest = b""
        self._latest_at = -math.inf

    # Looking

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Own what the channel tells of its items for as long as the block lasts.

        Raises:
            ConfigError: the pipeline has a board already.
        """
        if self._state in _watched:
            raise ConfigError("this pipeline has a live page already")
        _watched.add(self._state)
        try:
            yield
        finally:
            _watched.discard(self._state)
            self._count_symbols(False)

    async def run(self) -> NoReturn:
        """Look at the pipeline every quarter of a second, and publish a snapshot while somebody listens.

        Cancellation: nothing is published any more.
        """
        due = self._clock()
        while True:
            self._look()
            if self._streams:
                self._publish()
            # After a delay it goes on from now: looks that were missed cannot be made up for.
            due = max(due + INTERVAL_S, self._clock())
            await trio.sleep_until(due)

    def _look(self) -> None:
        now, stats, throttle = self._clock(), self._pipeline.feed_stats, self._pipeline.throttle
        ended = self._pipeline._feed_ended.is_set()
        self._connection.look(stats, ended, self._wall_ms(now))
        self._rates.append((now, self._totals()))
        gauges = Gauges(
            queued=self._state.queued,
            pressure=self._pipeline.pressure.state,
            connected=stats.connected and not ended,
            throttle_rate=None if throttle is None else throttle.rate,
        )
        if self.history.look(now, self._wall_ms(now), gauges):
            self._read_slowly(now)
        self._count_symbols(self._streams > 0 or now < self._wanted_until)

    def _count_symbols(self, wanted: bool) -> None:
        if wanted and not self._counting:
            self._symbols.start()
            self._slow.pop("symbols", None)
            hear_items(self._state, self._symbols.count)
        elif not wanted:
            stop_hearing_items(self._state, self._symbols.count)
        self._counting = wanted

    def _wall_ms(self, now: float) -> int:
        return round((self._wall_offset + now) * 1e3)

    # Reading

    def _read(self) -> Reading:
        ledger, meters = self._pipeline.ledger, self._pipeline._pool.meters
        drops = ledger.dropped_by_reason
        return Reading(
            at=self._clock(),
            received=ledger.produced,
            handled=ledger.consumed,
            failed=ledger.failed,
            dropped=tuple(drops[reason] for reason in REASONS),
            wait=meters.wait.counts(),
            handler=meters.handler.counts(),
            lag=meters.lag.counts(),
        )

    def _totals(self) -> dict[str, int]:
        ledger = self._pipeline.ledger
        drops = ledger.dropped_by_reason
        intentional = sum(drops[reason] for reason in INTENTIONAL)
        return {
            "received": ledger.produced,
            "handled": ledger.consumed,
            "failed": ledger.failed,
            "lost": sum(drops.values()) - intentional,
            "intentional": intentional,
        }

    def _read_slowly(self, now: float) -> None:
        meters = self._pipeline._pool.meters
        wait, lag = meters.wait.stats(now), meters.lag.stats(now)
        stats = {"wait": wait, "handler": meters.handler.stats(now), "lag": lag}
        latency: dict[str, Any] = {name: {k: round(v, 4) for k, v in attrs.asdict(each).items()} for name, each in stats.items()}
        latency["feed_ms"] = round(lag.mean - wait.mean, 4) if lag.count else None
        self._busy.append({worker.name: _worked(worker, now) for worker in self._pipeline._pool.workers})
        self._slow = {"latency_ms": latency, "symbols": self._symbols.read() if self._counting else None}

    # Snapshots

    def _publish(self) -> None:
        self._latest, self._latest_at = msgspec.json.encode(self._snapshot()), self._clock()
        self._published.set()
        self._published = trio.Event()

    def snapshot(self) -> bytes:
        """Return the latest snapshot as JSON: the one that streams have just sent, or a new one where that is too old."""
        now = self._clock()
        self._wanted_until = now + _WATCHED_S
        self._count_symbols(True)
        if not self._streams and now - self._latest_at >= INTERVAL_S:
            self._publish()
        return self._latest

    def past(self) -> bytes:
        """Return the history as JSON."""
        events = [attrs.asdict(moment) for moment in self._connection.moments]
        return msgspec.json.encode({"run": self._run, "tiers": [tier.to_dict() for tier in self.history.tiers], "events": events})

    def _snapshot(self) -> dict[str, Any]:
        if not self._slow:
            self._read_slowly(self._clock())
        self._slow.setdefault("symbols", None)
        self._sequence += 1
        pipeline, state, now = self._pipeline, self._state, self._clock()
        stats, throttle = pipeline.feed_stats, pipeline.throttle
        return {
            "sequence": self._sequence,
            "run": self._run,
            "t": self._wall_ms(now),
            "title": self._title,
            "state": pipeline._phase,
            "uptime_s": round(now - pipeline._began, 3),
            "ledger": self._ledger(),
            "rates_per_s": self._recent(now),
            "queue": {
                "size": state.queued,
                "capacity": state.maxsize,
                "peak": state.peak,
                "warn_at": min(pipeline._settings.lag_threshold, state.maxsize),
                "oldest_ms": round(self._oldest_s(now) * 1e3, 3),
                "blocked_s": round(state.blocked_s, 3),
            },
            "pressure": {"state": pipeline.pressure.state, "changes": pipeline.pressure.changes},
            "throttle": None if throttle is None else {"rate": throttle.rate, "up": throttle.steps_up, "down": throttle.steps_down},
            "connection": {
                **attrs.asdict(stats),
                "connected": stats.connected and not pipeline._feed_ended.is_set(),
                "events": [attrs.asdict(moment) for moment in list(self._connection.moments)[-_SHOWN_MOMENTS:]],
            },
            "workers": self._workers(now),
            **self._slow,
        }

    def _ledger(self) -> dict[str, Any]:
        now = self._pipeline.ledger.snapshot()
        intentional = sum(count for reason, count in now.dropped_by_reason.items() if reason in INTENTIONAL)
        return {
            "received": now.produced,
            "handled": now.consumed,
            "failed": now.failed,
            "dropped": now.dropped,
            "queued": now.queued,
            "in_flight": now.in_flight,
            "dropped_by_reason": dict(now.dropped_by_reason),
            "lost": now.dropped - intentional,
            "intentional": intentional,
            # Both halves of the law: a fault in one must not hide behind a fault in the other.
            "unaccounted": now.unaccounted or self._pipeline.ledger.unaccounted,
            "holds": self._law_holds(),
        }

    def _law_holds(self) -> bool:
        try:
            self._pipeline.ledger.check()
        except LedgerError:
            return False
        return True

    def _recent(self, now: float) -> dict[str, float]:
        began, before = self._rates[0]
        span = now - began
        return {name: round((total - before[name]) / span, 1) if span > 0 else 0.0 for name, total in self._totals().items()}

    def _oldest_s(self, now: float) -> float:
        parked = self._state.lanes.oldest_arrival()
        arrivals = [] if parked is None else [parked]
        if self._state.buffer:
            arrivals.append(self._state.buffer.oldest_arrival())
        return now - min(arrivals, default=now)

    def _workers(self, now: float) -> list[dict[str, Any]]:
        before = self._busy[0] if self._busy else {}
        rows = []
        for worker in self._pipeline._pool.workers:
            row = attrs.asdict(worker.metrics(now))
            busy, life = _worked(worker, now)
            busy_then, life_then = before.get(worker.name, (0.0, 0.0))
            if life > life_then:
                row["busy_ratio"] = (busy - busy_then) / (life - life_then)
            row["busy_ratio"] = round(min(1.0, max(0.0, row["busy_ratio"])), 4) if row["state"] != "ended" else 0.0
            rows.append(row)
        return rows

    # Streaming

    async def stream(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send every snapshot and every new point of the history as server-sent events; a slow client skips snapshots, never points.

        Cancellation: the client is forgotten.
        """
        self._streams += 1
        self._count_symbols(True)
        try:
            seen = [tier.points[-1].t if tier.points else 0 for tier in self.history.tiers]
            if self._clock() - self._latest_at >= INTERVAL_S:
                self._publish()
            await send(b"retry: 1000\n\n" + _event("snapshot", self._latest))
            while True:
                await self._published.wait()
                pieces = []
                for index, tier in enumerate(self.history.tiers):
                    for point in tier.since(seen[index]):
                        seen[index] = point.t
                        pieces.append(_event("point", msgspec.json.encode({"step_s": tier.step_s, "point": point.to_dict()})))
                await send(b"".join(pieces) + _event("snapshot", self._latest))
        finally:
            self._streams -= 1


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _worked(worker: Any, now: float) -> tuple[float, float]:
    """Return for how long *worker* has been busy and has lived, in seconds."""
    life = min(now, worker._ended_at) - worker._born
    return worker.metrics(now).busy_ratio * life, life
