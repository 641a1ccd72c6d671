"""The local Kraken: its words and refusals, its books, its faults, on real sockets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, deaf_client, until, websocket
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.exchange.kraken import FAULTS, KrakenVenue
from trio_ticks.exchange.kraken_market import BASE, DEPTHS, MINUTES, UNITS, Levels, Pair, Side
from trio_ticks.exchange.market import Market
from trio_ticks.exchange.venues import Ended

NOW = datetime(2026, 3, 2, 14, 30, 7, tzinfo=UTC)
QUICKLY = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02)

# The market


def view(side: Side, depth: int) -> dict[int, int]:
    return dict(side.top(depth))


def follow(levels: dict[int, int], changes: Levels, *, highest_first: bool, depth: int) -> None:
    """Apply *changes* as a client does that sees *depth* levels."""
    for price, quantity in changes:
        if quantity:
            levels[price] = quantity
        else:
            del levels[price]
    for price in sorted(levels, reverse=highest_first)[depth:]:
        del levels[price]


def test_a_client_of_any_depth_that_applies_the_changes_sees_the_book() -> None:
    pair = Pair("A", 1)
    first, *rest = Market(["A"], rate=math.inf, seed=1).take(math.inf, 150, "")
    pair.take(first, NOW)
    assert pair.bids is not None
    assert pair.asks is not None
    views = {depth: (view(pair.bids, depth), view(pair.asks, depth)) for depth in DEPTHS}
    for tick in rest:
        step = pair.take(tick, NOW)
        ((bid, bid_size),), ((ask, ask_size),) = pair.bids.top(1), pair.asks.top(1)
        assert (bid, ask) == (BASE + round(tick.bid * 100), BASE + round(tick.ask * 100))
        assert isinstance(tick.bid_size, int)
        assert isinstance(tick.ask_size, int)
        assert (bid_size, ask_size) == (tick.bid_size * UNITS, tick.ask_size * UNITS)
        for depth, (bids, asks) in views.items():
            new_bids, new_asks = step.changes(depth)
            follow(bids, new_bids, highest_first=True, depth=depth)
            follow(asks, new_asks, highest_first=False, depth=depth)
            assert bids == view(pair.bids, depth)
            assert asks == view(pair.asks, depth)
            assert len(bids) == len(asks) == depth


def test_a_seed_makes_the_same_books() -> None:
    tops = []
    for _ in range(2):
        pair = Pair("A", 5)
        for tick in Market(["A"], rate=math.inf, seed=5).take(math.inf, 50, ""):
            pair.take(tick, NOW)
        assert pair.bids is not None
        tops.append(pair.bids.top(1000))
    assert tops[0] == tops[1]


def test_candles_hold_the_trades_of_their_interval() -> None:
    pair = Pair("A", 5)
    ticks = Market(["A"], rate=math.inf, seed=5).take(math.inf, 50, "")
    prices = [pair.take(tick, NOW).price for tick in ticks[:40]]
    candle = pair.candles[1]
    assert candle.begin == NOW.replace(second=0)
    assert (candle.open, candle.close, candle.trades) == (prices[0], prices[-1], 40)
    assert (candle.high, candle.low) == (max(prices), min(prices))
    later = NOW.replace(minute=31)
    pair.take(ticks[40], later)
    assert (pair.candles[1].trades, pair.candles[1].begin.minute) == (1, 31)
    assert pair.candles[5].trades == 41


# The words


@asynccontextmanager
async def talking(
    symbols: tuple[str, ...] = ("BTC/USD",), **settings: Any
) -> AsyncIterator[tuple[Exchange, WebSocketConnection]]:
    settings = {"venue": "kraken", "rate": 200, "burst": 0, **settings}
    async with open_exchange(symbols=symbols, **settings) as exchange, websocket(exchange) as ws:
        yield exchange, ws


async def receive(ws: WebSocketConnection) -> dict[str, Any]:
    with trio.fail_after(PATIENCE):
        message: dict[str, Any] = json.loads(await ws.get_message())
    return message


async def find(ws: WebSocketConnection, wanted: Callable[[dict[str, Any]], object]) -> Any:
    """Return the next message that is wanted."""
    while True:
        message = await receive(ws)
        if wanted(message):
            return message


async def ask(ws: WebSocketConnection, method: str, **params: Any) -> None:
    await ws.send_message(json.dumps({"method": method, "params": params, "req_id": 7}))


def answers(message: dict[str, Any]) -> bool:
    return "channel" not in message


async def test_the_status_comes_first_then_an_acknowledgement_a_symbol() -> None:
    async with talking(("BTC/USD", "ETH/USD")) as (exchange, ws):
        status = await receive(ws)
        assert (status["channel"], status["data"][0]["system"]) == ("status", "online")
        assert status["data"][0]["connection_id"] > 2**53
        await ask(ws, "subscribe", channel="ticker", symbol=["BTC/USD", "XBT/USD", "ETH/USD"])
        found = [await find(ws, answers) for _ in range(3)]
        accepted = [message for message in found if message["success"]]
        assert [m["result"]["symbol"] for m in accepted] == ["BTC/USD", "ETH/USD"]
        assert {m["req_id"] for m in found} == {7}
        (refused,) = [message for message in found if not message["success"]]
        assert refused["error"] == "Currency pair not supported XBT/USD"
        assert refused["symbol"] == "XBT/USD"
        # The connection stays open, and data comes.
        assert (await find(ws, lambda m: m.get("channel") == "ticker"))["data"]
        assert exchange.bad_requests == 1


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("junk", "Malformed request"),
        ("[]", "Malformed request"),
        ('{"method":"add_order"}', "Unsupported method"),
        ('{"method":"subscribe"}', "Channel not found"),
        ('{"method":"subscribe","params":{"channel":"l4"}}', "Channel not found"),
        (
            '{"method":"subscribe","params":{"channel":"book","symbol":["BTC/USD"],"depth":7}}',
            "Book depth not supported",
        ),
        (
            '{"method":"subscribe","params":{"channel":"ohlc","symbol":["BTC/USD"],"interval":2}}',
            "Interval not supported",
        ),
        (
            '{"method":"subscribe","params":{"channel":"ticker","symbol":["BTC/USD"],'
            '"event_trigger":"never"}}',
            "Event trigger not supported",
        ),
        (
            '{"method":"unsubscribe","params":{"channel":"book","symbol":["BTC/USD"],"depth":25}}',
            "Subscription Not Found",
        ),
    ],
)
async def test_requests_that_are_refused(request_: str, error: str) -> None:
    async with talking() as (exchange, ws):
        await ask(ws, "subscribe", channel="book", symbol=["BTC/USD"])
        await find(ws, answers)
        await ws.send_message(request_)
        answer = await find(ws, answers)
        assert (answer["error"], answer["success"]) == (error, False)
        assert exchange.bad_requests == 1


async def test_too_many_requests_are_refused() -> None:
    async with talking() as (_, ws):
        for _ in range(30):
            await ws.send_message('{"method":"ping","req_id":1}')
        found = [await find(ws, answers) for _ in range(30)]
        assert Counter(m.get("error") for m in found)["Exceeded msg rate"] == 10
        assert found[0]["method"] == "pong"


async def test_heartbeats_come_when_nothing_else_does() -> None:
    async with talking() as (exchange, ws):
        await ask(ws, "subscribe", channel="instrument")
        await find(ws, answers)
        assert (await receive(ws))["data"]["pairs"][0]["qty_increment"] == 1e-08
        assert await receive(ws) == {"channel": "heartbeat"}
        await ask(ws, "subscribe", channel="ticker", symbol=["BTC/USD"])
        await find(ws, lambda m: m.get("channel") == "ticker")
        exchange.pause()
        await find(ws, lambda m: m == {"channel": "heartbeat"})


async def test_a_client_that_asks_and_does_not_read_is_disconnected() -> None:
    limits = tt.exchange.ClientLimits(buffer_bytes=4096, socket_buffer_bytes=4096)
    async with talking(limits=limits, rate=50) as (exchange, other):
        # Some ticks, so that there is a book to send.
        await ask(other, "subscribe", channel="ticker", symbol=["BTC/USD"])
        await find(other, lambda m: m.get("type") == "update" and m["channel"] == "ticker")
        stream = await deaf_client(exchange)
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            while exchange.clients == 2:
                for method in ("subscribe", "unsubscribe"):
                    params = {"channel": "book", "symbol": ["BTC/USD"], "depth": 1000}
                    request = json.dumps({"method": method, "params": params}).encode()
                    header = bytes((0x81, 0x80 | len(request), 0, 0, 0, 0))
                    await stream.send_all(header + request)
                await trio.sleep(0.1)
        await trio.aclose_forcefully(stream)
        assert exchange.disconnects["slow_consumer"] == 1


# A feed, on a real socket


class Told:
    """What a strategy hears, in its order."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.gaps: list[tt.Gap] = []
        self.events: list[tt.FeedEvent] = []

    async def take(self, item: Any) -> None:
        self.items.append(item)

    def of(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.items if type(item) is kind]


