"""Both halves of a pipeline with a buffer, and each of several feeds, can be seen.

In Prometheus and OpenTelemetry, by health, in the terminal here and elsewhere, in
snapshots and in what the live page is sent.
"""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.pipeline_world import ScriptFeed, Send, sleepy_feed
from trio_ticks.buffer import BufferStatistics
from trio_ticks.cli.report import progress_line, report_text
from trio_ticks.clock import Clock
from trio_ticks.metrics.snapshots import PipelineMetrics
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.fetch import FetchError, fetch
from trio_ticks.observability.health import Health
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import RemotePipeline, parse_metrics
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render

OF_HALVES = ("ingest", "work")
FULL = BufferStatistics(
    connected=True,
    reconnects=1,
    round_trip_s=0.25,
    maxsize=300,
    used=20,
    appended=0,
    in_doubt=0,
    duplicates=5,
    full_s=6.5,
    redelivered=7,
    acknowledged=8,
    given_back=9,
    unacknowledged=10,
    fenced=11,
    dead=12,
    junk=13,
    lag=14,
    lag_s=15.5,
    shards=16,
    takeovers=17,
    clock_difference_s=-18.5,
    clock_error_s=19.5,
)
COMMON = {
    "buffer_connected": 1,
    "buffer_reconnects_total": 1,
    "buffer_round_trip_seconds": 0.25,
    "buffer_capacity_items": 300,
    "buffer_items": 20,
    "buffer_lag_ticks": 14,
    "buffer_lag_seconds": 15.5,
    "buffer_clock_difference_seconds": -18.5,
    "buffer_clock_error_seconds": 19.5,
}
OF_INGEST = COMMON | {
    "buffer_in_doubt_ticks": 0,
    "buffer_duplicate_ticks_total": 5,
    "buffer_full_seconds_total": 6.5,
}
OF_WORK = COMMON | {
    "buffer_redelivered_ticks_total": 7,
    "buffer_acknowledged_ticks_total": 8,
    "buffer_given_back_ticks_total": 9,
    "buffer_unacknowledged_ticks": 10,
    "buffer_fenced_total": 11,
    "buffer_dead_letter_ticks_total": 12,
    "buffer_junk_entries_total": 13,
    "buffer_shards": 16,
    "buffer_takeovers_total": 17,
}


def full() -> MemoryBuffer:
    """Return a buffer that tells all that a buffer can tell."""
    told = attrs.asdict(FULL)
    for own in ("appended", "in_doubt", "failed", "received", "connected"):
        del told[own]
    return MemoryBuffer(told=told, turn_s=0.05)


class Named:
    """A feed with a name and counts, that brings nothing more."""

    is_named = True

    def __init__(self, name: str, items: list[tt.Tick], **counts: Any) -> None:
        self.name = name
        self.stats = tt.FeedStats(**{"connected": True, "messages": len(items), **counts})
        self._items = items

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        await send.send_many(self._items)
        await trio.sleep_forever()


def two_feeds() -> list[Named]:
    return [
        Named("nyse", make_ticks(30, ["A"]), malformed=2, silent_symbols=1, silent_names=("A",)),
        Named("cme", make_ticks(5, ["B"]), connected=False, reconnects=3),
    ]


async def at_once(_item: tt.Tick) -> None: ...


def endless(pause: float = 0.0) -> ScriptFeed:
    async def script(send: Send) -> None:
        for number in itertools.count():
            await send.send_many([make_tick("ABCDE"[k % 5], number * 20 + k) for k in range(20)])
            await trio.sleep(pause)

    return ScriptFeed(script)


Samples = dict[tuple[Any, ...], float]


def read(text: str) -> dict[str | None, Samples]:
    """Return samples by half: the name and the values of the other labels."""
    found: dict[str | None, Samples] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            half = labels.pop("half", None)
            labels.pop("pipeline", None)
            key = (sample.name.removeprefix("trio_ticks_"), *(labels[name] for name in labels))
            assert key not in found.setdefault(half, {})
            found[half][key] = sample.value
    return found


def scrape(pipeline: tt.Pipeline[Any]) -> dict[str | None, Samples]:
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        return read(generate_latest(registry).decode())


def total(samples: Samples, name: str) -> float:
    return sum(value for key, value in samples.items() if key[0] == name)


