"""How a pipeline is opened, run to its end, and told of signals."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, Literal, cast

import trio

from ..buffer import Buffer
from ..channel.freshness import MaxAge
from ..control.scaling import AutoWorkers
from ..errors import ConfigError
from ..feeds.base import Feed, plays_the_past
from ..feeds.merged import MergedFeed
from ..handlers.breaker import Breaker
from ..handlers.kinds import Handler, is_async
from ..handlers.replays import begin_replaying
from ..handlers.retry import Retry
from ..handlers.signatures import misfit
from ..logs import log_event
from ..metrics.loop_watch import watch_loop
from ..metrics.snapshots import PipelineReport
from ..overflow import Overflow
from ..recordings.recorder import Recorder
from ..results import Results
from ..settings import OnCrash, OnError, OnFeed, OnGap, Ordering, Settings
from ..uninterrupted import interruptible, uninterrupted
from .block_errors import BlockErrors
from .halves import check_halves, make_pipeline
from .recorded import recorded
from .running import Pipeline
from .signals import hear_signals

__all__ = ["check_pipeline", "open_pipeline", "run_in_block", "run_pipeline"]

logger = logging.getLogger("trio_ticks.pipeline")

_EMPTY_S: Final = 5.0
"""After the feed has ended, so long nothing may be left of what other programs may have
handled, in seconds."""
_EMPTY_POLL_S: Final = 0.02
"""How often the workers' half is asked whether the buffer is empty, after the feed has
ended, in seconds."""


@asynccontextmanager
async def open_pipeline(
    feed: Feed | Sequence[Feed] | None,
    handler: Handler[Any] | None,
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
    buffer: Buffer | None = None,
    handler_timeout: float | None = None,
    retry: Retry | None = None,
    breaker: Breaker | None = None,
    on_crash: OnCrash = "fail",
    on_error: OnError | None = None,
    on_gap: OnGap | None = None,
    on_feed: OnFeed | None = None,
    on_feed_timeout: float = 5.0,
    shared_symbols: bool = False,
    results: Results | None = None,
    record: Recorder | None = None,
) -> AsyncIterator[Pipeline[Any]]:
    """Run *feed* through a bounded channel into *handler* while the block lasts.

    Leaving the block shuts down gracefully; leaving it by an exception cancels at once.
    To run until the feed ends, use ``await pipeline.wait()`` in the block, or
    :func:`run_pipeline`.

    Args:
        feed: anything with ``async def run(self, send)``; see :class:`Feed`. Or a list
            of feeds, which run side by side. ``None``: with a *buffer*, to handle what
            other programs bring into it.
        handler: takes one tick, or several (:func:`batch_handler`). An ``async def``
            runs in the event loop, a plain ``def`` in worker threads (see *executor*).
            A class makes one handler per worker; what has ``__enter__`` or
            ``__aenter__`` is entered first, and left at the end. What it raises (any
            ``Exception``) counts the tick as failed; the worker lives on. ``None``:
            with a *buffer*, to bring ticks into it that other programs handle.
        workers: how many ticks are handled at once, at most; ``"auto"``, or
            :class:`AutoWorkers` with bounds: the pool sizes itself.
        maxsize: how many ticks may wait. ``expected burst seconds x ticks a second x
            safety factor`` (5 s x 100 Hz x 2 = 1000). With a *buffer* it is how many
            may wait to be appended; without a feed, how many are fetched ahead (unless
            given: the buffer's ``prefetch``).
        write_timeout: patience of the default strategy for an episode of pressure, in
            seconds; not used where *overflow* is given.
        lag_threshold: queued ticks at which the pressure becomes ``"warn"``; capped at
            *maxsize*.
        overflow: the strategy for a full channel, or a mapping from kinds of items to
            strategies (``{Tick: Conflate(), Trade: Block()}``). Unless given it is
            ``DropNewest(timeout=write_timeout)``, or ``Block()`` for a feed that can
            wait without harm: a :class:`ReplayFeed` with ``speed=math.inf``, or any
            feed that says so (:class:`~trio_ticks.feeds.base.WaitsForRoom`). A mapping
            has the same default for kinds that it does not list. A :class:`Throttle`
            over one slows the feed down as well.
        ordering: ``"symbol"``: ticks of a symbol are handled one at a time, in order,
            while different symbols run in parallel; ``"none"``: no order, no lease.
        executor: ``"auto"``, ``"loop"``, ``"thread"`` or ``"process"``.
        max_age: in seconds; ticks that waited longer when their turn comes are counted
            as stale and not handled. A :class:`MaxAge` measures by the ticks' own
            timestamps instead.
        shutdown_timeout: how long the workers may drain the queue at a graceful
            shutdown, in seconds.
        buffer: carries the ticks to other processes, and keeps them there:
            ``RedisStreams``, ``Kafka`` or ``ZeroMQ`` of ``trio_ticks.brokers``, or
            one of your own (:class:`~trio_ticks.buffer.Buffer`). With a feed and a
            handler both halves run here: the pipeline is the half of the workers, its
            ``ingest`` the other one. A shutdown drops nothing of what is in the buffer,
            and gives back what was fetched and not begun.
        handler_timeout: how long a handler may take for one tick (or one batch), in
            seconds. In the loop it is cancelled then and has failed by
            :class:`HandlerTimeoutError`; a thread cannot be stopped: its stack is
            logged, and it is waited for; a process is replaced.
        retry: which exceptions of a handler are worth another try, and how many; see
            :class:`Retry`.
        breaker: when a symbol whose handler fails again and again is set aside, and for
            how long; see :class:`Breaker`.
        on_crash: what becomes of the tick (or batch) that a worker process was in when
            it ended: ``"fail"`` counts it as failed, ``"retry"`` gives it to its
            successor, once. Says nothing about other executors, and is then told so in
            the log.
        on_error: called (and awaited, if need be) with the tick and the exception when
            a handler raised, before the symbol's next tick. What is neither an
            ``Exception`` nor a request to end (a panic in Rust) ends the pipeline, and
            is handed over before; it may then take half a second.
        on_gap: called (and awaited, if need be) with a :class:`Gap` where ticks of a
            symbol were lost, in the symbol's order, before its next tick. A handler
            whose annotation takes a ``Gap`` (``tick: Tick | Gap``) gets it in-band
            instead.
        on_feed: called (and awaited, if need be) in the event loop with each
            :class:`FeedEvent`: a connection was lost or is back, a symbol is silent or
            refused. One event at a time, in order; a loss is told when it happens,
            ahead of the ticks that are still queued. A handler whose annotation takes a
            ``FeedEvent`` (``item: Tick | FeedEvent``) gets the events of symbols as
            well, in the symbol's order; they are items then, and counted as such.
        on_feed_timeout: how long *on_feed* may take for one event, in seconds; then it
            is cancelled, and that is logged.
        shared_symbols: whether two of several feeds may bring the same symbol.
        results: takes what handlers return, if it is not ``None``, as a
            :class:`Result`: a function, awaited if need be, or a store of
            ``trio_ticks.brokers``. A tick is handled, and acknowledged to a
            *buffer*, once its result was written. If it raises ``ConnectionError``,
            ``TimeoutError``, ``trio.BrokenResourceError`` or ``trio.TooSlowError``, the
            store is away: the workers wait, and the result is written again, until the
            pipeline is cancelled. Any other exception fails the tick. A batch handler
            returns a list with a member for each of its ticks.
        record: a :class:`Recorder`, which writes down what the feeds receive, to be
            played again by a :class:`ReplayFeed`. It never slows the pipeline down.

    Raises:
        ConfigError: a setting cannot work, or belongs to a half that is not there, or
            this is no task of trio's; raised before anything runs.
        BrokerError: the buffer cannot be used, and waiting does not mend that.
        Exception: what a feed, *on_error*, *on_gap*, *on_feed* or a handler's life
            raised, as itself; ticks that were queued then are counted as shutdown.
        ExceptionGroup: of those, where several workers raised at once.

    Cancellation: cancelling the block cancels the feed and the workers at once; every
    tick is accounted for in ``pipeline.report``.
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
        on_feed=on_feed,
        on_feed_timeout=on_feed_timeout,
        results=results,
    )
    made = _make(feed, handler, buffer, settings, shared_symbols)
    async with run_in_block(made, record) as pipeline:
        yield pipeline


