"""Recordings of Binance, played by the exchange in the venue's own words.

From the file and over a socket they make the same items, books included. The test of
the real recording has siblings whose recording is made here: by a client of the local
Binance that writes down what it gets, and the snapshot that it asks for.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

import trio_ticks as tt
from tests.exchange.test_recorded_words import Told, from_file, kinds
from tests.worlds.exchange_client import PATIENCE
from tests.worlds.recordings import REAL, T0, needs_real, write
from trio_ticks.exchange import open_exchange
from trio_ticks.exchange.recorded_binance import RecordedBinance, read_binance
from trio_ticks.recordings.files import LineReader, split_line

STREAMS = ["bookTicker", "trade", "depth@100ms"]


async def record(path: Path, *, raw: bool = False, limit: int = 400) -> Path:
    """Write down the streams of one symbol, and the snapshot of its book."""
    lines: list[str] = []
    # The snapshot has to be asked for before the market ends: after half a second here.
    settings: dict[str, Any] = {"symbols": ["BTCUSDT"], "rate": 2 * limit, "limit": limit}
    with trio.fail_after(PATIENCE):
        async with (
            open_exchange(venue="binance", **settings) as exchange,
            trio.open_nursery() as nursery,
        ):
            exchange.pause()
            stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
            ws: WebSocketConnection = await wrap_client_stream(
                nursery, stream, "localhost", "/ws" if raw else "/stream"
            )
            params = [f"btcusdt@{each}" for each in STREAMS]
            await ws.send_message(json.dumps({"method": "SUBSCRIBE", "params": params, "id": 1}))
            lines.append(str(await ws.get_message()))
            exchange.resume()
            while "depthUpdate" not in lines[-1]:
                lines.append(str(await ws.get_message()))
            exchange.pause()
            async with httpx.AsyncClient() as client:
                url = f"{exchange.rest_url}/api/v3/depth?symbol=BTCUSDT&limit=1000"
                snapshot = (await client.get(url)).json()
            exchange.resume()
            try:
                while True:
                    lines.append(str(await ws.get_message()))
            except ConnectionClosed:
                await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    # Where it would have come if the request had taken no time.
    first = next(n for n, line in enumerate(lines) if _last_of(line) >= snapshot["lastUpdateId"])
    lines.insert(first + 1, json.dumps(snapshot))
    return write(path, *(f"{T0 + n * 1_000_000} {line}" for n, line in enumerate(lines)))


def _last_of(line: str) -> int:
    fields = json.loads(line)
    fields = fields.get("data", fields)
    return int(fields["u"]) if fields.get("e") == "depthUpdate" else 0


async def over_a_socket(
    path: Path, speed: float = math.inf, **options: Any
) -> tuple[list[Any], tt.WebSocketFeed]:
    async with open_exchange(venue="binance", capture=path, speed=speed) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, ["BTCUSDT"], venue="binance", reconnect=False, **options
        )
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
        assert exchange.skipped == 0
    return send.ticks, feed


async def compare(path: Path, channels: list[str]) -> dict[str, int]:
    recorded, _ = await from_file(path, channels=channels)
    live, feed = await over_a_socket(path, channels=channels)
    assert len(live) == len(recorded)
    for came, item in zip(live, recorded, strict=True):
        if isinstance(came, tt.Tick):  # its timestamp is when it arrived
            came = attrs.evolve(came, timestamp=item.timestamp)
        assert came == item
    assert feed.stats.malformed == 0
    return dict(kinds(recorded))


@pytest.mark.parametrize("raw", [False, True], ids=["combined", "raw"])
async def test_quotes_and_trades_are_those_of_the_file(tmp_path: Path, raw: bool) -> None:
    path = await record(tmp_path / "recording", raw=raw)
    assert await compare(path, ["bookTicker", "trade"]) == {"Tick": 400, "Trade": 400}


def book_of(items: list[Any]) -> tuple[Any, Any]:
    """Return the levels of the book that *items* make, kept in a handler."""
    book = tt.Book("BTCUSDT")
    for item in items:
        book.apply(item)
    return book.bids(5000), book.asks(5000)


async def check_book(path: Path, speed: float) -> int:
    """Compare the books that the file and a socket make; return how many updates."""
    recorded, _ = await from_file(path, channels=["depth"])
    live, feed = await over_a_socket(path, speed, channels=["depth"])
    first = next(n for n, item in enumerate(recorded) if item.snapshot)
    # The snapshot has no time of its own.
    assert attrs.evolve(live[0], timestamp=recorded[first].timestamp) == recorded[first]
    assert book_of(live) == book_of(recorded)
    assert (feed.stats.malformed, feed.stats.book_errors) == (0, 0)
    return len(live)


async def test_the_book_is_right_in_the_end(tmp_path: Path) -> None:
    assert await check_book(await record(tmp_path / "recording"), 5) > 100


async def test_a_later_snapshot_is_of_the_book_as_it_is_by_then(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording")
    with LineReader(path) as reader:
        lines = [split_line(line)[1] for line in iter(reader.read, None)]
    said = [each for each in map(read_binance, filter(None, lines)) if each is not None]
    venue, now = RecordedBinance(["BTCUSDT"], said), datetime.now(UTC)
    asked = {"symbol": "BTCUSDT", "limit": "5000"}

    def answer(**more: str) -> tuple[int, Any]:
        found = venue.answer("/api/v3/depth", asked | more, now)
        assert found is not None
        return found.status, json.loads(found.body)

    snapshot = next(each.payload for each in said if not each.symbol)
    assert answer() == (200, json.loads(snapshot))
    assert answer()[0] == 503, "the recorded one is given once, and no other is known yet"
    for each in said:
        venue.take(each, now)
    recorded, _ = await from_file(path, channels=["depth"])
    status, late = answer()
    sides = [
        tuple((float(price), float(quantity)) for price, quantity in late[side])
        for side in ("bids", "asks")
    ]
    assert (status, tuple(sides)) == (200, book_of(recorded))
    assert [len(answer(limit="5")[1][side]) for side in ("bids", "asks")] == [5, 5]
    assert answer(symbol="NOPE") == (400, {"code": -1121, "msg": "Invalid symbol."})
    assert answer(limit="x")[1]["code"] == -1130
    assert venue.answer("/api/v3/nothing", asked, now) is None


def test_messages_that_say_nothing_to_clients() -> None:
    for junk in (b"", b"{", b"[]", b"5", b'{"result":null,"id":1}', b'{"e":5}', b'{"k":5}'):
        assert read_binance(junk) is None, junk
    assert read_binance(b'{"stream":"btcusdt@trade","data":{"e":"trade"}}') is not None


def test_damaged_levels_do_not_end_the_market() -> None:
    messages = [
        b'{"e":"depthUpdate","s":"BTCUSDT","U":1,"u":2,"b":[["1","1"]],"a":[]}',
        b'{"lastUpdateId":2,"bids":[["1.0","2"]],"asks":[["3.0","4"]]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","U":3,"u":3,"b":[["x","1"]],"a":[]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","U":4,"u":4,"b":5,"a":[[1]]}',
        b'{"e":"depthUpdate","s":"BTCUSDT","U":5,"u":5,"b":[],"a":[["3.5","1"]]}',
        b'{"lastUpdateId":9,"bids":[["x","2"]],"asks":[]}',
    ]
    said = [each for each in map(read_binance, messages) if each is not None]
    assert len(said) == len(messages)
    venue, now = RecordedBinance(["BTCUSDT"], said), datetime.now(UTC)
    for each in said:
        assert venue.take(each, now) is each
    asked = {"symbol": "BTCUSDT"}
    venue.answer("/api/v3/depth", asked, now)  # the recorded one
    found = venue.answer("/api/v3/depth", asked, now)
    assert found is not None
    assert json.loads(found.body)["asks"] == [["3.0", "4"], ["3.5", "1"]]


@needs_real
async def test_the_real_recording_over_a_socket() -> None:
    found = await compare(REAL, ["bookTicker", "trade"])
    assert found == {"Tick": 28_040, "Trade": 9_757}


@needs_real
async def test_the_book_of_the_real_recording_over_a_socket() -> None:
    assert await check_book(REAL, 50) > 3_000