def check_law(samples: Samples) -> None:
    received = total(samples, "ticks_received_total")
    assert received == sum(
        total(samples, name)
        for name in (
            "ticks_handled_total",
            "ticks_discarded_total",
            "queue_items",
            "queue_waiting_for_room_items",
            "in_flight_ticks",
            "ticks_given_back_total",
        )
    )
    assert total(samples, "pipeline_unaccounted_items") == 0


# Prometheus


async def test_both_laws_hold_in_every_scrape_under_load() -> None:
    buffer = MemoryBuffer(maxsize=200, prefetch=50)
    busy: Counter[str] = Counter()

    async def handler(_item: tt.Tick) -> None:
        await trio.sleep(0.001)

    async with tt.open_pipeline(
        endless(0.001),
        handler,
        buffer=buffer,
        maxsize=100,
        overflow=tt.DropOldest(),
        shutdown_timeout=0,
    ) as pipeline:
        url = await pipeline.serve_metrics(0)
        while len(busy) < 5 or busy["scrapes"] < 30:
            halves = read((await fetch(url)).decode())
            busy["scrapes"] += 1
            for half in OF_HALVES:
                check_law(halves[half])
            busy["lost"] += total(halves["ingest"], "ticks_discarded_total") > 0
            busy["queued"] += total(halves["ingest"], "queue_items") > 0
            busy["fetched"] += total(halves["work"], "queue_items") > 0
            busy["flying"] += total(halves["work"], "in_flight_ticks") > 0
            busy += Counter()  # without what was 0
            # All is read at one moment: what the one has, or had, is what the other
            # has appended.
            ingest, work = halves["ingest"], halves["work"]
            gone = ingest["ticks_handled_total", "success"] - ingest["buffer_items",]
            assert work["buffer_acknowledged_ticks_total",] == gone
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        after = read(generate_latest(registry).decode())
    for half in OF_HALVES:
        check_law(after[half])
    assert after["work"]["ticks_given_back_total",] > 0


@pytest.mark.parametrize("half", OF_HALVES)
async def test_all_that_a_half_knows_is_exported_and_nothing_of_the_other(half: str) -> None:
    settings: dict[str, Any] = {"buffer": full(), "shutdown_timeout": 0}
    feed, handler = (sleepy_feed(), None) if half == "ingest" else (None, at_once)
    async with tt.open_pipeline(feed, handler, **settings) as pipeline:
        await wait_all_tasks_blocked()
        samples = scrape(pipeline)
    ours = {name for key in samples if key for name in samples[key] if "pipeline" in name[0]}
    assert ours
    assert set(samples) - {None} == {half}
    # Without a label there is only what is of no pipeline.
    assert {key[0] for key in samples[None]} == {"build_info"}
    told = {key[0]: value for key, value in samples[half].items() if key[0].startswith("buffer_")}
    assert told == (OF_INGEST if half == "ingest" else OF_WORK)


async def test_what_the_broker_does_not_tell_is_not_exported() -> None:
    buffer = MemoryBuffer(told={"used": None, "maxsize": None, "lag": None})
    async with tt.open_pipeline(sleepy_feed(), at_once, buffer=buffer) as pipeline:
        await wait_all_tasks_blocked()
        samples = scrape(pipeline)
    for half, left in (("ingest", OF_INGEST), ("work", OF_WORK)):
        unknown = {
            "buffer_round_trip_seconds",
            "buffer_capacity_items",
            "buffer_items",
            *(name for name in COMMON if "lag" in name or "clock" in name),
        }
        names = {key[0] for key in samples[half] if key[0].startswith("buffer_")}
        assert names == set(left) - unknown


async def test_without_a_buffer_and_with_one_feed_nothing_has_another_label() -> None:
    registry = CollectorRegistry()
    async with tt.open_pipeline(Named("one", make_ticks(3)), at_once) as pipeline:
        await wait_all_tasks_blocked()
        with export_metrics(pipeline, registry):
            text = generate_latest(registry).decode()
    assert 'trio_ticks_feed_messages_total{pipeline="main"} 3.0' in text
    assert not [line for line in text.splitlines() if "half=" in line or "feed=" in line]
    assert "trio_ticks_buffer" not in text
    assert "given_back" not in text


async def test_symbols_are_counted_in_both_halves() -> None:
    registry = CollectorRegistry()
    async with tt.open_pipeline(endless(0.01), at_once, buffer=MemoryBuffer()) as pipeline:
        with export_metrics(pipeline, registry, symbols=["A"]):
            while True:
                halves = read(generate_latest(registry).decode())
                seen = [
                    halves[half].get(("symbol_ticks_received_total", "A")) for half in OF_HALVES
                ]
                if all(seen):
                    break
                await trio.sleep(0.01)


