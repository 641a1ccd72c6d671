"""Workers that join, leave and die: nothing is lost, nothing is skipped."""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from confluent_kafka import Consumer, TopicPartition

import trio_ticks as tt
from tests.worlds.helpers import number
from tests.worlds.kafka_world import (
    PATIENCE_S,
    Broker,
    Process,
    Queue,
    appended,
    broker,
    make,
    numbered,
    open_broker,
    skips,
    until,
    working,
)
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka import look
from trio_ticks.brokers.kafka.health import Health

__all__ = ["broker"]


async def produced(kafka: Kafka, ticks: list[tt.Tick], pause_s: float, *, each: int = 20) -> None:
    """Append *ticks* little by little."""
    queue = Queue(ended=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kafka.sink().run, queue)
        for place in range(0, len(ticks), each):
            queue.put(ticks[place : place + each])
            await trio.sleep(pause_s)
        queue.end()


def merged(*handled: list[Any]) -> list[tuple[str, int]]:
    return [(tick.symbol, number(tick)) for each in handled for tick in each]


async def test_joining_and_leaving_in_good_order_repeats_nothing(broker: Broker) -> None:
    kafka = make(broker.address, pack=8, prefetch=200)
    total = 6000
    order: list[tt.Tick] = []

    async def handler(tick: tt.Tick) -> None:
        order.append(tick)
        await trio.sleep(0.002)

    async with trio.open_nursery() as nursery, working(kafka, handler) as (first, one):
        nursery.start_soon(produced, kafka, numbered(total), 0.012)
        await until(lambda: len(order) > 500)
        async with working(kafka, handler) as (second, two):
            await until(lambda: two.statistics().shards == 2)
            await until(lambda: len(second.handled) > 300)
            assert one.statistics().shards == 2
        # The second has left; the first has all partitions again.
        await until(lambda: one.statistics().shards == 4)
        await until(lambda: len(order) >= total)
    assert Counter(merged(order)) == Counter(merged(numbered(total)))
    by_symbol: defaultdict[str, list[int]] = defaultdict(list)
    for tick in order:
        by_symbol[tick.symbol].append(number(tick))
    assert all(line == sorted(line) for line in by_symbol.values())
    # Only what was not delivered yet was given back.
    assert (first.send.ledger.given_back, second.send.ledger.given_back) == (0, 0)
    assert (await look(kafka)).lag == 0