@asynccontextmanager
@uninterrupted  # not its block, which is the caller's
async def run_in_block(
    pipeline: Pipeline[Any], record: Recorder | None = None
) -> AsyncIterator[Pipeline[Any]]:
    """Run *pipeline* until the block is left; see :func:`open_pipeline`.

    Args:
        pipeline: made, and not run yet.
        record: writes down what its feeds receive.

    Raises:
        Exception: as there.
        ExceptionGroup: as there.

    Cancellation: as there.
    """
    watched = watch_loop(pipeline.clock, pipeline._poll, pipeline._fail)
    with watched as pipeline.loop_watch, BlockErrors(pipeline) as errors:
        async with recorded(pipeline, record), trio.open_nursery() as nursery:
            _begin(pipeline, nursery)
            try:
                yield pipeline
            except BaseException as error:
                kept = errors.keep(error)
                nursery.cancel_scope.cancel()
                if not kept:
                    raise
            else:
                await _shut_down(pipeline, nursery)


async def _shut_down(pipeline: Pipeline[Any], nursery: trio.Nursery) -> None:
    pipeline.shutdown()
    await pipeline.wait()
    nursery.cancel_scope.cancel()  # what serves its metrics


def check_pipeline(
    feed: Feed | Sequence[Feed] | None,
    handler: Handler[Any] | None,
    *,
    buffer: Buffer | None = None,
    shared_symbols: bool = False,
    **settings: Any,
) -> None:
    """Check what :func:`open_pipeline` would be called with, and run nothing.

    Call it inside trio.

    Args:
        feed: as for :func:`open_pipeline`.
        handler: as there.
        buffer: as there.
        shared_symbols: as there.
        **settings: its further arguments.

    Raises:
        ConfigError: a setting cannot work; the message says what to change.
    """
    _make(feed, handler, buffer, Settings(**settings), shared_symbols)


