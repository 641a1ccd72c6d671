"""Ticks that are large: in several round trips, and answers that take their time."""

from __future__ import annotations

import re

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.worlds.redis_world import Book, drain, fill, tick
from tests.worlds.servers import Server, running
from trio_ticks.brokers.redis_streams import RedisStreams
from trio_ticks.brokers.redis_streams.connection import Connection, LostError


def calls(server: Server) -> int:
    """Return how many scripts the server has run."""
    found = re.search(r"cmdstat_evalsha:calls=(\d+)", server.ask("INFO", "commandstats"))
    assert found is not None
    return int(found[1])


async def test_large_ticks_are_appended_in_several_round_trips() -> None:
    with running("redis") as server:
        buffer = RedisStreams(server.url, lease=10.0)
        sent = [tick(letter * 400_000, number) for number in range(1, 13) for letter in "ABC"]
        book = Book()
        with trio.fail_after(60):
            await fill(buffer, sent)
            # One that makes the buffer, one that asks for room, and some for 14 MB.
            assert calls(server) >= 2 + 3
            await drain(buffer, book, len(sent))
    book.check(sent)
    assert book.repeats == 0


async def test_an_answer_may_take_long_while_it_comes(autojump_clock: MockClock) -> None:
    ours, server = memory_stream_pair()
    connection = Connection(ours, 5.0)
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            for part in (b"$6\r\n", b"ab", b"cd", b"ef", b"\r\n"):
                await trio.sleep(4.0)
                await server.send_all(part)

        nursery.start_soon(answer)
        assert await connection.call("GET", "it") == b"abcdef"
    assert trio.current_time() > 19
    with pytest.raises(LostError, match="no answer within 5 s"):
        await connection.call("GET", "it")
