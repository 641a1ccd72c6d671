"""Pipelines that are recorded: what is played back is what came live."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, until
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.recorded import all_lines, events_of, the_files
from trio_ticks.exchange import open_exchange
from trio_ticks.exchange.coinbase import open_coinbase_exchange
from trio_ticks.feeds.captures import recognise

T = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
SOON = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02)
NEAR = timedelta(milliseconds=100)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.recordings.recorder.FRAME_S", 0.05)


def tick(n: int, symbol: str = "SPY", **fields: Any) -> tt.Tick:
    values = {"bid": n + 0.5, "ask": n + 0.75, "bid_size": 1.0, "ask_size": 2.0, "volume": 3.0}
    return tt.Tick(symbol, T + timedelta(seconds=n), **{**values, **fields})


async def run(feed: Any, **settings: Any) -> tuple[list[Any], list[tt.Gap], tt.PipelineReport]:
    items: list[Any] = []
    gaps: list[tt.Gap] = []

    async def handle(item: Any) -> None:
        items.append(item)

    async with tt.open_pipeline(
        feed,
        handle,
        workers=1,
        ordering="none",
        overflow=tt.Block(),
        on_gap=gaps.append,
        **settings,
    ) as pipeline:
        await pipeline.wait()
    return items, gaps, pipeline.report


async def play(path: Any, **options: Any) -> tuple[list[Any], list[tt.Gap]]:
    items, gaps, report = await run(tt.ReplayFeed(path, math.inf, **options))
    assert report.malformed == 0
    return items, gaps


def same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Check that the items are the same.

    An item to which the venue gives no time has that of its arrival, which is read anew
    for each of them.
    """
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert abs(one.timestamp - other.timestamp) < NEAR
        assert repr(attrs.evolve(one, timestamp=T)) == repr(attrs.evolve(other, timestamp=T))


# Feeds without messages


async def test_any_item_of_an_iterable_comes_back(tmp_path: Path) -> None:
    nan = math.nan
    sent = [
        tick(0),
        tick(1, volume=nan),
        tick(2, "A B/é", bid_size=nan, ask_size=nan, volume=nan),
        tt.Trade("SPY", T, 1.5, nan, "buy", "7"),
        tt.BookUpdate("SPY", T, [(1.0, 2.0)], [(3.0, 4.0)], snapshot=True, message=b"\xff\n"),
        tt.Bar("SPY", T, 60.0, 1.0, 2.0, 0.5, 1.5, nan, True),
        *(tick(n) for n in range(3, 300)),
    ]
    recorder = tt.Recorder(tmp_path)
    live, _, report = await run(tt.IterableFeed(sent), record=recorder)
    assert repr(live) == repr(sent)
    (path,) = the_files(tmp_path)
    assert path.name.startswith("IterableFeed-")
    found, gaps = await play(path)
    assert repr(found) == repr(sent)
    assert not gaps
    assert report.recorder == recorder.statistics()
    assert report.recorder is not None
    assert report.recorder.messages == len(sent)
    assert report.to_dict()["recorder"]["dropped"] == 0


async def test_what_no_recording_can_hold_is_counted(tmp_path: Path) -> None:
    @attrs.frozen
    class Own:
        symbol: str
        timestamp: datetime

    sent = [tick(0), Own("SPY", T), tick(1)]
    recorder = tt.Recorder(tmp_path)
    live, _, _ = await run(tt.IterableFeed(sent), record=recorder)
    assert live == sent
    (path,) = the_files(tmp_path)
    assert (await play(path))[0] == [tick(0), tick(1)]
    assert recorder.statistics().dropped == 1
    assert recorder.statistics().messages == 2


class OwnFeed:
    """A feed of the user's that uses every way to hand items on."""

    def __init__(self) -> None:
        self.stats = tt.FeedStats(connected=True)

    async def run(self, send: Any) -> None:
        await send.send(tick(0))
        send.send_nowait(tick(1))
        await send.send_many([tick(2), tick(3)])
        send.mark_gap(tt.Gap("SPY", T, "sequence", 7, T))
        rest = send.deliver([tick(4)])
        if rest is not None:
            await rest
        async with send.clone() as other:
            await other.send(tick(5))


