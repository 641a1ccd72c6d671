"""The local exchange over real sockets: the protocol, its bounds, faults and end."""

from __future__ import annotations

import inspect
import json
import math
import ssl
import typing
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection

from tests.worlds.channel_helpers import within
from tests.worlds.exchange_client import (
    PATIENCE,
    ask,
    connect,
    deaf_client,
    refused,
    subscribed,
    ticks,
    until,
    websocket,
)
from trio_ticks import ConfigError
from trio_ticks.clock import Clock
from trio_ticks.exchange import (
    ClientLimits,
    Exchange,
    ExchangeConfig,
    Settings,
    open_exchange,
    serve_exchange,
)
from trio_ticks.exchange.broadcast import Broadcast
from trio_ticks.exchange.client import Batch, Client
from trio_ticks.exchange.flat_dialect import FlatDialect
from trio_ticks.exchange.market import Market
from trio_ticks.exchange.wire import FlatTick, encode_frames

SYMBOLS = ("SPY", "QQQ", "AAPL")
SMALLEST_FRAME = 100
"""Bytes; the ticks of a synthetic market make no smaller one."""


# The protocol


async def test_ticks_arrive_complete_and_in_order_and_say_what_the_protocol_says() -> None:
    async with (
        open_exchange(symbols=SYMBOLS, rate=20_000, burst=0.7, limit=5000) as exchange,
        subscribed(exchange) as ws,
    ):
        seen = await ticks(ws)
        await exchange.finished.wait()
    by_symbol = defaultdict(list)
    for tick in seen:
        assert list(tick) == ["symbol", "timestamp", "bid", "ask", "bid_size", "ask_size", "volume"]
        by_symbol[tick["symbol"]].append(tick)
    assert {
        symbol: len(of_symbol) for symbol, of_symbol in by_symbol.items()
    } == exchange.sent_by_symbol
    assert len(seen) == 5000 == exchange.messages_sent == exchange.generated
    assert exchange.skipped == 0
    for of_symbol in by_symbol.values():
        volumes = [tick["volume"] for tick in of_symbol]
        assert volumes == sorted(set(volumes))
    stamps = [tick["timestamp"] for tick in seen]
    assert stamps == sorted(stamps)


async def test_a_client_gets_what_it_subscribed_to_and_no_more() -> None:
    async with open_exchange(symbols=SYMBOLS, rate=2000) as exchange:
        async with subscribed(exchange, "QQQ") as one, subscribed(exchange) as all_:
            assert {tick["symbol"] for tick in await ticks(one, 100)} == {"QQQ"}
            assert {tick["symbol"] for tick in await ticks(all_, 200)} == set(SYMBOLS)
            await ask(one, "subscribe", "SPY", number=2)
            seen = {tick["symbol"] for tick in await ticks(one, 200)}
            assert seen == {"QQQ", "SPY"}
        await until(lambda: exchange.clients == 0)
    assert exchange.disconnects == {"client": 2}


async def test_unsubscribed_symbols_stop_after_the_acknowledgement() -> None:
    async with open_exchange(symbols=SYMBOLS, rate=20_000) as exchange, subscribed(exchange) as ws:
        await ask(ws, "unsubscribe", "SPY", "AAPL", number=2)
        seen = {"SPY"}
        while seen != {"QQQ"}:  # What was under way at the time still comes.
            seen = {tick["symbol"] for tick in await ticks(ws, 100)}
        await ask(ws, "unsubscribe", "QQQ", number=3)
        generated = exchange.generated
        for _ in range(3):
            await trio.sleep(0.01)
        assert exchange.generated == generated  # The market stands still.


