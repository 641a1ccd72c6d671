"""Replays on a virtual clock: the same again, at the right times, and told as such."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import trio_ticks as tt
from tests.worlds.recordings import REAL, book, busy_day, needs_real, write
from tests.worlds.virtual_runs import VARIANTS, play
from trio_ticks import ConfigError, Tick
from trio_ticks.foresight import scheduling
from trio_ticks.foresight.scheduling import check_scheduling, order_of_tasks, seeded
from trio_ticks.foresight.virtual_clock import VirtualClock
from trio_ticks.logs import log_event

SYMBOLS = "ABCDEF"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Six symbols with quotes at the same instants, a thousand quotes a second."""
    lines = [book(n, symbol=SYMBOLS[n % 6], at_ms=n // 6 * 6) for n in range(600)]
    return write(tmp_path / "recording", *lines)


async def slow(_tick: Tick) -> None:
    await trio.sleep(0.005)


# The same again


def test_a_seed_makes_the_same_run_again_by_tick(recording: Path) -> None:
    reports, told = zip(*(play(recording, seed) for seed in (5, 5, 6)), strict=True)
    assert told[0].lines == told[1].lines
    assert reports[0] == reports[1]
    assert told[0].lines != told[2].lines
    assert reports[0].fingerprint == reports[1].fingerprint != reports[2].fingerprint
    dropped = reports[0].dropped_by_reason
    assert dropped["overflow"] > 0
    assert reports[0].failed > 0
    assert reports[0].handler_timeouts > 0
    assert reports[0].ledger.unaccounted == 0


def in_processes(recording: Path, count: int, *more: str) -> list[Any]:
    """Play *recording* in *count* processes with hash seeds of their own."""
    command = [sys.executable, "-m", "tests.worlds.virtual_runs", str(recording), "7", *more]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            cwd=Path(__file__).parents[2],
        )
        for number in range(count)
    ]
    outcomes = []
    for process in started:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        outcomes.append(json.loads(out))
    return outcomes


def test_it_is_the_same_in_eight_processes_with_other_hash_seeds(recording: Path) -> None:
    outcomes = in_processes(recording, 8)
    assert outcomes[0]["lines"] > 1200
    assert all(outcome == outcomes[0] for outcome in outcomes)
    report, told = play(recording, 7)
    assert (report.fingerprint, len(told.lines)) == (
        outcomes[0]["fingerprint"],
        outcomes[0]["lines"],
    )


def test_so_it_is_whatever_the_settings_leave_to_chance(recording: Path) -> None:
    one, other = in_processes(recording, 2, "variants")
    assert one == other
    assert len(set(one["variants"].values())) == len(VARIANTS)


def test_it_is_the_same_on_every_python(tmp_path: Path) -> None:
    """CI runs this on each, and all compare with the same figures.

    No two things happen at the same time in this run, so a task more in a pipeline does
    not change it. What decides on ticks, or on times, does: then put the new figure
    here, once it is the same on every Python.
    """
    lines = [book(n, symbol="AB"[n % 2], at_ms=7 * n + n * n % 5) for n in range(300)]
    recording = write(tmp_path / "recording", *lines)

    async def strategy(tick: Tick) -> None:
        await trio.sleep(0.0131 + tick.bid / 1e6)

    report = replay(recording, strategy, maxsize=20, overflow=tt.DropNewest(0.05))
    assert report.dropped_by_reason["overflow"] > 50
    assert report.fingerprint == "3ea0d49767afac84c74e4fcc50405bd1"
    assert order_of_tasks(5)[:12] == [7, 3, 6, 8, 1, 4, 11, 0, 5, 10, 2, 9]