async def test_each_feed_has_its_own_series_and_they_add_up() -> None:
    registry = CollectorRegistry()
    async with tt.open_pipeline(two_feeds(), at_once, shutdown_timeout=0) as pipeline:
        await wait_all_tasks_blocked()
        assert {name: stats.messages for name, stats in pipeline.feed_statistics.items()} == {
            "nyse": 30,
            "cme": 5,
        }
        assert pipeline.feed_stats.messages == 35
        with export_metrics(pipeline, registry):
            text = generate_latest(registry).decode()
    samples = read(text)[None]
    assert samples["feed_messages_total", "nyse"] == 30
    assert samples["feed_messages_total", "cme"] == 5
    assert samples["feed_malformed_messages_total", "nyse"] == 2
    assert samples["feed_reconnects_total", "cme", "success"] == 3
    assert (samples["feed_connected", "nyse"], samples["feed_connected", "cme"]) == (1, 0)
    assert samples["feed_silent_symbol", "nyse", "A"] == 1
    # Nothing is there twice, with the sum beside its parts.
    assert ("feed_messages_total",) not in samples
    assert pipeline.report.ledger.produced == 35


async def test_a_feeds_name_is_there_at_the_ingest_and_not_at_the_workers() -> None:
    async with tt.open_pipeline(
        two_feeds(), at_once, buffer=MemoryBuffer(), shutdown_timeout=0
    ) as pipeline:
        await wait_all_tasks_blocked()
        samples = scrape(pipeline)
        assert not pipeline.feed_statistics
        assert pipeline.ingest is not None
        assert list(pipeline.ingest.feed_statistics) == ["nyse", "cme"]
    assert samples["ingest"]["feed_messages_total", "cme"] == 5
    assert ("feed_messages_total",) in samples["work"]


# Health


async def test_workers_are_ready_while_the_broker_is_there(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer(turn_s=1.0)
    async with tt.open_pipeline(None, at_once, buffer=buffer) as pipeline:
        await wait_all_tasks_blocked()
        health = Health(pipeline)
        report = health.ready(trio.current_time())
        assert report.facts.pop("failures")["per_s"] == 0
        assert report.facts.pop("overdue") is None
        assert report.facts.pop("loop") == {"delay_s": 0.0, "blocks": 0}
        assert (report.ok, report.facts) == (
            True,
            {"half": "work", "running": True, "connected": True},
        )
        # That nothing comes is usual.
        await trio.sleep(1000)
        assert health.ready(trio.current_time()).ok
        buffer.away = True
        report = health.ready(trio.current_time())
        assert (report.ok, report.facts["connected"]) == (False, False)
        assert health.alive().facts == {"half": "work", "state": "running", "unaccounted": 0}


async def test_workers_that_have_fetched_all_they_can_are_ready(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer(prefetch=8)
    await tt.run_pipeline(
        tt.IterableFeed(make_ticks(100)), None, buffer=buffer, overflow=tt.Block()
    )

    async def stuck(_item: tt.Tick) -> None:
        await trio.sleep_forever()

    async with tt.open_pipeline(None, stuck, buffer=buffer, shutdown_timeout=0) as pipeline:
        await trio.sleep(1)
        assert Health(pipeline).ready(trio.current_time()).ok


async def test_an_ingest_is_ready_while_its_broker_is_away_for_a_short_time_only(
    autojump_clock: MockClock,
) -> None:
    buffer = MemoryBuffer(away=True)
    async with tt.open_pipeline(endless(1.0), None, buffer=buffer, shutdown_timeout=0) as pipeline:
        await trio.sleep(0.5)
        health = Health(pipeline)
        report = health.ready(trio.current_time())
        assert not report.ok  # it was never there
        assert report.facts["broker"] is False
        assert report.facts["broker_away_s"] is None
        buffer.away = False
        report = health.ready(trio.current_time())
        assert report.ok
        assert report.facts["half"] == "ingest"
        buffer.away = True
        await trio.sleep(9)
        report = health.ready(trio.current_time())
        assert (report.ok, report.facts["broker_away_s"]) == (True, 9.0)
        await trio.sleep(2)
        report = health.ready(trio.current_time())
        assert [name for name, fact in report.facts.items() if fact is False] == ["broker"]
        assert not report.ok
        buffer.away = False
        assert health.ready(trio.current_time()).ok


async def test_an_ingest_is_not_ready_without_fresh_data(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(1)), None, buffer=MemoryBuffer(), shutdown_timeout=0
    ) as pipeline:
        await wait_all_tasks_blocked()
        health = Health(pipeline)
        assert health.ready(trio.current_time()).ok
        await trio.sleep(31)
        report = health.ready(trio.current_time())
        assert [name for name, fact in report.facts.items() if fact is False] == ["fresh"]


async def test_one_program_is_ready_if_both_halves_are() -> None:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(1)), at_once, buffer=MemoryBuffer(), shutdown_timeout=0
    ) as pipeline:
        await wait_all_tasks_blocked()
        url = await pipeline.serve_metrics(0)
        facts = json.loads(await fetch(url.replace("metrics", "readyz")))
        assert (facts["half"], facts["ingest"]["half"]) == ("work", "ingest")
        assert facts["ingest"]["broker"] is True
        assert pipeline.ingest is not None
        pipeline.ingest.feed_stats.connected = False
        with pytest.raises(FetchError, match="503"):
            await fetch(url.replace("metrics", "readyz"))
        alive = json.loads(await fetch(url.replace("metrics", "healthz")))
        assert (alive["status"], alive["ingest"]["state"]) == ("ok", "running")