async def test_bad_requests_are_answered_and_the_connection_goes_on() -> None:
    async with open_exchange(symbols=SYMBOLS, rate=5000) as exchange, websocket(exchange) as ws:
        for message in ("{", b"\x00", '{"method": "buy", "params": {"symbols": []}, "id": 9}'):
            await ws.send_message(message)
            assert "error" in json.loads(await ws.get_message())
        answer = await ask(ws, "subscribe", "SPY", "NOPE", number=4)
        assert answer["id"] == 4
        assert answer["error"]["symbols"] == ["NOPE"]
        assert {tick["symbol"] for tick in await ticks(ws, 20)} == {"SPY"}
        assert exchange.bad_requests == 4


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "UNAUTHORIZED"),
        ([(b"X-API-Key", b"wrong")], "INVALID_TOKEN"),
        ([(b"x-api-key", b"secret")] * 2, "INVALID_TOKEN"),
    ],
)
async def test_without_the_key_the_answer_is_401_before_the_upgrade(
    headers: list[tuple[bytes, bytes]], code: str
) -> None:
    async with open_exchange(api_key="secret") as exchange:
        status, _, body = await refused(exchange, headers)
        assert status == 401
        assert body["code"] == code
        assert exchange.rejected == {401: 1}
        assert exchange.connections == 0
        async with subscribed(exchange, headers=[(b"X-API-KEY", b"secret")]) as ws:
            assert len(await ticks(ws, 5)) == 5
    assert "secret" not in repr(exchange.config)


async def test_wss() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with open_exchange(
        symbols=SYMBOLS, rate=20_000, limit=2000, ssl_context=server
    ) as exchange:
        assert exchange.url.startswith("wss://")
        with pytest.raises(trio.BrokenResourceError):
            await connect(exchange, ssl.create_default_context())
        async with subscribed(exchange, context=client) as ws:
            assert len(await ticks(ws)) == 2000
    assert exchange.errors == 0


# Pings


async def test_control_frames_and_batches_never_mix() -> None:
    """As fast as it goes, with pings in both directions all the time.

    Every frame must be whole, or the client could not read on.
    """
    async with (
        open_exchange(
            symbols=SYMBOLS, rate=math.inf, limit=20_000, ping_interval=0.001, ping_timeout=PATIENCE
        ) as exchange,
        subscribed(exchange) as ws,
    ):
        pongs = 0

        async def ping() -> None:
            nonlocal pongs
            while not ws.closed:
                with suppress(ConnectionClosed):
                    await ws.ping()
                pongs += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            seen = await ticks(ws, 20_000)
            nursery.cancel_scope.cancel()
        assert pongs > 1
        await exchange.finished.wait()
    volumes: dict[str, float] = {}
    for tick in seen:
        assert tick["volume"] > volumes.get(tick["symbol"], 0)
        volumes[tick["symbol"]] = tick["volume"]
    assert len(seen) == 20_000
    assert exchange.disconnects == {"finished": 1}
    assert exchange.errors == 0


async def test_nothing_follows_a_close() -> None:
    """In the middle of the flood, where batches are waiting for the stream."""
    async with open_exchange(symbols=["SPY"], rate=math.inf) as exchange:
        for _ in range(20):
            received = bytearray()
            async with await deaf_client(exchange, "SPY", small=False) as stream:
                with trio.fail_after(PATIENCE):
                    while len(received) < 200_000:
                        received += await stream.receive_some()
                    await stream.send_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
                    while data := await stream.receive_some():
                        received += data
            assert opcodes(bytes(received))[-1:] == [8]
        assert exchange.errors == 0


def opcodes(data: bytes) -> list[int]:
    """Return the opcode of each frame in *data*: whole, unmasked, below 64 KiB."""
    found, at = [], 0
    while at < len(data):
        found.append(data[at] & 15)
        size = data[at + 1]
        at += 2 + size if size < 126 else 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    assert at == len(data)
    return found


async def test_a_client_that_answers_pings_stays() -> None:
    async with (
        open_exchange(ping_interval=0.005, ping_timeout=PATIENCE) as exchange,
        subscribed(exchange) as ws,
    ):
        await ticks(ws, 200)
        assert exchange.clients == 1
    assert exchange.disconnects == {"client": 1}


async def test_a_client_that_does_not_answer_pings_is_disconnected() -> None:
    async with open_exchange(ping_interval=0.01, ping_timeout=0.05) as exchange:
        async with await deaf_client(exchange, "SPY") as stream:
            while await stream.receive_some():
                pass
        assert exchange.disconnects == {"ping_timeout": 1}
        assert exchange.clients == 0


async def test_pings_can_be_left_without_an_answer() -> None:
    async with open_exchange(rate=5000) as exchange, subscribed(exchange) as ws:
        exchange.answer_pings(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"unanswered")
            await ticks(ws, 500)
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()
        exchange.answer_pings(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks, ws)
            with trio.fail_after(PATIENCE):
                await ws.ping()
            nursery.cancel_scope.cancel()


# Bounds