@asynccontextmanager
async def fed(
    exchange: Exchange, channels: Any, symbols: tuple[str, ...] = ("BTC/USD",), **options: Any
) -> AsyncIterator[tuple[tt.WebSocketFeed, Told, tt.Pipeline[Any]]]:
    feed = tt.WebSocketFeed(
        exchange.url, symbols, venue="kraken", channels=channels, backoff=QUICKLY, **options
    )
    told = Told()
    async with tt.open_pipeline(
        feed, told.take, on_gap=told.gaps.append, on_feed=told.events.append
    ) as pipeline:
        yield feed, told, pipeline
    pipeline.ledger.check()


async def test_every_kind_of_message_arrives() -> None:
    settings: dict[str, Any] = {"faults": ["unknown-message", "withdrawn-quote"], "fault_every": 9}
    async with (
        open_exchange(symbols=["BTC/USD"], venue="kraken", rate=100, burst=0, **settings) as e,
        fed(e, "all", ("BTC/USD", "XBT/USD")) as (feed, told, _),
    ):
        await until(lambda: len(told.items) > 500)
        # Status, acknowledgements, instruments and unknown messages.
        assert feed.stats.ignored > 14
        assert feed.stats.malformed == 0
        # Requests are spread out: five a second.
        await until(lambda: feed.stats.refused == 12)
        await until(lambda: {bar.interval_s / 60 for bar in told.of(tt.Bar)} == {*MINUTES})
        refused = [event for event in told.events if event.kind == "symbol-refused"]
        assert {(event.symbol, event.reason) for event in refused} == {
            ("XBT/USD", "Currency pair not supported XBT/USD")
        }
        # A withdrawn quote is a gap.
        assert {(gap.symbol, gap.reason) for gap in told.gaps} == {("BTC/USD", "sequence")}
    kinds = Counter(map(type, told.items))
    assert set(kinds) == {tt.Tick, tt.BookUpdate, tt.Trade, tt.Bar}
    tick = told.of(tt.Tick)[-1]
    assert tick.ask > tick.bid > 10_000
    assert tick.bid_size > 0
    assert tick.volume > 0
    assert told.of(tt.BookUpdate)[0].snapshot
    assert not any(update.snapshot for update in told.of(tt.BookUpdate)[1:])
    numbers = [int(trade.trade_id) for trade in told.of(tt.Trade)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_the_usual_channel_gives_a_tick_at_each_change_of_the_quote() -> None:
    async with (
        open_exchange(venue="kraken", rate=200, burst=0) as exchange,
        fed(exchange, None, ("ETH/USD", "BTC/USD")) as (_, told, _),
    ):
        await until(lambda: len(told.items) > 50)
        sent = exchange.sent_by_symbol
        assert set(sent) == {"BTC/USD", "ETH/USD"}
    assert {type(item) for item in told.items} == {tt.Tick}


async def test_heartbeats_do_not_keep_a_silent_connection_alive() -> None:
    settings: dict[str, Any] = {"faults": ["silence"], "fault_every": 20}
    async with (
        open_exchange(symbols=["BTC/USD"], venue="kraken", rate=200, burst=0, **settings) as e,
        fed(e, None, stale_after=1.5) as (feed, told, _),
    ):
        await until(lambda: feed.reconnects)
        assert feed.stats.watchdog_trips == 1
        await until(lambda: told.gaps)
        assert told.gaps[0].reason == "reconnect"
        assert e.disconnects["client"] == 1


async def right_book(exchange: Exchange, book: tt.Book, depth: int) -> None:
    """Wait until *book* is what the exchange sends to a newcomer; it stands still."""
    exchange.pause()
    async with websocket(exchange) as ws:
        await ask(ws, "subscribe", channel="book", symbol=[book.symbol], depth=depth)
        whole = await find(ws, lambda m: m.get("channel") == "book")
    (entry,) = whole["data"]
    sides = [[(level["price"], level["qty"]) for level in entry[side]] for side in ("bids", "asks")]
    await until(lambda: [list(book.bids()), list(book.asks())] == sides)
    assert book.state == "valid"


@pytest.mark.parametrize("depth", DEPTHS)
async def test_a_book_is_right_at_every_depth(depth: int) -> None:
    name = "book" if depth == 10 else f"book-{depth}"
    async with (
        open_exchange(symbols=["BTC/USD"], venue="kraken", rate=500, burst=0) as exchange,
        fed(exchange, name, books=True) as (feed, told, _),
    ):
        await until(lambda: feed.stats.booked > 60)
        book = feed.books["BTC/USD"]
        await right_book(exchange, book, depth)
        assert (book.errors, book.held, book.depth) == (0, 0, depth)
        assert told.gaps == []
        await until(lambda: told.items[-1].bid == (book.bid or (0, 0))[0])
    assert all(math.isnan(tick.volume) for tick in told.items)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong-checksum", "sequence"),
        ("missed-update", "sequence"),
        ("broken-update", "malformed"),
        ("cut", "reconnect"),
    ],
)
async def test_a_fault_is_told_and_ends_in_a_right_book(fault: str, reason: str) -> None:
    async with (
        open_exchange(
            symbols=["BTC/USD"],
            venue="kraken",
            rate=300,
            burst=0,
            faults=[fault],
            fault_every=100,
        ) as exchange,
        fed(exchange, ["book"], books=True) as (feed, told, _),
    ):
        await until(lambda: told.gaps)
        before = len(told.items)
        await until(lambda: len(told.items) > before + 3)
        await right_book(exchange, feed.books["BTC/USD"], 10)
        assert [(gap.symbol, gap.reason) for gap in told.gaps] == [("BTC/USD", reason)]
        assert feed.reconnects == (fault == "cut")
        assert feed.stats.book_errors == (fault in ("wrong-checksum", "missed-update"))
        assert exchange.disconnects["cut"] == (fault == "cut")