async def test_each_way_to_hand_items_on_is_recorded(tmp_path: Path) -> None:
    live, gaps, _ = await run(OwnFeed(), record=tt.Recorder(tmp_path))
    (path,) = the_files(tmp_path)
    found, found_gaps = await play(path)
    assert found == live == [tick(n) for n in range(6)]
    assert [(gap.symbol, gap.reason, gap.count) for gap in found_gaps] == [("SPY", "sequence", 7)]
    assert len(gaps) == 1


async def test_what_waits_for_its_turn_is_recorded_once(tmp_path: Path) -> None:
    class Pushing:
        async def run(self, send: Any) -> None:
            first = send.deliver([tick(n) for n in range(10)])
            second = send.deliver([tick(10)])
            assert first is not None
            assert second is not None
            await first
            await second

    recorder = tt.Recorder(tmp_path)
    live, _, _ = await run(Pushing(), maxsize=2, record=recorder)
    assert live == [tick(n) for n in range(11)]
    assert recorder.statistics().messages == 11
    assert (await play(the_files(tmp_path)[0]))[0] == live


async def test_what_is_dropped_is_recorded_all_the_same(tmp_path: Path) -> None:
    recorder = tt.Recorder(tmp_path)
    sent = [tick(n) for n in range(100)]

    async def handle(_item: Any) -> None:
        await trio.sleep_forever()

    async with tt.open_pipeline(
        tt.IterableFeed(sent), handle, maxsize=1, write_timeout=0.0, record=recorder
    ) as pipeline:
        await until(lambda: pipeline.ledger.dropped >= 95)
        pipeline.cancel()
    assert (await play(the_files(tmp_path)[0]))[0] == sent


async def test_several_feeds_have_a_file_each(tmp_path: Path) -> None:
    feeds = [tt.IterableFeed([tick(n, symbol) for n in range(5)]) for symbol in "AB"]
    await run(feeds, record=tt.Recorder(tmp_path))
    first, second = the_files(tmp_path)
    assert first.name.startswith("IterableFeed-2-")
    assert second.name.startswith("IterableFeed-2")
    found = {path: {item.symbol for item in (await play(path))[0]} for path in (first, second)}
    assert sorted(map(sorted, found.values())) == [["A"], ["B"]]
    # A second pipeline of the same feeds is not recorded.
    await run(feeds)
    assert len(the_files(tmp_path)) == 2


async def test_both_halves_and_each_alone_can_be_recorded(tmp_path: Path) -> None:
    sent = [tick(n) for n in range(20)]
    buffer = MemoryBuffer()
    recorder = tt.Recorder(tmp_path / "ingest")
    async with tt.open_pipeline(
        tt.IterableFeed(sent), None, buffer=buffer, record=recorder
    ) as ingest:
        await ingest.wait()
    assert ingest.metrics().recorder == recorder.statistics()
    assert (await play(the_files(tmp_path / "ingest")[0]))[0] == sent

    found: list[Any] = []

    async def handle(item: Any) -> None:
        found.append(item)

    other = tt.Recorder(tmp_path / "work")
    async with tt.open_pipeline(None, handle, buffer=buffer, record=other):
        await until(lambda: len(found) == 20)
    (path,) = the_files(tmp_path / "work")
    assert sorted(item.bid for item in (await play(path))[0]) == [n + 0.5 for n in range(20)]