async def test_a_client_that_does_not_read_is_bounded_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = ClientLimits(buffer_bytes=65536, socket_buffer_bytes=1 << 17, slow_timeout_s=None)
    async with open_exchange(symbols=["SPY"], rate=math.inf, limits=limits) as exchange:
        async with await deaf_client(exchange, "SPY"):
            await until(lambda: exchange.sent_by_symbol.get("SPY", 0) > 300)
            async with subscribed(exchange) as ws:
                assert len(await ticks(ws, 20_000)) == 20_000
                waiting = exchange.sent_by_symbol["SPY"] - exchange.messages_sent
            assert waiting * SMALLEST_FRAME <= 2 * limits.buffer_bytes
            assert exchange.skipped > 10_000
            assert exchange.clients >= 1
        with caplog.at_level("WARNING", logger="trio_ticks.exchange"):
            await exchange.drop_clients()
    assert "exchange.skipped: a client had no room for" in caplog.text


async def test_a_client_that_stays_slow_is_disconnected() -> None:
    limits = ClientLimits(buffer_bytes=4096, socket_buffer_bytes=4096, slow_timeout_s=0.05)
    async with open_exchange(symbols=["SPY"], rate=100_000, limits=limits) as exchange:
        async with await deaf_client(exchange, "SPY"):
            await until(lambda: exchange.disconnects)
        assert exchange.disconnects == {"slow_consumer": 1}
        assert exchange.skipped > 0
        assert exchange.clients == 0


def make_client(limits: ClientLimits) -> Client:
    nothing: Any = None  # What offering does not touch.
    client = Client(
        nothing, nothing, limits, FlatDialect(), scope=trio.CancelScope(), on_room=lambda: None
    )
    client.subscription = frozenset({"SPY", "QQQ"})
    return client


async def test_a_batch_that_does_not_fit_is_cut_and_the_rest_counted() -> None:
    made = Market(["SPY", "QQQ", "AAPL"], rate=math.inf, seed=1).take(
        0.0, 90, "2026-03-02T14:30:00.123456Z"
    )
    batch = Batch([tick.symbol for tick in made], encode_frames(made), frozenset(SYMBOLS))
    client = make_client(ClientLimits(buffer_bytes=4096))
    client.offer(batch)
    wanted = [
        (symbol, frame)
        for symbol, frame in zip(batch.symbols, batch.frames, strict=True)
        if symbol != "AAPL"
    ]
    queued = client.queued.total()
    assert 0 < queued < len(wanted)
    assert b"".join(blob for blob, _ in client.waiting) == b"".join(
        frame for _, frame in wanted[:queued]
    )
    assert client.waiting_bytes <= 4096
    assert client.skipped == len(wanted) - queued
    assert client.queued == Counter(symbol for symbol, _ in wanted[:queued])
    client.offer(batch)
    assert client.skipped == 2 * len(wanted) - client.queued.total()


async def test_hostile_clients_harm_nobody() -> None:
    async with open_exchange(symbols=["SPY"], rate=2000) as exchange, subscribed(exchange) as ws:
        for garbage in (
            b"\x00\xff" * 100,
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /" + b"a" * 100_000,
            b"GET",
        ):
            async with await trio.open_tcp_stream("127.0.0.1", exchange.port) as stream:
                try:
                    await stream.send_all(garbage)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        unmasked, reserved = b"\x81\x01a", b"\xf1\x80\x00\x00\x00\x00"
        too_large = b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\x00" * 4
        for violation in (
            unmasked,
            reserved,
            b"\x88\x80\x00\x00\x00\x00" * 3 + b"\x89\x80\x00\x00\x00\x00",
            too_large + b"x" * 200_000,
        ):
            async with await deaf_client(exchange, "SPY") as stream:
                try:
                    await stream.send_all(violation)
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        stream = await deaf_client(exchange, "SPY")
        await trio.aclose_forcefully(stream)
        await until(lambda: exchange.clients == 1)
        assert len(await ticks(ws, 100)) == 100
        assert exchange.errors == 0


# Faults on purpose


async def test_drop_clients() -> None:
    async with open_exchange(rate=5000) as exchange:
        async with subscribed(exchange) as ws:
            await exchange.drop_clients()
            assert exchange.clients == 0
            await ticks(ws)
            assert ws.closed is not None
            assert ws.closed.code == 1006
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws, 10)) == 10
        await until(lambda: exchange.clients == 0)
        assert exchange.disconnects == {"dropped": 1, "client": 1}
        assert exchange.connections == 2