@pytest.mark.parametrize(
    "fault", ["late-snapshot", "snapshot-in-mid-stream", "repeated-update", "data-before-ack"]
)
async def test_what_is_no_loss_ends_in_a_right_book_without_a_gap(fault: str) -> None:
    async with (
        open_exchange(
            symbols=["BTC/USD"], venue="kraken", rate=300, burst=0, faults=[fault], fault_every=7
        ) as exchange,
        fed(exchange, ["book-25"], books=True) as (feed, told, _),
    ):
        await until(lambda: len(told.items) > 20)
        book = feed.books["BTC/USD"]
        await right_book_of_a_quiet_market(exchange, book)
        assert (book.errors, told.gaps, feed.reconnects) == (0, [], 0)
        assert book.held == (4 if fault == "late-snapshot" else 0)


async def right_book_of_a_quiet_market(exchange: Exchange, book: tt.Book) -> None:
    """Check *book* where a newcomer's snapshot may come late: by its checksum."""
    assert book.state == "valid"
    exchange.pause()
    await trio.sleep(0.05)
    assert (book.state, len(book.bids()), len(book.asks())) == ("valid", 25, 25)
    assert book.best is not None


async def test_a_late_snapshot_after_a_cut_ends_in_a_right_book_with_the_gap_told() -> None:
    async with (
        open_exchange(
            symbols=["BTC/USD"],
            venue="kraken",
            rate=300,
            burst=0,
            faults=["late-snapshot"],
        ) as exchange,
        fed(exchange, ["book"], books=True) as (feed, told, _),
    ):
        await until(lambda: len(told.items) > 5)
        await exchange.drop_clients()
        await until(lambda: told.gaps)
        book = feed.books["BTC/USD"]
        await until(lambda: book.state == "valid")
        assert book.errors == 0
        assert book.held == 2 * 4
        assert [gap.reason for gap in told.gaps] == ["reconnect"]


