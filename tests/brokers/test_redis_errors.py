"""What cannot be mended by waiting is one error that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.redis_world import Book, Ingest, Workers, drain, fill, listening, ticks
from tests.worlds.servers import BINARIES, Server, free_port, running
from trio_ticks.brokers.redis_streams import RedisStreams, look
from trio_ticks.brokers.redis_streams.refusals import AwayError, MovedError, judge
from trio_ticks.errors import BrokerError

SECRET = "s3cr-e/t"


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


async def refused(buffer: RedisStreams) -> str:
    """Return the one error of each end."""
    messages = set()
    runs: list[Callable[[], Awaitable[None]]] = [
        lambda: buffer.sink().run(Ingest(ticks(3))),
        lambda: Workers(Book()).run(buffer.source()),
    ]
    for run in runs:
        with trio.fail_after(10), pytest.raises((BrokerError, ExceptionGroup)) as caught:
            await run()
        error = caught.value
        while isinstance(error, ExceptionGroup):
            # The group of the test's own workers.
            (error,) = error.exceptions
        assert isinstance(error, BrokerError)
        assert error.buffer == buffer.shown
        messages.add(str(error))
    # Where scripts and their lines are named, the two differ.
    message = "\n".join(sorted(messages))
    assert SECRET not in message
    return message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"maxsize": 99}, "maxsize is 100000, and here 99"),
        ({"shards": 8}, "shards is 64, and here 8"),
    ],
)
async def test_another_program_with_other_settings(
    server: Server, changed: dict[str, Any], said: str
) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url, pack=50)
    await fill(buffer, ticks(10))
    message = await refused(attrs.evolve(buffer, **changed))
    assert said in message
    assert "delete its keys ({ticks}:*)" in message
    # pack, prefetch and the lease are each program's own.
    await fill(attrs.evolve(buffer, pack=7, prefetch=10, lease=3), ticks(10))


async def test_a_key_that_holds_something_else(server: Server) -> None:
    server.ask("FLUSHALL")
    server.ask("SET", "{ticks}:state", "mine")
    server.ask("SET", "{ticks}:s:3", "mine")
    with pytest.raises(BrokerError, match="holds something else; give the buffer another name"):
        await fill(RedisStreams(server.url), ticks(100))
    assert "another name" in await refused(RedisStreams(server.url))


async def test_a_server_that_evicts_keys(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        message = await refused(RedisStreams(server.url))
    finally:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert "maxmemory-policy allkeys-lru" in message
    assert "CONFIG SET maxmemory-policy noeviction" in message


async def test_a_database_that_is_not_there(server: Server) -> None:
    message = await refused(RedisStreams(server.url.replace("/0", "/99")))
    assert "change the number in the url" in message


async def test_users_and_passwords(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ticks.brokers")
    port = server.port
    server.ask("FLUSHALL")
    server.ask("ACL", "SETUSER", "feed", "on", f">{SECRET}", "~{ticks}:*", "+@all", "-@admin")
    quoted = SECRET.replace("/", "%2F")
    buffer = RedisStreams(f"redis://feed:{quoted}@127.0.0.1:{port}/0")
    book = Book()
    await fill(buffer, ticks(50))
    await drain(buffer, book, 50)
    assert (await look(buffer)).appended == 50
    assert SECRET not in repr(buffer) + buffer.shown + caplog.text
    assert quoted not in repr(buffer) + buffer.shown + caplog.text
    wrong = RedisStreams(f"redis://feed:{quoted}x@127.0.0.1:{port}/0")
    assert "refuses this user name or password" in await refused(wrong)
    with pytest.raises(BrokerError, match="refuses this user name"):
        await look(wrong)
    server.ask("ACL", "SETUSER", "feed", "-xadd", "-xreadgroup")
    with pytest.raises(BrokerError, match="may not use") as caught:
        await fill(buffer, ticks(10))
    if server.kind == "redis":
        assert "XADD" in str(caught.value) or "a command or key" in str(caught.value)
    server.ask("ACL", "SETUSER", "feed", "+xadd", "-evalsha")
    message = await refused(buffer)
    assert "may not use the command EVALSHA" in message
    # Without INFO the server's refusals tell; all else works.
    server.ask("ACL", "SETUSER", "feed", "+xreadgroup", "+evalsha", "-info")
    await fill(buffer, ticks(10))


async def test_what_the_beats_may_not_use_is_one_typed_error(server: Server) -> None:
    server.ask("FLUSHALL")
    server.ask("ACL", "SETUSER", "beat", "on", ">beat", "~*", "+@all", "-zadd")
    buffer = RedisStreams(f"redis://beat:beat@127.0.0.1:{server.port}/0")

    async def handler(_tick: tt.Tick) -> None: ...

    with trio.fail_after(20), pytest.raises(BrokerError, match="may not use"):
        await tt.run_pipeline(None, handler, buffer=buffer, signals=False)


@pytest.mark.parametrize(
    "junk",
    [
        ("HSET", "{ticks}:state", "in", "abc"),
        ("HSET", "{ticks}:state", "acked:workers", "x"),
        ("HSET", "{ticks}:leases:workers", "3", "junk"),
        (
            "EVAL",
            r"return redis.call('HSET', KEYS[1], '3', '\255|1|9')",
            1,
            "{ticks}:leases:workers",
        ),
        ("HSET", "{ticks}:settings", "maxsize", "abc"),
        ("HSET", "{ticks}:settings", "shards", "100000000"),
    ],
)
async def test_a_look_at_keys_that_another_program_wrote(
    server: Server, junk: tuple[str | int, ...]
) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url)
    await fill(buffer, ticks(10))
    await drain(buffer, Book(), 10)
    server.ask(*map(str, junk))
    with pytest.raises(BrokerError, match=r"another program has written|\(ERR|a number"):
        await look(buffer)
    server.ask("FLUSHALL")


async def test_a_server_that_wants_a_password(server: Server) -> None:
    server.ask("CONFIG", "SET", "requirepass", SECRET)
    try:
        message = await refused(RedisStreams(server.url))
        assert "give one in the url" in message
        quoted = SECRET.replace("/", "%2F")
        await fill(RedisStreams(f"redis://:{quoted}@127.0.0.1:{server.port}/0"), ticks(3))
    finally:
        server_url = server.port
        with trio.move_on_after(5):
            stream = await trio.open_tcp_stream("127.0.0.1", server_url)
            async with stream:
                await stream.send_all(f"AUTH {SECRET}\r\nCONFIG SET requirepass ''\r\n".encode())
                await stream.receive_some()
                await trio.sleep(0.05)


async def test_a_password_that_nobody_asked_for(server: Server) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(f"redis://:{SECRET.replace('/', '')}@127.0.0.1:{server.port}/0")
    message = await refused(buffer)
    assert "password" in message
    assert SECRET.replace("/", "") not in message


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ],
)
async def test_what_is_no_redis_server(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        port = await listening(nursery, serve)
        message = await refused(RedisStreams(f"redis://127.0.0.1:{port}"))
        assert "is no Redis server" in message
        with pytest.raises(BrokerError):
            await look(RedisStreams(f"redis://127.0.0.1:{port}"))
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_too_old() -> None:
    """A wire that says so: no such server can be had as a package."""
    info = b"# Server\r\nredis_version:5.0.7\r\n"

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            answers = [b"$%d\r\n%s\r\n" % (len(info), info)] * data.count(b"INFO")
            answers += [b"-ERR unknown command\r\n"] * (
                data.count(b"SCRIPT") + data.count(b"EVALSHA")
            )
            await stream.send_all(b"".join(answers))

    async with trio.open_nursery() as nursery:
        port = await listening(nursery, serve)
        message = await refused(RedisStreams(f"redis://127.0.0.1:{port}"))
        assert "the server is Redis 5.0.7; Redis 6.2 or newer" in message
        nursery.cancel_scope.cancel()


async def test_a_replica_is_waited_for_and_then_an_error(server: Server) -> None:
    with running(server.kind, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        message = await refused(RedisStreams(replica.url, replica_patience=0.2))
        assert "has been a replica for 0.2 s; give the master's address" in message
        sent, ingest = ticks(20), Ingest(ticks(20))
        sink = RedisStreams(replica.url).sink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            await trio.sleep(0.1)
            assert ingest.taken == 0
            # The failover comes later than we.
            replica.ask("REPLICAOF", "NO", "ONE")
        assert sink.statistics().appended == len(sent)


async def test_look_says_that_there_is_no_such_buffer(server: Server) -> None:
    with pytest.raises(BrokerError, match="there is no such buffer yet"):
        await look(RedisStreams(server.url, name="none"))
    with pytest.raises(BrokerError, match="no answer from the server"):
        await look(RedisStreams(f"redis://127.0.0.1:{free_port()}/0"))


@pytest.mark.parametrize(
    "text",
    [
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:1.",
        "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to",
        "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "READONLY You can't write against a read only replica.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "NOGROUP No such key 'x' or consumer group 'y' in XREADGROUP with GROUP option",
        "BUSY Redis is busy running a script.",
        "ERR max number of clients reached",
    ],
)
def test_what_passes_counts_as_away(text: str) -> None:
    assert isinstance(judge(text, "x"), AwayError)


def test_other_errors_do_not_pass() -> None:
    assert isinstance(judge("ERR value is not an integer", "x"), BrokerError)
    moved = judge("MOVED 3999 127.0.0.1:6381", "x")
    assert isinstance(moved, MovedError)
    assert moved.address == ("127.0.0.1", 6381)
