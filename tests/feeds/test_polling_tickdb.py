"""TickDB polled over REST, on a real socket."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.feed_venues import Collector
from tests.worlds.http_venue import HTTPVenue, Request, Response, open_http_venue
from trio_ticks.exchange import open_exchange

PATIENCE = 30.0
KEY = "hidden-key-1234"


class TickDB:
    """Answers as TickDB does; by symbol, what it knows."""

    def __init__(self) -> None:
        self.tickers: dict[str, dict[str, Any]] = {}
        self.books: dict[str, dict[str, Any]] = {}
        self.trouble: list[Response] = []
        """Answers that are given first, in place of the right ones."""

    def __call__(self, request: Request) -> Response:
        if self.trouble:
            return self.trouble.pop(0)
        if request.headers.get("x-api-key") != KEY:
            return Response({"code": "INVALID_TOKEN", "message": "bad key"}, 401)
        if request.path == "/v1/market/ticker":
            symbols = request.params["symbols"].split(",")
            if len(symbols) > 50:
                return refusal("2004", "too many symbols")
            if not self.tickers.keys() >= set(symbols):
                return refusal("2002", "unknown symbol")
            return success([self.tickers[symbol] for symbol in symbols])
        if request.path == "/v1/market/depth":
            book = self.books.get(request.params["symbol"])
            return refusal("2002", "unknown symbol") if book is None else success(book)
        return Response({"code": 2001, "message": "no such path"}, 404)

    def quote(self, symbol: str, bid: float = 1.25, at_ms: int = 1_773_334_426_000) -> None:
        self.tickers[symbol] = {
            "symbol": symbol,
            "type": "forex",
            "last_price": str(bid),
            "bid_price": str(bid),
            "ask_price": str(bid + 0.5),
            "timestamp": at_ms,
        }

    def book(self, symbol: str, size: str = "0.125", at_ms: int = 1_773_334_426_000) -> None:
        self.books[symbol] = {
            "symbol": symbol,
            "bids": [["43250.50", size]],
            "asks": [["43251.00", "0.180"]],
            "timestamp": at_ms,
        }


def success(data: Any) -> Response:
    return Response({"code": 0, "message": "success", "data": data})


def refusal(code: str, message: str, status: int = 400) -> Response:
    return Response({"code": code, "message": message, "data": None}, status)


def feed_of(venue: HTTPVenue, symbols: Any, **options: Any) -> tt.PollingFeed:
    options = {"api_key": KEY, "interval": 0.02, **options}
    return tt.PollingFeed(venue="tickdb", url=venue.url, symbols=symbols, **options)


async def poll(
    venue: HTTPVenue, symbols: Any, items: int, **options: Any
) -> tuple[tt.PollingFeed, Collector]:
    """Run a feed until *items* have come."""
    feed, send = feed_of(venue, symbols, **options), Collector()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, send)
            await send.wait_for(items)
            nursery.cancel_scope.cancel()
    return feed, send


async def fails(venue: HTTPVenue, symbols: Any, **options: Any) -> tt.FeedBrokenError:
    """Run a feed until it ends, which must be with an error."""
    with trio.fail_after(PATIENCE), pytest.raises(tt.FeedBrokenError) as caught:
        await feed_of(venue, symbols, **options).run(Collector())
    assert KEY not in str(caught.value)
    return caught.value


async def test_tickers_of_forex_become_ticks() -> None:
    tickdb = TickDB()
    tickdb.quote("EURUSD")
    tickdb.quote("XAUUSD", 2000)
    async with open_http_venue(tickdb) as venue:
        feed, send = await poll(venue, ["EURUSD", "XAUUSD"], 2)
    assert [(t.symbol, t.bid, t.ask) for t in send.ticks] == [
        ("EURUSD", 1.25, 1.75),
        ("XAUUSD", 2000, 2000.5),
    ]
    assert send.ticks[0].timestamp.timestamp() == 1_773_334_426
    assert math.isnan(send.ticks[0].bid_size)
    assert venue.requests[0].params == {"symbols": "EURUSD,XAUUSD"}
    assert feed.stats.malformed == 0
    assert (feed.name, feed.symbols) == ("tickdb", ("EURUSD", "XAUUSD"))
    assert KEY not in repr(feed)


async def test_a_quote_of_a_coin_comes_from_its_depth_under_your_name() -> None:
    tickdb = TickDB()
    tickdb.book("BTCUSDT")
    async with open_http_venue(tickdb) as venue:
        _, send = await poll(venue, {"BTCUSDT": "btc"}, 1)
    quote = send.ticks[0]
    assert (quote.symbol, quote.bid, quote.bid_size, quote.ask) == ("btc", 43250.5, 0.125, 43251)
    assert {request.path for request in venue.requests} == {"/v1/market/depth"}
    assert venue.requests[0].params == {"symbol": "BTCUSDT", "limit": "10"}


async def test_depth_becomes_a_whole_book_only_when_it_has_changed() -> None:
    tickdb = TickDB()
    tickdb.book("BTCUSDT")
    asked = 0

    def answer(request: Request) -> Response:
        nonlocal asked
        asked += 1
        if asked == 5:
            tickdb.book("BTCUSDT", "7")
        return tickdb(request)

    async with open_http_venue(answer) as venue:
        feed, send = await poll(venue, ["BTCUSDT"], 2, channels=["depth"])
    books: list[Any] = list(send.ticks)
    assert [book.bids[0][1] for book in books] == [0.125, 7]
    assert all(book.snapshot for book in books)
    assert feed.stats.duplicates == 3


async def test_more_symbols_than_a_request_takes() -> None:
    tickdb = TickDB()
    symbols = [f"S{number}.US" for number in range(120)]
    for symbol in symbols:
        tickdb.quote(symbol)
    async with open_http_venue(tickdb) as venue:
        _, send = await poll(venue, symbols, 120, channels=["ticker"])
    assert [tick.symbol for tick in send.ticks] == symbols
    assert [len(r.params["symbols"].split(",")) for r in venue.requests[:3]] == [50, 50, 20]


async def test_symbols_that_the_venue_does_not_know_are_found_and_left_out() -> None:
    tickdb = TickDB()
    tickdb.book("BTCUSDT")
    for symbol in ("EURUSD", "USDJPY", "GBPUSD", "USDCHF"):
        tickdb.quote(symbol)
    symbols = ["EURUSD", "USDXXX", "USDJPY", "GBPUSD", "USDCHF", "BTCUSDT", "NOPE"]
    async with open_http_venue(tickdb) as venue:
        feed, send = await poll(venue, symbols, 10, channels=["quote", "ticker"], newer_only=False)
        asked = [r.params.get("symbols") or r.params["symbol"] for r in venue.requests]
    refused = {(event.kind, event.symbol) for event in send.events}
    assert ("symbol-refused", "USDXXX") in refused
    assert ("symbol-refused", "NOPE") in refused
    assert {tick.symbol for tick in send.ticks} >= {"EURUSD", "USDJPY", "GBPUSD", "USDCHF"}
    assert feed.stats.refused >= 2
    # In the second round they are not asked for any more.
    assert "NOPE" not in asked[-1]


@pytest.mark.parametrize(
    ("channel", "kinds"),
    [
        ("quote", {"NVDA.US": tt.Tick, "EURUSD": tt.Tick}),
        ("ticker", {"NVDA.US": tt.Trade, "EURUSD": tt.Tick}),
        ("depth", {"NVDA.US": tt.BookUpdate}),
    ],
)
async def test_the_local_exchange_can_be_polled(channel: str, kinds: dict[str, Any]) -> None:
    async with open_exchange(
        venue="tickdb", symbols=["NVDA.US", "EURUSD"], rate=500, api_key=KEY
    ) as exchange:
        feed = tt.PollingFeed(
            venue="tickdb",
            url=exchange.rest_url,
            symbols=exchange.symbols,
            channels=[channel],
            api_key=KEY,
            interval=0.02,
        )
        send = Collector()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run, send)
                await send.wait_for(2 * len(kinds))
                nursery.cancel_scope.cancel()
    assert {item.symbol: type(item) for item in send.ticks} == kinds
    assert feed.stats.malformed == feed.stats.connect_failures == 0
    # There is no depth of forex.
    refused = [event.symbol for event in send.events if event.kind == "symbol-refused"]
    assert refused == (["EURUSD"] if channel == "depth" else [])


async def test_no_symbol_that_the_venue_knows_ends_the_feed() -> None:
    async with open_http_venue(TickDB()) as venue:
        error = await fails(venue, ["NOPE", "EURUSD"])
    assert "unknown symbol (code 2002)" in str(error)


async def test_a_key_that_is_refused_ends_the_feed() -> None:
    async with open_http_venue(TickDB()) as venue:
        error = await fails(venue, ["EURUSD"], api_key="another-key")
    assert isinstance(error, tt.FeedAuthError)
    assert error.status == 401
    assert error.url == venue.url
    assert "bad key" in str(error)


async def test_a_wrong_path_ends_the_feed() -> None:
    async with open_http_venue(lambda _request: Response(b"<html>", 404)) as venue:
        error = await fails(venue, ["EURUSD"])
    assert error.status == 404


async def test_trouble_passes_and_costs_nothing_that_was_good() -> None:
    tickdb = TickDB()
    tickdb.book("BTCUSDT")
    tickdb.quote("EURUSD")
    tickdb.trouble = [
        success([tickdb.tickers["EURUSD"]]),
        Response({"code": 5000, "message": "out of order"}, 500),
    ]
    policy = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.01)
    async with open_http_venue(tickdb) as venue:
        feed, send = await poll(venue, ["EURUSD", "BTCUSDT"], 2, backoff=policy)
    assert [tick.symbol for tick in send.ticks] == ["EURUSD", "BTCUSDT"]
    assert feed.stats.connect_failures == 1
    assert len(venue.requests) >= 4


async def test_retry_after_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    tickdb = TickDB()
    tickdb.quote("EURUSD")
    busy = Response({"code": 3001, "message": "slow down"}, 429, (("retry-after", "1"),))
    tickdb.trouble = [busy]
    policy = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.01)
    async with open_http_venue(tickdb) as venue:
        began = trio.current_time()
        await poll(venue, ["EURUSD"], 1, backoff=policy)
        # Whatever else this machine does, it took no less.
        assert trio.current_time() - began >= 1.0
    assert len(venue.requests) == 2
    assert "slow down" in caplog.text
    assert "retry_in_s=1.0" in caplog.text


async def test_bad_rows_cost_themselves_alone() -> None:
    tickdb = TickDB()
    tickdb.quote("EURUSD")
    good = tickdb.tickers["EURUSD"]
    wrapped = {"tickers": [5, {"symbol": "EURUSD", "bid_price": "x"}, good, None, {}]}
    async with open_http_venue(lambda _request: success(wrapped)) as venue:
        feed, send = await poll(venue, ["EURUSD"], 1)
    assert [tick.bid for tick in send.ticks] == [1.25]
    assert feed.stats.malformed >= 4


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    tickdb = TickDB()
    tickdb.quote("EURUSD")
    tickdb.trouble = [Response(b"", after_s=PATIENCE)]
    async with open_http_venue(tickdb) as venue:
        feed, _ = await poll(
            venue,
            ["EURUSD"],
            1,
            timeout=0.3,
            backoff=tt.BackoffPolicy(initial_s=0.01, maximum_s=0.01),
        )
    assert feed.stats.connect_failures >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": []}, "at least one symbol"),
        ({"venue": "binance"}, "venue"),
        ({"channels": ["trade"]}, "no channel 'trade': it has quote, ticker, depth"),
        ({"channels": []}, "needs a channel"),
        ({"url": "ftp://venue.test"}, "base_url"),
        ({"requests_per_minute": 30}, "an interval of at least 4 s"),
        ({"fetch": TickDB}, "either fetch or venue"),
        ({"venue": None, "fetch": TickDB}, "api_key is for a venue"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    usual = {"venue": "tickdb", "symbols": ["BTCUSDT", "ETHUSDT"], "api_key": KEY}
    with pytest.raises(tt.ConfigError, match=message) as caught:
        tt.PollingFeed(**{**usual, **arguments})
    assert KEY not in str(caught.value)