async def test_without_books_a_handler_keeps_its_own_checked_book() -> None:
    from trio_ticks.feeds.venues.kraken_checksum import KrakenChecksum

    book = tt.Book("BTC/USD", checksum=KrakenChecksum())
    outcomes: Counter[str] = Counter()

    async def handler(update: tt.BookUpdate) -> None:
        outcomes[book.apply(update)] += 1

    async with open_exchange(symbols=["BTC/USD"], venue="kraken", rate=300, burst=0) as exchange:
        feed = tt.WebSocketFeed(exchange.url, ["BTC/USD"], venue="kraken", channels="book-25")
        async with tt.open_pipeline(feed, handler):
            await until(lambda: outcomes["applied"] > 50)
            await right_book(exchange, book, 25)
    assert set(outcomes) == {"applied"}


async def test_the_clock_may_be_ahead() -> None:
    async with talking(faults=["clock-ahead"]) as (_, ws):
        await ask(ws, "subscribe", channel="ticker", symbol=["BTC/USD"])
        message = await find(ws, lambda m: m.get("type") == "update" and m["channel"] == "ticker")
        ahead = datetime.fromisoformat(message["data"][0]["timestamp"]) - datetime.now(UTC)
        assert 0.2 < ahead.total_seconds() <= 1.27