async def test_pause_is_silence_with_the_socket_open() -> None:
    async with open_exchange(rate=5000) as exchange, subscribed(exchange) as ws:
        await ticks(ws, 10)
        exchange.pause()
        generated = exchange.generated
        await ticks(ws, generated - 10)
        for _ in range(5):
            await trio.sleep(0.01)
            with trio.fail_after(PATIENCE):
                await ws.ping()
        assert exchange.generated == generated
        exchange.resume()
        assert len(await ticks(ws, 100)) == 100


async def test_inject() -> None:
    async with (
        open_exchange(rate=5000) as exchange,
        subscribed(exchange) as ws,
        websocket(exchange) as bystander,
    ):
        await exchange.inject("junk")
        await exchange.inject(b"\x00")
        seen: list[str | bytes] = []
        while b"\x00" not in seen:
            seen.append(await ws.get_message())
        assert "junk" in seen
        await bystander.ping()
        with trio.move_on_after(0.01):
            await bystander.get_message()
            pytest.fail("sent to one who asked for nothing")


async def test_refuse() -> None:
    async with open_exchange() as exchange:
        exchange.refuse(429, retry_after="7")
        status, headers, body = await refused(exchange)
        assert status == 429
        assert headers[b"retry-after"] == b"7"
        assert body["code"] == "REFUSED"
        exchange.refuse(None)
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws, 5)) == 5
        assert exchange.rejected == {429: 1}


# The end


async def test_the_limit_ends_with_a_normal_close_and_newcomers_are_refused() -> None:
    # An exchange that did not read the answer to its Close would wait for it so long.
    async with open_exchange(
        rate=math.inf, limit=1234, limits=ClientLimits(close_timeout_s=3600)
    ) as exchange:
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws)) == 1234
            assert ws.closed is not None
            assert ws.closed.code == 1000
        with trio.fail_after(PATIENCE):
            await exchange.finished.wait()
        assert exchange.disconnects == {"finished": 1}
        status, _, _ = await refused(exchange)
        assert status == 503


async def test_a_ping_that_crosses_the_close_takes_nothing_away() -> None:
    """trio-websocket fails on such a ping.

    That would reset the connection before the client has read everything.
    """
    async with open_exchange(symbols=["SPY"], rate=math.inf, limit=300) as exchange:
        async with await deaf_client(exchange, "SPY", small=False) as stream:
            await until(lambda: exchange.messages_sent == 300)
            await stream.send_all(b"\x89\x80\x00\x00\x00\x00" * 10)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert exchange.clients == 1
            received = bytearray()
            with trio.fail_after(PATIENCE):
                while not received.endswith(b"\x88\x09\x03\xe8the end"):
                    received += await stream.receive_some()
                await stream.send_all(
                    b"\x89\x80\x00\x00\x00\x00" + b"\x88\x82\x00\x00\x00\x00\x03\xe8"
                )
                assert await stream.receive_some() == b""
        found = opcodes(bytes(received[received.index(b"\x81") :]))
        assert found.count(1) == 301
        assert found[-1] == 8
        await exchange.finished.wait()
        assert exchange.errors == 0
        assert exchange.disconnects == {"finished": 1}


async def test_a_slow_reader_gets_all_before_the_end() -> None:
    limits = ClientLimits(socket_buffer_bytes=4096)
    async with (
        open_exchange(rate=math.inf, limit=5000, limits=limits) as exchange,
        subscribed(exchange) as ws,
    ):
        seen: list[dict[str, Any]] = []
        while len(seen) < 5000:
            seen += await ticks(ws, 500)
            await trio.sleep(0.005)
        assert await ticks(ws) == []
        await exchange.finished.wait()
        assert exchange.skipped == 0


async def test_closing_tells_the_clients() -> None:
    async with trio.open_nursery() as nursery:
        async with open_exchange(rate=5000) as exchange:
            ws = await nursery.start(_keep_reading, exchange)
            await exchange.wait_subscribed()
        assert exchange.disconnects == {"shutdown": 1}
        assert exchange.finished.is_set()
        await until(lambda: ws.closed)
        assert ws.closed.code == 1001


