"""The pipeline: one nursery that owns the feed, the channel and the workers, and the phases in which they stop.

Rules: no task outlives the block; each phase of the shutdown is bounded; one error of the user's comes out as itself, several at once in a
group; every tick has an outcome when the report is made.
"""

from __future__ import annotations

import inspect
import logging
import math
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import trio

from .breaker import Breaker
from .channel import TickReceiveChannel, TickSendChannel, open_tick_channel
from .errors import ConfigError
from .executors import Handler
from .failures import is_closed_channel, log_second, raise_first, split
from .feeds.base import Feed, FeedStats, stats_of
from .freshness import MaxAge
from .handling import Retry
from .ledger import Ledger
from .metrics import PipelineMetrics, PipelineReport
from .overflow import DropNewest, Overflow, Throttle
from .pressure import Pressure
from .rates import Rates
from .scaling import AutoWorkers
from .settings import OnCrash, OnError, OnGap, Ordering, Settings
from .throttle_task import ThrottleTask
from .ticks import MarketData
from .workers import WorkerPool

__all__ = ["Pipeline", "open_pipeline", "run_pipeline"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=MarketData)

_FEED_STOP_S = 1.0
"""How long the feed may take to clean up before the shutdown goes on without it."""
_SNAPSHOT_EVERY_S = 5.0
"""How often a snapshot of one book is asked for, at most."""


