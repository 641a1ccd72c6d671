"""Threads and processes in a simulation take their batches as those of a pipeline do.

Both get the same arrivals and the same service for each tick, and what they see is
compared tick for tick. The pipeline runs on a virtual clock: a stand-in for its threads
or processes sleeps in the event loop. Leasing, calling back, settling and the homes of
symbols are the pipeline's own.

Rules: as in ``test_events.py``. Two workers may begin at one moment; of those the
lower number counts as the first. If it matters who goes on first, trio decides that by
chance, so one of several runs has to be the same. Where ticks wait for room, it matters
all the time: there are one worker, no age and no patience then.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, number
from trio_ticks.channel.state import ChannelState
from trio_ticks.overflow import OverflowStrategy
from trio_ticks.simulation.events import Setting
from trio_ticks.simulation.loads import Load, Services
from trio_ticks.simulation.playing import event_loop
from trio_ticks.workers.batch import Batch
from trio_ticks.workers.worker import Worker

ROOT = Path(__file__).parents[2]
EXACT = 2.0**-40
TRIES = 50
"""So many runs of the pipeline at most: tasks of one moment have no fixed order."""
HALF_S = 2.0**-13
"""From a worker to its thread or process, and back, in seconds."""


def exact(seconds: float) -> float:
    return round(seconds / EXACT) * EXACT


class World:
    """What the stand-ins need to know, and what they see."""

    def __init__(self, services: Sequence[float]) -> None:
        self.services = services
        self.begun: list[tuple[float, int]] = []

    async def handle(self, item: tt.Tick) -> None:
        self.begun.append((trio.current_time(), number(item)))
        await trio.sleep(self.services[number(item)])


def threads(world: World) -> Callable[..., Any]:
    """Return what makes a stand-in for :class:`ThreadRunner`."""

    class Threads:
        calls_back = True

        def __init__(self, state: ChannelState[Any], *, whole: bool) -> None:
            self._is_stale = state.taking.is_stale if state.ages else None

        def dismiss(self, _worker: Worker[Any]) -> None:
            pass

        def pause(self, _worker: Worker[Any], _seconds: float) -> bool:
            raise AssertionError("nothing is tried again")

        async def run(self, _worker: Worker[Any], batch: Batch[Any]) -> None:
            await trio.sleep(HALF_S)
            first, todo, is_stale = batch.first, batch.todo, self._is_stale
            while True:
                if batch.stale and is_stale and not (todo and is_stale(*todo[0])):
                    break
                if first is None and not todo:
                    break
                item, arrived = todo.popleft() if first is None else first
                first = None
                batch.began_at.append(trio.current_time())
                if is_stale is not None and is_stale(item, arrived):
                    batch.stale.append(batch.done)
                else:
                    await world.handle(item)
                batch.done += 1
            batch.began_at.append(trio.current_time())
            await trio.sleep(HALF_S)

    return Threads


def processes(world: World) -> Callable[..., Any]:
    """Return what makes a stand-in for :class:`ProcessRunner`."""

    class Processes:
        calls_back = False
        cpu_s = 0.0

        def __init__(self, crew: Any, *_more: Any, **_others: Any) -> None:
            self._state = crew.state

        @asynccontextmanager
        async def process_for(self, _worker: Worker[Any]) -> AsyncIterator[None]:
            yield

        async def ready(self, _worker: Worker[Any]) -> None:
            pass

        def owes(self, _worker: Worker[Any], _batch: Batch[Any]) -> bool:
            return False

        async def run(self, _worker: Worker[Any], batch: Batch[Any]) -> None:
            ages, sent_at = self._state.ages, batch.sent_at
            lives_s = [math.inf] * len(batch.items)
            if ages is not None:
                pairs = zip(batch.items, batch.arrivals, strict=True)
                lives_s = [ages.life_s(item, arrived, sent_at) for item, arrived in pairs]
            batch.done = len(list(takewhile(lambda life_s: life_s < 0, lives_s)))
            batch.stale = list(range(batch.done))
            if batch.stale:
                return
            await trio.sleep(HALF_S)
            received = trio.current_time()
            for item, life_s in zip(batch.items, lives_s, strict=True):
                batch.began_at.append(trio.current_time())
                if trio.current_time() - received > life_s:
                    break
                await world.handle(item)
                batch.done += 1
            else:
                batch.began_at.append(trio.current_time())
            await trio.sleep(HALF_S)

    return Processes


class DueFeed:
    """Delivers each tick when it is due, or as soon as all before it found room."""

    def __init__(self, load: Load, items: Sequence[tt.Tick]) -> None:
        self._load = load
        self._items = items

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        for moment, item in zip(self._load.times, self._items, strict=True):
            if moment > trio.current_time():
                await trio.sleep_until(moment)
            wait = send.deliver((item,))
            if wait is not None:
                await wait


def handler(_tick: tt.Tick) -> None:
    raise AssertionError("the stand-ins handle the ticks")


@attrs.frozen
class Seen:
    """What came of a load."""

    begun: list[tuple[float, int]]
    """When the handling of each tick began, in order."""
    dropped: dict[str, int]
    peak: int
    consumed: int


def by_pipeline(
    load: Load, services: list[float], place: str, patch: pytest.MonkeyPatch, **settings: Any
) -> Seen:
    world = World(services)
    patch.setattr("trio.to_thread.run_sync", at_once)
    items = [make_tick(load.names[symbol], n) for n, symbol in enumerate(load.symbols)]
    if place == "thread":
        patch.setattr("trio_ticks.workers.pool.ThreadRunner", _Generic(threads(world)))
    else:
        patch.setattr("trio_ticks.workers.processes.work.ProcessRunner", processes(world))

    async def main() -> tt.PipelineReport:
        feed = DueFeed(load, items)
        async with tt.open_pipeline(
            feed, handler, executor=place, shutdown_timeout=1e6, **settings
        ) as pipeline:
            await pipeline.wait()
        return pipeline.report

    report = trio.run(main, clock=MockClock(autojump_threshold=0))
    return Seen(
        sorted(world.begun), dict(report.dropped_by_reason), report.queue_peak, report.consumed
    )


async def at_once(function: Callable[..., Any], *given: Any, **_options: Any) -> Any:
    """Call *function* in the loop: the clock would jump while a thread enters it."""
    return function(*given)


class _Generic:
    """Makes a class subscriptable."""

    def __init__(self, made: Callable[..., Any]) -> None:
        self._made = made

    def __getitem__(self, _parameters: Any) -> Callable[..., Any]:
        return self._made


def by_simulation(
    load: Load, services: list[float], place: Literal["thread", "process"], **settings: Any
) -> Seen:
    begun: list[tuple[float, int]] = []
    given = Services(bytes(0), services, range(len(services)), place, hand_over_s=2 * HALF_S)
    loop = event_loop(
        load, given, Setting(**settings), lambda n, began, _ended: begun.append((began, n))
    )
    outcome = loop.run()
    loop.state.ledger.check()
    assert loop.state.ledger.delivered == outcome.handled
    return Seen(sorted(begun), dict(outcome.dropped_by_reason), outcome.peak, outcome.handled)


def drawn_load(dice: random.Random) -> tuple[Load, list[float]]:
    at, times = 0.001, array("d")
    pause_s = dice.choice([0.0003, 0.001, 0.003])
    while len(times) < 400:
        at = exact(at + pause_s * dice.expovariate(1) * dice.choice([0.05, 1, 1, 2])) + EXACT
        times.append(at)
    names = tuple("ABCDEFGH"[: dice.randint(1, 8)])
    load = Load(times, array("I", (dice.randrange(len(names)) for _ in times)), names)
    mean_s = dice.choice([0.0004, 0.002, 0.008])
    return load, [exact(0.0001 + dice.expovariate(1 / mean_s)) for _ in times]


@pytest.mark.parametrize("place", ["thread", "process"])
@pytest.mark.parametrize("seed", range(40))
def test_the_simulation_takes_batches_as_the_pipeline_does(
    seed: int, place: Literal["thread", "process"], monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "process":
        pytest.importorskip("trio_parallel")
    # A virtual clock's timers are exact.
    monkeypatch.setattr("trio_ticks.simulation.batches.TIMER_S", 0.0)
    dice = random.Random(seed)
    load, services = drawn_load(dice)
    strategies: list[OverflowStrategy] = [
        tt.Block(),
        tt.DropNewest(0),
        tt.DropOldest(),
        tt.Conflate(),
    ]
    overflow = strategies[seed % len(strategies)]
    waits = overflow == tt.Block()
    age = dice.choice([None, exact(0.01 + 0.05 * dice.random())])
    settings: dict[str, Any] = {
        "workers": 1 if waits else dice.randint(1, 4),
        "maxsize": dice.choice([3, 20, 150]),
        "overflow": overflow,
        "ordering": dice.choice(["symbol", "symbol", "none"]),
        "max_age": None if waits else age,
    }
    found = by_simulation(load, services, place, **settings)
    for left in reversed(range(TRIES)):
        seen = by_pipeline(load, services, place, monkeypatch, **settings)
        if found == seen or not left:
            break
    pairs = zip(found.begun, seen.begun, strict=False)
    assert not next((pair for pair in pairs if pair[0] != pair[1]), None)
    assert found == seen


# What batches do to lags: small loads that can be counted by hand


def lags_of(
    times: Sequence[float],
    symbols: str,
    services: Sequence[float],
    place: Literal["loop", "thread", "process"],
    hand_over_s: float = 0.0,
    **settings: Any,
) -> list[float]:
    names = tuple(dict.fromkeys(symbols))
    load = Load(array("d", times), array("I", map(names.index, symbols)), names)
    given = Services(bytes(0), services, range(len(services)), place, hand_over_s)
    outcome = event_loop(load, given, Setting(**settings)).run()
    assert outcome.handled == len(times)
    return [round(lag, 5) for lag in outcome.lags]


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize(("slow_s", "waits_s"), [(0.008, 0.008), (0.05, 0.0105)])
def test_what_a_thread_took_waits_until_its_turn_or_until_it_is_called_back(
    ordering: str, slow_s: float, waits_s: float
) -> None:
    """A quick tick doubles what a thread takes; a third worker has nothing to do."""
    load = [0.0, 0.1, 0.1, 0.1], "ABCD", [0.001, slow_s, slow_s, slow_s]
    settings: dict[str, Any] = {"workers": 3, "ordering": ordering}
    assert lags_of(*load, "loop", **settings) == [0.0, 0.0, 0.0, 0.0]
    assert lags_of(*load, "thread", **settings) == [0.0, 0.0, waits_s, 0.0]


def test_a_process_takes_only_what_is_at_home_there() -> None:
    """A and C have the same home, since B came between. The other process idles."""
    load = [0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0], "ABCACAC", [0.1] * 7
    in_process = lags_of(*load, "process", workers=2)
    assert in_process == [0.0, 0.0, 0.1, 0.0, 0.1, 0.0, 0.1]
    assert lags_of(*load, "thread", workers=2) == [0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]


def test_without_order_a_process_takes_its_share_of_what_waits() -> None:
    """It would take two after a quick tick, and what it took cannot be called back."""
    load = [0.0, 0.1, 0.1], "ABC", [0.001, 0.008, 0.008]
    assert lags_of(*load, "process", workers=2, ordering="none") == [0.0, 0.0, 0.0]
    assert lags_of(*load, "thread", workers=2, ordering="none") == [0.0, 0.0, 0.008]


def test_half_of_handing_over_passes_before_a_batch_begins() -> None:
    load = [0.0, 1.0], "AA", [0.1, 0.1]
    assert lags_of(*load, "process", 0.02, workers=1) == [0.01, 0.01]
    # All of it passes between two batches.
    assert lags_of([0.0, 0.0], "AA", [0.1, 0.1], "thread", 0.02, workers=1) == [0.01, 0.13]


# In one event, or tick by tick


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("overflow", [tt.DropNewest(0.01), tt.Conflate(), tt.Block()])
@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_batch_in_one_event_ends_as_it_does_tick_by_tick(
    place: Literal["thread", "process"],
    overflow: OverflowStrategy,
    ordering: Literal["symbol", "none"],
    seed: int,
) -> None:
    """Whoever wants to hear when each tick begins is told tick by tick."""
    dice = random.Random(seed)
    times = sorted(dice.uniform(0, 0.5) for _ in range(1000))
    symbols = array("I", (dice.randrange(5) for _ in times))
    load = Load(array("d", times), symbols, tuple("ABCDE"))
    waits = [dice.choice([0.0002, 0.001, 0.005]) for _ in times]
    busy = [0.0001 * (place == "process")] * len(times)
    given = Services(busy, waits, range(len(times)), place, 0.0004)
    setting = Setting(workers=3, maxsize=20, overflow=overflow, ordering=ordering)
    begun: list[tuple[float, int]] = []

    def begins(number: int, now: float, _end: float) -> None:
        begun.append((now, number))

    told = event_loop(load, given, setting, begins).run()
    untold = event_loop(load, given, setting).run()
    assert attrs.asdict(untold, recurse=False) == attrs.asdict(told, recurse=False)
    assert len(begun) == untold.handled > 0


# The order in which symbols are released


def lags_of_many_symbols(place: Literal["thread", "process"]) -> str:
    """Return the lags of short handlings: batches of many symbols, some called back."""
    dice = random.Random(1)
    times = sorted(dice.uniform(0, 0.3) for _ in range(2000))
    symbols = array("I", (dice.randrange(20) for _ in times))
    load = Load(array("d", times), symbols, tuple(f"S{number}" for number in range(20)))
    services = [dice.choice([0.0002, 0.0002, 0.0002, 0.02]) for _ in times]
    given = Services(bytes(0), services, range(len(services)), place, 0.0002)
    return repr(event_loop(load, given, Setting(workers=3)).run().lags.tolist())


@pytest.mark.parametrize("place", ["thread", "process"])
def test_the_simulation_is_the_same_in_every_process(place: Literal["thread", "process"]) -> None:
    """Text has another hash in every process, and so a set of it another order."""
    script = (
        f"from tests.simulation import test_batches as t; print(t.lags_of_many_symbols({place!r}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        ).stdout.strip()
        for number in ("1", "2", "3")
    }
    assert found == {lags_of_many_symbols(place)}
