"""Who may come in to a local exchange: web pages of others may not, nor too many."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio

from tests.worlds.exchange_client import PATIENCE, until
from trio_ticks import ConfigError
from trio_ticks.exchange import ClientLimits, open_exchange
from trio_ticks.exchange.coinbase import open_coinbase_exchange

both = pytest.mark.parametrize("opens", [open_exchange, open_coinbase_exchange])


def handshake(**headers: str) -> bytes:
    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    return ("GET / HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode()


async def knock(port: int, **headers: str) -> tuple[int, trio.SocketStream]:
    """Return the status that the exchange answers with, and the connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(handshake(**headers))
    answer = b""
    while b"\r\n" not in answer:
        piece = await stream.receive_some()
        if not piece:
            return 0, stream
        answer += piece
    return int(answer.split()[1]), stream


@both
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Host": "localhost:8765"}, 101),
        ({"Host": "[::1]:8765"}, 101),
        ({"Origin": "http://localhost:3000"}, 101),
        ({"Origin": "http://127.0.0.1"}, 101),
        ({"Host": "rebound.example.com"}, 403),
        ({"Host": "rebound.example.com", "Origin": "http://rebound.example.com"}, 403),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"origin": "https://evil.example.com"}, 403),
        ({"Origin": "https://localhost.evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": ""}, 403),
    ],
)
async def test_no_page_of_another_site_is_let_in(
    opens: Any, headers: dict[str, str], status: int
) -> None:
    with trio.fail_after(PATIENCE):
        async with opens() as exchange:
            got, stream = await knock(exchange.port, **headers)
            assert got == status
            assert exchange.rejected == ({403: 1} if status == 403 else {})
            # It is counted when it is let in, which is after the answer.
            await until(lambda: exchange.connections == (status == 101))
            await trio.aclose_forcefully(stream)


def _has(exchange: Any, clients: int) -> bool:
    return bool(exchange.clients == clients)


@both
async def test_there_is_a_most_of_clients(opens: Any) -> None:
    with trio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            exchange = await stack.enter_async_context(opens(limits=ClientLimits(clients=3)))
            streams = []
            for expected in (101, 101, 101, 503, 503):
                got, stream = await knock(exchange.port)
                streams.append(stream)
                assert got == expected
                await until(partial(_has, exchange, min(len(streams), 3)))
            assert exchange.rejected == {503: 2}
            await trio.aclose_forcefully(streams[0])
            await until(lambda: exchange.clients == 2)
            got, stream = await knock(exchange.port)
            assert got == 101
            for each in (*streams, stream):
                await trio.aclose_forcefully(each)


@both
async def test_silent_connections_are_bounded_too(opens: Any) -> None:
    with trio.fail_after(PATIENCE):
        async with opens(limits=ClientLimits(clients=3)) as exchange:
            silent = [await trio.open_tcp_stream("127.0.0.1", exchange.port) for _ in range(3 + 64)]
            late = await trio.open_tcp_stream("127.0.0.1", exchange.port)
            assert await late.receive_some() == b""
            assert exchange.rejected == {503: 1}
            for each in (*silent, late):
                await trio.aclose_forcefully(each)


def test_a_most_of_none_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="clients"):
        ClientLimits(clients=0)


@pytest.mark.parametrize(
    ("host", "refused"), [("127.0.0.1", 0), ("localhost:80", 0), ("rebound.example.com", 1)]
)
async def test_a_plain_request_is_answered_by_our_names_alone(host: str, refused: int) -> None:
    with trio.fail_after(PATIENCE):
        async with open_exchange(venue="tickdb") as exchange:
            stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
            await stream.send_all(f"GET /nothing HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status = int((await stream.receive_some()).split()[1])
            assert (status == 403) == bool(refused)
            assert exchange.rejected[403] == refused
            await trio.aclose_forcefully(stream)
