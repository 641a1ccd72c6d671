"""One run of everything: exchange, network, feed, channel, workers, shutdown.

The exchange is the project's own, the feed with its session, tap and codec too; only
the sockets between them are a network in memory.

Rules: a run never raises because of what it finds wrong: it returns that.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import sleep
from typing import Any, Final, final
from unittest import mock

import trio
import trio.lowlevel

import trio_ticks as tt
from tests.simulation.judge import Judge
from tests.simulation.network import Network, WireFault
from tests.simulation.plan import INJECTED, SYMBOLS, Act, Plan
from tests.simulation.scheduler import run_seeded
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.seeded_handlers import CurableError
from trio_ticks.exchange import Exchange, ExchangeConfig, serve_exchange
from trio_ticks.exchange.limits import ClientLimits
from trio_ticks.feeds.websocket import session
from trio_ticks.feeds.websocket.frame_tap import FrameTap
from trio_ticks.foresight.virtual_clock import VirtualClock

__all__ = ["played"]

_STUCK_S: Final = 600.0
"""Virtual seconds in which each run ends."""
_MOST_STEPS: Final = 300_000
_TURN_S: Final = 0.01
_QUIET_S: Final = 2.0
"""After the market's end, how long the pipeline has to handle what came."""


class HopelessError(Exception):
    """No further try will help."""


def played(plan: Plan, instrument: trio.abc.Instrument | None = None) -> list[str]:
    """Play *plan*; return what was not as it should be.

    Args:
        plan: what to play.
        instrument: is told of each step of the run, too.
    """
    judge = Judge(plan)
    threads = threading.active_count()

    def tapped(*args: Any, **options: Any) -> FrameTap:
        judge.taps.append(FrameTap(*args, **options))
        return judge.taps[-1]

    folder = tempfile.mkdtemp() if plan.records else None
    world = _World(plan, judge, folder, instrument)
    try:
        with mock.patch.object(session, "FrameTap", tapped):
            run_seeded(plan.seed, world.run, limit_s=_STUCK_S)
        if folder is not None:
            judge.check_recording(Path(folder))
    except trio.TooSlowError:
        judge.wrong(f"stuck: it has not ended in {_STUCK_S:g} s")
    except Exception as error:
        if not _is_expected(plan, error):
            judge.wrong(f"raised {error!r}")
    finally:
        if folder is not None:
            shutil.rmtree(folder)
    # The recorder's thread, and one before this run, may still be on their way out.
    for _ in range(500):
        if threading.active_count() <= threads:
            break
        sleep(0.01)
    judge.demand(threading.active_count() <= threads, "a thread is left")
    return judge.wrongs


def _is_expected(plan: Plan, error: Exception) -> bool:
    """Tell whether *plan* may end by *error*.

    A wrong bit in the answer to the first handshake may make it a refusal for good.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    corrupts = any(isinstance(f, WireFault) and f.kind == "corrupt" for f in plan.faults)
    return corrupts and isinstance(error, tt.FeedBrokenError)


@final
class _Watch(trio.abc.Instrument):
    """Looks after each step of each task, and may end the run there."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self.steps = 0

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.steps += 1
        world = self._world
        pipeline = world.pipeline
        if pipeline is None:
            return
        if self.steps == world.plan.ending.at_step and not world.is_ended:
            world.end()
        for half in (pipeline, pipeline.ingest):
            if half is not None:
                world.check_half(half)
        if self.steps == _MOST_STEPS:
            world.judge.wrong(f"not at its end after {self.steps} steps")
            world.scope.cancel()


