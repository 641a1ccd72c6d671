"""The codecs that the documentation shows: rules of a codec, and whole runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

import trio_ticks as tt
from examples.venues.alpaca import AlpacaCodec
from examples.venues.okx import OkxCodec
from tests.worlds.feed_venues import (
    NO_JITTER,
    Collector,
    memory_feed,
    running,
    until_closed,
    websocket,
)
from trio_ticks.feeds.websocket.feed import WebSocketFeed
from trio_ticks.testing import CodecProbe, check_codec

ROOT = Path(__file__).parents[2]

# What the venues' documentation shows.

OKX_ACK = '{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}'
OKX_UNKNOWN = json.dumps(
    {
        "event": "error",
        "msg": "Wrong URL or channel:trades,instId:BTC-USDX doesn't exist. Please use the correct"
        " URL, channel and parameters referring to API document.",
        "code": "60018",
        "connId": "a4d3ae55",
    }
)
OKX_BAD_REQUEST = (
    '{"event":"error","code":"60012","msg":"Invalid request: {\\"op\\": \\"subscribe\\"}",'
    '"connId":"a4d3ae55"}'
)
OKX_UPGRADE = (
    '{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service'
    ' upgrade. Please reconnect.","connId":"a4d3ae55"}'
)
OKX_QUOTE = (
    '{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"data":[{"asks":[["42006.7","0.2","0","1"]],'
    '"bids":[["42006.6","1.5","0","3"]],"ts":"1630048897897","seqId":363996337}]}'
)
OKX_ONE_SIDE = (
    '{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"data":[{"asks":[],'
    '"bids":[["42006.6","1.5","0","3"]],"ts":"1630048897898","seqId":363996338}]}'
)
OKX_TICKER = (
    '{"arg":{"channel":"tickers","instId":"LTC-USDT"},"data":[{"instType":"SPOT","instId":'
    '"LTC-USDT","last":"9999.99","lastSz":"0.1","askPx":"9999.99","askSz":"11","bidPx":"8888.88",'
    '"bidSz":"5","open24h":"9000","high24h":"10000","low24h":"8888.88","volCcy24h":"2222",'
    '"vol24h":"2223","sodUtc0":"2222","sodUtc8":"2222","ts":"1597026383085"}]}'
)
OKX_TRADE = (
    '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":'
    '"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3"}]}'
)
OKX_MESSAGES = [
    OKX_ACK,
    OKX_UNKNOWN,
    OKX_BAD_REQUEST,
    OKX_QUOTE,
    OKX_ONE_SIDE,
    OKX_TICKER,
    OKX_TRADE,
    "pong",
    OKX_UPGRADE,
]

ALPACA_WELCOME = '[{"T":"success","msg":"connected"}]'
ALPACA_LOGGED_IN = '[{"T":"success","msg":"authenticated"}]'
ALPACA_SUBSCRIBED = (
    '[{"T":"subscription","trades":["AAPL"],"quotes":["AMD","CLDR"],"bars":["*"],"updatedBars":[],'
    '"dailyBars":["VOO"],"statuses":["*"],"lulds":[],"corrections":["AAPL"],'
    '"cancelErrors":["AAPL"]}]'
)
ALPACA_QUOTE = (
    '{"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,"c":["R"],"z":"C",'
    '"t":"2021-02-22T15:51:45.335689322Z"}'
)
ALPACA_TRADE = (
    '{"T":"t","i":96921,"S":"AAPL","x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z",'
    '"c":["@","I"],"z":"C"}'
)
ALPACA_BAR = (
    '{"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,'
    '"t":"2021-02-22T19:15:00Z","n":461,"vw":389.062639}'
)
ALPACA_ERRORS = [
    f'[{{"T":"error","code":{code},"msg":"{words}"}}]'
    for code, words in [
        (402, "auth failed"),
        (405, "symbol limit exceeded"),
        (406, "connection limit exceeded"),
    ]
]
ALPACA_MESSAGES = [
    ALPACA_WELCOME,
    ALPACA_LOGGED_IN,
    ALPACA_SUBSCRIBED,
    f"[{ALPACA_QUOTE}]",
    f"[{ALPACA_TRADE},{ALPACA_BAR},{ALPACA_QUOTE},{ALPACA_TRADE}]",
    f"[{ALPACA_BAR}]",
    *ALPACA_ERRORS,
]


def decoded(codec: type[tt.Codec], *messages: str) -> tuple[list[Any], CodecProbe]:
    probe = CodecProbe(codec.default_channels or codec.channels)
    language = codec(probe)
    return list(language.decode([message.encode() for message in messages])), probe


def test_okx_keeps_the_rules_of_a_codec() -> None:
    check_codec(OkxCodec, OKX_MESSAGES, ["BTC-USDT", "LTC-USDT"], channels="all")


def test_alpaca_keeps_the_rules_of_a_codec() -> None:
    check_codec(AlpacaCodec, ALPACA_MESSAGES, ["AAPL", "AMD"])


def test_what_okx_says() -> None:
    items, probe = decoded(OkxCodec, *OKX_MESSAGES)
    when = datetime(2021, 8, 27, 7, 21, 37, 897000, UTC)
    assert items == [
        tt.Tick("BTC-USDT", when, 42006.6, 42006.7, 1.5, 0.2, math.nan),
        tt.Tick(
            "LTC-USDT", datetime(2020, 8, 10, 2, 26, 23, 85000, UTC), 8888.88, 9999.99, 5, 11, 2223
        ),
        tt.Trade("BTC-USDT", when, 42219.9, 0.12060306, "buy", "130639474"),
    ]
    kinds = [event[:2] for event in probe.events]
    assert kinds[:3] == [("refused", "BTC-USDX"), ("refused", None), ("pong",)]
    assert kinds[3][0] == "reconnect"
    assert probe.ignored_count == 6
    assert probe.malformed_messages == []


def test_what_alpaca_says() -> None:
    items, probe = decoded(AlpacaCodec, *ALPACA_MESSAGES)
    at = datetime(2021, 2, 22, 15, 51, 45, 335689, UTC)
    trade = tt.Trade("AAPL", at.replace(second=44, microsecond=208000), 126.55, 1, "neutral")
    assert [type(item).__name__ for item in items] == ["Tick", "Trade", "Tick", "Trade"]
    assert items[0] == tt.Tick("AMD", at, 87.66, 87.68, 1, 4, math.nan)
    assert items[1].timestamp == trade.timestamp
    assert items[1].trade_id == "96921"
    assert [event[0] for event in probe.events] == [
        "reply",
        "refused",
        "reconnect",
        "refused",
        "refused",
        "reconnect",
    ]


def test_alpaca_subscribes_when_it_is_logged_in() -> None:
    probe = CodecProbe(AlpacaCodec.channels)
    codec = AlpacaCodec(probe)
    ((_reply, login),) = probe.events
    assert json.loads(login)["action"] == "auth"
    assert codec.subscribe(["A", "B"]) == codec.subscribe(["C"]) == []
    assert codec.unsubscribe(["B"]) == []
    codec.decode([ALPACA_LOGGED_IN.encode()])
    subscribed = {"action": "subscribe", "quotes": ["A", "C"], "trades": ["A", "C"]}
    assert [json.loads(message) for _reply, message in probe.events[1:]] == [subscribed]
    (more,) = codec.subscribe(["D"])
    assert json.loads(more)["quotes"] == ["D"]


@pytest.mark.parametrize("name", ["okx", "alpaca", "bybit"])
def test_the_class_fits_on_a_page(name: str) -> None:
    text = (ROOT / "examples" / "venues" / f"{name}.py").read_text()
    (core,) = re.findall(r"# begin: the codec\n(.*?)# end: the codec", text, re.DOTALL)
    lines = [line for line in core.splitlines() if line.strip()]
    assert len(lines) < 40


def test_a_stamp_or_a_symbol_that_makes_no_sense_is_malformed() -> None:
    class Careless(tt.Codec):
        def subscribe(self, symbols: Sequence[str]) -> list[str]:
            return list(symbols)

        def decode_one(self, payload: bytes) -> tt.Trade:
            symbol, stamp = json.loads(payload)
            if not isinstance(symbol, str):
                raise tt.MalformedMessage("no symbol", symbol)
            return tt.Trade(symbol, datetime.fromtimestamp(stamp, UTC), 1.0, 1.0)

    assert decoded(Careless, '["A", 1e17]', "[[], 1]")[0] == []
    check_codec(Careless, ['["A", 1772461800]', '["A", 1e17]', "[[], 1]"], ["A"])


def test_reports_that_are_no_text_are_found() -> None:
    class Wrong(tt.Codec):
        def subscribe(self, symbols: Sequence[str]) -> list[str]:
            return list(symbols)

        def decode_one(self, payload: bytes) -> tt.Trade | None:
            fields = json.loads(payload)
            if "refused" in fields:
                self.context.refused(fields["refused"], "no")
                return None
            return tt.Trade("A", datetime.fromtimestamp(fields["at"], UTC), 1.0, 1.0)

    check_codec(Wrong, ['{"at": 1}', '{"refused": "A"}', '{"refused": null}'], ["A"])
    with pytest.raises(AssertionError, match="refused got 7"):
        check_codec(Wrong, ['{"at": 1}', '{"refused": 7}'], ["A"])


# Whole runs against a venue in memory


class Okx:
    """Answers like OKX, and sends a quote of each subscribed symbol every second."""

    def __init__(self) -> None:
        self.connections: list[WebSocketConnection] = []
        self.subscribed: set[str] = set()
        self.pings = 0
        self.says_pong = True
        self.mute = False
        self.per_s = 1

    async def __call__(self, ws: WebSocketConnection) -> None:
        self.connections.append(ws)
        self.subscribed = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_closed, self._send, ws)
            await until_closed(self._listen, ws)
            nursery.cancel_scope.cancel()

    async def _listen(self, ws: WebSocketConnection) -> None:
        while True:
            message = await ws.get_message()
            if message == "ping":
                self.pings += 1
                if self.says_pong:
                    await ws.send_message("pong")
            else:
                await self._take(ws, json.loads(message))

    async def _take(self, ws: WebSocketConnection, request: dict[str, Any]) -> None:
        for arg in request["args"]:
            if arg["instId"] == "BTC-USDX":
                await ws.send_message(OKX_UNKNOWN)
                continue
            change = self.subscribed.add if request["op"] == "subscribe" else self.subscribed.remove
            change(arg["instId"])
            await ws.send_message(json.dumps({"event": request["op"], "arg": arg, "connId": "a4"}))

    async def _send(self, ws: WebSocketConnection) -> None:
        while True:
            await trio.sleep(1 / self.per_s)
            for symbol in () if self.mute else sorted(self.subscribed):
                stamp = int(trio.current_time() * 1000)
                await ws.send_message(
                    OKX_QUOTE.replace("BTC-USDT", symbol).replace("1630048897897", str(stamp))
                )


@pytest.fixture
def okx() -> Okx:
    return Okx()


def okx_feed(okx: Okx, *symbols: str, **options: Any) -> Any:
    script = websocket(okx.__call__, reads_first=False)
    return memory_feed(script, venue=OkxCodec, symbols=symbols, **options)


async def test_okx_comes_back_with_its_subscriptions(okx: Okx, autojump_clock: MockClock) -> None:
    events: list[tt.FeedEvent] = []
    ticks: list[tt.Tick] = []
    async with okx_feed(okx, "BTC-USDT", "ETH-USDT", "BTC-USDX") as (feed, _venue):

        async def strategy(tick: tt.Tick) -> None:
            ticks.append(tick)

        async with tt.open_pipeline(feed, strategy, on_feed=events.append) as pipeline:
            await trio.sleep(70)
            assert (okx.pings, feed.reconnects, feed.stats.refused) == (3, 0, 1)
            with trio.move_on_after(10):
                await okx.connections[-1].aclose(1012, "restart")
                await trio.sleep_forever()
            assert okx.subscribed == {"BTC-USDT", "ETH-USDT"}
            okx.says_pong = False
            await trio.sleep(40)
            assert feed.reconnects == 2
            okx.says_pong, okx.mute = True, True
            await trio.sleep(90)
            okx.mute = False
            assert feed.stats.watchdog_trips == 1
            await okx.connections[-1].send_message(OKX_UPGRADE)
            await trio.sleep(5)
            assert feed.reconnects == 4
    told = [(event.kind, event.symbol) for event in events]
    assert told.count(("lost", None)) == told.count(("back", None)) == 4
    assert ("symbol-refused", "BTC-USDX") in told
    assert ("symbol-silent", "BTC-USDX") not in told
    reasons = [event.reason for event in events if event.kind == "lost"]
    assert reasons[1] == "no answer to a keep-alive in 10 s"
    assert reasons[2] == "no market data for 60 s"
    assert "service upgrade" in reasons[3]
    assert {tick.symbol for tick in ticks} == {"BTC-USDT", "ETH-USDT"}
    assert pipeline.report.ledger.unaccounted == 0
    assert feed.malformed == 0


async def test_okx_pauses_symbols_under_a_limit(okx: Okx, autojump_clock: MockClock) -> None:
    okx.per_s = 50
    send = Collector()
    async with okx_feed(okx, "A", "B", "C") as (feed, _venue), running(feed, send):
        await trio.sleep(2)
        assert feed.throttle_way == "pause"
        feed.throttle(60)
        await trio.sleep(5)
        assert feed.paused_symbols == ("C", "B")
        assert okx.subscribed == {"A"}
        feed.throttle(None)
        await trio.sleep(5)
        assert okx.subscribed == {"A", "B", "C"}


async def test_alpaca_logs_in_on_each_connection(autojump_clock: MockClock) -> None:
    requests: list[dict[str, Any]] = []
    refuse = False

    async def venue(ws: WebSocketConnection) -> None:
        nonlocal refuse
        if refuse:
            refuse = False
            await ws.send_message(ALPACA_ERRORS[2])
        else:
            await ws.send_message(ALPACA_LOGGED_IN)
        requests.append(json.loads(await ws.get_message()))
        await ws.send_message(ALPACA_SUBSCRIBED)
        for second in range(5):
            quote = ALPACA_QUOTE.replace("15:51:45", f"15:51:{45 + second}")
            await ws.send_message(f"[{quote},{ALPACA_TRADE}]")
            await trio.sleep(1)

    events: list[tt.FeedEvent] = []
    items: list[tt.Tick | tt.Trade] = []
    async with memory_feed(websocket(venue), venue=AlpacaCodec, symbols=["AAPL", "AMD"]) as (
        feed,
        memory,
    ):

        async def strategy(item: tt.Tick | tt.Trade) -> None:
            items.append(item)

        async with tt.open_pipeline(feed, strategy, on_feed=events.append) as pipeline:
            await trio.sleep(5.5)
            refuse = True
            await trio.sleep(10)
    subscribed = {"action": "subscribe", "quotes": ["AAPL", "AMD"], "trades": ["AAPL", "AMD"]}
    assert requests == [subscribed] * len(requests)
    assert len(requests) >= 2
    assert len(memory.dialled_at) == len(requests) + 1
    # Told at once, although the venue names no symbol.
    refusal = next(event for event in events if event.kind == "symbol-refused")
    assert (refusal.symbol, refusal.reason) == (None, "406 connection limit exceeded")
    assert feed.stats.refused == 1
    assert len(items) >= 10
    assert pipeline.report.ledger.unaccounted == 0


async def test_alpaca_with_wrong_credentials_gives_up(autojump_clock: MockClock) -> None:
    async def venue(ws: WebSocketConnection) -> None:
        await ws.send_message(ALPACA_ERRORS[0])
        await ws.get_message()

    async with memory_feed(
        websocket(venue), venue=AlpacaCodec, symbols=["AAPL"], give_up_after=300
    ) as (feed, _memory):
        with pytest.raises(tt.FeedBrokenError, match="402 auth failed"):
            await feed.run(Collector())


def test_both_need_no_more_than_their_symbols() -> None:
    for codec in (OkxCodec, AlpacaCodec):
        assert WebSocketFeed(symbols=["A"], venue=codec, backoff=NO_JITTER).url == codec.url


def test_the_page_lists_every_declaration_and_every_method_of_the_context() -> None:
    page = (ROOT / "docs" / "venues.md").read_text()
    listed = re.findall(r"^\| `(\w+)[`(]", page, re.MULTILINE)
    members = [*declared(tt.Codec), *declared(tt.CodecContext)]
    assert sorted(listed) == sorted([*members, "throttle"])


def declared(kind: type) -> list[str]:
    own = {*vars(kind), *vars(kind).get("__annotations__", {})}
    return [name for name in own if not name.startswith("_") and name != "context"]
