"""Counts by symbol: only on request, never more of them, and beside other listeners."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.observability.test_prometheus import Samples, scrape
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Gate, Recorder, ScriptFeed, Send, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.ledger import INTENTIONAL
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.symbols import MOST_LABELS, SymbolCounts


def by_symbol(samples: Samples, name: str, **labels: str) -> dict[str, float]:
    wanted = set(labels.items())
    return {
        dict(own)["symbol"]: value
        for (sample, own), value in samples.items()
        if sample == f"trio_ticks_symbol_ticks_{name}_total" and wanted <= own
    }


async def test_none_unless_asked_for() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(make_ticks(9, "ABC")), Recorder()) as pipeline:
        with export_metrics(pipeline, registry):
            assert not pipeline.item_listeners
            await wait_all_tasks_blocked()
            assert b"symbol=" not in generate_latest(registry)


@pytest.mark.parametrize(
    "overflow", [tt.DropNewest(timeout=0), tt.DropOldest(), tt.Conflate()], ids=repr
)
async def test_the_symbols_add_up_to_the_ledger(overflow: Any, autojump_clock: MockClock) -> None:
    registry, gate = CollectorRegistry(), Gate()
    feed = sleepy_feed(make_ticks(100, "ABCDEFG"))
    async with open_pipeline(
        feed, gate, workers=1, maxsize=20, overflow=overflow, shutdown_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry, symbols=3):
            await wait_all_tasks_blocked()
            samples, ledger = scrape(registry), pipeline.ledger.snapshot()
    assert ledger.dropped > 0
    received = by_symbol(samples, "received")
    # The first three to come, and the others in one.
    assert list(received) == ["A", "B", "C", "other"]
    assert received["A"] == 15
    assert received["other"] == 4 * 14
    assert sum(received.values()) == ledger.produced == 100
    for intentional in ("true", "false"):
        dropped = sum(
            count
            for reason, count in ledger.dropped_by_reason.items()
            if (reason in INTENTIONAL) == (intentional == "true")
        )
        assert sum(by_symbol(samples, "discarded", intentional=intentional).values()) == dropped


async def test_symbols_that_are_named_have_a_series_from_the_beginning() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(make_ticks(9, "ABC")), Recorder()) as pipeline:
        with export_metrics(pipeline, registry, symbols=["C", "Z"]):
            assert by_symbol(scrape(registry), "received") == {"C": 0, "Z": 0}
            await wait_all_tasks_blocked()
            assert by_symbol(scrape(registry), "received") == {"C": 3, "Z": 0, "other": 6}


async def test_a_counter_never_falls_whoever_comes_later() -> None:
    registry, more = CollectorRegistry(), trio.Event()

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(4, "AB"))
        await more.wait()
        await send.send_many(make_ticks(4000, [f"S{number}" for number in range(1000)]))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder(), maxsize=5000) as pipeline:
        with export_metrics(pipeline, registry, symbols=2):
            await wait_all_tasks_blocked()
            assert by_symbol(scrape(registry), "received") == {"A": 2, "B": 2}
            more.set()
            await wait_all_tasks_blocked()
            assert by_symbol(scrape(registry), "received") == {"A": 2, "B": 2, "other": 4000}


@pytest.mark.parametrize("symbols", [-1, True, MOST_LABELS + 1, [], "AAPL", None, 1.5])
async def test_what_cannot_be_asked_for(symbols: Any) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with (
            pytest.raises(tt.ConfigError, match="symbols"),
            export_metrics(pipeline, CollectorRegistry(), symbols=symbols),
        ):
            pass
        assert not pipeline.item_listeners


async def test_nothing_is_called_any_more_when_the_block_is_left() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        await pipeline.serve_metrics(0, registry=registry, symbols=5)
        assert len(pipeline.item_listeners) == 1
        with export_metrics(pipeline, registry, name="again", symbols=5):
            pass
        assert len(pipeline.item_listeners) == 1
    assert not pipeline.item_listeners


async def test_the_live_page_and_the_metrics_do_not_disturb_each_other(
    autojump_clock: MockClock,
) -> None:
    registry, more = CollectorRegistry(), trio.Event()

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(4, "AB"))
        await more.wait()
        await send.send_many(make_ticks(4, "AB"))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        board = Board(pipeline, "t")
        with board.watching(), export_metrics(pipeline, registry, symbols=5):
            board.snapshot()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run)
                await trio.sleep(2)
                shown = json.loads(board.snapshot())["symbols"]["by_rate"]
                assert {row["symbol"] for row in shown} == {"A", "B"}
                assert len(pipeline.item_listeners) == 2
                # The viewer does not ask again: the page stops counting.
                await trio.sleep(10)
                assert len(pipeline.item_listeners) == 1
                nursery.cancel_scope.cancel()
            more.set()
            await wait_all_tasks_blocked()
            assert by_symbol(scrape(registry), "received") == {"A": 4, "B": 4}
        assert not pipeline.item_listeners


async def test_listeners_come_and_go_in_any_order() -> None:
    heard: list[int] = []
    listeners = [lambda _items, _reason, number=number: heard.append(number) for number in range(3)]
    sends: list[Send] = []

    async def script(send: Send) -> None:
        sends.append(send)
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        for listener in listeners:
            pipeline.item_listeners.add(listener)
        for removed, left in ((1, [0, 2]), (1, [0, 2]), (0, [2]), (2, [])):
            pipeline.item_listeners.remove(listeners[removed])
            heard.clear()
            await sends[0].send_many(make_ticks(2))
            assert heard == left
            assert len(pipeline.item_listeners) == len(left)


async def test_one_may_leave_while_it_is_told() -> None:
    heard: list[str] = []

    def once(_items: Any, _reason: Any) -> None:
        heard.append("once")
        pipeline.item_listeners.remove(once)

    def always(_items: Any, _reason: Any) -> None:
        heard.append("always")

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(1))
        await send.send_many(make_ticks(1))

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        pipeline.item_listeners.add(once)
        pipeline.item_listeners.add(always)
        await pipeline.wait()
    assert heard == ["once", "always", "always"]


def test_a_symbol_named_as_all_the_others_is_one_of_them() -> None:
    counts = SymbolCounts(1)
    counts.count(make_ticks(3, ["other", "A", "B"]), None)
    assert counts.received == {"other": 3}
