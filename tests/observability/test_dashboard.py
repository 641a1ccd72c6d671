"""The live page's server shows the pipeline's values, to one viewer or to many.

Other clients get nothing.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.dashboard_client import ask, open_events
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import BodyError, Gate, Recorder, ScriptFeed, Send, sleepy_feed
from tests.worlds.running_demo import running_demo
from trio_ticks import open_pipeline
from trio_ticks.ledger import Ledger
from trio_ticks.observability import web
from trio_ticks.observability.dashboard.board import Board

PATIENCE_S = 30
NO_ORIGIN = "default-src 'none'"


async def snapshot_of(url: str) -> Any:
    status, headers, body = await ask(url, "/api/snapshot")
    assert (status, headers["content-type"]) == (200, "application/json")
    return json.loads(body)


# What it says


async def test_a_snapshot_says_what_the_pipeline_says() -> None:
    gate = Gate()
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(
            sleepy_feed(make_ticks(9)), gate, workers=2, maxsize=4, write_timeout=0
        ) as pipeline:
            await wait_all_tasks_blocked()
            url = await pipeline.serve_dashboard(0, title="nine ticks")
            shown, metrics = await snapshot_of(url), pipeline.metrics()
            gate.opened.set()
    assert (shown["title"], shown["state"], shown["pressure"]["state"]) == (
        "nine ticks",
        metrics.state,
        metrics.pressure,
    )
    ledger = shown["ledger"]
    assert ledger["received"] == metrics.items_produced == 9
    assert (ledger["handled"], ledger["failed"]) == (metrics.items_consumed, metrics.items_failed)
    assert (ledger["queued"], ledger["in_flight"], ledger["dropped"]) == (
        metrics.queue_size,
        metrics.in_flight,
        metrics.items_dropped,
    )
    assert ledger["dropped_by_reason"] == metrics.dropped_by_reason
    assert ledger["lost"] == metrics.dropped_by_reason["overflow"] > 0
    assert ledger["intentional"] == 0
    assert (ledger["unaccounted"], ledger["holds"]) == (0, True)
    queue = shown["queue"]
    assert (queue["size"], queue["capacity"], queue["peak"]) == (
        metrics.queue_size,
        metrics.queue_capacity,
        metrics.queue_peak,
    )
    assert shown["latency_ms"]["wait"]["count"] == metrics.queue_wait_ms.count
    named = [(row.name, row.state, row.symbol, row.in_flight) for row in metrics.workers]
    assert [
        (row["name"], row["state"], row["symbol"], row["in_flight"]) for row in shown["workers"]
    ] == named


async def test_a_broken_law_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
            await wait_all_tasks_blocked()
            url = await pipeline.serve_dashboard(0)
            monkeypatch.setattr(Ledger, "consumed", property(lambda self: self._consumed() - 1))
            ledger = (await snapshot_of(url))["ledger"]
    assert (ledger["holds"], ledger["unaccounted"]) == (False, 1)


async def test_intentional_drops_are_told_from_losses() -> None:
    gate = Gate()
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(
            sleepy_feed(make_ticks(9)), gate, workers=1, overflow=tt.Conflate()
        ) as pipeline:
            await wait_all_tasks_blocked()
            ledger = (await snapshot_of(await pipeline.serve_dashboard(0)))["ledger"]
            gate.opened.set()
    assert (
        ledger["intentional"] == ledger["dropped_by_reason"]["conflated"] == ledger["dropped"] > 0
    )
    assert ledger["lost"] == 0


async def test_top_symbols_are_counted_while_somebody_looks(autojump_clock: MockClock) -> None:
    gate = Gate()

    async def script(send: Send) -> None:
        while True:
            await send.send_many([*make_ticks(3, "A"), *make_ticks(1, "B")])
            await trio.sleep(0.1)

    async with open_pipeline(
        ScriptFeed(script), gate, workers=1, maxsize=10, write_timeout=0
    ) as pipeline:
        board = Board(pipeline, "t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await trio.sleep(3.05)
            assert not pipeline.item_listeners
            assert json.loads(board.snapshot())["symbols"] is None
            await trio.sleep(4)
            symbols = json.loads(board.snapshot())["symbols"]
            assert [row["symbol"] for row in symbols["by_rate"]] == ["A", "B"]
            first, second = symbols["by_rate"]
            assert first["received_per_s"] == pytest.approx(30, rel=0.1)
            assert second["received_per_s"] == pytest.approx(10, rel=0.1)
            assert first["lost_per_s"] == first["received_per_s"]
            assert (symbols["distinct"], symbols["exact"]) == (2, True)
            assert [row["symbol"] for row in symbols["by_loss"]] == ["A", "B"]
            # When no viewer is left, symbols are no longer counted.
            await trio.sleep(6)
            assert not pipeline.item_listeners
            nursery.cancel_scope.cancel()
        gate.opened.set()


async def test_rates_are_those_of_the_last_two_seconds(autojump_clock: MockClock) -> None:
    more = trio.Event()

    async def script(send: Send) -> None:
        for _ in range(40):
            await send.send_many(make_ticks(5))
            await trio.sleep(0.1)
        more.set()
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        board = Board(pipeline, "t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await trio.sleep(3.05)
            rates = json.loads(board.snapshot())["rates_per_s"]
            assert rates["received"] == pytest.approx(50, rel=0.1)
            assert rates["handled"] == rates["received"]
            await more.wait()
            await trio.sleep(2.5)
            assert json.loads(board.snapshot())["rates_per_s"] == dict.fromkeys(rates, 0.0)
            nursery.cancel_scope.cancel()


async def test_percentiles_at_the_top_are_of_the_same_time_as_the_rates(
    autojump_clock: MockClock,
) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.9 if tick.volume < 10 else 0.01)

    feed = sleepy_feed(make_ticks(200))
    async with open_pipeline(feed, handler, workers=1, maxsize=500) as pipeline:
        board = Board(pipeline, "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await trio.sleep(60)
            now = json.loads(board.snapshot())
            points = board.history.tiers[0].points
            nursery.cancel_scope.cancel()
    # A minute ago ticks waited for nine seconds and more; in the last seconds none did.
    assert now["latency_ms"]["wait"]["p99"] > 9_000
    assert now["recent_ms"] == {"wait_p99": None, "lag_p99": None}
    assert now["rates_per_s"]["handled"] == 0
    assert points[-1].wait_p99 is None


async def test_the_tile_is_never_above_the_chart(autojump_clock: MockClock) -> None:
    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(0.02)

    async with open_pipeline(
        sleepy_feed(make_ticks(2000)), handler, workers=1, maxsize=5000, shutdown_timeout=0
    ) as pipeline:
        board = Board(pipeline, "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            for _ in range(20):
                await trio.sleep(1)
                tile = json.loads(board.snapshot())["recent_ms"]["wait_p99"]
                chart = [point.wait_p99 for point in list(board.history.tiers[0].points)[-2:]]
                assert tile is None or tile <= max(p99 for p99 in chart if p99 is not None)
            assert tile is not None
            nursery.cancel_scope.cancel()


async def test_a_workers_load_is_that_of_the_last_seconds(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        await send.send_many(make_ticks(1))
        await trio.sleep(60)
        await send.send_many(make_ticks(1))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder(seconds=10), workers=2) as pipeline:
        board = Board(pipeline, "t")

        def loads() -> list[float]:
            return [row["busy_ratio"] for row in json.loads(board.snapshot())["workers"]]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await trio.sleep(55)
            assert loads() == [0, 0]
            await trio.sleep(9.9)
            assert sorted(loads()) == [0, 1]
            await trio.sleep(20)
            assert loads() == [0, 0]
            nursery.cancel_scope.cancel()


async def test_the_history_has_a_point_a_second(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        while True:
            await send.send_many(make_ticks(10))
            await trio.sleep(0.1)

    async with open_pipeline(ScriptFeed(script), Recorder(), workers=1) as pipeline:
        board = Board(pipeline, "t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await trio.sleep(30.5)
            past = json.loads(board.past())
            nursery.cancel_scope.cancel()
    assert [(tier["step_s"], len(tier["columns"].get("t", ()))) for tier in past["tiers"]] == [
        (1, 30),
        (10, 3),
        (300, 0),
    ]
    columns = past["tiers"][1]["columns"]
    assert columns["received"] == pytest.approx([100] * 3, rel=0.05)
    assert columns["wait_p99"][-1] is not None
    assert set(columns["pressure"]) == {"ok"}
    assert past["events"] == [
        {"id": 1, "t": past["events"][0]["t"], "kind": "connected", "count": 1}
    ]


# The stream


async def test_all_viewers_see_the_same_and_points_come_along() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            async with open_events(url) as one, open_events(url) as two:
                first, second = await one.next_snapshot(), await two.next_snapshot()
                while first["sequence"] != second["sequence"]:
                    if first["sequence"] < second["sequence"]:
                        first = await one.next_snapshot()
                    else:
                        second = await two.next_snapshot()
                assert first == second
                api = await snapshot_of(url)
                assert api["run"] == first["run"]
                # The API gives the snapshot of the stream: it makes none of its own.
                later = first
                while later["sequence"] < api["sequence"]:
                    later = await one.next_snapshot()
                assert later == api
                name = ""
                while name != "point":
                    name, data = await one.next()
                assert data["step_s"] == 1
                past = json.loads((await ask(url, "/api/history"))[2])
                index = past["tiers"][0]["columns"]["t"].index(data["point"]["t"])
                assert data["point"] == {
                    name: column[index] for name, column in past["tiers"][0]["columns"].items()
                }


async def test_nothing_is_published_when_the_last_viewer_has_left() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            async with open_events(url) as events:
                await events.next_snapshot()
                assert pipeline.item_listeners
            while pipeline.item_listeners:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(0.05)


async def test_a_viewer_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ANSWER_S", 0.05)

    async def flood(_self: Board, send: Any) -> None:
        while True:
            await send(b"x" * 1_000_000)

    monkeypatch.setattr(Board, "stream", flood)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            async with open_events(url) as events:
                await trio.sleep(0.2)
                await events.drain()
            assert (await ask(url))[0] == 200


async def test_a_stream_that_fails_ends_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_self: Board, _send: Any) -> None:
        raise BodyError

    monkeypatch.setattr(Board, "stream", fail)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            async with open_events(url) as events:
                while await events.stream.receive_some():
                    pass
            assert (await ask(url))[0] == 200
    assert [
        record.message.partition(":")[0] for record in caplog.records if record.name == web.__name__
    ] == ["web.stream_failed"]


# Which requests are answered


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:1234", "127.0.0.1:80", "[::1]:80", "a.localhost", "127.8.9.1"]
)
async def test_names_of_this_machine_are_answered(host: str) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            assert (await ask(await pipeline.serve_dashboard(0), "/api/snapshot", host=host))[
                0
            ] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "192.168.1.5",
        "",
        "127.0.0.1@evil",
        "[::1",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/snapshot", "/api/history", "/api/stream"])
async def test_names_of_others_that_lead_here_are_refused(host: str, path: str) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            assert (await ask(await pipeline.serve_dashboard(0), path, host=host))[0] == 403


async def test_every_file_comes_with_a_policy_that_lets_nothing_out() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            status, headers, body = await ask(url)
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b"<!doctype html>" in body.lower()
            for path in ("/", "/api/snapshot", "/api/history"):
                _status, headers, _body = await ask(url, path)
                assert headers["content-security-policy"].startswith(NO_ORIGIN)
                assert headers["cross-origin-resource-policy"] == "same-origin"
                assert "access-control-allow-origin" not in headers
            status, headers, body = await ask(url, "/api/stream", method="HEAD")
            assert (status, headers["content-type"], body) == (200, "text/event-stream", b"")
            assert (await ask(url, "/../pyproject.toml"))[0] == 404
            assert (await ask(url, "/", method="POST"))[0] == 405


# The page's life


async def test_nothing_is_left_when_the_block_is_left() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0)
            events = open_events(url)
            viewer = await events.__aenter__()
            await viewer.next_snapshot()
        await viewer.drain()
        await events.__aexit__(None, None, None)
        with pytest.raises(OSError, match=r"refused|all attempts"):
            await ask(url)
    assert not pipeline.item_listeners
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_one_page_a_pipeline() -> None:
    with trio.fail_after(PATIENCE_S):
        async with (
            open_pipeline(sleepy_feed(), Recorder()) as one,
            open_pipeline(sleepy_feed(), Recorder()) as two,
        ):
            url = await one.serve_dashboard(0)
            with pytest.raises(tt.ConfigError, match="already"):
                await one.serve_dashboard(0)
            with pytest.raises(tt.ConfigError, match="cannot listen"):
                await two.serve_dashboard(int(url.rstrip("/").rpartition(":")[2]))
            # A port that could not be had leaves the pipeline free for another try.
            assert (await ask(await two.serve_dashboard(0)))[0] == 200
            with pytest.raises(tt.ConfigError, match="title"):
                await two.serve_dashboard(0, title="")


def test_the_demo_serves_its_page_while_it_runs() -> None:
    with running_demo("dashboard") as url:

        async def look() -> Any:
            with trio.fail_after(PATIENCE_S):
                return await snapshot_of(url)

        assert trio.run(look)["title"].startswith("demo: 500/s")
