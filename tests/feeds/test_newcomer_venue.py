"""The venue that a newcomer wrote from the page alone gets all of what a feed does."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

import trio_ticks as tt
from examples.venues.bybit import BybitCodec
from tests.worlds.feed_venues import Collector, memory_feed, running, until_closed, websocket
from trio_ticks.testing import CodecProbe, check_codec

PONG = '{"success":true,"ret_msg":"pong","conn_id":"465","op":"ping"}'
ANSWER = '{"success":true,"ret_msg":"subscribe","conn_id":"2324","op":"subscribe"}'
REFUSAL = (
    '{"success":false,"ret_msg":"error:handler not found,topic:orderbook.1.%s","conn_id":"2324",'
    '"op":"subscribe"}'
)
SNAPSHOT = (
    '{"topic":"orderbook.1.BTCUSDT","type":"snapshot","ts":1672304484978,"data":{"s":"BTCUSDT",'
    '"b":[["16493.50","0.006"]],"a":[["16611.00","0.029"]],"u":18521288,"seq":7961638724}}'
)
DELTA = (
    '{"topic":"orderbook.1.BTCUSDT","type":"delta","ts":1672304484979,"data":{"s":"BTCUSDT",'
    '"b":[["16493.50","0"],["16494.50","0.1"]],"a":[],"u":18521289,"seq":7961638725}}'
)
ONE_SIDE = SNAPSHOT.replace("BTCUSDT", "ETHUSDT").replace('[["16611.00","0.029"]]', "[]")
TRADE = (
    '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865'
    ',"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950","BT":false}]}'
)
MESSAGES = [ANSWER, REFUSAL % "XXX", PONG, SNAPSHOT, DELTA, ONE_SIDE, TRADE]


def test_it_keeps_the_rules_of_a_codec() -> None:
    check_codec(BybitCodec, MESSAGES, ["BTCUSDT", "ETHUSDT"], channels="all")


def test_what_it_reads() -> None:
    probe = CodecProbe(BybitCodec.channels)
    codec = BybitCodec(probe)
    assert [json.loads(message) for message in codec.subscribe(["BTCUSDT", "ETHUSDT"])] == [
        {
            "op": "subscribe",
            "args": [
                *("orderbook.1.BTCUSDT", "orderbook.1.ETHUSDT"),
                *("publicTrade.BTCUSDT", "publicTrade.ETHUSDT"),
            ],
        }
    ]
    at = datetime(2022, 12, 29, 9, 1, 24, 978000, UTC)
    found = codec.decode([message.encode() for message in MESSAGES])
    assert list(found) == [
        tt.Tick("BTCUSDT", at, 16493.5, 16611.0, 0.006, 0.029, math.nan),
        tt.Tick("BTCUSDT", at.replace(microsecond=979000), 16494.5, 16611.0, 0.1, 0.029, math.nan),
        tt.Trade(
            *("BTCUSDT", at.replace(second=26, microsecond=865000), 16578.5, 0.001),
            *("buy", "20f43950"),
        ),
    ]
    assert [event[:2] for event in probe.events] == [("refused", "XXX"), ("pong",)]


class Bybit:
    """Answers like Bybit, and sends a quote of each subscribed symbol every 0.1 s."""

    def __init__(self) -> None:
        self.connections: list[WebSocketConnection] = []
        self.topics: set[str] = set()
        self.pings = 0
        self.mute = False

    async def __call__(self, ws: WebSocketConnection) -> None:
        self.connections.append(ws)
        self.topics = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_closed, self._send, ws)
            await until_closed(self._listen, ws)
            nursery.cancel_scope.cancel()

    async def _listen(self, ws: WebSocketConnection) -> None:
        while True:
            request = json.loads(await ws.get_message())
            if request["op"] == "ping":
                self.pings += 1
                await ws.send_message(PONG)
            elif request["op"] == "unsubscribe":
                self.topics.difference_update(request["args"])
            elif "orderbook.1.XXX" in request["args"]:
                self.topics.update(set(request["args"]) - {"orderbook.1.XXX"})
                await ws.send_message(REFUSAL % "XXX")
            else:
                self.topics.update(request["args"])
                await ws.send_message(ANSWER)

    async def _send(self, ws: WebSocketConnection) -> None:
        while True:
            await trio.sleep(0.1)
            for topic in () if self.mute else sorted(self.topics):
                symbol = topic.rpartition(".")[2]
                now = str(int(trio.current_time() * 1000))
                quote = SNAPSHOT.replace("BTCUSDT", symbol).replace("1672304484978", now)
                await ws.send_message(quote)


def bybit_feed(venue: Bybit, *symbols: str) -> Any:
    script = websocket(venue.__call__, reads_first=False)
    return memory_feed(script, venue=BybitCodec, symbols=symbols)


async def test_it_comes_back(autojump_clock: MockClock) -> None:
    venue = Bybit()
    events: list[tt.FeedEvent] = []
    ticks: list[tt.Tick] = []

    async def strategy(tick: tt.Tick) -> None:
        ticks.append(tick)

    async with (
        bybit_feed(venue, "BTCUSDT", "ETHUSDT", "XXX") as (feed, _),
        tt.open_pipeline(feed, strategy, on_feed=events.append) as pipeline,
    ):
        await trio.sleep(45)
        assert (venue.pings, feed.reconnects, feed.stats.refused) == (2, 0, 1)
        with trio.move_on_after(10):
            await venue.connections[-1].aclose(1012, "restart")
            await trio.sleep_forever()
        assert feed.reconnects == 1
        venue.mute = True
        await trio.sleep(70)
        venue.mute = False
        await trio.sleep(5)
        assert (feed.reconnects, feed.stats.watchdog_trips) == (2, 1)
    reasons = [event.reason for event in events if event.kind == "lost"]
    assert reasons == ["restart", "no market data for 60 s"]
    assert ("symbol-refused", "XXX") in {(event.kind, event.symbol) for event in events}
    assert {tick.symbol for tick in ticks} == {"BTCUSDT", "ETHUSDT"}
    assert pipeline.report.ledger.unaccounted == 0
    assert feed.malformed == 0


async def test_a_limit_pauses_symbols(autojump_clock: MockClock) -> None:
    venue = Bybit()
    async with bybit_feed(venue, "A", "B", "C") as (feed, _), running(feed, Collector()):
        await trio.sleep(2)
        feed.throttle(15)
        await trio.sleep(5)
        assert (feed.throttle_way, feed.paused_symbols) == ("pause", ("C", "B"))
        assert venue.topics == {"orderbook.1.A"}
        feed.throttle(None)
        await trio.sleep(5)
        assert venue.topics == {"orderbook.1.A", "orderbook.1.B", "orderbook.1.C"}