def _make(
    feed: Feed | Sequence[Feed] | None,
    handler: Handler[Any] | None,
    buffer: Buffer | None,
    settings: Settings,
    shared_symbols: bool,
) -> Pipeline[Any]:
    _check_in_trio()
    check_halves(feed, handler, buffer, settings, shared_symbols=shared_symbols)
    one, context = _one_feed(feed, shared_symbols), copy_context()
    for users in (handler, settings.on_error, settings.on_gap, settings.on_feed, settings.results):
        interruptible(users)
    if plays_the_past(one):
        context.run(begin_replaying)  # worker processes are told when they are made
    return context.run(make_pipeline, one, handler, buffer, settings)


def _one_feed(feed: Feed | Sequence[Feed] | None, shared_symbols: bool) -> Feed | None:
    """Return *feed*, or the feeds of a list as one."""
    if feed is None:
        return None
    if isinstance(feed, list | tuple):
        for each in feed:
            _check_feed(each)
        return MergedFeed(feed, shared_symbols=shared_symbols)
    _check_feed(feed)
    return cast(Feed, feed)


def _check_feed(feed: object) -> None:
    if not callable(getattr(feed, "run", None)):
        raise ConfigError(
            "feed must have an async method run(send); for a list or an iterator of ticks use "
            f"IterableFeed, got {feed!r}"
        )
    _check_run(feed)


def _check_run(feed: Any) -> None:
    """Refuse a feed whose method ``run`` cannot be awaited with a send channel.

    Raises:
        ConfigError: *feed* is a class, or its ``run`` is a plain function or takes
            other arguments.
    """
    if inspect.isclass(feed):
        raise ConfigError(
            f"feed must be an object, and {feed.__name__} is a class: write {feed.__name__}(...)"
        )
    run = feed.run
    why = misfit(run, 1)
    if (inspect.isfunction(run) or inspect.ismethod(run)) and not is_async(run):
        why = (
            "it has a yield: call send.send(tick) instead"
            if inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run)
            else "it is a plain def"
        )
    if why:
        raise ConfigError(
            "feed.run must be an async function that takes the send channel, such as "
            f"async def run(self, send): {why}; got {run!r}"
        )