def test_the_dice_of_others_are_left_alone(recording: Path) -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    run = trio._core._run
    before = (run._r, run._ALLOW_DETERMINISTIC_SCHEDULING)
    play(recording, 1)
    assert random.random() == expected
    assert (run._r, run._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_two_threads_replay_beside_each_other_and_beside_another_loop(recording: Path) -> None:
    """The switches of trio's scheduler belong to the process."""
    settings: Any = {"seed": 4, "workers": 4, "maxsize": 20, "overflow": tt.DropNewest(0.05)}
    alone = tt.replay_virtual(recording, slow, **settings)
    reports: list[tt.PipelineReport] = []

    def one() -> None:
        reports.append(tt.replay_virtual(recording, slow, **settings))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, one)
            nursery.start_soon(trio.to_thread.run_sync, one)
            while len(reports) < 2:
                await trio.lowlevel.checkpoint()

    trio.run(main)
    assert alone.dropped > 0
    assert reports == [alone, alone]


def test_the_check_says_what_is_wrong_with_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    check_scheduling()
    check_scheduling.cache_clear()
    monkeypatch.setattr(scheduling, "FLAG", "_no_such_flag")
    with pytest.raises(ConfigError, match=r"trio \d.*has no switch .*0\.30 to 0\.35"):
        check_scheduling()
    monkeypatch.undo()
    monkeypatch.setattr(scheduling, "enter", lambda _seed: None)
    monkeypatch.setattr(scheduling, "leave", lambda: None)
    with pytest.raises(ConfigError, match=r"in another order each time|does not use the dice"):
        check_scheduling()
    monkeypatch.undo()
    check_scheduling()


def test_seeding_ends_with_its_block() -> None:
    with pytest.raises(ValueError, match="inner"), seeded(1):
        raise ValueError("inner")
    assert not isinstance(trio._core._run._r, scheduling.Dice)


# What takes time


def replay(recording: Path, handler: Any, **settings: Any) -> tt.PipelineReport:
    settings.setdefault("workers", 1)
    return tt.replay_virtual(recording, handler, **settings)


def test_what_is_awaited_takes_virtual_time(recording: Path) -> None:
    began = time.monotonic()
    report = replay(recording, slow, ordering="none", overflow=tt.Block())
    assert report.duration_s == pytest.approx(600 * 0.005)
    assert report.consumed == 600
    assert report.handler_latency_ms.max == pytest.approx(5.0)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_computed_in_the_loop_keeps_others_from_running(
    recording: Path, workers: int
) -> None:
    async def handler(_tick: Tick) -> None:
        return

    report = replay(recording, handler, service=0.005, workers=workers, overflow=tt.Block())
    assert report.duration_s == pytest.approx(600 * 0.005)


@pytest.mark.parametrize(("workers", "seconds"), [(1, 3.0), (4, 0.75)])
def test_a_plain_function_is_given_its_time_beside_others(
    recording: Path, workers: int, seconds: float
) -> None:
    def handler(_tick: Tick) -> None:
        return

    report = replay(
        recording,
        handler,
        service=lambda _tick: 0.005,
        workers=workers,
        ordering="none",
        overflow=tt.Block(),
    )
    assert report.duration_s == pytest.approx(seconds, abs=0.02)


def test_a_plain_function_runs_in_this_thread(recording: Path) -> None:
    seen = set()

    def handler(_tick: Tick) -> None:
        seen.add(threading.get_ident())

    assert replay(recording, handler, workers=4).consumed == 600
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("plain", [False, True])
def test_what_code_takes_is_measured_where_that_is_wanted(tmp_path: Path, plain: bool) -> None:
    recording = write(tmp_path / "recording", *(book(n, at_ms=0) for n in range(20)))

    def compute(_tick: Tick) -> None:
        # Of the processor's time, which is what is measured, on a busy machine, too.
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass

    async def compute_in_loop(tick: Tick) -> None:
        compute(tick)
        await trio.sleep(0.01)
        compute(tick)

    report = replay(
        recording, compute if plain else compute_in_loop, service="measured", overflow=tt.Block()
    )
    least = 0.002 if plain else 0.014
    assert report.duration_s >= 20 * least * 0.999


