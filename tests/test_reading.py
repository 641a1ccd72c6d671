"""How sockets are read: real ones, on loopback."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_ticks.feeds.reading import reader

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="on Windows a socket is read by trio's own way")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[trio.SocketStream, socket.socket]]:
    """A stream, and the plain socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = await trio.open_tcp_stream(*server.getsockname())
        far, _ = server.accept()
        async with near:
            with far:
                yield near, far


async def test_what_comes_is_read_up_to_the_end(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, far = pair
    read = reader(near)
    far.sendall(b"abcdef")
    assert await read(4) == b"abcd"
    assert await read(4) == b"ef"
    far.close()
    assert await read(4) == b""
    assert await read(4) == b""


async def test_a_cancelled_read_has_read_nothing(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, far = pair
    read = reader(near)
    far.sendall(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await read(4)
    assert scope.cancelled_caught
    assert await read(4) == b"abc"


async def test_a_reset_is_a_broken_stream(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await reader(near)(4)


async def test_a_closed_socket_is_not_read(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, _far = pair
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await reader(near)(4)


async def test_closing_ends_a_read_that_waits(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, _far = pair

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await reader(near)(4)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await near.aclose()


async def test_a_file_that_got_the_number_of_a_socket_is_not_read(
    pair: tuple[trio.SocketStream, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed when it has become readable, and before its reader runs; the next file that is opened gets its number."""
    near, far = pair
    wait_readable = trio.lowlevel.wait_readable
    others: list[int] = []

    async def wait_and_be_late(number: int) -> None:
        await wait_readable(number)
        near.socket.close()
        there, here = os.pipe()
        os.write(here, b"not yours")
        others.extend((there, here))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_be_late)
    number = near.socket.fileno()
    far.sendall(b"abc")
    try:
        with pytest.raises(trio.ClosedResourceError):
            await reader(near)(64)
        assert number in others
    finally:
        for other in others:
            os.close(other)


async def test_other_streams_are_read_by_their_own_way() -> None:
    near, far = memory_stream_pair()
    await far.send_all(b"abc")
    assert await reader(near)(64) == b"abc"