def test_on_a_virtual_clock_the_times_are_those_of_the_replay(tmp_path: Path) -> None:
    path = tmp_path / "past"
    path.write_text(
        "".join(
            f'{1_700_000_000 + n}000000000 {{"symbol":"A","timestamp":"2023-11-14T22:13:20Z",'
            f'"bid":{n},"ask":2,"bid_size":1,"ask_size":1,"volume":1}}\n'
            for n in range(5)
        )
    )
    recorder = tt.Recorder(tmp_path / "again")

    async def main() -> None:
        async def handle(_item: Any) -> None:
            await trio.sleep(0.1)

        await tt.run_pipeline(tt.ReplayFeed(path), handle, record=recorder, signals=False)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    (again,) = the_files(tmp_path / "again")
    assert again.name.startswith("ReplayFeed-20231114T221320")
    times = [int(line.split()[0]) for line in all_lines(again)[0] if b" #" not in line]
    assert [round(ns / 1e9) for ns in times] == [1_700_000_000 + n for n in range(5)]


async def test_a_recorder_that_cannot_work_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    async def handle(_item: Any) -> None: ...

    for record in (tmp_path, tt.Recorder(tmp_path / "file")):
        with pytest.raises(tt.ConfigError, match=r"record|folder"):
            async with tt.open_pipeline(
                tt.IterableFeed([tick(0)]),
                handle,
                record=record,  # type: ignore[arg-type]
            ):
                raise AssertionError