async def test_a_killed_process_loses_nothing(broker: Broker) -> None:
    kafka = make(broker.address, pack=8)
    total = 6000
    first, second = Process(kafka, 0.5), Process(kafka, 0.5)
    try:
        with trio.fail_after(2 * PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.read)
                nursery.start_soon(second.read)
                nursery.start_soon(produced, kafka, numbered(total), 0.01)
                await until(lambda: len(first.handled) > 200 and len(second.handled) > 200)
                first.signal(signal.SIGKILL)
                await until(lambda: len({*first.handled, *second.handled}) == total)
                second.signal(signal.SIGTERM)
            assert await second.end() == 0
    finally:
        first.close()
        second.close()
    # What the first has handled was handled before the second had it: that came later.
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for symbol, place in [*first.handled, *second.handled]:
        lines[symbol].append(place)
    assert all(sorted(set(line)) == list(range(total // 20)) for line in lines.values())
    for process in (first, second):
        # A repeat is one stretch: each process has each symbol in order.
        seen: defaultdict[str, list[int]] = defaultdict(list)
        for symbol, place in process.handled:
            seen[symbol].append(place)
        assert all(line == sorted(set(line)) for line in seen.values())
    repeats = len(first.handled) + len(second.handled) - total
    assert repeats <= 2 * kafka.prefetch
    assert sum(skips(line) for line in lines.values()) == 0
    assert (await look(kafka)).lag == 0


async def test_slow_handlers_are_not_evicted(broker: Broker) -> None:
    more = {"max.poll.interval.ms": 2000}
    kafka = make(broker.address, pack=1, partitions=2, prefetch=2, consumer_settings=more)
    await appended(kafka, numbered(8, symbols=2))

    async def handler(tick: tt.Tick) -> None:
        # Much longer than the client may go without a poll.
        await trio.sleep(5.0 if number(tick) == 0 else 0.0)

    async with working(kafka, handler) as (world, source):
        await until(lambda: len(world.handled) == 8)
    assert world.numbers() == {"S0": [0, 1, 2, 3], "S1": [0, 1, 2, 3]}
    statistics = source.statistics()
    assert (statistics.fenced, statistics.takeovers) == (0, 2)


def committed(kafka: Kafka) -> dict[int, int]:
    client = Consumer({"bootstrap.servers": kafka.servers, "group.id": kafka.group})
    try:
        asked = [TopicPartition(kafka.topic, number) for number in range(kafka.partitions)]
        return {each.partition: each.offset for each in client.committed(asked, timeout=10)}
    finally:
        client.close()


async def test_a_revoked_partition_is_committed_as_far_as_it_is_handled(broker: Broker) -> None:
    kafka = make(broker.address, pack=1, partitions=2, hand_over_s=0.4)
    await appended(kafka, numbered(80, symbols=8))
    gate = trio.Event()

    def stuck(limit: int) -> Callable[[tt.Tick], Any]:
        async def handler(tick: tt.Tick) -> None:
            if number(tick) >= limit:
                await gate.wait()

        return handler

    async with working(kafka, stuck(5), workers=8) as (first, one):
        await until(lambda: len(first.handled) == 48)
        async with working(kafka, None) as (second, two):
            await until(lambda: two.statistics().shards == 1)
            # Withdrawn from the first in one step, and handled by the second.
            await until(lambda: len(second.handled) > 0)
            (gone,) = set(first.given_up)
            offsets = await trio.to_thread.run_sync(committed, kafka)
            # Each symbol has 5 ticks handled, and then one that is stuck.
            assert offsets[gone] > 0
            gate.set()
            await until(lambda: len({*merged(first.handled, second.handled)}) == 80)
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for symbol, place in merged(first.handled, second.handled):
        lines[symbol].append(place)
    assert sum(skips(line) for line in lines.values()) == 0
    # This broker keeps no metadata: what was handled behind a stuck tick is repeated.
    statistics = one.statistics()
    assert statistics.given_back > 0
    assert statistics.received == statistics.acknowledged + statistics.given_back


async def test_a_source_that_gives_back_commits_none_of_it(broker: Broker) -> None:
    kafka = make(broker.address, pack=1, partitions=1)
    await appended(kafka, numbered(60, symbols=1))
    gate = trio.Event()

    async def handler(tick: tt.Tick) -> None:
        if number(tick) == 20:
            await gate.wait()

    async with working(kafka, handler) as (first, source):
        await until(lambda: source.statistics().acknowledged == 20)
        source.drain()
        assert source.give_back() == 40
        assert first.send.ledger.given_back == 39
        gate.set()
    async with working(kafka) as (second, _source):
        await until(lambda: len(second.handled) == 40)
    assert first.numbers()["S0"] == list(range(21))
    assert second.numbers()["S0"] == list(range(20, 60))


async def test_a_worker_that_did_not_run_for_a_session_takes_all_back_first(
    broker: Broker,
) -> None:
    kafka = make(broker.address, pack=4, partitions=2, prefetch=400)
    stopped: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        if len(stopped) == 0 and number(tick) == 20:
            stopped.append(number(tick))
            # The whole event loop stands still, as in a process that is stopped.
            time.sleep(2.5)  # noqa: ASYNC251
        await trio.sleep(0.001)

    async with trio.open_nursery() as nursery, working(kafka, handler) as (world, source):
        nursery.start_soon(produced, kafka, numbered(2000), 0.005)
        await until(lambda: len({*merged(world.handled)}) == 2000)
    counts = Counter(merged(world.handled))
    # At most what the four workers had begun is repeated.
    assert sum(counts.values()) - len(counts) <= 4
    assert source.statistics().given_back > 0
    assert source.statistics().unacknowledged == 0
    assert (await look(kafka)).lag == 0


async def test_a_broker_that_lost_its_memory_stops_nobody() -> None:
    with open_broker() as lost:
        port = lost.port
        kafka = make(lost.address, pack=8, consumer_settings={"reconnect.backoff.max.ms": 200})
        queue = Queue(numbered(1000), ended=False)
        sink = kafka.sink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, queue)
            async with working(kafka) as (world, source):
                await until(lambda: source.statistics().acknowledged == 1000)
                lost.kill()
                await until(lambda: not source.statistics().connected)
                await until(lambda: not sink.statistics().connected)
                queue.put(numbered(40_000, first=50))
                # Memory stays bounded: no more than the window is taken.
                await until(lambda: sink.statistics().in_doubt == kafka.window)
                assert len(queue.items) == 40_000 - kafka.window
                with open_broker(port):
                    await until(lambda: sink.statistics().appended == 41_000)
                    queue.end()
                    await until(lambda: len(world.handled) >= 41_000)
                    assert sink.statistics().reconnects >= 1
                    assert source.statistics().connected
                    source.drain()
                    await until(lambda: source.statistics().shards == 0)
    assert {*merged(world.handled)} == {*merged(numbered(41_000))}


async def test_a_cancelled_source_leaves_no_thread(broker: Broker) -> None:
    kafka = make(broker.address)
    await appended(kafka, numbered(100))

    async def stuck(_tick: tt.Tick) -> None:
        await trio.sleep_forever()

    before = client_threads()
    async with working(kafka, stuck, drain=False) as (world, source):
        await until(lambda: len(world.handled) > 0)
        assert client_threads() > before
    assert client_threads() == before
    assert source.statistics().acknowledged == 0


def client_threads() -> int:
    """Count librdkafka's threads in this process."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return sum(name.startswith("rdk:") for name in names)


async def test_a_worker_does_not_wait_for_a_broker_that_hangs_before_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(tick: tt.Tick) -> None: ...

    with open_broker() as broker:
        kafka = make(broker.address)
        await appended(kafka, numbered(1))
        try:
            with trio.fail_after(PATIENCE_S):
                async with tt.open_pipeline(None, handler, buffer=kafka) as pipeline:
                    while not pipeline.report.consumed:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    broker.process.send_signal(signal.SIGSTOP)
                    pipeline.cancel()
        finally:
            broker.process.send_signal(signal.SIGCONT)
    assert any("broker.not_left" in each for each in caplog.messages)


async def test_a_worker_that_has_given_all_up_does_not_wait_for_a_broker_that_hangs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Health] = []
    let_go = Health.let_go

    def note(health: Health) -> None:
        left.append(health)
        let_go(health)  # or its client would write into the logs of later tests

    monkeypatch.setattr(Health, "let_go", note)
    with open_broker() as broker:
        kafka = make(broker.address)
        await appended(kafka, numbered(100))
        try:
            async with working(kafka) as (_, source):
                await until(lambda: source.statistics().acknowledged == 100)
                broker.process.send_signal(signal.SIGSTOP)
        finally:
            broker.process.send_signal(signal.SIGCONT)
    assert source.statistics().shards == 0
    assert any("broker.not_left" in each for each in caplog.messages)
    assert len(left) == 1