async def test_no_heartbeat() -> None:
    async with talking(faults=["no-heartbeat"]) as (exchange, ws):
        exchange.pause()
        await ask(ws, "subscribe", channel="ticker", symbol=["BTC/USD"])
        with trio.move_on_after(1.5) as patience:
            await find(ws, lambda m: m == {"channel": "heartbeat"})
        assert patience.cancelled_caught


async def test_no_pong_makes_the_feed_reconnect() -> None:
    async with (
        open_exchange(symbols=["BTC/USD"], venue="kraken", rate=50, faults="no-pong") as exchange,
        fed(exchange, None, ping_interval=0.1, pong_timeout=0.2) as (feed, _, _),
    ):
        await until(lambda: feed.reconnects)


# The faults


def test_every_fault_does_something() -> None:
    """Compare what a client gets with each fault, and without any."""

    def heard(*faults: str) -> list[bytes]:
        venue = KrakenVenue(["A"], 1, frozenset(faults), 3)
        session = venue.new_session()
        first, *rest = Market(["A"], rate=math.inf, seed=1).take(math.inf, 40, "")
        venue.take(first, NOW)
        found = session.greet(NOW)
        for channel in ("ticker", "book"):
            request = {"method": "subscribe", "params": {"channel": channel, "symbol": ["A"]}}
            found += session.receive(json.dumps(request), NOW, 0)
        try:
            for tick in rest:
                found += session.offer(venue.take(tick, NOW))
        except Ended as ended:
            found.append(str(ended).encode())
        return found + session.beat(NOW)

    plain = heard()
    assert plain == heard()
    # The server itself leaves pings unanswered.
    without_effect = [fault for fault in FAULTS if heard(fault) == plain]
    assert without_effect == ["no-pong"]


@pytest.mark.parametrize(
    "settings",
    [
        {"venue": "kraken", "faults": ["no-such-fault"]},
        {"venue": "kraken", "faults": "wrong"},
        {"faults": ["wrong-checksum"]},
        {"venue": "binance", "faults": ["wrong-checksum"]},
        {"venue": "kraken", "fault_every": 0},
    ],
)
async def test_wrong_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        async with open_exchange(**settings):
            pass


@pytest.mark.parametrize("seed", range(3))
def test_no_request_makes_the_session_fail(seed: int) -> None:
    random = Random(seed)
    session = KrakenVenue(["A"]).new_session()
    values = [None, 7, -1, "A", ["A"], [None], {}, {"channel": "book"}, "book", True, 1e400]
    for number in range(500):
        params: dict[str, Any] = {
            name: random.choice(values)
            for name in ("channel", "symbol", "depth", "interval", "snapshot", "event_trigger")
        }
        params["channel"] = random.choice(["book", "ohlc", "ticker", "trade", "instrument", 7])
        request = {"method": random.choice(["subscribe", "unsubscribe"]), "params": params}
        for answer in session.receive(json.dumps(request), NOW, float(number)):
            json.loads(answer)
