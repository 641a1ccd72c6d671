"""Make the snapshots of the live page: one for all viewers, four times a second.

Rules: counters are read and never written. Without a viewer, no snapshot is made and
nothing is counted by symbol; only a few numbers are sampled. All of a snapshot is read
at one checkpoint, so that its sums agree.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn
from weakref import WeakSet

import attrs
import msgspec
import trio

from ...clock import new_random
from ...errors import ConfigError
from ...ledger import INTENTIONAL, REASONS
from ...metrics.advice import advice_text
from ...metrics.observed import FeedCounts, Observed
from ...metrics.reporting import feed_rows, is_connected, recorder_of
from ..shown import shown
from .history import ConnectionLog, FeedTotals, Gauges, History, Reading, quantiles_ms
from .symbols import SymbolTable

__all__ = ["INTERVAL_S", "Board"]

INTERVAL_S: Final = 0.25
_RATE_SAMPLES: Final = 8
"""How many samples the rates cover: those of the last two seconds."""
_BUSY_READS: Final = 3
"""How many slow readings, one a second, a worker's load covers."""
_WATCHED_S: Final = 5.0
"""How long a client that asked for a snapshot counts as a viewer."""
_SHOWN_MOMENTS: Final = 12

_watched: WeakSet[Observed] = WeakSet()
"""Pipelines that have a board."""


