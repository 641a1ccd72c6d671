"""Handlers in worker processes: where they run, how long they live, what comes back.

Also the order and the state of each symbol. The clock is real, and the processes are:
nothing is asserted about time.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds import process_handlers as handlers
from tests.worlds.helpers import EPOCH, make_book, make_tick, make_ticks, make_trade
from tests.worlds.pipeline_world import (
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    raises_as_itself,
    sleepy_feed,
)
from tests.worlds.process_handlers import Tell, read
from tests.worlds.process_world import (
    by_symbol,
    guarded,
    is_alive,
    numbers_of,
    path,
    quick_main,
    tick,
    until,
)
from trio_ticks import open_pipeline, run_pipeline

__all__ = ["guarded", "path", "quick_main"]

SYMBOLS = "ABCDEF"
Errors = list[tuple[Any, Exception]]


async def run(ticks: Any, handler: Any, **settings: Any) -> tt.PipelineReport:
    feed = ticks if hasattr(ticks, "run") else listed(ticks)
    defaults: dict[str, Any] = {"workers": 2, "executor": "process", "maxsize": 10_000}
    return await run_pipeline(feed, handler, **(defaults | settings))


# Where they run, order, state


async def test_each_symbol_has_its_process_and_its_order(path: Path) -> None:
    report = await run(make_ticks(600, SYMBOLS), Tell(str(path)))
    assert_accounted(report, consumed=600)
    told = by_symbol(read(path))
    for offset, symbol in enumerate(SYMBOLS):
        assert [line.number for line in told[symbol]] == list(range(offset, 600, len(SYMBOLS)))
        # A symbol's process keeps the count of its ticks, which never begins anew.
        assert [line.event for line in told[symbol]] == [str(count) for count in range(1, 101)]
    homes = {symbol: {line.pid for line in lines} for symbol, lines in told.items()}
    assert all(len(pids) == 1 for pids in homes.values())
    assert len({pid for pids in homes.values() for pid in pids}) == 2
    assert os.getpid() not in {line.pid for line in read(path)}
    assert report.hand_over_ms.count > 0


async def test_without_order_any_process_takes_any_tick(path: Path) -> None:
    async def script(send: Send) -> None:
        await send.send(tick("A", 0, bid=15, seconds=1.0))
        await until(lambda: read(path))
        await send.send_many(make_ticks(100, "A", first=1))

    report = await run(ScriptFeed(script), Tell(str(path)), ordering="none")
    assert_accounted(report, consumed=100 + 1)
    assert sorted(line.number for line in read(path)) == list(range(101))
    assert len({line.pid for line in read(path)}) == 2


async def test_a_slow_symbol_holds_up_its_own_process_alone(path: Path) -> None:
    ticks = [tick("A", 0, bid=14), *make_ticks(50, "B", first=1)]
    async with open_pipeline(
        sleepy_feed(ticks), Tell(str(path)), executor="process", workers=2
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed == 50 and "A" in by_symbol(read(path)))
        assert pipeline.ledger.in_flight == 1
        pipeline.cancel()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=50, shutdown=1)


async def test_bounds_hold_and_eviction_reaches_what_waits_for_a_process(path: Path) -> None:
    sends: list[Send] = []

    async def script(send: Send) -> None:
        sends.append(send)
        await trio.sleep_forever()

    async with open_pipeline(
        ScriptFeed(script),
        Tell(str(path)),
        executor="process",
        workers=1,
        maxsize=10,
        overflow=tt.DropOldest(),
    ) as pipeline:
        await until(lambda: sends)
        send = sends[0]
        await send.send(tick("A", 0, bid=15, seconds=0.5))
        await until(lambda: read(path))
        await send.send_many(make_ticks(30, "AB", first=1))
        await until(lambda: pipeline.ledger.queued == pipeline.statistics().parked)
        assert pipeline.ledger.queued == 10
        await send.send_many(make_ticks(3, "AB", first=31))
        pipeline.ledger.check()
        assert pipeline.ledger.queued == 10
        pipeline.shutdown()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=11, evicted=23)
    told = numbers_of(path)
    # The oldest of each symbol were evicted, about as many of both: they had arrived
    # together.
    assert told == {
        "A": [0, *range(36 - 2 * len(told["A"]), 34, 2)],
        "B": list(range(35 - 2 * len(told["B"]), 34, 2)),
    }
    assert len(told["A"]) - 1 in (4, 5, 6)


# Kinds of items


async def test_every_kind_gaps_and_what_conflated_ticks_stand_for(path: Path) -> None:
    async def script(send: Send) -> None:
        await send.send_many(
            [
                make_trade("T", 1),
                make_book("B", 2, snapshot=True),
                tt.Bar("R", EPOCH, 60, 1, 2, 0, 1, 3),
            ]
        )
        await send.send(handlers.Quote("Q", EPOCH, 4))
        send.mark_gap(tt.Gap("Q", EPOCH, "sequence", 5, EPOCH))
        await send.send_many([make_tick("C", 6), make_tick("C", 7), make_tick("C", 8)])
        await send.send(handlers.Quote("Q", EPOCH, 9))

    policy = {tt.Tick: tt.Conflate(), object: tt.Block()}
    report = await run(ScriptFeed(script), handlers.TellKinds(str(path)), overflow=policy)
    assert_accounted(report, consumed=6, conflated=2)
    events = {
        symbol: [(line.event, line.number) for line in lines]
        for symbol, lines in by_symbol(read(path)).items()
    }
    assert events == {
        "T": [("Trade", 1)],
        "B": [("BookUpdate", 2)],
        "R": [("Bar", 3)],
        "Q": [("Quote", 4), ("Gap", 5), ("Quote", 9)],
        "C": [("ConflatedTick of 3", 8)],
    }


async def test_what_cannot_be_sent_fails_and_its_neighbours_do_not(path: Path) -> None:
    errors: Errors = []
    bad = handlers.Quote("A", object(), 3)
    items = [*make_ticks(3, "A"), bad, *make_ticks(3, "A", first=4)]
    report = await run(
        items, Tell(str(path)), on_error=lambda item, error: errors.append((item, error))
    )
    assert_accounted(report, consumed=6, failed=1)
    assert [(item, type(error)) for item, error in errors] == [(bad, tt.ConfigError)]
    assert numbers_of(path) == {"A": [0, 1, 2, 4, 5, 6]}


async def test_ticks_without_sizes_go_there_and_come_back(path: Path) -> None:
    errors: Errors = []
    ticks = [
        attrs.evolve(tick("A", n, bid=-1.0 if n == 4 else 100.0), bid_size=math.nan)
        for n in range(9)
    ]
    report = await run(
        ticks, Tell(str(path)), on_error=lambda item, error: errors.append((item, error))
    )
    assert_accounted(report, consumed=8, failed=1)
    assert [item for item, _error in errors] == [ticks[4]]
    assert numbers_of(path) == {"A": list(range(9))}


# Exceptions


async def test_an_exception_comes_back_as_itself_with_its_traceback(path: Path) -> None:
    errors: Errors = []
    ticks = [tick("A", n, bid=-1.0 if n % 3 == 1 else 100.0) for n in range(9)]

    def on_error(item: tt.Tick, error: Exception) -> None:
        # Before the symbol's next tick.
        errors.append((item, error))
        assert numbers_of(path)["A"][-1] == item.volume

    report = await run(ticks, Tell(str(path)), on_error=on_error)
    assert_accounted(report, consumed=6, failed=3)
    assert [item.volume for item, _error in errors] == [1, 4, 7]
    for _item, error in errors:
        assert isinstance(error, ArithmeticError)
        assert str(error) == "bid -1.0"
        assert "process_handlers.py" in "".join(error.__notes__)
    assert numbers_of(path) == {"A": list(range(9))}


async def test_what_cannot_leave_its_process_is_told_as_text() -> None:
    errors: Errors = []
    report = await run(
        [make_tick()],
        handlers.raises_strangely,
        on_error=lambda item, error: errors.append((item, error)),
    )
    assert_accounted(report, failed=1)
    ((_item, error),) = errors
    assert isinstance(error, tt.RemoteHandlerError)
    assert (error.kind, str(error)) == ("StrangeError", "StrangeError: odd")
    assert 'raise StrangeError("odd", "end")' in error.traceback


async def test_what_is_no_exception_ends_the_pipeline() -> None:
    with pytest.raises(SystemExit, match="enough"):
        await run([make_tick()], handlers.exits)


# Lives


@pytest.fixture
def told(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TELL_TO", str(path))
    return path


async def test_a_class_makes_a_handler_per_process_that_is_entered_and_left_there(
    told: Path,
) -> None:
    report = await run(make_ticks(40, SYMBOLS), handlers.Lived)
    assert_accounted(report, consumed=40)
    pids = {line.pid for line in read(told)}
    assert len(pids) == 2
    for pid in pids:
        events = [line.event for line in read(told) if line.pid == pid]
        assert events == ["init", "enter", *["tick"] * (len(events) - 3), "exit"]


async def test_an_idle_process_leaves_its_handler_also_where_the_pipeline_is_cancelled(
    told: Path,
) -> None:
    async with open_pipeline(
        sleepy_feed([make_tick()]), handlers.Lived, executor="process", workers=1
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed == 1)
        pipeline.cancel()
        await pipeline.wait()
    assert [line.event for line in read(told)] == ["init", "enter", "tick", "exit"]


@pytest.mark.parametrize("where", ["enter", "exit"])
async def test_what_a_life_raises_ends_the_pipeline(
    told: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("TELL_FAILS", where)
    with pytest.raises(ArithmeticError, match=r"no set-up|no way out"):
        await run(make_ticks(2, "AB"), handlers.Lived, workers=2)


async def test_an_async_handler_lives_in_one_loop_of_its_process(path: Path) -> None:
    errors: list[tuple[int, type[Exception]]] = []
    ticks = [
        *make_ticks(3, "A"),
        tick("A", 3, bid=-1),
        tick("A", 4, bid=14),
        *make_ticks(2, "A", first=5),
    ]
    async with open_pipeline(
        sleepy_feed(ticks),
        handlers.TellAsync(str(path)),
        executor="process",
        workers=1,
        handler_timeout=0.2,
        on_error=lambda item, error: errors.append((int(item.volume), type(error))),
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed == 5)
        assert pipeline.metrics().handler_timeouts == 1
        assert pipeline.worker_statistics().restarts == 0
    assert_accounted(pipeline.report, consumed=5, failed=2)
    assert errors == [(3, ArithmeticError), (4, tt.HandlerTimeoutError)]
    assert [line.event for line in read(path) if not line.symbol] == ["enter", "exit"]
    assert numbers_of(path) == {"A": [0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 6, 6]}
    assert len({line.pid for line in read(path)}) == 1


# Batches, tries, age


async def test_batch_handlers_say_which_ticks_failed(path: Path) -> None:
    errors: list[tuple[int, type[Exception]]] = []
    ticks = [tick("AB"[n % 2], n, bid=-1.0 if n == 21 else 100.0) for n in range(40)]
    report = await run(
        ticks,
        handlers.TellBatches(str(path)),
        on_error=lambda item, error: errors.append((int(item.volume), type(error))),
    )
    assert_accounted(report, consumed=39, failed=1)
    assert errors == [(21, ArithmeticError)]
    assert numbers_of(path) == {"A": list(range(0, 40, 2)), "B": list(range(1, 40, 2))}
    assert max(int(line.event) for line in read(path)) > 1


@pytest.mark.parametrize("ordering", ["symbol", "none"])
async def test_batch_handlers_are_told_of_gaps(path: Path, ordering: str) -> None:
    async def script(send: Send) -> None:
        await send.send_many(make_ticks(3, "A"))
        send.mark_gap(tt.Gap("A", EPOCH, "sequence", 3, EPOCH))
        await send.send_many(make_ticks(3, "A", first=4))

    report = await run(
        ScriptFeed(script), handlers.TellBatchesAndGaps(str(path)), workers=1, ordering=ordering
    )
    assert_accounted(report, consumed=6)
    told = [(line.event, line.number) for line in read(path)]
    assert sorted(told, key=lambda pair: pair[1]) == [
        ("Gap" if n == 3 else "Tick", n) for n in range(7)
    ]
    assert ordering == "none" or [n for _event, n in told] == list(range(7))


async def test_a_handler_is_tried_again_in_its_process(path: Path) -> None:
    async with open_pipeline(
        listed(make_ticks(3, "A")),
        handlers.Flaky(str(path)),
        executor="process",
        workers=1,
        retry=tt.Retry(ConnectionError, attempts=3, initial_s=0.001),
    ) as pipeline:
        await pipeline.wait()
        assert pipeline.metrics().handler_retries == 6
    assert_accounted(pipeline.report, consumed=3)
    assert numbers_of(path) == {"A": [0, 0, 0, 1, 1, 1, 2, 2, 2]}


async def test_what_grows_stale_behind_a_slow_tick_is_not_handled(path: Path) -> None:
    async def script(send: Send) -> None:
        await until(lambda: [line.event for line in read(path)] == ["ready"] * 2)
        await send.send_many(make_ticks(10, "A"))
        await until(lambda: len(read(path)) == 12)
        # One batch: the second of these grows stale while the first is handled.
        await send.send_many([tick("A", 10, bid=15, seconds=2.5), *make_ticks(3, "A", first=11)])

    async with open_pipeline(
        ScriptFeed(script),
        handlers.TellReady(str(path)),
        executor="process",
        workers=2,
        max_age=2.0,
    ) as pipeline:
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=11, stale=3)
    assert numbers_of(path) == {"A": list(range(11))}


# What cannot work says so


@pytest.mark.parametrize(
    "handler",
    [
        lambda tick: None,
        functools.partial(lambda tick: None),
        Tell(lambda: None),  # type: ignore[arg-type]
    ],
)
async def test_what_another_process_cannot_import_is_refused(handler: Any) -> None:
    with pytest.raises(tt.ConfigError, match="at module level"):
        await run([], handler)


async def test_what_was_typed_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    main: Any = sys.modules["__main__"]
    monkeypatch.setattr(handlers.nothing, "__module__", "__main__")
    main.nothing = handlers.nothing
    # What the handler holds has to be found there, too.
    for handler in (handlers.nothing, handlers.Tell(handlers.nothing)):  # type: ignore[arg-type]
        with pytest.raises(tt.ConfigError, match=r"put the handler, and all .* into a module"):
            await run([], handler)


async def test_a_program_whose_file_is_gone_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    with pytest.raises(tt.ConfigError, match=r"imports the main program, and '<stdin>' is no file"):
        await run([], handlers.nothing)
    there = tmp_path / "there.py"
    there.write_text("")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(there))
    assert (await run([tick("A")], handlers.nothing)).consumed == 1


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    for name in ("parent", "work"):
        monkeypatch.delitem(sys.modules, f"trio_ticks.workers.processes.{name}", raising=False)
    with pytest.raises(tt.ConfigError, match=r"pip install 'trio-ticks\[process\]'"):
        await run([], handlers.nothing)


async def test_processes_that_never_become_ready_end_the_pipeline() -> None:
    with pytest.raises(
        tt.WorkerCrashedError,
        match=r"ended before its handler was ready, with exit code 3, 3 times: .*__main__",
    ) as caught:
        await run([make_tick()], handlers.EndsAtOnce, workers=1)
    assert caught.value.exitcode == 3


async def test_the_error_of_the_block_comes_out_as_itself_and_processes_end(path: Path) -> None:
    error = ArithmeticError("the block's own")
    with raises_as_itself(error):
        async with open_pipeline(
            sleepy_feed([tick("A", bid=14)]), Tell(str(path)), executor="process", workers=1
        ):
            await until(lambda: read(path))
            raise error
    assert not is_alive(read(path)[0].pid)