@final
class _World:
    """The state of one run."""

    def __init__(
        self,
        plan: Plan,
        judge: Judge,
        folder: str | None,
        instrument: trio.abc.Instrument | None = None,
    ) -> None:
        self.plan = plan
        self._folder = folder
        self._instrument = instrument
        self.judge = judge
        self.pipeline: tt.Pipeline[Any] | None = None
        self.buffer: MemoryBuffer | None = None
        self.scope = trio.CancelScope()
        self.is_ended = False
        self._took_s = 0.0
        self._acts = sorted(
            (fault for fault in plan.faults if isinstance(fault, Act)), key=lambda act: act.at_s
        )
        self._stamped = 0
        self._tries: dict[int, int] = {}

    # Steps

    def end(self) -> None:
        """End the run as the plan says. Sync: it may come between any two steps."""
        assert self.pipeline is not None
        self.is_ended = True
        match self.plan.ending.how:
            case "shutdown":
                self.pipeline.shutdown()
            case "cancel":
                self.pipeline.cancel()
            case "scope":
                self.scope.cancel()

    def check_half(self, half: tt.Pipeline[Any]) -> None:
        """Check law and bound of *half*, between two steps."""
        try:
            half.ledger.check()
        except tt.LedgerError as error:
            self.judge.wrong(f"law: {error}")
        if half.ledger.queued > self.plan.settings["maxsize"]:
            now = half.statistics()
            used, most = now.current_buffer_used, now.max_buffer_size
            self.judge.demand(used <= most, f"bound: {used} of {most} in the channel")

    @property
    def _is_calm(self) -> bool:
        """Whether nothing was cancelled, so that workers lose nothing."""
        # A sender that gives up has its ticks dropped.
        patient = all(for_s == math.inf for _wait_s, _symbols, for_s in self.plan.beside)
        patient = patient and self.plan.settings["shutdown_timeout"] > 5
        hangs = self.plan.moods[3] and self.plan.settings["handler_timeout"] is None
        patient = patient and not hangs
        return patient and self.plan.ending.how == "market" and not self.is_ended

    # The run

    async def run(self, clock: VirtualClock) -> None:
        """Run it all."""
        wire = [fault for fault in self.plan.faults if isinstance(fault, WireFault)]
        network, watch = Network(wire), _Watch(self)
        before = trio.lowlevel.current_statistics().tasks_living
        trio.lowlevel.add_instrument(watch)
        if self._instrument is not None:
            trio.lowlevel.add_instrument(self._instrument)
        feed = tt.WebSocketFeed(
            "ws://127.0.0.1:9000/feed",
            self.plan.symbols,
            open_stream=network.connect,
            **self.plan.feed,
        )
        try:
            async with trio.open_nursery() as nursery:
                exchange = await nursery.start(_serve, self.plan, network)
                try:
                    with self.scope:
                        await self._run_pipeline(clock, exchange, network, feed)
                finally:
                    # Cancels the exchange, whose clients have gone.
                    nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(watch)
        left = trio.lowlevel.current_statistics().tasks_living - before
        self.judge.demand(left == 0, f"{left} tasks are left")
        if self.pipeline is None:
            return
        if self._is_calm:
            left = self.pipeline.report.dropped_by_reason["shutdown"]
            self.judge.demand(not left, f"{left} dropped at shutdown, though there was time")
            limit_s = self.plan.settings["shutdown_timeout"]
            self.judge.demand(self._took_s < limit_s, f"the shutdown took {self._took_s:g} s")
        if self.buffer is None:
            self.judge.check(self.pipeline, feed, calm=self._is_calm)
        else:
            self.judge.check_buffered(self.pipeline, feed, self.buffer, calm=self._is_calm)

    async def _run_pipeline(
        self, clock: VirtualClock, exchange: Exchange, network: Network, feed: tt.WebSocketFeed
    ) -> None:
        plan = self.plan
        handler: Any = self._handler(clock)
        if plan.batch is not None:
            handler = tt.batch_handler(max_size=plan.batch[0], max_wait=plan.batch[1])(handler)
        options: dict[str, Any] = {}
        if plan.buffered:
            self.buffer = MemoryBuffer(maxsize=100, prefetch=8, turn_s=_TURN_S)
            options["buffer"] = self.buffer
        if self._folder is not None:
            options["record"] = tt.Recorder(self._folder, compression="gzip")
        feeds: Any = feed
        if plan.beside:
            feeds, options["shared_symbols"] = [feed, Beside(plan)], True
        async with tt.open_pipeline(
            feeds, handler, on_error=self._on_error, **plan.settings, **options
        ) as pipeline:
            self.pipeline = pipeline
            if pipeline.ingest is None:
                pipeline.item_listeners.add(self.judge.hear)
            else:
                pipeline.ingest.item_listeners.add(self.judge.hear)
                pipeline.item_listeners.add(self.judge.hear_behind)
            async with trio.open_nursery() as nursery:
                acted = trio.Event()
                nursery.start_soon(self._act_all, acted, clock, exchange, network, feed)
                if plan.ending.how == "market" or plan.ending.at_step:
                    with trio.move_on_after(30.0):
                        await exchange.finished.wait()
                        # A jump of the clock in the quiet time would shorten it.
                        await acted.wait()
                        await trio.sleep(_QUIET_S)
                    self._check_idle(pipeline, network)
                    if not self.is_ended:
                        pipeline.shutdown()
                else:
                    with trio.move_on_after(plan.ending.at_s):
                        await pipeline.wait()
                    self.end()
                began = trio.current_time()
                await pipeline.wait()
                self._took_s = trio.current_time() - began
                nursery.cancel_scope.cancel()

    def _check_idle(self, pipeline: tt.Pipeline[Any], network: Network) -> None:
        """A pipeline with nothing to do leaves nothing unread."""
        whole = pipeline.ingest or pipeline
        ledger = whole.ledger
        if ledger.queued or ledger.in_flight or whole.phase != "running" or self.buffer is not None:
            return
        unread = [each for each in network.connections if each.ways[0].is_unread]
        self.judge.demand(not unread, f"{len(unread)} connections unread, and nothing to do")

    # Faults

    async def _act_all(
        self,
        acted: trio.Event,
        clock: VirtualClock,
        exchange: Exchange,
        network: Network,
        feed: tt.WebSocketFeed,
    ) -> None:
        async with trio.open_nursery() as nursery:
            for act in self._acts:
                nursery.start_soon(self._act, act, clock, exchange, network, feed)
        acted.set()

    async def _act(
        self,
        act: Act,
        clock: VirtualClock,
        exchange: Exchange,
        network: Network,
        feed: tt.WebSocketFeed,
    ) -> None:
        await trio.sleep(act.at_s)
        pipeline = self.pipeline
        assert pipeline is not None
        match act.kind:
            case "refuse":
                await _for(act, lambda on: exchange.refuse(act.what if on else None))
            case "unreachable":
                await _for(act, lambda on: setattr(network, "refuses", on))
            case "silent":
                await _for(act, lambda on: exchange.pause() if on else exchange.resume())
            case "no pongs":
                await _for(act, lambda on: exchange.answer_pings(not on))
            case "drop":
                await exchange.drop_clients()
            case "inject":
                await exchange.inject(INJECTED[act.what])
            case "stamp":
                await exchange.inject(self._stamped_quote(*act.what))
            case "jump":
                clock.advance(act.for_s)
            case "subscribe":
                feed.subscribe([act.what])
            case "unsubscribe":
                feed.unsubscribe([act.what])
            case "resize":
                pipeline.resize(workers=act.what)
            case "pause":
                # A feed of the user's own cannot be unsubscribed from.
                pipeline.pause(feed="queue" if self.plan.beside else act.what)
                await trio.sleep(act.for_s)
                pipeline.resume()
            case "throttle":
                await _for(act, lambda on: feed.throttle(act.what if on else None))

    def _stamped_quote(self, symbol: str, stamp: str) -> str:
        self._stamped += 1
        volume = 10**12 + self._stamped
        return (
            f'{{"symbol":"{symbol}","timestamp":"{stamp}","bid":1,"ask":2,"bid_size":1,'
            f'"ask_size":1,"volume":{volume}}}'
        )

    # The user's part

    def _handler(self, clock: VirtualClock) -> Callable[[Any], Awaitable[None]]:
        judge, plan = self.judge, self.plan

        async def handler(given: Any) -> None:
            items = given if isinstance(given, list) else [given]
            judge.write("begin", items)
            fates = [plan.fate(judge.number(item)) for item in items]
            for fate in fates:
                clock.advance(fate.blocks_s)
            try:
                if any(fate.cancels for fate in fates):
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await trio.sleep_forever()
                if (longest := max(fate.seconds for fate in fates)) >= 0:
                    await trio.sleep(longest)
            except trio.Cancelled:
                judge.write("cut", items)
                raise
            self._finish(items, given)

        return handler

    def _finish(self, items: list[Any], given: Any) -> None:
        """Write the end of a handling down, and raise what there is to raise."""
        failures: dict[int, Exception] = {}
        for index, item in enumerate(items):
            number = self.judge.number(item)
            fate = self.plan.fate(number)
            self._tries[number] = self._tries.get(number, 0) + 1
            if fate.hopeless:
                failures[index] = HopelessError(str(number))
            elif self._tries[number] <= fate.fails:
                failures[index] = CurableError(str(number))
        if not failures:
            self.judge.write("end", items)
            return
        if isinstance(given, list) and self.plan.names_failures and len(items) > 1:
            self.judge.write("end", items)
            raise tt.BatchError(failures)
        self.judge.write("failed", items)
        raise sorted(failures.values(), key=lambda each: isinstance(each, CurableError))[0]

    async def _on_error(self, item: Any, _error: Exception) -> None:
        self.judge.failed(item)
        self.judge.write("telling", [item])
        try:
            if self.plan.tells_s is not None:
                await trio.sleep(self.plan.tells_s)
        finally:
            self.judge.write("told", [item])