class Board:
    """One pipeline as the live page sees it. Made in the pipeline's event loop."""

    def __init__(self, pipeline: Observed, title: str) -> None:
        self._pipeline = pipeline
        self._bringing = pipeline.ingest or pipeline
        """The half that has the feed, if one of them is here: connection, pressure and
        throttle are its."""
        self._title = shown(title)
        self._run = secrets.token_hex(8)
        self._sequence = 0
        self._clock = pipeline.clock.now
        self._connection = ConnectionLog()
        self._symbols = SymbolTable(self._clock, chance=new_random().random)
        self._counting = False
        self.history = History(self._read(), self._read)
        self._rates: deque[tuple[float, dict[str, int]]] = deque(
            [(self._clock(), self._totals())], maxlen=_RATE_SAMPLES + 1
        )
        self._busy: deque[dict[str, tuple[float, float]]] = deque(maxlen=_BUSY_READS)
        self._slow: dict[str, Any] = {}
        """The values that are read once a second: reading them costs more."""
        self._streams = 0
        self._wanted_until = -math.inf
        self._published = trio.Event()
        self._latest = b""
        self._latest_at = -math.inf

    # Sampling

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Be the one board of the pipeline for as long as the block lasts.

        Raises:
            ConfigError: the pipeline has a board already.
        """
        if self._pipeline in _watched:
            raise ConfigError("this pipeline has a live page already")
        _watched.add(self._pipeline)
        try:
            yield
        finally:
            _watched.discard(self._pipeline)
            self._count_symbols(False)

    async def run(self) -> NoReturn:
        """Sample the pipeline four times a second, and publish while there are streams.

        Cancellation: nothing is published any more.
        """
        due = self._clock()
        while True:
            self._sample()
            if self._streams:
                self._publish()
            # After a delay, go on from now: missed samples cannot be made up for.
            due = max(due + INTERVAL_S, self._clock())
            await trio.sleep_until(due)

    def _sample(self) -> None:
        bringing = self._bringing
        now, stats, throttle = self._clock(), bringing.feed_stats, bringing.throttle
        ended = bringing.phase not in ("running", "paused")
        self._connection.poll(stats, ended, self._wall_ms(now))
        self._rates.append((now, self._totals()))
        gauges = Gauges(
            queued=self._pipeline.statistics().current_buffer_used,
            pressure=bringing.pressure.state,
            connected=is_connected(bringing),
            throttle_rate=None if throttle is None else throttle.rate,
        )
        if self.history.sample(now, self._wall_ms(now), gauges):
            self._read_slowly(now)
        self._count_symbols(self._streams > 0 or now < self._wanted_until)

    def _count_symbols(self, wanted: bool) -> None:
        if wanted and not self._counting:
            self._symbols.start()
            self._slow.pop("symbols", None)
            self._pipeline.item_listeners.add(self._symbols.count)
        elif not wanted:
            self._pipeline.item_listeners.remove(self._symbols.count)
        self._counting = wanted

    def _wall_ms(self, now: float) -> int:
        return round((now + self._pipeline.clock.offset_s) * 1e3)

    # Reading

    def _read(self) -> Reading:
        ledger, meters = self._pipeline.ledger, self._pipeline.meters
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
        meters = self._pipeline.meters
        wait, lag = meters.wait.stats(now), meters.lag.stats(now)
        stats = {"wait": wait, "handler": meters.handler.stats(now), "lag": lag}
        latency: dict[str, Any] = {
            name: {k: round(v, 4) for k, v in attrs.asdict(each).items()}
            for name, each in stats.items()
        }
        latency["feed_ms"] = round(lag.mean - wait.mean, 4) if lag.count else None
        rows = self._pipeline.worker_statistics().rows
        self._busy.append({row.metrics.name: (row.busy_s, row.life_s) for row in rows})
        old, new = self.history.readings[0], self.history.readings[-1]
        self._slow = {
            "latency_ms": latency,
            "recent_ms": {
                "wait_p99": quantiles_ms(old.wait, new.wait, (0.99,))[0],
                "lag_p99": quantiles_ms(old.lag, new.lag, (0.99,))[0],
            },
            "symbols": self._symbols.read() if self._counting else None,
        }

    # Snapshots

    def _publish(self) -> None:
        self._latest, self._latest_at = msgspec.json.encode(self._snapshot()), self._clock()
        self._published.set()
        self._published = trio.Event()

    def snapshot(self) -> bytes:
        """Return the latest snapshot as JSON.

        It is the one that the streams have just sent, or a new one if that is too old.
        """
        now = self._clock()
        self._wanted_until = now + _WATCHED_S
        self._count_symbols(True)
        if not self._streams and now - self._latest_at >= INTERVAL_S:
            self._publish()
        return self._latest

    def past(self) -> bytes:
        """Return the history as JSON."""
        events = [attrs.asdict(moment) for moment in self._connection.moments]
        return msgspec.json.encode(
            {
                "run": self._run,
                "tiers": [tier.to_dict() for tier in self.history.tiers],
                "events": events,
            }
        )

    def _snapshot(self) -> dict[str, Any]:
        if not self._slow:
            self._read_slowly(self._clock())
        self._slow.setdefault("symbols", None)
        self._sequence += 1
        pipeline, bringing, now = self._pipeline, self._bringing, self._clock()
        channel, throttle = pipeline.statistics(), bringing.throttle
        return {
            "sequence": self._sequence,
            "run": self._run,
            "t": self._wall_ms(now),
            "title": self._title,
            "half": pipeline.half,
            "state": pipeline.phase,
            "uptime_s": round(now - pipeline.began_at, 3),
            "ledger": _ledger(pipeline),
            "rates_per_s": self._recent(now),
            "failures": self._failures(),
            "loop": self._loop(),
            "advice": advice_text(pipeline.meters.advice),
            "queue": {
                "size": channel.current_buffer_used,
                "capacity": channel.max_buffer_size,
                "peak": channel.peak_buffer_used,
                "warn_at": pipeline.warn_at,
                "oldest_ms": round(channel.oldest_age_s * 1e3, 3),
                "blocked_s": round(channel.blocked_s, 3),
            },
            "pressure": {
                "state": bringing.pressure.state,
                "sheds": bringing.pressure.sheds,
                "changes": bringing.pressure.changes,
            },
            "throttle": None
            if throttle is None
            else {"rate": throttle.rate, "up": throttle.steps_up, "down": throttle.steps_down},
            "connection": {
                **FeedTotals.of(bringing.feed_stats).to_dict(),
                "silent_names": [shown(name) for name in bringing.feed_stats.silent_names],
                "connected": is_connected(bringing),
                "silent": _silent(bringing.feed_stats),
                "events": [
                    attrs.asdict(moment)
                    for moment in list(self._connection.moments)[-_SHOWN_MOMENTS:]
                ],
            },
            "workers": self._workers(),
            "results": _results(pipeline),
            "recorder": _recorder(pipeline),
            "feeds": [
                {**attrs.asdict(row), "name": shown(row.name)} for row in feed_rows(pipeline)
            ],
            "buffer": _buffer(pipeline),
            "ingest": self._ingest(),
            **self._slow,
        }

    def _failures(self) -> dict[str, Any]:
        """Return what the handler raised last, and where it does not return.

        The rate of failures is among the rates.
        """
        workers = self._pipeline.worker_statistics()
        last, late = workers.last_failure, workers.overdue
        return {
            "overdue": None
            if late is None
            else {"workers": late.workers, "for_s": late.for_s, "symbol": shown(late.symbol)},
            "last": None
            if last is None
            else {
                "error": shown(last.error),
                "symbol": shown(last.symbol),
                "t": round(last.at.timestamp() * 1e3),
            },
        }

    def _loop(self) -> dict[str, Any]:
        """Return how late the event loop was in the last 10 s, and its blocks."""
        watch = self._pipeline.loop_watch
        return {
            "delay_ms": 0.0 if watch is None else round(1e3 * watch.delay_s(), 3),
            "blocks": 0 if watch is None else watch.blocks,
        }

    def _ingest(self) -> dict[str, Any] | None:
        """Return the ingest beside the workers' half of the same program, if any."""
        if self._pipeline.ingest is None:
            return None
        ingest = self._pipeline.ingest
        channel = ingest.statistics()
        return {
            "buffer": _buffer(ingest),
            "ledger": _ledger(ingest),
            "queue": {"size": channel.current_buffer_used, "capacity": channel.max_buffer_size},
        }

    def _recent(self, now: float) -> dict[str, float]:
        began, before = self._rates[0]
        span = now - began
        return {
            name: round((total - before[name]) / span, 1) if span > 0 else 0.0
            for name, total in self._totals().items()
        }

    def _workers(self) -> list[dict[str, Any]]:
        before = self._busy[0] if self._busy else {}
        rows = []
        for worker in self._pipeline.worker_statistics().rows:
            row = attrs.asdict(worker.metrics)
            row["symbol"] = None if row["symbol"] is None else shown(row["symbol"])
            busy_then, life_then = before.get(worker.metrics.name, (0.0, 0.0))
            if worker.life_s > life_then:
                row["busy_ratio"] = (worker.busy_s - busy_then) / (worker.life_s - life_then)
            row["busy_ratio"] = (
                round(min(1.0, max(0.0, row["busy_ratio"])), 4) if row["state"] != "ended" else 0.0
            )
            rows.append(row)
        return rows

    # Streaming

    async def stream(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send snapshots and all new points of the history as server-sent events.

        A slow client misses snapshots, but never points.

        Cancellation: the client no longer counts as a viewer.
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
                        pieces.append(
                            _event(
                                "point",
                                msgspec.json.encode(
                                    {"step_s": tier.step_s, "point": point.to_dict()}
                                ),
                            )
                        )
                await send(b"".join(pieces) + _event("snapshot", self._latest))
        finally:
            self._streams -= 1


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _buffer(pipeline: Observed) -> dict[str, Any] | None:
    """Return what a half knows of the buffer; ``None`` without one."""
    buffer = pipeline.buffer_statistics
    return None if buffer is None else attrs.asdict(buffer)


def _results(pipeline: Observed) -> dict[str, float] | None:
    """Return what became of what handlers return; ``None`` without a store for it."""
    workers = pipeline.worker_statistics()
    if workers.results_waiting is None:
        return None
    return {
        "written": workers.results_written,
        "failed": workers.results_failed,
        "waiting": workers.results_waiting,
        "waiting_s": round(workers.results_waiting_s, 3),
    }


def _recorder(pipeline: Observed) -> dict[str, Any] | None:
    """Return what is recorded of the feeds; ``None``: nothing is."""
    recorder = recorder_of(pipeline)
    if recorder is None:
        return None
    return {
        "recorded": recorder.messages,
        "lost": recorder.dropped,
        "mb": round(recorder.written_bytes / 1e6, 3),
        "files": recorder.files,
        "errors": recorder.errors,
        "fault": shown(recorder.last_error or "?") if recorder.failing else "",
    }


def _ledger(pipeline: Observed) -> dict[str, Any]:
    now = pipeline.ledger.snapshot()
    intentional = sum(
        count for reason, count in now.dropped_by_reason.items() if reason in INTENTIONAL
    )
    return {
        "received": now.produced,
        "handled": now.consumed,
        "failed": now.failed,
        "dropped": now.dropped,
        "queued": now.queued,
        "in_flight": now.in_flight,
        "given_back": now.given_back,
        "dropped_by_reason": dict(now.dropped_by_reason),
        "lost": now.dropped - intentional,
        "intentional": intentional,
        "unaccounted": now.unaccounted,
        "holds": not now.unaccounted,
    }


def _silent(stats: FeedCounts) -> str:
    """Return which symbols are silent, in words; empty where none is."""
    words = []
    if not stats.expects_data:
        words.append("the market is closed")
    if stats.silent_symbols:
        more = stats.silent_symbols - len(stats.silent_names[:3])
        named = ", ".join(map(shown, stats.silent_names[:3])) + (
            f" and {more:,} more" if more else ""
        )
        words.append(f"silent: {named}")
    return " · ".join(words)