class Pipeline(Generic[T]):
    """A running pipeline; made by :func:`open_pipeline`."""

    def __init__(self, feed: Feed, handler: Handler[T], settings: Settings) -> None:
        self._feed = feed
        self._settings = settings
        default = DropNewest(settings.write_timeout)
        self._send: TickSendChannel[T]
        self._receive: TickReceiveChannel[T]
        self._send, self._receive = open_tick_channel(settings.maxsize, settings.overflow, settings.max_age, default=default)
        self._state = self._receive.state
        self.pressure = Pressure(settings.lag_threshold, settings.maxsize)
        """How full the channel is: readable, and awaitable by ``wait_for``."""
        self._state.on_change = self._update_pressure
        self._book_lost = trio.Event()
        self._state.on_book_lost = lambda: self._book_lost.set()
        self._pool: WorkerPool[T] = WorkerPool(self._receive, handler, settings)
        self.throttle: ThrottleTask | None = None
        """The throttling of the feed, where *overflow* is a :class:`Throttle`: its rate and its steps."""
        if isinstance(settings.overflow, Throttle):
            ledger = self._state.ledger
            self.throttle = ThrottleTask(settings.overflow, feed, self._state, lambda: ledger.consumed + ledger.failed)
        self._began = trio.current_time()
        self._rates = Rates(self._began)
        self._stopping = trio.Event()
        self._feed_ended = trio.Event()
        self._ended = trio.Event()
        self._block: trio.Nursery | None = None
        self._work_scope = trio.CancelScope()
        self._feed_scope = trio.CancelScope()
        self._failure: BaseException | None = None
        self._phase = "running"
        self._report: PipelineReport | None = None

    @property
    def ledger(self) -> Ledger:
        """The counters, and the law that they obey."""
        return self._state.ledger

    @property
    def feed_stats(self) -> FeedStats:
        """What the feed counts."""
        return stats_of(self._feed)

    @property
    def report(self) -> PipelineReport:
        """What the pipeline did; final once its block has been left."""
        return self._report if self._report is not None else self._make_report()

    def shutdown(self) -> None:
        """Begin a graceful shutdown: stop the feed, let the workers drain the queue for ``shutdown_timeout``, then cancel them.

        Returns at once; :meth:`wait` tells when it is done. Calling it again changes nothing.
        """
        self._stopping.set()

    def cancel(self) -> None:
        """Stop at once: what is queued or in flight is counted as dropped at shutdown. Returns before it is done."""
        self._stopping.set()
        self._feed_scope.cancel()
        self._work_scope.cancel()

    async def wait(self) -> None:
        """Wait until the feed has ended and the queue is drained, or a shutdown is complete.

        Cancellation: the pipeline goes on. Always a checkpoint.
        """
        await self._ended.wait()

    def metrics(self) -> PipelineMetrics:
        """Return a snapshot of all that an operator may want to know. Cheap enough for several a second."""
        now = trio.current_time()
        ledger, meters, stats = self.ledger.snapshot(), self._pool.meters, self.feed_stats
        produced_per_s, consumed_per_s, drops_per_min = self._rates.read(now, ledger.produced, ledger.consumed, ledger.dropped)
        handler = meters.handler.stats(now)
        return PipelineMetrics(
            timestamp=datetime.now(UTC),
            uptime_s=now - self._began,
            state=self._phase,
            queue_size=ledger.queued,
            queue_capacity=self._state.maxsize,
            queue_peak=self._state.peak,
            queue_utilization_pct=100 * ledger.queued / self._state.maxsize,
            items_produced=ledger.produced,
            items_consumed=ledger.consumed,
            items_failed=ledger.failed,
            items_dropped=ledger.dropped,
            dropped_by_reason=ledger.dropped_by_reason,
            in_flight=ledger.in_flight,
            unaccounted=ledger.unaccounted,
            malformed=stats.malformed,
            ignored=stats.ignored,
            produced_per_s=produced_per_s,
            consumed_per_s=consumed_per_s,
            drop_rate_per_min=drops_per_min,
            processing_lag_ms=meters.lag.stats(now),
            queue_wait_ms=meters.wait.stats(now),
            handler_latency_ms=handler,
            avg_processing_latency_ms=handler.mean,
            producer_connected=stats.connected and not self._feed_ended.is_set(),
            reconnects=stats.reconnects,
            blocked_s=self._state.blocked_s,
            pressure=self.pressure.state,
            workers_wanted=None if self._pool.scaling is None else self._pool.scaling.wanted,
            workers_limit=None if self._pool.scaling is None else self._pool.scaling.limit,
            handler_timeouts=self._pool.timeouts,
            handler_retries=self._pool.retries,
            hand_over_ms=meters.hand_over.stats(now),
            worker_restarts=self._pool.restarts,
            symbols_set_aside=self._pool.symbols_set_aside,
            throttle_rate=None if self.throttle is None else self.throttle.rate,
            workers=tuple(worker.metrics(now) for worker in self._pool.workers),
        )

    async def serve_metrics(
        self,
        port: int = 9464,
        host: str = "127.0.0.1",
        *,
        name: str = "main",
        registry: Any = None,
        fresh_s: float = 30.0,
        symbols: int | Sequence[str] = 0,
    ) -> str:
        """Serve ``/metrics``, ``/healthz`` and ``/readyz`` until the pipeline's block is left; return the URL of ``/metrics``.

        Args:
            port: 0 takes any free one.
            host: the address to listen on.
            name: the value of the label ``pipeline``.
            registry: a ``prometheus_client.CollectorRegistry`` to share with others; one of its own unless given.
            fresh_s: how long after a message the feed counts as fresh for ``/readyz``, in seconds.
            symbols: which symbols have series of their own, or how many, the first to come; all others are counted as ``other``.

        Raises:
            ConfigError: a setting cannot work, or is in use.

        Cancellation: nothing is served.
        """
        from .observability.serving import serve_pipeline

        assert self._block is not None
        url: str = await self._block.start(serve_pipeline, self, port, host, name, registry, fresh_s, symbols)
        return url

    async def serve_dashboard(self, port: int = 9465, host: str = "127.0.0.1", *, title: str = "pipeline") -> str:
        """Serve a live page for a browser until the pipeline's block is left; return its URL.

        Args:
            port: 0 takes any free one.
            host: the address to listen on; the page has no password, so leave it on this machine or put a proxy with one before it.
            title: what stands at the top of the page.

        Raises:
            ConfigError: a setting cannot work, or is in use.

        Cancellation: nothing is served.
        """
        from .observability.dashboard import serve_dashboard

        assert self._block is not None
        url: str = await self._block.start(serve_dashboard, self, port, host, title)
        return url

    def _make_report(self) -> PipelineReport:
        duration = trio.current_time() - self._began
        ledger, meters, stats = self.ledger.snapshot(), self._pool.meters, self.feed_stats
        return PipelineReport(
            ledger=ledger,
            malformed=stats.malformed,
            ignored=stats.ignored,
            duration_s=duration,
            produced_per_s=ledger.produced / duration if duration else 0.0,
            consumed_per_s=ledger.consumed / duration if duration else 0.0,
            processing_lag_ms=meters.lag.total(),
            queue_wait_ms=meters.wait.total(),
            handler_latency_ms=meters.handler.total(),
            queue_peak=self._state.peak,
            reconnects=stats.reconnects,
            blocked_s=self._state.blocked_s,
            handler_timeouts=self._pool.timeouts,
            handler_retries=self._pool.retries,
            hand_over_ms=meters.hand_over.total(),
            worker_restarts=self._pool.restarts,
        )

    def _update_pressure(self) -> None:
        self.pressure.update(self._state.queued)
        if self.throttle is not None:
            self.throttle.look()

    # The tasks

    async def _run(self) -> None:
        """Run the feed and the workers through all the phases. Errors are kept for the block to raise."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_feed)
                nursery.start_soon(self._stop_in_phases)
                nursery.start_soon(self._ask_for_snapshots)
                nursery.start_soon(self._run_throttle)
                await self._run_workers()
                self._phase = "stopped"
                nursery.cancel_scope.cancel()
        finally:
            # Also where we were cancelled before a worker or the feed had begun.
            self._send.close()
            self._receive.close()
            self._phase = "stopped"
            self._update_pressure()
            self._ended.set()

    async def _run_feed(self) -> None:
        try:
            with self._feed_scope:
                await self._feed.run(self._send)
        except BaseException as raised:
            cancelled, error = split(raised)
            # A feed that was slow to stop may find its channel closed: that is our doing, not an error of the feed.
            if error is not None and not (self._stopping.is_set() and is_closed_channel(error)):
                self._fail(error)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._feed_ended.set()
            self._end_of_feed()

    def _end_of_feed(self) -> None:
        self._send.close()
        if self._phase == "running":
            self._phase = "draining"

    async def _run_workers(self) -> None:
        try:
            with self._work_scope:
                await self._pool.run()
        except BaseExceptionGroup as group:
            cancelled, errors = split(group)
            if isinstance(errors, BaseExceptionGroup):
                # The group is the pool's nursery's; what it holds is the user's, and may be a group too.
                self._fail(errors.exceptions[0] if len(errors.exceptions) == 1 else errors)
            if cancelled is not None:
                raise cancelled from None

    async def _stop_in_phases(self) -> None:
        await self._stopping.wait()
        logger.info("pipeline.stopping: %d ticks queued", self._state.queued, extra={"queued": self._state.queued})
        self._feed_scope.cancel()
        with trio.move_on_after(_FEED_STOP_S):
            await self._feed_ended.wait()
        self._end_of_feed()
        await trio.sleep(self._settings.shutdown_timeout)
        self._work_scope.cancel()

    async def _run_throttle(self) -> None:
        if self.throttle is not None:
            try:
                await self.throttle.run()
            except Exception as error:
                self._fail(error)

    async def _ask_for_snapshots(self) -> None:
        """Ask the feed for a fresh snapshot of each book that lost an update, at most once in a while per symbol, until it has come."""
        request = getattr(self._feed, "request_snapshot", None)
        if request is None:
            return
        asked: dict[str, float] = {}
        while True:
            await self._book_lost.wait()
            self._book_lost = trio.Event()
            while wanted := self._state.books.wanted:
                now = trio.current_time()
                for symbol in sorted(wanted):
                    if now - asked.get(symbol, -math.inf) >= _SNAPSHOT_EVERY_S:
                        asked[symbol] = now
                        result = request(symbol)
                        if inspect.isawaitable(result):
                            await result
                with trio.move_on_after(_SNAPSHOT_EVERY_S):
                    await self._book_lost.wait()
                    self._book_lost = trio.Event()

    def _fail(self, error: BaseException) -> None:
        """Keep the first error, and stop at once: nobody would look at the results."""
        if self._failure is None:
            self._failure = error
        else:
            log_second(error)
        self.cancel()


@asynccontextmanager
async def open_pipeline(
    feed: Feed,
    handler: Handler[Any],
    *,
    workers: int | Literal["auto"] | AutoWorkers = 4,
    maxsize: int = 1000,
    write_timeout: float = 1.0,
    lag_threshold: int = 500,
    overflow: Overflow | None = None,
    ordering: Ordering = "symbol",
    executor: str = "auto",
    max_age: MaxAge | float | None = None,
    shutdown_timeout: float = 5.0,
    buffer: None = None,
    handler_timeout: float | None = None,
    retry: Retry | None = None,
    breaker: Breaker | None = None,
    on_crash: OnCrash = "fail",
    on_error: OnError | None = None,
    on_gap: OnGap | None = None,
) -> AsyncIterator[Pipeline[Any]]:
    """Run *feed* through a bounded channel into *handler*, for as long as the block lasts.

    Leaving the block shuts down gracefully; leaving it by an exception cancels at once. To run until the feed ends, use
    ``await pipeline.wait()`` in the block, or :func:`run_pipeline`.

    Args:
        feed: anything with ``async def run(self, send)``; see :class:`Feed`.
        handler: takes one tick, or several (:func:`batch_handler`). An ``async def`` runs in the event loop, a plain ``def`` in worker
            threads (see *executor*). A class makes one handler per worker; what has ``__enter__`` or ``__aenter__`` is entered first,
            and left at the end. What it raises (any ``Exception``) counts the tick as failed; the worker lives on.
        workers: how many ticks are handled at once, at most; ``"auto"``, or :class:`AutoWorkers` with bounds: the pool sizes itself.
        maxsize: how many ticks may wait. ``expected burst seconds x ticks a second x safety factor`` (5 s x 100 Hz x 2 = 1000).
        write_timeout: patience of the default strategy for an episode of pressure, in seconds; not used where *overflow* is given.
        lag_threshold: queued ticks at which the pressure becomes ``"warn"``; capped at *maxsize*.
        overflow: the strategy for a full channel, or a mapping from kinds of items to strategies (``{Tick: Conflate(), Trade: Block()}``);
            ``DropNewest(timeout=write_timeout)`` unless given. A :class:`Throttle` over one slows the feed down as well.
        ordering: ``"symbol"``: ticks of a symbol are handled one at a time, in order, while different symbols run in parallel;
            ``"none"``: no order, no lease.
        executor: ``"auto"``, ``"loop"``, ``"thread"`` or ``"process"``.
        max_age: in seconds; ticks that waited longer when their turn comes are counted as stale and not handled. A :class:`MaxAge`
            measures by the ticks' own timestamps instead.
        shutdown_timeout: how long the workers may drain the queue at a graceful shutdown, in seconds.
        buffer: reserved for buffers across processes; must be ``None``.
        handler_timeout: how long a handler may take for one tick (or one batch), in seconds. In the loop it is cancelled then and has
            failed by :class:`HandlerTimeoutError`; a thread cannot be stopped: its stack is logged, and it is waited for; a process is
            replaced.
        retry: which exceptions of a handler are worth another try, and how many; see :class:`Retry`.
        breaker: when a symbol whose handler fails again and again is set aside, and for how long; see :class:`Breaker`.
        on_crash: what becomes of the tick (or batch) that a worker process was in when it ended: ``"fail"`` counts it as failed,
            ``"retry"`` gives it to its successor, once. Says nothing about other executors, and is then told so in the log.
        on_error: called (and awaited, if need be) with the tick and the exception when a handler raised, before the symbol's next tick.
        on_gap: called (and awaited, if need be) with a :class:`Gap` where ticks of a symbol were lost, in the symbol's order, before its
            next tick. A handler whose annotation takes a ``Gap`` (``tick: Tick | Gap``) gets it in-band instead.

    Raises:
        ConfigError: a setting cannot work; raised before anything runs.
        Exception: what the feed, *on_error*, *on_gap* or a handler's life raised, as itself; ticks that were queued then are counted as
            shutdown.
        ExceptionGroup: of those, where several workers raised at once.

    Cancellation: cancelling the block cancels the feed and the workers at once; every tick is accounted for in ``pipeline.report``.
    """
    settings = Settings(
        workers=workers,
        maxsize=maxsize,
        write_timeout=write_timeout,
        lag_threshold=lag_threshold,
        overflow=overflow,
        ordering=ordering,
        executor=executor,
        max_age=max_age,
        shutdown_timeout=shutdown_timeout,
        handler_timeout=handler_timeout,
        retry=retry,
        breaker=breaker,
        on_crash=on_crash,
        on_error=on_error,
        on_gap=on_gap,
    )
    if not callable(getattr(feed, "run", None)):
        raise ConfigError(f"feed must have an async method run(send); for a list or an iterator of ticks use IterableFeed, got {feed!r}")
    if buffer is not None:
        raise ConfigError(f"buffer must be None: this version has no buffers across processes, got {buffer!r}")
    pipeline: Pipeline[Any] = Pipeline(feed, handler, settings)
    block_error: BaseException | None = None
    block_first = False
    try:
        async with trio.open_nursery() as nursery:
            pipeline._block = nursery
            nursery.start_soon(_supervise, pipeline, nursery.cancel_scope)
            try:
                yield pipeline
            except BaseException as error:
                block_first = pipeline._failure is None
                nursery.cancel_scope.cancel()
                if split(error)[0] is not None:
                    raise
                # Kept from the nursery, which would put it into a group, and a group into a copy of itself.
                block_error = error
            else:
                pipeline.shutdown()
                await pipeline.wait()
                nursery.cancel_scope.cancel()  # what serves its metrics
    except BaseException as left:
        # It came with a cancellation: of the block, since the pipeline failed, or from outside, which is left to go on its way.
        cancelled, block_error = split(left)
        if cancelled is not None:
            if pipeline._failure is not None:
                log_second(pipeline._failure)
            raise
        if isinstance(block_error, BaseExceptionGroup) and len(block_error.exceptions) == 1:
            block_error = block_error.exceptions[0]
    finally:
        pipeline._report = pipeline._make_report()
    errors = [block_error, pipeline._failure] if block_first else [pipeline._failure, block_error]
    raise_first([error for error in errors if error is not None])


async def _supervise(pipeline: Pipeline[Any], block: trio.CancelScope) -> None:
    await pipeline._run()
    if pipeline._failure is not None:
        block.cancel()


async def run_pipeline(feed: Feed, handler: Handler[Any], **settings: Any) -> PipelineReport:
    """Run *feed* through *handler* until the feed ends and the queue is drained; return the report.

    The first SIGINT or SIGTERM begins a graceful shutdown, the second cancels at once; both end in a report. Signals are
    handled only in the main thread. Settings are those of :func:`open_pipeline`.

    Raises:
        ConfigError: a setting cannot work.
        Exception: what the feed, ``on_error``, ``on_gap`` or a handler's life raised, as itself.
        ExceptionGroup: of those, where several workers raised at once.

    Cancellation: cancels the feed and the workers at once.
    """
    async with open_pipeline(feed, handler, **settings) as pipeline, trio.open_nursery() as nursery:
        if threading.current_thread() is threading.main_thread():
            await nursery.start(_handle_signals, pipeline)
        await pipeline.wait()
        nursery.cancel_scope.cancel()
    return pipeline.report


async def _handle_signals(pipeline: Pipeline[Any], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if pipeline._stopping.is_set():
                logger.warning("pipeline.cancelled: second signal, %s", name, extra={"signal": name})
                pipeline.cancel()
            else:
                logger.info("pipeline.signal: %s, shutting down", name, extra={"signal": name})
                pipeline.shutdown()