async def test_an_error_of_the_handler_leaves_a_whole_recording(tmp_path: Path) -> None:
    class Broken:
        async def run(self, send: Any) -> None:
            await send.send_many([tick(0), tick(1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(Broken(), record=tt.Recorder(tmp_path))
    (path,) = the_files(tmp_path)
    assert (await play(path))[0] == [tick(0), tick(1)]
    assert events_of(path)[-1][0] == "closed"


# Feeds with messages

SYMBOLS: dict[str, Any] = {
    "flat": ("SPY", "QQQ"),
    "tickdb": ("AAPL.US", "700.HK"),
    "binance": ("BTCUSDT", "ETHUSDT"),
    "binance-usdm": ("BTCUSDT", "ETHUSDT"),
    "kraken": ("BTC/USD", "ETH/USD"),
    "coinbase": ("BTC-USD", "ETH-USD"),
    "coinbase-advanced": ("BTC-USD", "ETH-USD"),
}
CHANNELS: dict[str, Any] = {"binance": ("bookTicker", "trade"), "binance-usdm": ("bookTicker",)}


@asynccontextmanager
async def a_venue(venue: str, **settings: Any) -> AsyncIterator[Any]:
    of_coinbase = venue.startswith("coinbase")
    opener: Callable[..., Any] = open_coinbase_exchange if of_coinbase else open_exchange
    if not of_coinbase:
        settings = {"burst": 0.0, **settings}
    async with opener(venue=venue, symbols=SYMBOLS[venue], rate=400, **settings) as exchange:
        yield exchange


async def record_live(
    folder: Path, venue: str, symbols: Any, *, count: int = 300, drop: bool = False, **options: Any
) -> tuple[list[Any], list[tt.Gap], tt.WebSocketFeed]:
    """Return the items and gaps that came until there were enough."""
    items: list[Any] = []
    gaps: list[tt.Gap] = []

    async def handle(item: Any) -> None:
        items.append(item)

    async with a_venue(venue) as exchange:
        options = {"channels": CHANNELS.get(venue), "backoff": SOON, **options}
        feed = tt.WebSocketFeed(exchange.url, symbols, venue=venue, **options)
        async with tt.open_pipeline(
            feed,
            handle,
            workers=1,
            ordering="none",
            overflow=tt.Block(),
            on_gap=gaps.append,
            record=tt.Recorder(folder),
        ):
            with trio.fail_after(PATIENCE):
                await until(lambda: len(items) >= count)
                if drop:
                    await exchange.drop_clients()
                    await until(lambda: feed.reconnects == 1)
                    seen = len(items)
                    await until(lambda: len(items) >= seen + count)
    return items, gaps, feed


@pytest.mark.parametrize("venue", list(SYMBOLS))
async def test_a_session_of_a_venue_comes_back(tmp_path: Path, venue: str) -> None:
    names = {symbol: f"my {symbol}" for symbol in SYMBOLS[venue]}
    live, gaps, feed = await record_live(tmp_path, venue, names)
    (path,) = the_files(tmp_path)
    assert path.name.startswith(f"{venue}-")
    assert recognise(path).name == venue
    found, found_gaps = await play(path)
    assert {item.symbol for item in found} <= set(names.values())
    # What the venue sent last may have come when the pipeline took no more.
    assert len(live) <= len(found) < len(live) + 300
    same(found[: len(live)], live)
    assert not gaps
    assert not found_gaps
    assert feed.stats.messages > 0


async def test_a_lost_connection_comes_back_as_the_same_gap(tmp_path: Path) -> None:
    live, gaps, _ = await record_live(
        tmp_path, "binance", SYMBOLS["binance"], drop=True, channels=("bookTicker", "trade")
    )
    (path,) = the_files(tmp_path)
    found, found_gaps = await play(path)
    same(found[: len(live)], live)
    assert {(gap.symbol, gap.reason) for gap in gaps} == {
        (symbol, "reconnect") for symbol in SYMBOLS["binance"]
    }
    assert {(gap.symbol, gap.reason) for gap in found_gaps} >= {
        (gap.symbol, gap.reason) for gap in gaps
    }
    words = [word for word, _ in events_of(path)]
    assert words == ["recording", "opened", "lost", "opened", "closed"]


async def test_the_snapshots_over_rest_are_recorded_too(tmp_path: Path) -> None:
    _, _, feed = await record_live(
        tmp_path, "binance", SYMBOLS["binance"], channels="depth", books=True, count=100
    )
    (path,) = the_files(tmp_path)
    replay = tt.ReplayFeed(path, math.inf, books=True)
    await run(replay)
    for symbol, book in feed.books.items():
        other = replay.books[symbol]
        assert book.state == other.state == "valid"
        assert other.sequence is not None
        assert book.sequence is not None
        assert other.sequence >= book.sequence


async def test_symbols_that_come_and_go_are_told(tmp_path: Path) -> None:
    items: list[Any] = []

    async def handle(item: Any) -> None:
        items.append(item)

    async with a_venue("flat") as exchange:
        feed = tt.WebSocketFeed(exchange.url, ["SPY"])
        async with tt.open_pipeline(
            feed, handle, workers=1, overflow=tt.Block(), record=tt.Recorder(tmp_path)
        ):
            with trio.fail_after(PATIENCE):
                await until(lambda: len(items) > 50)
                feed.subscribe({"QQQ": "my QQQ"})
                await until(lambda: {item.symbol for item in items} == {"SPY", "my QQQ"})
                feed.unsubscribe(["SPY"])
                await until(lambda: feed.stats.unasked or len(items) > 500)
    (path,) = the_files(tmp_path)
    words = [word for word, _ in events_of(path)]
    assert words == ["recording", "opened", "subscribed", "unsubscribed", "closed"]
    found, _ = await play(path)
    same(found[: len(items)], items)


async def test_no_secret_reaches_the_file(tmp_path: Path) -> None:
    key = "a-k3y-that-nobody-may-see"
    recorder = tt.Recorder(tmp_path, compression="gzip")

    async def handle(_item: Any) -> None: ...

    async with open_exchange(symbols=["SPY"], rate=500, api_key=key) as exchange:
        feed = tt.WebSocketFeed(
            f"{exchange.url}?token={key}", ["SPY"], api_key=key, headers={"X-Account": key}
        )
        async with tt.open_pipeline(feed, handle, record=recorder):
            with trio.fail_after(PATIENCE):
                await until(lambda: feed.stats.messages > 20)
                await exchange.inject(f'{{"error":"{key} is bad","type":"error"}}')
                await until(lambda: feed.stats.refused)
    (path,) = the_files(tmp_path)
    text = b"\n".join(all_lines(path)[0])
    assert b"is bad" in text
    assert key.encode() not in text
    assert b"token=" not in text