def _check_in_trio() -> None:
    """Refuse to begin outside a task of trio's.

    Raises:
        ConfigError: no task of trio's runs this.
    """
    if not trio.lowlevel.in_trio_task():
        raise ConfigError(
            "a pipeline runs in trio only, and this is no task of trio's: start it by trio.run, "
            'or by anyio.run with backend="trio"; a program of asyncio\'s can run it in a '
            "thread, by asyncio.to_thread(trio.run, main), or in trio's guest mode"
        )


def _begin(pipeline: Pipeline[Any], nursery: trio.Nursery) -> None:
    """Run *pipeline* in the *nursery* of its block."""
    pipeline._block = nursery
    nursery.start_soon(_supervise, pipeline, nursery.cancel_scope)
    if pipeline.ingest is not None:
        pipeline.ingest._block = nursery
        nursery.start_soon(_supervise_ingest, pipeline, pipeline.ingest)


@uninterrupted
async def _supervise(pipeline: Pipeline[Any], block: trio.CancelScope) -> None:
    if pipeline._replays:
        begin_replaying()
    await pipeline._run()
    if pipeline.failure is not None:
        block.cancel()
    elif pipeline.ingest is not None:
        pipeline.ingest.shutdown()  # nobody takes any more what it brings


@uninterrupted
async def _supervise_ingest(pipeline: Pipeline[Any], ingest: Pipeline[Any]) -> None:
    """Run the half that brings the ticks; after its end, end the other half."""
    await ingest._run()
    if ingest.failure is not None:
        pipeline._fail(ingest.failure)
    # What the feed has brought is handled, unless somebody ends the workers' half.
    empty_since = math.inf
    while not pipeline.stopping:
        now, buffer = trio.current_time(), pipeline.buffer_statistics
        if buffer is None or not (buffer.lag or buffer.unacknowledged):
            if buffer is None or buffer.acknowledged >= ingest.ledger.consumed:
                break
            # Others may have handled a part. But what was appended is not seen at once.
            empty_since = min(empty_since, now if buffer.lag == 0 else math.inf)
            if now - empty_since > _EMPTY_S:
                break
        else:
            empty_since = math.inf
        await trio.sleep(_EMPTY_POLL_S)
    pipeline.shutdown()


async def run_pipeline(
    feed: Feed | Sequence[Feed] | None,
    handler: Handler[Any] | None,
    *,
    signals: bool = True,
    **settings: Any,
) -> PipelineReport:
    """Run *feed* through *handler* until it ends and the queue is drained.

    Without a feed (see ``buffer``) it runs until a signal ends it.

    Returns the report. The first SIGINT, SIGTERM or SIGHUP (where that would end the
    process) begins a graceful shutdown of all pipelines that run so in this process, a
    second SIGINT or SIGTERM cancels them at once; all of them end in a report. After
    the last has ended, the application's own signal handlers are put back. Only the
    main thread can install signal handlers: a pipeline in another thread hears of
    signals while one runs in the main thread; a warning in the log says where none
    does.

    Args:
        feed: as for :func:`open_pipeline`.
        handler: as there. It cannot get at the pipeline to shut it down; use
            :func:`open_pipeline` for that.
        signals: False leaves SIGINT, SIGTERM and SIGHUP to the application.
        **settings: those of :func:`open_pipeline`.

    Raises:
        ConfigError: a setting cannot work.
        Exception: what the feed, ``on_error``, ``on_gap`` or a handler's life raised,
            as itself.
        ExceptionGroup: of those, where several workers raised at once.

    Cancellation: cancels the feed and the workers at once.
    """
    with ExitStack() as stack:
        async with open_pipeline(feed, handler, **settings) as pipeline:
            if signals:
                # Until the block has been left: cleaning up may take its time too.
                stack.enter_context(hear_signals(functools.partial(_obey, pipeline)))
            await pipeline.wait()
    return pipeline.report


def _obey(pipeline: Pipeline[Any], number: signal.Signals, again: bool) -> None:
    name = number.name
    if again:
        text = "second signal, %s"
        log_event(logger, logging.WARNING, "pipeline.cancelled", text, name, signal=name)
        pipeline.cancel()
    else:
        text = "%s, shutting down"
        log_event(logger, logging.INFO, "pipeline.signal", text, name, signal=name)
        pipeline.shutdown()
