"""Pipelines that stop at random moments, in every way: each tick has its outcome, by
tick.

``TRIO_TICKS_SEEDS=2000`` runs as many; ``TRIO_TICKS_FIRST_SEED=57`` begins with that
one. In the event loop a seed is the same run to the last step; with threads the system
has its say.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_trade, number
from tests.worlds.process_handlers import Tell, read
from tests.worlds.process_world import PATIENCE_S, path, quick_main, until
from trio_ticks.ledger import DropReason

__all__ = ["path", "quick_main"]

FIRST = int(os.environ.get("TRIO_TICKS_FIRST_SEED", "0"))
COUNT = int(os.environ.get("TRIO_TICKS_SEEDS", "60"))
PLENTY_S = 10_000.0
"""Seconds in which any of the loads below is drained, on a virtual clock."""

STRATEGIES: list[Callable[[], Any]] = [
    tt.Block,
    lambda: tt.Block(0.05),
    lambda: tt.DropNewest(0.05),
    lambda: tt.DropNewest(0.02, max_per_symbol=3),
    tt.DropOldest,
    lambda: tt.DropOldest(longest_line=True),
    tt.Conflate,
    tt.Fail,
    lambda: {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()},
]


@attrs.define
class Fate:
    """What became of each tick, by number."""

    brought: list[int] = attrs.Factory(list)
    dropped: dict[int, DropReason] = attrs.Factory(dict)
    begun: Counter[int] = attrs.Factory(Counter)
    ended: Counter[int] = attrs.Factory(Counter)
    failed: Counter[int] = attrs.Factory(Counter)
    order: dict[str, list[int]] = attrs.Factory(dict)

    def record(self, items: Any, reason: DropReason | None) -> None:
        if reason is None:
            self.brought += map(number, items)
        elif reason != "conflated":  # which is told with the newer item
            for item in items:
                assert number(item) not in self.dropped, f"{number(item)} was dropped twice"
                self.dropped[number(item)] = reason

    def begin(self, item: Any) -> None:
        self.begun[number(item)] += 1
        self.order.setdefault(item.symbol, []).append(number(item))

    def end(self, item: Any, *, failed: bool) -> None:
        (self.failed if failed else self.ended)[number(item)] += 1


@attrs.frozen
class Load:
    """A pipeline, what its feed brings, and how it ends."""

    overflow: Any
    workers: int
    maxsize: int
    ordering: Any
    deliveries: list[tuple[float, str, int]]
    """A sleep, a way to send, and how many ticks."""
    service_s: list[float]
    end: str
    end_after_s: float
    from_thread: bool
    grace_s: float


def draw(seed: int, *, grace: bool) -> Load:
    rng = random.Random(seed)
    return Load(
        overflow=rng.choice(STRATEGIES)(),
        workers=rng.choice([1, 2, 4]),
        maxsize=rng.choice([1, 3, 10, 40]),
        ordering=rng.choice(["symbol", "symbol", "none"]),
        deliveries=[
            (
                rng.choice([0.0, 0.0, 0.001, 0.02]),
                rng.choice(["send", "send_many", "deliver", "deliver", "forget", "nowait"]),
                rng.choice([1, 2, 7, 30]),
            )
            for _ in range(rng.randint(1, 12))
        ],
        service_s=[rng.choice([0.0, 0.0, 0.0007, 0.004, 0.03]) for _ in range(5)],
        end=rng.choice(["shutdown", "shutdown", "leave", "wait"] if grace else ENDS),
        end_after_s=rng.choice([0.0, 0.003, 0.03, 0.2, 1.0]) * rng.random(),
        from_thread=rng.random() < 0.5,
        grace_s=PLENTY_S if grace else rng.choice([0.0, 0.01, 0.1]),
    )


ENDS = ["shutdown", "cancel", "leave", "cancel the block", "shutdown, then cancel"]


class Feed:
    """Brings what a load says; sometimes throws away what it should have awaited."""

    def __init__(self, load: Load, rng: random.Random) -> None:
        self._load = load
        self._rng = rng
        self._count = 0
        self._forgotten: Awaitable[None] | None = None
        self.failures = 0

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        for sleep_s, way, count in self._load.deliveries:
            await trio.sleep(sleep_s)
            batch = [self._make() for _ in range(count)]
            try:
                await self._bring(send, way, batch)
            except tt.QueueFullError:
                self.failures += 1

    async def _bring(self, send: tt.TickSendChannel[Any], way: str, batch: list[Any]) -> None:
        if way == "send_many":
            await send.send_many(batch)
        elif way in ("deliver", "forget"):
            if self._forgotten is not None:
                await self._forgotten
            self._forgotten = send.deliver(batch)
            if self._forgotten is not None and way == "deliver":
                wait, self._forgotten = self._forgotten, None
                await wait
        else:
            for item in batch:
                if way == "send":
                    await send.send(item)
                else:
                    try:
                        send.send_nowait(item)
                    except trio.WouldBlock:
                        await send.send(item)

    def _make(self) -> Any:
        n, symbol = self._count, self._rng.choice("ABCD")
        self._count += 1
        return make_trade(symbol, n) if self._rng.random() < 0.3 else make_tick(symbol, n)


def handler_of(load: Load, fate: Fate, place: str) -> Any:
    """Return a handler that takes its time, and raises at every eleventh tick."""

    def finish(item: Any) -> None:
        failed = number(item) % 11 == 0
        fate.end(item, failed=failed)
        if failed:
            raise ValueError(number(item))

    async def in_loop(item: Any) -> None:
        fate.begin(item)
        await trio.sleep(load.service_s[number(item) % 5])
        finish(item)

    def in_thread(item: Any) -> None:
        fate.begin(item)
        if load.service_s[number(item) % 5]:
            threading.Event().wait(load.service_s[number(item) % 5] / 10)
        finish(item)

    @tt.batch_handler(max_size=5)
    async def in_batches(items: list[Any]) -> None:
        failures: dict[int, Exception] = {}
        for item in items:
            fate.begin(item)
        await trio.sleep(load.service_s[number(items[0]) % 5])
        for index, item in enumerate(items):
            try:
                finish(item)
            except ValueError as error:
                failures[index] = error
        if failures:
            raise tt.BatchError(failures)

    return {"loop": in_loop, "thread": in_thread, "batch": in_batches}[place]


async def play(load: Load, seed: int, place: str) -> tuple[Fate, tt.PipelineReport]:
    fate, rng = Fate(), random.Random(seed + 1)
    async with tt.open_pipeline(
        Feed(load, rng),
        handler_of(load, fate, place),
        workers=load.workers,
        maxsize=load.maxsize,
        ordering=load.ordering,
        overflow=load.overflow,
        shutdown_timeout=load.grace_s,
        on_error=lambda _item, _error: None,
    ) as pipeline:
        pipeline.item_listeners.add(fate.record)
        with trio.CancelScope() as block:
            with trio.move_on_after(load.end_after_s):
                await pipeline.wait()
            await stop(pipeline, load, block)
    return fate, pipeline.report


async def stop(pipeline: tt.Pipeline[Any], load: Load, block: trio.CancelScope) -> None:
    def act(what: Callable[[], None]) -> None:
        if load.from_thread:
            # Waited for without trio: a virtual clock would jump meanwhile.
            thread = threading.Thread(target=what)
            thread.start()
            thread.join()
        else:
            what()

    pipeline.ledger.check()
    if load.end.startswith("shutdown"):
        act(pipeline.shutdown)
    if load.end.endswith("cancel"):
        act(pipeline.cancel)
    if load.end == "cancel the block":
        block.cancel()
        await trio.lowlevel.checkpoint()
    if load.end != "leave":
        await pipeline.wait()


def check(load: Load, fate: Fate, report: tt.PipelineReport, *, left_behind: bool) -> None:
    ledger = report.ledger
    assert ledger.unaccounted == ledger.queued == ledger.in_flight == 0
    assert len(fate.brought) == len({*fate.brought}) == ledger.produced
    assert max(fate.begun.values(), default=0) <= 1, "a tick was handled twice"
    handled = {*fate.ended} | {*fate.failed}
    assert not handled & {*fate.dropped}, "a tick was handled and dropped"
    assert {*fate.begun} | {*fate.dropped} <= {*fate.brought}
    if not left_behind:
        assert (sum(fate.ended.values()), sum(fate.failed.values())) == (
            ledger.consumed,
            ledger.failed,
        )
    # The pool drops what it held without telling by tick; a conflated tick has no own
    # fate.
    told = Counter(fate.dropped.values())
    for reason in ("overflow", "evicted", "stale", "held"):
        assert told[reason] == ledger.dropped_by_reason[reason]
    assert told["shutdown"] <= ledger.dropped_by_reason["shutdown"]
    if load.ordering == "symbol":
        for line in fate.order.values():
            assert line == sorted(line), "ticks of one symbol changed places"


@pytest.mark.parametrize("place", ["loop", "batch"])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_pipeline_that_stops_somehow_accounts_for_each_tick(seed: int, place: str) -> None:
    load = draw(seed, grace=False)
    fate, report = trio.run(run_in_loop, load, seed, place, clock=MockClock(autojump_threshold=0))
    check(load, fate, report, left_behind=load.from_thread)


@pytest.mark.parametrize("place", ["loop", "batch"])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_nothing_is_lost_at_a_shutdown_while_there_is_grace(seed: int, place: str) -> None:
    load = draw(seed, grace=True)
    fate, report = trio.run(run_in_loop, load, seed, place, clock=MockClock(autojump_threshold=0))
    check(load, fate, report, left_behind=False)
    assert report.dropped_by_reason["shutdown"] == 0
    lost = {n for n, reason in fate.dropped.items() if reason != "shutdown"}
    kept = {*fate.brought} - lost - {*fate.begun}
    assert len(kept) == report.dropped_by_reason["conflated"], "a tick has no outcome"


async def run_in_loop(load: Load, seed: int, place: str) -> tuple[Fate, tt.PipelineReport]:
    with trio.fail_after(100 * PLENTY_S):
        return await play(load, seed, place)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + max(1, COUNT // 4)))
@pytest.mark.parametrize("grace", [False, True], ids=["somehow", "with grace"])
async def test_with_threads_too(seed: int, grace: bool) -> None:
    load = attrs.evolve(draw(seed, grace=grace), grace_s=20.0 if grace else 0.05)
    with trio.fail_after(60):
        fate, report = await play(load, seed, "thread")
    check(load, fate, report, left_behind=not grace)
    if grace:
        assert report.dropped_by_reason["shutdown"] == 0


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 4))
async def test_with_processes_too(seed: int, path: Path) -> None:
    load = attrs.evolve(draw(seed, grace=True), grace_s=PATIENCE_S)
    fate = Fate()
    with trio.fail_after(2 * PATIENCE_S):
        async with tt.open_pipeline(
            Feed(load, random.Random(seed + 1)),
            Tell(str(path)),
            executor="process",
            workers=2,
            maxsize=load.maxsize,
            ordering=load.ordering,
            overflow=load.overflow,
            shutdown_timeout=load.grace_s,
        ) as pipeline:
            pipeline.item_listeners.add(fate.record)
            await until(lambda: len(fate.brought) > 0)
    report = pipeline.report
    fate.begun.update(line.number for line in read(path))
    fate.ended.update(fate.begun)
    check(load, fate, report, left_behind=False)
    assert report.dropped_by_reason["shutdown"] == 0
    assert sum(fate.begun.values()) == report.consumed