async def _keep_reading(
    exchange: Exchange, task_status: trio.TaskStatus[WebSocketConnection]
) -> None:
    async with subscribed(exchange) as ws:
        task_status.started(ws)
        await ticks(ws)


async def test_a_deaf_client_does_not_hold_up_the_closing() -> None:
    limits = ClientLimits(
        buffer_bytes=4096, socket_buffer_bytes=4096, slow_timeout_s=None, close_timeout_s=0.05
    )
    async with open_exchange(symbols=["SPY"], rate=50_000, limits=limits) as exchange:
        stream = await deaf_client(exchange, "SPY")
        await until(lambda: exchange.skipped)
    assert exchange.clients == 0
    await trio.aclose_forcefully(stream)


async def test_the_same_port_can_be_used_again_at_once() -> None:
    port = 0
    for _ in range(3):
        async with open_exchange(rate=5000, port=port) as exchange, subscribed(exchange) as ws:
            assert port in (0, exchange.port)
            port = exchange.port
            await ticks(ws, 10)
            await exchange.drop_clients()


async def test_the_bodys_error_comes_out_as_itself_and_nothing_is_left_open() -> None:
    port = 0

    async def fail() -> NoReturn:
        nonlocal port
        async with open_exchange() as exchange, await deaf_client(exchange, "SPY"):
            port = exchange.port
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_port_that_is_taken_is_an_oserror() -> None:
    async with open_exchange() as exchange:
        with pytest.raises(OSError, match="in use"):
            async with open_exchange(port=exchange.port):
                pytest.fail("opened twice")


async def test_cancelling_ends_it() -> None:
    with trio.CancelScope() as scope:
        async with open_exchange(rate=5000) as exchange, subscribed(exchange) as ws:
            await ticks(ws, 10)
            scope.cancel()
            await ticks(ws)
            pytest.fail("went on")
    assert exchange.clients == 0
    assert exchange.finished.is_set()


async def test_serve_exchange_speaks_start() -> None:
    async with trio.open_nursery() as nursery:
        exchange: Exchange = await nursery.start(serve_exchange, ExchangeConfig(rate=5000))
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws, 10)) == 10
        nursery.cancel_scope.cancel()


# The clock


class Sink:
    """Stands for a client that takes everything."""

    subscription = frozenset(SYMBOLS)
    has_room = True
    dialect = FlatDialect()

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def offer(self, batch: Batch) -> None:
        self.seen.append((trio.current_time(), len(batch.frames)))


def broadcast(config: ExchangeConfig, source: Market, *sinks: Sink) -> Broadcast:
    return Broadcast(config, source, typing.cast("list[Client]", sinks), Clock())


async def test_the_market_keeps_to_the_clock(autojump_clock: MockClock) -> None:
    config = ExchangeConfig(symbols=SYMBOLS, rate=3000, burst=0.6, seed=5)
    sink = Sink()
    started = trio.current_time()
    with trio.move_on_after(30):
        await broadcast(config, Market(SYMBOLS, rate=3000, burst=0.6, seed=5), sink).run()
    twin = Market(SYMBOLS, rate=3000, burst=0.6, seed=5)
    for when, count in sink.seen:
        assert len(twin.take(when - started, 10**6, "")) == count
    assert sum(count for _, count in sink.seen) > 80_000


async def test_at_a_low_rate_ticks_come_when_they_are_due(autojump_clock: MockClock) -> None:
    sink = Sink()
    market, twin = (Market(SYMBOLS, rate=2, burst=0.0, seed=5) for _ in range(2))
    started = trio.current_time()
    with trio.move_on_after(100):
        await broadcast(ExchangeConfig(symbols=SYMBOLS, rate=2), market, sink).run()
    assert len(sink.seen) > 100
    for when, _ in sink.seen:
        due = twin.next_at
        assert due <= when - started < due + 0.0051
        twin.take(when - started, 10**6, "")