def test_a_handler_that_really_waits_is_logged_while_it_runs(
    recording: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.foresight.handlings._NOTABLE_WAIT_S", 0.02)
    told: list[bool] = []

    def wait(_tick: Tick) -> None:
        time.sleep(0.0005)
        told.append("replay.waits" in caplog.text)

    replay(recording, wait, overflow=tt.Block())
    (record,) = [each for each in caplog.records if "replay.waits" in each.getMessage()]
    assert "service=" in record.getMessage()
    assert len(told) == 600
    assert not told[0]
    assert told[-1]


def test_what_took_no_time_though_it_computes_is_logged(
    recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def compute(_tick: Tick) -> None:
        sum(range(200_000))

    replay(recording, compute)
    (record,) = [each for each in caplog.records if "replay.took_no_time" in each.getMessage()]
    assert "service=" in record.getMessage()
    caplog.clear()
    replay(recording, compute, service=0.0001, overflow=tt.Block())
    assert "replay.took_no_time" not in caplog.text


def test_each_event_is_logged_once(recording: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the clock of the replay there was a line for each of its seconds."""

    async def failing(tick: Tick) -> None:
        await trio.sleep(1.5)
        raise ValueError(tick.bid)

    report = replay(recording, failing, maxsize=5, overflow=tt.DropOldest())
    assert report.failed > 3
    events = [record.event for record in caplog.records]  # type: ignore[attr-defined]
    assert sorted(events) == ["handler.failed", "pressure.shed", "ticks.dropped"]
    caplog.clear()
    log_event(logging.getLogger("trio_ticks.test"), logging.WARNING, "of.another")
    log_event(logging.getLogger("trio_ticks.test"), logging.WARNING, "of.another")
    assert len(caplog.records) == 2


def test_threads_hold_the_clock(recording: Path) -> None:
    """A handler may hand work to a thread: no time passes until it is done."""

    async def handler(_tick: Tick) -> None:
        before = trio.current_time()
        with trio.fail_after(0.001):
            await trio.to_thread.run_sync(time.sleep, 0.002)
        assert trio.current_time() == before

    report = replay(recording, handler, symbols=["A"], end="2024-08-08T23:54:14.3Z")
    assert report.failed == 0
    assert report.consumed == 50


def test_a_thread_that_does_not_end_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_ticks.foresight.virtual_clock._HELD_LONG_S", 0.05)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, time.sleep, 0.3)
            nursery.start_soon(trio.sleep, 1.0)

    trio.run(main, clock=VirtualClock())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "clock.held" in caplog.text


def test_a_handler_that_waits_for_what_never_comes_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_ticks.foresight.virtual_clock._STUCK_S", 0.05)
    never = trio.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(never.wait)
            nursery.start_soon(trio.sleep, 1000.0)
            token = trio.lowlevel.current_trio_token()
            stop = threading.Timer(0.5, token.run_sync_soon, [nursery.cancel_scope.cancel])
            stop.start()

    trio.run(main, clock=VirtualClock())
    assert [record.event for record in caplog.records] == ["clock.stuck"]  # type: ignore[attr-defined]


def test_a_pool_that_sizes_itself(recording: Path) -> None:
    """Its meter of the processor once asked the clock for a time: the clock jumped."""
    reports = [replay(recording, slow, workers="auto", seed=3) for _ in range(2)]
    assert reports[0] == reports[1]
    assert reports[0].duration_s < 10


# The recording's time


def test_lag_is_that_of_the_market(recording: Path) -> None:
    report = replay(recording, slow, ordering="none", overflow=tt.Block())
    lag = report.processing_lag_ms
    assert lag.count == 600
    assert lag.max == pytest.approx(600 * 5 - 5 - 594, abs=0.01)


def test_wall_time_is_that_of_the_recording(recording: Path) -> None:
    arrivals = []

    async def handler(tick: Tick) -> None:
        arrivals.append((tt.arrival(), tick.timestamp))

    replay(recording, handler)
    assert len(arrivals) == 600
    assert all(abs((a - b).total_seconds()) < 1e-5 for a, b in arrivals if a is not None)


def test_a_part_of_it(recording: Path) -> None:
    seen: list[float] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick.bid)

    start, end = "2024-08-08T23:54:14.3Z", "2024-08-08T23:54:14.6Z"
    feed = tt.ReplayFeed(recording, start=start, end=end, symbols=["B"])
    assert tt.replay_virtual(feed, handler, workers=1).consumed == len(seen) == 50
    assert seen[0] == 301.0
    assert replay(recording, handler, start=start, end=end, symbols=["B"]).consumed == 50


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.foresight.virtual_clock._REPORT_S", 0.0)
    recording = write(tmp_path / "recording", *busy_day(3000))
    seen: list[int] = []
    feed = tt.ReplayFeed(recording)
    tt.replay_virtual(
        feed, slow, on_progress=lambda pipeline: seen.append(pipeline.ledger.produced)
    )
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert feed.market_time is not None


# In a strategy


def test_a_strategy_can_know_that_it_is_replayed(recording: Path) -> None:
    told: set[bool] = set()

    class Strategy:
        async def __aenter__(self) -> Strategy:
            told.add(tt.replaying())
            return self

        async def __aexit__(self, *_reason: object) -> None:
            told.add(tt.replaying())

        async def __call__(self, _tick: Tick) -> None:
            told.add(tt.replaying())

    assert not tt.replaying()
    replay(recording, Strategy, workers=2)
    assert told == {True}
    assert not tt.replaying()


def test_batch_handlers(recording: Path) -> None:
    sizes: list[int] = []

    @tt.batch_handler(max_size=10, max_wait=0.02)
    async def in_loop(ticks: list[Tick]) -> None:
        sizes.append(len(ticks))

    @tt.batch_handler(max_size=10, max_wait=0.02)
    def plain(ticks: list[Tick]) -> None:
        sizes.append(len(ticks))

    for handler in (in_loop, plain):
        sizes.clear()
        report = replay(recording, handler, service=0.001)
        assert report.consumed == sum(sizes) == 600
        assert max(sizes) == 10


def test_what_a_handler_raises_is_counted_and_what_on_error_raises_ends_it(
    recording: Path,
) -> None:
    async def failing(_tick: Tick) -> None:
        raise ValueError("no")

    def on_error(_tick: Any, error: Exception) -> None:
        raise RuntimeError("so it ends") from error

    assert replay(recording, failing).failed == 600
    with pytest.raises(RuntimeError, match="so it ends"):
        replay(recording, failing, on_error=on_error)


# What cannot work


async def test_it_cannot_run_in_trio_but_in_a_thread(recording: Path) -> None:
    with pytest.raises(ConfigError, match=r"trio\.to_thread\.run_sync"):
        tt.replay_virtual(recording, slow)
    report = await trio.to_thread.run_sync(functools.partial(tt.replay_virtual, recording, slow))
    assert report.produced == 600


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"executor": "process"}, "does not rule other processes"),
        ({"buffer": "redis:"}, "no broker"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"service": "quick"}, "service must be"),
        ({"service": -1.0}, "service must be"),
        ({"service": math.nan}, "service must be"),
        ({"workers": 0}, "workers must be"),
        ({"start": "yesterday"}, "start must be a datetime or text such as"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "end must be after start"),
        ({"symbols": "A"}, "symbols must be a list"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(recording: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tt.replay_virtual(recording, slow, **settings)


def test_a_batch_handler_that_is_a_plain_object_must_be_async(recording: Path) -> None:
    class Strategy:
        @tt.batch_handler(max_size=10, max_wait=0.02)
        def __call__(self, _ticks: list[Tick]) -> None:
            pytest.fail("is not called")

    with pytest.raises(ConfigError, match="must be async on a virtual clock"):
        tt.replay_virtual(recording, Strategy())


@needs_real
def test_the_real_recording_has_the_ledger_that_it_had_from_memory() -> None:
    report = replay(
        REAL,
        slow,
        speed=30,
        workers=4,
        maxsize=200,
        ordering="none",
        overflow=tt.DropNewest(),
        seed=2,
    )
    assert (report.consumed, report.dropped) == (9424, 18_616)
