"""One parser a venue, live and recorded: whose messages a recording holds, and when.

Codecs of a user's own play recordings too, and what a venue sends over a socket is what
comes out of a recording of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.exchange_client import until
from tests.worlds.feed_venues import Collector, memory_feed, running, says, websocket
from tests.worlds.recordings import (
    COINBASE,
    KRAKEN,
    REAL,
    T0,
    book,
    busy_day,
    combined,
    flat,
    needs_real,
    read_all,
    trade,
    write,
)
from trio_ticks.exchange import open_exchange
from trio_ticks.feeds.captures import Lost, capture_symbols, recognise, utc_from_ns
from trio_ticks.feeds.replay import ReplayFeed
from trio_ticks.feeds.venues import VENUES, Codec, CodecContext
from trio_ticks.recordings.files import LineReader, split_line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def message(line: str) -> str:
    """Return *line* without its receive time."""
    return line.partition(" ")[2]


async def replay(path: Path, **options: Any) -> tuple[list[Any], ReplayFeed]:
    feed, send = ReplayFeed(path, math.inf, **options), Collector()
    await feed.run(send)
    return list(send.ticks), feed


class Told(Collector):
    """Stands for a channel that is told of gaps: they are among its items."""

    ticks: list[Any]

    def mark_gap(self, gap: tt.Gap, *, book: bool = False) -> None:
        self.ticks.append((gap, book))


# Heads


@pytest.mark.parametrize(
    "head",
    [
        lambda ns, text: f"{ns} {text}",
        lambda ns, text: f"{ns / 1e9!r}: {text}",
        lambda ns, text: json.dumps({"recv_ts_ns": ns, "payload": text}),
        lambda ns, text: json.dumps({"payload": text, "recv_ts_ns": ns}),
    ],
    ids=["ns", "seconds", "envelope", "envelope, turned round"],
)
async def test_whatever_says_when_a_message_was_received(path: Path, head: Any) -> None:
    lines = [book(n) for n in range(20)]
    write(path, *(head(T0 + n * 1_000_000, message(line)) for n, line in enumerate(lines)))
    ticks, feed = await replay(path)
    assert [tick.bid for tick in ticks] == [float(n) for n in range(20)]
    for n, tick in enumerate(ticks):
        off = tick.timestamp - utc_from_ns(T0 + n * 1_000_000)
        assert abs(off) <= timedelta(microseconds=1)
    assert (feed.venue, feed.stats.malformed) == ("binance", 0)


async def test_what_the_recorder_sent_is_ignored(path: Path) -> None:
    write(
        path,
        "configuration: BTC-USD",
        "wss://venue.test <-> 1723161254.0",
        "wss://venue.test <- 1723161254.0: " + message(book(99)),
        "https://venue.test -> 1723161254.0: " + message(book(98)),
        "",
        f"{T0 / 1e9}: {message(book(1))}",
    )
    ticks, feed = await replay(path)
    assert [tick.bid for tick in ticks] == [1.0]
    assert (feed.stats.messages, feed.stats.ignored, feed.stats.malformed) == (6, 5, 0)


async def test_an_envelope_with_the_message_beside_the_time(path: Path) -> None:
    write(path, json.dumps({"recv_ts_ns": T0} | json.loads(flat())))
    (pair,), _ = read_all(path, "flat")
    assert (pair[0], pair[1].bid) == (T0, 1.5)


async def test_heads_may_be_mixed_and_each_line_is_judged_by_itself(path: Path) -> None:
    write(
        path,
        book(1),
        f"{T0 / 1e9}: {message(book(2))}",
        message(book(3)),  # a bookTicker has no time of its own
        json.dumps({"recv_ts_ns": T0, "payload": message(book(4))}),
    )
    ticks, feed = await replay(path)
    assert [tick.bid for tick in ticks] == [1.0, 2.0, 4.0]
    assert (feed.stats.malformed, feed.stats.ignored) == (1, 0)


async def test_without_heads_items_come_at_their_own_times(
    path: Path, autojump_clock: MockClock
) -> None:
    write(path, *(message(trade(n, "1")) for n in (0, 500, 2000)))

    class Timed(Collector):
        async def send_many(self, ticks: Sequence[Any]) -> None:
            came.extend([(trio.current_time() - start, tick) for tick in ticks])
            await super().send_many(ticks)

    came: list[tuple[float, Any]] = []
    start = trio.current_time()
    await ReplayFeed(path, channels="all").run(Timed())
    assert [at for at, _ in came] == pytest.approx([0.0, 0.5, 2.0])
    assert came[0][1].timestamp == utc_from_ns(T0 - 7_000_000)


async def test_without_heads_what_has_no_time_of_its_own_cannot_be_played(path: Path) -> None:
    for lines in ([book(1), book(2)], [trade(1, "1"), book(2)]):
        write(path, *map(message, lines))
        for venue in (None, "binance"):
            with pytest.raises(tt.ConfigError, match=r"neither do its lines say when.*nor do all"):
                await replay(path, venue=venue, channels="all")


# Whose messages


@pytest.mark.parametrize(("line", "venue"), [(book(1), "binance"), (f"{T0} {flat()}", "flat")])
async def test_the_venue_is_found(path: Path, line: str, venue: str) -> None:
    write(path, "junk", f'{T0} {{"result": null, "id": 1}}', line, "junk")
    for given in (None, venue):
        ticks, feed = await replay(path, venue=given)
        assert len(ticks) == 1
        assert feed.venue == venue
        assert feed.stats.malformed == 2


def test_the_venue_is_found_by_any_of_its_channels(path: Path) -> None:
    write(path, trade(1, "1"))
    language = recognise(path)
    assert (language.name, language.channels) == ("binance", ("bookTicker",))
    with pytest.raises(tt.ConfigError, match=r"make no market data of the channels bookTicker"):
        capture_symbols(path, language)
    assert capture_symbols(path, recognise(path, channels=["trade"])) == ("BTCUSDT",)


def test_few_lines_of_another_venue_do_not_decide(path: Path) -> None:
    write(path, f"{T0} {flat()}", f"{T0} {flat()}", *(book(n) for n in range(200)))
    assert recognise(path).name == "binance"


def test_a_file_of_no_known_venue_says_what_was_tried(path: Path) -> None:
    write(path, *(f'{T0} {{"type": "ticker", "n": {n}}}' for n in range(3)), "junk")
    with pytest.raises(tt.ConfigError) as caught:
        recognise(path)
    for words in (*VENUES, "first 4 lines", "1 of them", "say venue="):
        assert words in str(caught.value)


def test_the_look_ahead_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.feeds.captures.HEAD_LINES", 5)
    write(path, *["junk"] * 5, book(1))
    with pytest.raises(tt.ConfigError, match="first 5 lines"):
        recognise(path)
    write(path, *["junk"] * 4, book(1))
    assert recognise(path).name == "binance"


async def test_settings_that_make_no_sense(path: Path) -> None:
    write(path, book(1))
    with pytest.raises(tt.ConfigError, match=r"unknown venue 'nowhere'.*binance"):
        ReplayFeed(path, venue="nowhere")
    with pytest.raises(tt.ConfigError, match="codec class"):
        ReplayFeed(path, venue=object())  # type: ignore[arg-type]
    with pytest.raises(tt.ConfigError, match="no channel 'level2'"):
        ReplayFeed(path, venue="binance", channels=["level2"])
    with pytest.raises(tt.ConfigError, match="no channel 'level2'"):
        await replay(path, channels=["level2"])
    with pytest.raises(tt.ConfigError, match="unknown venue"):
        async with open_exchange(capture=path, venue="nowhere"):
            pytest.fail("opened")


# Channels

QUOTES_AND_TRADES = ["bookTicker", "trade"]


async def test_quotes_and_trades_come_as_they_are_chosen(path: Path) -> None:
    write(path, book(1), trade(2, "0.5"), book(3), trade(4, "0.25"), f"{T0} {DEPTH}")
    everything, feed = await replay(path, channels=QUOTES_AND_TRADES)
    assert [type(item) for item in everything] == [tt.Tick, tt.Trade] * 2
    assert everything[1] == tt.Trade(
        "BTCUSDT", utc_from_ns(T0 - 5_000_000), 1.0, 0.5, "buy", trade_id="2"
    )
    assert everything[2].volume == 0.5
    assert (feed.stats.messages, feed.stats.ignored) == (5, 1)
    trades, feed = await replay(path, channels="trade")
    assert trades == everything[1::2]
    assert feed.stats.ignored == 3
    quotes, feed = await replay(path)
    assert quotes == everything[::2]
    assert feed.stats.ignored == 3


DEPTH = combined("btcusdt@depth@100ms", e="depthUpdate", s="BTCUSDT", b=[["1.0", "0.0"]], a=[])


async def test_now_stamps_whatever_comes(path: Path) -> None:
    write(path, book(1), trade(2, "0.5"))
    items, _ = await replay(path, channels="all", timestamps="now")
    original, _ = await replay(path, channels="all")
    now = datetime.now(UTC)
    for item, before in zip(items, original, strict=True):
        assert timedelta(0) <= now - item.timestamp < timedelta(hours=1)
        assert attrs.evolve(item, timestamp=before.timestamp) == before


@needs_real
async def test_the_real_quotes_and_trades() -> None:
    quotes, feed = await replay(REAL)
    assert (len(quotes), feed.stats.ignored) == (28_040, 13_209)
    trades, _ = await replay(REAL, channels=["trade"])
    assert len(trades) == 9_757
    everything, feed = await replay(REAL, channels="all")
    books = [item for item in everything if isinstance(item, tt.BookUpdate)]
    assert (len(everything), feed.stats.ignored, feed.stats.malformed) == (41_249, 0, 0)
    assert (len(books), sum(book.snapshot for book in books)) == (3_452, 1)
    assert [item for item in everything if isinstance(item, tt.Tick)] == quotes
    assert [item for item in everything if isinstance(item, tt.Trade)] == trades
    # Python 3.12 adds floats more exactly than the codec does, one by one.
    assert 0 < quotes[-1].volume <= sum(item.size for item in trades) + 1e-6
    assert trades[0] == tt.Trade(
        "BTCUSDT",
        datetime(2024, 8, 8, 23, 54, 15, 342_000, UTC),
        61837.63,
        0.02,
        "sell",
        trade_id="3735683259",
    )


# Gaps, and codecs of a user's own


async def test_a_gap_in_the_venues_numbers_is_told_in_its_place(path: Path) -> None:
    write(path, trade(1, "1"), trade(2, "1"), trade(6, "1"), book(7), trade(7, "1"))
    for symbols in (None, ["BTCUSDT"]):
        send = Told()
        await ReplayFeed(path, math.inf, channels="all", symbols=symbols).run(send)
        when = utc_from_ns(T0 + 6_000_000)
        gap = tt.Gap("BTCUSDT", when, "sequence", 3, when)
        assert send.ticks[2] == (gap, False)
        assert [type(item) for item in send.ticks] == [
            tt.Trade,
            tt.Trade,
            tuple,
            tt.Trade,
            tt.Tick,
            tt.Trade,
        ]


async def test_a_strategy_hears_of_the_gap(path: Path) -> None:
    write(path, *(trade(n, "1") for n in range(5)), *(trade(n, "1") for n in range(8, 12)))
    seen: list[Any] = []

    async def handler(item: tt.Trade | tt.Gap) -> None:
        seen.append(item.trade_id if isinstance(item, tt.Trade) else item.count)

    await tt.run_pipeline(ReplayFeed(path, math.inf, channels="all"), handler, workers=1)
    assert seen == ["0", "1", "2", "3", "4", 3, "8", "9", "10", "11"]


async def test_a_malformed_message_is_a_gap_of_its_symbol(path: Path) -> None:
    bad = message(book(2)).replace('"2.0', '"-x')
    write(path, book(1), f"{T0 + 2_000_000} {bad}", book(3, symbol="ETHUSDT"))
    for symbols, told in ((None, ["BTCUSDT"]), (["BTCUSDT"], ["BTCUSDT"]), (["ETHUSDT"], [])):
        send = Told()
        await ReplayFeed(path, math.inf, symbols=symbols).run(send)
        gaps = [item[0] for item in send.ticks if isinstance(item, tuple)]
        assert [(gap.symbol, gap.reason) for gap in gaps] == [
            (symbol, "malformed") for symbol in told
        ]


class LevelsCodec(Codec):
    """A made-up venue of order books, with all that a codec may report."""

    channels = ("levels", "news")
    default_channels = ("levels",)

    def __init__(self, context: CodecContext) -> None:
        super().__init__(context)
        self._asked: set[str] = set()

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        self._asked.update(symbols)
        return ["subscribe", *symbols]

    def decode_one(self, payload: bytes, /) -> Any:
        fields = json.loads(payload)
        context, symbol = self.context, fields["symbol"]
        if fields["kind"] == "all":
            context.reply("pong")
            context.pong()
            context.reconnect("a wish")
            context.answered("throttle", True)
            context.refused(symbol, "no")
            context.need_snapshot(symbol)
            return None
        if symbol not in self._asked and self._asked:
            context.reconnect("not asked for")
        when = context.arrived if "at" not in fields else datetime.fromtimestamp(fields["at"], UTC)
        update = tt.BookUpdate(symbol, when, bids=fields["bids"], snapshot=fields["kind"] == "full")
        return [update, update] if fields["kind"] == "twice" else update


def levels(kind: str = "part", **fields: Any) -> str:
    return json.dumps({"kind": kind, "symbol": "A", "bids": [[1.0, 2.0]], **fields})


async def test_books_by_a_codec_of_the_users_own(path: Path) -> None:
    write(
        path,
        f"{T0} {levels('full')}",
        f"{T0 + 1000} {levels('all')}",
        f"{T0 + 2000} {levels('twice')}",
        f"{T0 + 3000} {levels(symbol='B')}",
        "junk",
    )
    send = Told()
    feed = ReplayFeed(path, math.inf, venue=LevelsCodec)
    assert feed.venue == "levels"
    await feed.run(send)
    when = utc_from_ns(T0 + 1000)
    assert send.ticks[1] == (tt.Gap("A", when, "sequence", 0, when), True)
    books: list[Any] = [item for item in send.ticks if isinstance(item, tt.BookUpdate)]
    assert [update.symbol for update in books] == ["A", "A", "A", "B"]
    assert [update.snapshot for update in books] == [True, False, False, False]
    assert books[1].timestamp == utc_from_ns(T0 + 2000)
    stats = feed.stats
    assert (stats.messages, stats.ignored, stats.malformed, stats.refused) == (5, 1, 1, 1)


async def test_books_are_held_until_the_recordings_next_snapshot(path: Path) -> None:
    kinds = ["full", "part", "all", "part", "full", "part"]
    write(path, *(f"{T0 + n} {levels(kind)}" for n, kind in enumerate(kinds)))
    seen: list[str] = []

    async def handler(item: tt.BookUpdate | tt.Gap) -> None:
        if isinstance(item, tt.Gap):
            seen.append("gap")
        else:
            seen.append("full" if item.snapshot else "part")

    await tt.run_pipeline(ReplayFeed(path, math.inf, venue=LevelsCodec), handler, workers=1)
    assert seen == ["full", "part", "gap", "full", "part"]


def test_own_times_beat_none_and_not_the_receive_time(path: Path) -> None:
    write(path, levels(at=100), f"{T0} {levels(at=100)}", levels())
    pairs, reader = read_all(path, LevelsCodec)
    own = datetime.fromtimestamp(100, UTC)
    assert [(ns, item.timestamp) for ns, item in pairs] == [(100 * 10**9, own), (T0, own)]
    assert (reader.malformed, reader.counts.untimed) == (1, 1)


async def test_the_exchange_leaves_out_all_but_quotes(path: Path) -> None:
    class BothCodec(LevelsCodec):
        """Quotes and books."""

        def decode_one(self, payload: bytes, /) -> Any:
            update = super().decode_one(payload)
            quote = tt.Tick(update.symbol, update.timestamp, 1, 2, 3, 4, 5)
            return [update, quote, update] if update.symbol == "A" else update

    write(path, *(f"{T0 + n} {levels(symbol='AB'[n % 2])}" for n in range(10)))
    async with open_exchange(capture=path, venue=BothCodec, speed=math.inf) as exchange:
        assert exchange.symbols == ("A",)
        feed = tt.WebSocketFeed(exchange.url, exchange.symbols, reconnect=False)
        send = Collector()
        await feed.run(send)
        assert [tick.bid for tick in send.ticks] == [1.0] * 5
        assert exchange.left_out == 15
    with pytest.raises(tt.ConfigError, match="make no ticks"):
        async with open_exchange(capture=path, venue=LevelsCodec):
            pytest.fail("opened")


# Live and recorded


def payloads_of(path: Path) -> list[str]:
    with LineReader(path) as reader:
        split = [split_line(line) for line in iter(reader.read, None)]
    return [payload.decode() for _, payload in split if payload is not None]


async def compare(path: Path, symbols: list[str], channels: Any) -> int:
    """Send the messages of the recording over a socket, and compare what both make."""
    pairs, reader = read_all(path, "binance", channels, symbols=symbols)
    recorded = [item for _, item in pairs if not isinstance(item, Lost)]
    gaps = [item for _, item in pairs if isinstance(item, Lost)]
    send = Told()
    script = websocket(says(*payloads_of(path)))
    options = {"symbols": symbols, "venue": "binance", "channels": channels}
    async with memory_feed(script, **options) as (feed, _), running(feed, send):
        await until(lambda: feed.stats.messages == reader.lines)
        await send.wait_for(len(recorded) + len(gaps))
    live: list[Any] = [item for item in send.ticks if not isinstance(item, tuple)]
    for came, item in zip(live, recorded, strict=True):
        if isinstance(came, tt.Tick):  # its timestamp is when it arrived
            came = attrs.evolve(came, timestamp=item.timestamp)
        assert came == item
    told = [item[0] for item in send.ticks if isinstance(item, tuple)]
    assert [(gap.symbol, gap.reason, gap.count) for gap in told] == [
        (gap.symbol, gap.reason, gap.count) for gap in gaps
    ]
    assert feed.stats.malformed == reader.malformed
    assert feed.stats.messages == reader.lines
    assert feed.stats.ignored == reader.ignored
    return len(recorded)


@pytest.mark.parametrize("channels", [None, "all", ["trade"]], ids=str)
async def test_a_socket_and_a_recording_make_the_same(path: Path, channels: Any) -> None:
    lines = busy_day(500)
    junk = [f"{T0} {{", f"{T0} {DEPTH}", f'{T0} {{"result": null, "id": 1}}']
    write(path, *lines[:100], *junk, *lines[100:])
    assert await compare(path, ["BTCUSDT"], channels) > 100


@needs_real
async def test_a_socket_and_the_whole_real_recording_make_the_same() -> None:
    assert await compare(REAL, ["BTCUSDT"], QUOTES_AND_TRADES) == 28_040 + 9_757


class RawCodec(Codec):
    """Makes a tick of any object: to play recordings of venues not known yet."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return []

    def decode_one(self, payload: bytes, /) -> Any:
        fields = json.loads(payload)
        kind = fields.get("type") or fields.get("channel") or fields["method"]
        return tt.Tick(kind, self.context.arrived, 1, 2, 3, 4, 5)


@needs_real
@pytest.mark.parametrize(("path", "items"), [(COINBASE, 9_946), (KRAKEN, 50)])
async def test_real_recordings_of_other_recorders(path: Path, items: int) -> None:
    ticks, feed = await replay(path, venue=RawCodec)
    assert (len(ticks), feed.stats.malformed) == (items, 0)
    assert all(tick.timestamp.year in (2021, 2026) for tick in ticks)
    assert {tick.timestamp.date() for tick in ticks} == {ticks[0].timestamp.date()}