async def test_standing_still_takes_no_market_time(autojump_clock: MockClock) -> None:
    sink = Sink()
    market = Market(SYMBOLS, rate=1000, seed=5)
    running = broadcast(ExchangeConfig(symbols=SYMBOLS, rate=1000), market, sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(5)
        running.pause()
        await trio.sleep(1)
        before = running.generated
        await trio.sleep(1000)
        assert running.generated == before
        running.resume()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert 9000 < running.generated < 11_000
    assert running.behind == 0


@within(1000)
@pytest.mark.parametrize(
    ("max_rate", "symbols"), [(0.5, SYMBOLS), (10.0, SYMBOLS), (900.0, SYMBOLS), (900.0, ("SPY",))]
)
async def test_a_market_without_a_pace_makes_what_throttled_clients_ask_for(
    max_rate: float, symbols: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """It would make hundreds of thousands of ticks a second, and drop nearly all."""
    client = make_client(ClientLimits())
    client.follow(frozenset(symbols), max_rate)
    running = Broadcast(
        ExchangeConfig(symbols=SYMBOLS, rate=math.inf),
        Market(SYMBOLS, rate=math.inf, seed=1),
        [client],
        Clock(),
    )
    with trio.move_on_after(4.0):
        await running.run()
    assert 3.5 * max_rate - 1 <= client.queued.total() <= 4.2 * max_rate + 1
    assert running.generated < 120 * max_rate + 20
    client.follow(frozenset(symbols), None)
    running.recheck_audience()
    with trio.move_on_after(4.0):
        await running.run()
    assert not client.has_room  # as fast as it reads: it does not


class Overloaded(Market):
    """A market whose ticks take longer to make than to come.

    512 in a tenth of a second, while 100,000 a second are due.
    """

    clock: MockClock

    def take(self, until: float, limit: int, stamp: str) -> list[FlatTick]:
        made = super().take(until, limit, stamp)
        self.clock.jump(len(made) / 5120)
        return made


async def test_a_machine_that_cannot_keep_up_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    market = Overloaded(SYMBOLS, rate=100_000, seed=1)
    market.clock = autojump_clock
    sink = Sink()
    config = ExchangeConfig(symbols=SYMBOLS, rate=100_000, limit=100_000)
    running = broadcast(config, market, sink)
    started = trio.current_time()
    with caplog.at_level("WARNING", logger="trio_ticks.exchange"):
        await running.run()
    spent = trio.current_time() - started
    assert running.generated == 100_000
    assert spent == pytest.approx(100_000 / 5120, abs=0.2)
    # A second's worth of ticks a second; the rest of the time spent is the market's
    # delay.
    assert running.behind == pytest.approx(spent - 1, abs=1.2)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["exchange.behind"]


# Settings


def test_settings_and_config_have_the_same_names() -> None:
    assert set(Settings.__annotations__) == {field.name for field in attrs.fields(ExchangeConfig)}
    assert (
        inspect.signature(ExchangeConfig).parameters["burst"].kind is inspect.Parameter.KEYWORD_ONLY
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": -1},
        {"rate": math.nan},
        {"rate": "fast"},
        {"burst": 1.0},
        {"burst": -0.1},
        {"speed": 0},
        {"skew": math.inf},
        {"symbols": []},
        {"symbols": "SPY,QQQ"},
        {"symbols": ["SPY", ""]},
        {"port": 65536},
        {"port": True},
        {"limit": 0},
        {"ping_interval": 0},
        {"ping_timeout": math.inf},
        {"timestamps": "then"},
    ],
)
def test_settings_that_make_no_sense_are_config_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ExchangeConfig(**settings)
    assert next(iter(settings)) in str(caught.value)


def test_an_unknown_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="rat"):
        ExchangeConfig(rat=1)  # type: ignore[call-arg]


async def test_keyword_arguments_go_on_top_of_a_config() -> None:
    async with open_exchange(ExchangeConfig(rate=5, seed=9), rate=7) as exchange:
        assert (exchange.config.rate, exchange.config.seed) == (7, 9)


async def test_a_bug_in_the_market_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Exception):
        pass

    def take(*_: object) -> NoReturn:
        raise Broken

    monkeypatch.setattr(Market, "take", take)
    with pytest.RaisesGroup(Broken, flatten_subgroups=True):
        async with open_exchange(rate=5000) as exchange, subscribed(exchange) as ws:
            await ticks(ws)
            await trio.sleep_forever()


async def test_no_seed_makes_a_different_market_each_time() -> None:
    async def market(seed: int | None) -> list[tuple[float, float]]:
        async with (
            open_exchange(symbols=["SPY"], rate=math.inf, limit=50, seed=seed) as exchange,
            subscribed(exchange) as ws,
        ):
            return [(tick["bid"], tick["ask"]) for tick in await ticks(ws)]

    assert await market(None) != await market(None)
    assert await market(7) == await market(7)