@final
class Beside:
    """A second feed, which brings batches and gives some of them up."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def run(self, send: tt.TickSendChannel[Any], /) -> None:
        """Send what the plan says.

        Cancellation: what was brought is the channel's.
        """
        volume = 10**9
        for wait_s, symbols, for_s in self._plan.beside:
            await trio.sleep(wait_s)
            now = send.clock.utc()
            batch = []
            for symbol in symbols:
                volume += 1
                batch.append(tt.Tick(symbol, now, 1.0, 2.0, 1.0, 1.0, volume))
            with trio.move_on_after(for_s):
                if len(batch) == 1:
                    await send.send(batch[0])
                else:
                    await send.send_many(batch)


async def _for(act: Act, switch: Callable[[bool], object]) -> None:
    switch(True)
    try:
        await trio.sleep(act.for_s)
    finally:
        switch(False)


async def _serve(plan: Plan, network: Network, *, task_status: trio.TaskStatus[Exchange]) -> None:
    config = ExchangeConfig(
        symbols=SYMBOLS,
        rate=plan.rate,
        seed=plan.seed,
        limit=plan.ticks,
        ping_interval=0.5,
        ping_timeout=1.0,
        limits=ClientLimits(buffer_bytes=65536, slow_timeout_s=5.0),
    )
    await serve_exchange(config, listeners=[network], task_status=task_status)
