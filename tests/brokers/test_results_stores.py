"""Results in real servers: a stream of Redis, a topic of Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from confluent_kafka import Consumer, TopicPartition

import trio_ticks as tt
import trio_ticks.brokers
from tests.worlds.helpers import make_ticks
from tests.worlds.kafka_world import Broker, broker
from tests.worlds.servers import Server, running
from trio_ticks.brokers.redis_streams.connection import Connection
from trio_ticks.brokers.results.together import Together

__all__ = ["broker"]


async def strategy(tick: tt.Tick) -> dict[str, float] | None:
    return {"volume": tick.volume} if tick.volume % 2 else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


async def entries(server: Server, stream: str) -> list[dict[bytes, bytes]]:
    connection = Connection(await trio.open_tcp_stream("127.0.0.1", server.port), 5.0)
    found = await connection.call("XRANGE", stream, "-", "+")
    await connection.aclose()
    return [dict(zip(each[::2], each[1::2], strict=True)) for _id, each in found]


async def test_redis_has_each_result_with_symbol_place_and_attempt(server: Server) -> None:
    server.ask("FLUSHALL")
    ticks = make_ticks(200, symbols=["A", "B"])
    buffer = tt.brokers.RedisStreams(server.url, lease=2.0)
    report = await tt.run_pipeline(
        tt.IterableFeed(ticks),
        strategy,
        buffer=buffer,
        overflow=tt.Block(),
        results=tt.brokers.RedisResults(server.url, "found"),
    )
    assert (report.consumed, report.results_written) == (200, 100)
    found = await entries(server, "found")
    values = [(each[b"symbol"], msgspec.msgpack.decode(each[b"value"])["volume"]) for each in found]
    assert values == [(b"B", float(n)) for n in range(1, 200, 2)]
    assert {each[b"attempt"] for each in found} == {b"1"}
    places = [each[b"place"].split(b":") for each in found]
    assert len({tuple(place) for place in places}) == 100
    assert all(b"-" in position for _shard, position, _index in places)


async def test_redis_that_is_away_holds_the_workers_up_and_loses_nothing(server: Server) -> None:
    server.ask("FLUSHALL")
    seen: list[float] = []

    async def handler(tick: tt.Tick) -> float:
        seen.append(tick.volume)
        if len(seen) == 20:
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return tick.volume

    results = tt.brokers.RedisResults(server.url, "found", maxlen=10_000)
    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(60, symbols=["A"])),
        handler,
        overflow=tt.Block(),
        results=results,
    )
    assert report.consumed == report.results_written == 60
    values = [msgspec.msgpack.decode(each[b"value"]) for each in await entries(server, "found")]
    assert list(dict.fromkeys(values)) == [float(n) for n in range(60)]


async def test_redis_that_refuses_us_is_one_error_without_a_password(server: Server) -> None:
    results = tt.brokers.RedisResults(
        f"redis://somebody:sesame-4711@127.0.0.1:{server.port}", "found"
    )
    assert "sesame" not in repr(results)
    with pytest.raises(tt.TickError, match="refuses this user name or password") as caught:
        await tt.run_pipeline(tt.IterableFeed(make_ticks(1)), strategy, results=results)
    assert "sesame" not in str(caught.value)


async def test_a_key_that_is_no_stream_is_named(server: Server) -> None:
    server.ask("FLUSHALL")
    server.ask("SET", "text", "1")
    results = tt.brokers.RedisResults(server.url, "text")
    with pytest.raises(tt.BrokerError, match="'text' holds something else than a stream") as caught:
        await results.__aenter__()
    assert "buffer" not in str(caught.value)


async def test_what_cannot_be_encoded_fails_its_tick(server: Server) -> None:
    async def odd(tick: tt.Tick) -> object:
        return object() if tick.volume == 3 else tick.volume

    errors: list[Exception] = []
    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(10)),
        odd,
        overflow=tt.Block(),
        results=tt.brokers.RedisResults(server.url, "odd"),
        on_error=lambda tick, error: errors.append(error),
    )
    assert (report.consumed, report.failed) == (9, 1)
    assert isinstance(errors[0], TypeError)


async def test_kafka_has_each_result_with_its_symbol_as_key(broker: Broker) -> None:
    results = tt.brokers.KafkaResults(broker.address, "found")
    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(100, symbols=["A", "B"])),
        strategy,
        overflow=tt.Block(),
        results=results,
    )
    assert (report.consumed, report.results_written) == (100, 50)
    found = await trio.to_thread.run_sync(read, broker.address, "found", 50)
    values = [(record.key(), msgspec.msgpack.decode(record.value())["volume"]) for record in found]
    assert sorted(values) == [(b"B", float(n)) for n in range(1, 100, 2)]
    assert dict(found[0].headers()) == {"place": b"", "attempt": b"1"}


def read(servers: str, topic: str, most: int) -> list[Any]:
    client = Consumer({"bootstrap.servers": servers, "group.id": "plain"})
    try:
        parts = client.list_topics(topic, 10).topics[topic].partitions
        client.assign([TopicPartition(topic, number, 0) for number in parts])
        found: list[Any] = []
        for _ in range(200):
            message = client.poll(0.05)
            if message is not None:
                assert message.error() is None
                found.append(message)
            if len(found) >= most:
                break
        return found
    finally:
        client.close()


async def test_writers_that_come_meanwhile_share_a_turn() -> None:
    turns: list[list[str]] = []
    go_on = trio.Event()

    async def write(results: list[tt.Result]) -> None:
        turns.append([each.symbol for each in results])
        await go_on.wait()
        if any(each.symbol == "wrong" for each in results):
            raise ValueError("wrong")

    together = Together(write)
    failed: list[str] = []

    async def put(symbol: str) -> None:
        try:
            await together.put([tt.Result(value=1, symbol=symbol)])
        except ValueError:
            failed.append(symbol)

    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, "first")
            await trio.testing.wait_all_tasks_blocked()
            for symbol in ("a", "b", "wrong", "c"):
                nursery.start_soon(put, symbol)
            await trio.testing.wait_all_tasks_blocked()
            assert turns == [["first"]]
            go_on.set()
    assert failed == ["wrong"]
    assert sorted(turns[1]) == ["a", "b", "c", "wrong"]
    assert len(turns) == 6  # and each of them alone, since one was wrong


async def test_a_writer_that_is_cancelled_leaves_the_others_their_results() -> None:
    written: list[str] = []
    begun = trio.Event()

    async def write(results: list[tt.Result]) -> None:
        begun.set()
        await trio.sleep(0.01)
        written.extend(each.symbol for each in results)

    together = Together(write)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(together.put, [tt.Result(value=1, symbol="a")])
                await begun.wait()
                nursery.start_soon(together.put, [tt.Result(value=1, symbol="b")])
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert "b" in written