# Snapshots, the report


async def test_a_snapshot_has_the_half_its_buffer_and_the_ingest() -> None:
    async with tt.open_pipeline(
        two_feeds(), at_once, buffer=full(), shutdown_timeout=0
    ) as pipeline:
        while pipeline.ledger.consumed < 35:  # noqa: ASYNC110
            await trio.sleep(0.01)
        now = pipeline.metrics()
        assert pipeline.ingest is not None
        other = pipeline.ingest.metrics()
    assert (now.half, other.half) == OF_HALVES[::-1]
    assert now.buffer is not None
    assert now.buffer.dead == 12
    assert now.ingest is not None
    assert (now.ingest.items_appended, now.ingest.items_produced) == (35, 35)
    assert [feed.name for feed in now.feeds] == [feed.name for feed in other.feeds]
    assert other.ingest is None
    plain = json.loads(json.dumps(now.to_dict()))
    assert plain["buffer"]["lag_s"] == 15.5
    assert plain["ingest"]["buffer"]["full_s"] == 6.5
    assert plain["feeds"][1]["name"] == "cme"


async def test_the_report_tells_what_was_given_back(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer()
    await tt.run_pipeline(tt.IterableFeed(make_ticks(30)), None, buffer=buffer)

    async def slow(_item: tt.Tick) -> None:
        await trio.sleep_forever()

    async with tt.open_pipeline(None, slow, buffer=buffer, shutdown_timeout=0) as pipeline:
        await trio.sleep(1)
    text = str(pipeline.report)
    assert "in flight 0 + given back 30  (the law holds)" in text
    assert "30 = 0 + 0 + 0 + 0 + 0 + 30: every tick is accounted for" in report_text(
        pipeline.report
    )
    report = await tt.run_pipeline(tt.IterableFeed(make_ticks(3)), at_once)
    assert "given back" not in str(report) + report_text(report)


# The terminal


def draw(metrics: PipelineMetrics, width: int = 80, height: int = 24, **scene: Any) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        picture = render(
            metrics, history=History(), width=width, height=height, scene=Scene(**scene)
        )
        console.print(picture)
    text = capture.get()
    assert len(text.splitlines()) <= height
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.fixture
async def both(autojump_clock: MockClock) -> Any:
    """Both halves in one program, with two feeds, and a buffer that tells all."""
    buffer = full()
    async with tt.open_pipeline(
        two_feeds(), at_once, buffer=buffer, shutdown_timeout=0
    ) as pipeline:
        await trio.sleep(2)
        yield pipeline, buffer


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_terminal_shows_the_buffer_at_eighty_columns(both: Any, elsewhere: bool) -> None:
    pipeline, buffer = both
    metrics = seen_elsewhere(pipeline) if elsewhere else pipeline.metrics()
    text = draw(metrics)
    for expected in (
        "● broker connected",
        "20 of 300    6.7 %  ok",
        "lag 14 ticks, 15.50 s",
        "unacknowledged 10",
        "redelivered 7",
        "shards 16 (17 taken over)",
        "round trip 250 ms",
        "dead letters 25",
        "ingest: FEED NOT CONNECTED  queue 0 of 1,000  lost 0  in doubt 0",
        "= consumed                 35",
        "the sums agree",
    ):
        assert expected in text
    assert "pressure" not in text
    buffer.away = True
    text = draw(seen_elsewhere(pipeline) if elsewhere else pipeline.metrics())
    assert "BROKER AWAY" in text
    assert "✗ AWAY  20 of 300" in text


async def test_a_work_that_is_paused_has_left_its_broker_and_has_not_lost_it(
    autojump_clock: MockClock,
) -> None:
    buffer = MemoryBuffer()
    async with tt.open_pipeline(None, at_once, buffer=buffer) as work:
        await trio.sleep(1)
        assert "broker connected  in" in progress_line(work.metrics())
        work.pause()
        # The buffers between processes have no connection then.
        buffer.away = True
        await trio.sleep(1)
        for metrics in (work.metrics(), seen_elsewhere(work)):
            text = draw(metrics)
            assert "broker left" in text
            assert "paused: its shards are given back" in text
            assert "AWAY" not in text + progress_line(metrics)
        assert "broker left, PAUSED" in progress_line(work.metrics())
        work.resume()
        buffer.away = False
        await trio.sleep(1)
        assert "broker connected" in draw(work.metrics())


async def test_the_line_of_progress_tells_feed_and_broker_apart(both: Any) -> None:
    pipeline, buffer = both
    work, ingest = pipeline.metrics(), pipeline.ingest.metrics()
    assert "  feed NOT CONNECTED, broker connected  in" in progress_line(work)
    assert "  feed NOT CONNECTED, broker connected  in" in progress_line(ingest)
    connected = attrs.evolve(ingest, producer_connected=True)
    assert "  feed connected, broker connected  in" in progress_line(connected)
    buffer.away = True
    assert "broker AWAY  in" in progress_line(pipeline.metrics())
    assert "broker AWAY  in" in progress_line(pipeline.ingest.metrics())


@pytest.mark.parametrize(("maxsize", "shown"), [(300, "? of 300"), (None, "? of ?")])
async def test_the_terminal_shows_the_size_of_a_buffer_whose_filling_is_unknown(
    both: Any, maxsize: int | None, shown: str
) -> None:
    pipeline, _buffer = both
    unknown = attrs.evolve(FULL, used=None, maxsize=maxsize)
    text = draw(attrs.evolve(pipeline.metrics(), buffer=unknown))
    assert f"  {shown} " in text


def seen_elsewhere(pipeline: tt.Pipeline[Any]) -> PipelineMetrics:
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        (samples,) = parse_metrics(generate_latest(registry).decode()).values()
    return RemotePipeline(samples, Clock()).metrics


async def test_the_terminal_of_an_ingest(both: Any) -> None:
    pipeline, _buffer = both
    text = draw(pipeline.ingest.metrics())
    for expected in (
        "NOT CONNECTED",
        "in doubt 0  duplicates 5  full for 6.50 s",
        "round trip 250 ms",
        "= appended                 35",
        "+ in doubt                  0",
    ):
        assert expected in text
    assert "workers" not in text


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_terminal_has_a_row_a_feed(both: Any, elsewhere: bool) -> None:
    pipeline, _buffer = both
    metrics = seen_elsewhere(pipeline) if elsewhere else pipeline.metrics()
    text = draw(metrics, height=40)
    assert "feeds (2)" in text
    rows = [" ".join(line.strip("│ ").split()) for line in text.splitlines()]
    assert "nyse ● connected 30 messages 2 malformed 1 silent" in rows
    assert "cme ○ NOT CONNECTED 5 messages 0 malformed 3 reconnects" in rows


@pytest.mark.parametrize("half", [None, *OF_HALVES])
@pytest.mark.parametrize("plain", [False, True])
async def test_no_picture_is_larger_than_the_terminal(
    both: Any, half: str | None, plain: bool
) -> None:
    pipeline, buffer = both
    buffer.away = plain
    metrics = pipeline.ingest.metrics() if half == "ingest" else pipeline.metrics()
    if half is None:
        metrics = attrs.evolve(metrics, half=None, buffer=None, ingest=None)
    metrics = attrs.evolve(metrics, items_given_back=3)
    for width, height in itertools.product((1, 24, 71, 80, 200), (1, 6, 24, 50)):
        text = draw(metrics, width, height, plain=plain)
        assert not plain or text.isascii()


async def test_elsewhere_a_snapshot_is_as_here(both: Any) -> None:
    pipeline, _buffer = both
    here: Any = pipeline.metrics()
    there: Any = seen_elsewhere(pipeline)
    for name in ("half", "feeds", "items_given_back", "items_consumed", "in_flight"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.producer_connected
    # Each half serves what is its own of a buffer's numbers.
    ingest = {"appended", "in_doubt", "duplicates", "full_s", "failed"}
    fields = {field.name for field in attrs.fields(BufferStatistics)}
    work = {"received", "redelivered", "acknowledged", "given_back", "unacknowledged"}
    work |= {"fenced", "dead", "junk", "shards", "takeovers"}
    for name in fields - ingest:
        assert getattr(there.buffer, name) == getattr(here.buffer, name), name
    for name in fields - work:
        assert getattr(there.ingest.buffer, name) == getattr(here.ingest.buffer, name), name
    assert attrs.evolve(there.ingest, buffer=here.ingest.buffer) == here.ingest


async def test_elsewhere_each_half_alone_is_a_pipeline(both: Any) -> None:
    pipeline, _buffer = both
    there = seen_elsewhere(pipeline.ingest)
    here = pipeline.ingest.metrics()
    assert (there.half, there.ingest) == ("ingest", None)
    assert (there.items_produced, there.items_consumed) == (35, 35)
    assert there.feeds == here.feeds
    assert there.buffer is not None
    assert there.buffer.full_s == 6.5
    assert not there.producer_connected  # one of two is not


# The live page's values


async def test_the_live_page_has_the_half_the_buffer_and_the_feeds(both: Any) -> None:
    pipeline, _buffer = both
    shown = json.loads(Board(pipeline, "").snapshot())
    assert shown["half"] == "work"
    assert shown["buffer"]["redelivered"] == 7
    assert shown["ledger"]["given_back"] == 0
    assert shown["ingest"]["queue"] == {"size": 0, "capacity": 1000}
    assert shown["ingest"]["ledger"]["received"] == 35
    assert shown["ingest"]["ledger"]["holds"]
    assert [feed["name"] for feed in shown["feeds"]] == ["nyse", "cme"]
    # The connection is the feeds', of which one is not there; the broker is.
    assert not shown["connection"]["connected"]
    assert shown["connection"]["messages"] == 35
    ingest = json.loads(Board(pipeline.ingest, "").snapshot())
    assert (ingest["half"], ingest["ingest"]) == ("ingest", None)
    assert ingest["buffer"]["full_s"] == 6.5


async def test_without_a_buffer_the_live_page_has_none() -> None:
    async with tt.open_pipeline(sleepy_feed(), at_once) as pipeline:
        shown = json.loads(Board(pipeline, "").snapshot())
    assert (shown["half"], shown["buffer"], shown["ingest"], shown["feeds"]) == (
        None,
        None,
        None,
        [],
    )


# OpenTelemetry


@pytest.fixture
def otel() -> Iterator[Any]:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    yield reader, provider.get_meter("halves")
    provider.shutdown()


async def test_opentelemetry_tells_the_halves_apart(both: Any, otel: Any) -> None:
    from trio_ticks.observability.otel import export_otel

    pipeline, _buffer = both
    reader, meter = otel
    async with tt.open_pipeline(sleepy_feed(make_ticks(2)), at_once) as plain:
        await wait_all_tasks_blocked()
        # The first pipeline of a meter has no buffer; the instruments are there.
        with export_otel(plain, meter, name="plain"), export_otel(pipeline, meter):
            data = reader.get_metrics_data()
    points = {
        (metric.name.removeprefix("trio_ticks."), *sorted(point.attributes.items())): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    main, work, ingest = ("pipeline", "main"), ("half", "work"), ("half", "ingest")
    assert points["buffer_lag", work, main] == points["buffer_lag", ingest, main] == 15.5
    assert points["buffer_lag_ticks", work, main] == 14
    assert points["buffer_shards", work, main] == 16
    assert ("buffer_shards", ingest, main) not in points
    assert points["ticks_received", ingest, main] == points["ticks_received", work, main] == 35
    assert points["handler_samples", work, main] > 0
    assert points["ticks_received", ("pipeline", "plain")] == 2
    assert points["feed_messages", ("feed", "cme"), ingest, main] == 5
    assert not [key for key in points if "buffer" in key[0] and ("pipeline", "plain") in key]
