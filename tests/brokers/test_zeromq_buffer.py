"""A ZeroMQ buffer on real sockets: order, the window, sharing, leaving, losing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import trio_ticks as tt
from tests.worlds.servers import free_port
from tests.worlds.zeromq_world import (
    NOON,
    Ingest,
    Queue,
    Strategy,
    Work,
    in_order,
    open_world,
    supply,
    tick,
    ticks,
    until,
)
from trio_ticks.brokers.zeromq import ZeroMQ
from trio_ticks.brokers.zeromq.protocol import (
    MAGIC,
    MOST_FROM_WORKER,
    VERSION,
    Acked,
    Hello,
    Left,
    Ping,
    Stranger,
    encode,
)
from trio_ticks.brokers.zeromq.socket import Wire
from trio_ticks.errors import BrokerError

HERE = "tcp://127.0.0.1:0"


def held(condition: trio.Event) -> Callable[[Any], Any]:
    """Return a handler that waits until *condition* is set."""

    async def handle(_item: Any) -> None:
        await condition.wait()

    return handle


async def test_every_tick_comes_once_in_order_with_its_time_and_gap() -> None:
    async with open_world() as world:
        queue = Queue(ticks(5000), ended=True)
        queue.gaps = {2: tt.Gap("S002", NOON, "sequence", 7, NOON)}
        began = queue.clock.wall()
        ingest = await world.ingest(ZeroMQ(bind=HERE), queue)
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await ingest.done.wait()
        numbers = work.strategy.numbers
        assert sorted(numbers) == list(range(5000))
        assert in_order(numbers)
        assert work.strategy.gaps == list(queue.gaps.values())
        # The same machine: the times are those of the ingest, within the clocks' error.
        assert min(work.strategy.arrived.values()) >= began - 0.1
        at_ingest = ingest.sink.statistics()
        assert (at_ingest.appended, at_ingest.in_doubt, at_ingest.failed) == (5000, 0, 0)
        at_work = work.source.statistics()
        assert (at_work.received, at_work.acknowledged, at_work.unacknowledged) == (5000, 5000, 0)
        assert (at_work.redelivered, at_work.shards, at_work.takeovers) == (0, 64, 64)
        assert at_work.clock_difference_s is not None
        assert at_work.clock_error_s is not None
        assert abs(at_work.clock_difference_s) <= at_work.clock_error_s + 0.05
        work.strategy.check()


async def test_the_window_is_exact_over_all_workers() -> None:
    go = trio.Event()
    async with open_world() as world:
        queue = Queue()
        ingest = await world.ingest(ZeroMQ(bind=HERE, window=300, pack=7), queue)
        buffer = ZeroMQ(ingest.address, prefetch=120)
        works = [world.work(buffer, Strategy(held(go))) for _ in range(2)]
        await until(lambda: all(work.source.statistics().shards == 32 for work in works))
        queue.put(ticks(1000))
        queue.end()
        await until(lambda: queue.taken == 300)
        await until(lambda: all(work.strategy.received for work in works))
        await trio.sleep(0.1)
        assert queue.taken == ingest.sink.statistics().used == 300
        # Nobody is sent more than it takes ahead; a record is sent as a whole.
        assert all(work.strategy.received <= 120 for work in works)
        go.set()
        await ingest.done.wait()
        assert sum(work.source.statistics().acknowledged for work in works) == 1000
        assert ingest.sink.statistics().full_s > 0


async def test_nothing_is_taken_without_a_worker() -> None:
    async with open_world() as world:
        queue = Queue(ticks(100))
        ingest = await world.ingest(ZeroMQ(bind=HERE), queue)
        await trio.sleep(0.1)
        assert queue.taken == 0
        assert not ingest.sink.statistics().connected
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await until(lambda: len(work.strategy.handled) == 100)
        work.source.drain()
        await work.done.wait()
        await until(lambda: not ingest.sink.statistics().connected)
        queue.put(ticks(50, first=100))
        await trio.sleep(0.1)
        assert queue.taken == 100


async def test_three_ingests_and_three_workers() -> None:
    async with open_world() as world:
        queues = [Queue() for _ in range(3)]
        ingests = [await world.ingest(ZeroMQ(bind=HERE), queue) for queue in queues]
        buffer = ZeroMQ([ingest.address for ingest in ingests])
        works = [world.work(buffer, Strategy()) for _ in range(3)]
        await until(lambda: all(60 < work.source.statistics().shards < 67 for work in works))
        for number, queue in enumerate(queues):
            queue.put(tick(f"{number}-{each % 20}", number * 10000 + each) for each in range(3000))
            queue.end()
        for ingest in ingests:
            await ingest.done.wait()
        every = [number for work in works for number in work.strategy.numbers]
        assert len(every) == len(set(every)) == 9000
        assert all(work.strategy.handled for work in works)
        for work in works:
            for number in range(3):
                base = number * 10000
                numbers = [each - base for each in work.strategy.numbers if each // 10000 == number]
                assert in_order(numbers)
            shards = [shard for kind, shard in work.strategy.events if kind == "gained"]
            assert len(shards) == len(set(shards))
            assert max(shards) >= 128
            assert work.source.brought_twice == 0


async def test_a_symbol_that_two_ingests_bring_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_world() as world:
        queues = [Queue([tick("EURUSD", 1)]), Queue()]
        ingests = [await world.ingest(ZeroMQ(bind=HERE), queue) for queue in queues]
        work = world.work(ZeroMQ([ingest.address for ingest in ingests]), Strategy())
        await until(lambda: len(work.strategy.handled) == 1)
        queues[1].put([tick("EURUSD", 2), tick("EURUSD", 3), tick("GBPUSD", 4)])
        await until(lambda: len(work.strategy.handled) == 4)
        queues[0].put([tick("EURUSD", 5)])
        await until(lambda: len(work.strategy.handled) == 5)
        assert work.source.brought_twice == 1
    lines = [each for each in caplog.messages if each.startswith("broker.symbol_twice")]
    assert len(lines) == 1
    assert "EURUSD" in lines[0]


async def test_shards_move_when_workers_come_and_go_without_a_repeat() -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        queue = Queue()
        ingest = await world.ingest(ZeroMQ(bind=HERE, window=200, lease=60.0), queue)
        buffer = ZeroMQ(ingest.address, prefetch=100)
        order: list[int] = []

        async def handle(item: Any) -> None:
            await trio.lowlevel.checkpoint()
            order.append(int(item.volume))

        enough = trio.Event()
        nursery.start_soon(supply, queue, enough)
        first = world.work(buffer, Strategy(handle))
        await until(lambda: first.source.statistics().shards == 64 and len(order) > 100)
        second = world.work(buffer, Strategy(handle))
        await until(lambda: second.source.statistics().shards == 32 and second.strategy.handled)
        await until(lambda: first.source.statistics().shards == 32)
        third = world.work(buffer, Strategy(handle))
        await until(lambda: third.source.statistics().shards == 21 and third.strategy.handled)
        first.source.drain()
        await first.done.wait()
        await until(lambda: second.source.statistics().shards == 32)
        enough.set()
        await ingest.done.wait()
        assert sorted(order) == list(range(queue.taken))
        assert in_order(order)
        assert not first.strategy.unfinished()
        # Each shard that was delivered was given up, too.
        events = first.strategy.events
        assert sorted(shard for kind, shard in events if kind == "gained") == sorted(
            shard for kind, shard in events if kind == "lost"
        )
        assert first.source.statistics().given_back == 0
        assert first.source.statistics().unacknowledged == 0


async def test_leaving_waits_for_what_is_handled_and_sends_the_rest_to_the_heir() -> None:
    go = trio.Event()
    async with open_world() as world:
        queue = Queue(ticks(400), ended=True)
        ingest = await world.ingest(ZeroMQ(bind=HERE, lease=60.0), queue)
        buffer = ZeroMQ(ingest.address)
        first = world.work(buffer, Strategy(held(go), most=50))
        await until(lambda: first.strategy.received >= 50)
        first.source.drain()
        first.source.drain()
        second = world.work(buffer, Strategy())
        await trio.sleep(0.05)
        assert not first.done.is_set()
        go.set()
        await first.done.wait()
        await ingest.done.wait()
        numbers = first.strategy.numbers + second.strategy.numbers
        assert sorted(numbers) == list(range(400))
        assert second.strategy.handled
        assert in_order(numbers)


async def test_a_source_that_is_drained_before_it_runs_ends_at_once() -> None:
    source = ZeroMQ("tcp://127.0.0.1:1").source()
    source.drain()
    with trio.fail_after(10):
        await source.run(Strategy(), Strategy())


async def test_the_heir_of_a_crashed_worker_gets_one_tick_at_a_time() -> None:
    stop = trio.Event()
    async with open_world() as world:
        queue = Queue(ticks(600, symbols=5))
        ingest = await world.ingest(ZeroMQ(bind=HERE, shards=4, heartbeat=0.1, lease=0.8), queue)
        buffer = ZeroMQ(ingest.address, shards=4, prefetch=200)
        first = world.work(buffer, Strategy(held(stop)))
        await until(lambda: first.strategy.received > 100)
        sent = ingest.sink.statistics().used
        suspects = {item.volume for item in first.strategy.unfinished()}
        first.crash()
        await first.done.wait()
        most = 0
        second: Any = None

        async def handle(_item: Any) -> None:
            nonlocal most
            here = {each.volume for each in second.strategy.unfinished()}
            most = max(most, len(here & suspects))
            await trio.lowlevel.checkpoint()

        second = world.work(buffer, Strategy(handle))
        await until(lambda: len(second.strategy.handled) == 600)
        queue.end()
        await ingest.done.wait()
        # One a shard.
        assert 1 <= most <= 4
        assert sorted(second.strategy.numbers) == list(range(600))
        assert in_order(second.strategy.numbers, symbols=5)
        redelivered = second.source.statistics().redelivered
        assert 100 < redelivered <= sent
        assert ingest.sink.statistics().redelivered == redelivered
        assert ingest.sink.statistics().dead == 0


def is_over(work: Work, ingest: Ingest, ticks: int) -> bool:
    return work.done.is_set() or ingest.sink.statistics().appended == ticks


async def test_a_tick_at_which_workers_die_is_given_up_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_world() as world:
        queue = Queue(ticks(2000, symbols=10))
        ingest = await world.ingest(
            ZeroMQ(bind=HERE, shards=8, heartbeat=0.1, lease=0.5, prefetch=100), queue
        )
        buffer = ZeroMQ(ingest.address, shards=8, prefetch=100)
        strategies: list[Strategy] = []
        deaths = 0
        while deaths < 4 and sum(len(each.handled) for each in strategies) < 1999:
            works: list[Any] = []

            async def handle(item: Any, works: list[Any] = works) -> None:
                await trio.lowlevel.checkpoint()
                if item.volume == 777:
                    works[0].crash()
                    await trio.sleep_forever()

            works.append(world.work(buffer, Strategy(handle)))
            strategies.append(works[0].strategy)
            await until(partial(is_over, works[0], ingest, 2000))
            deaths += works[0].done.is_set()
        queue.end()
        await ingest.done.wait()
        assert deaths == 3
        handled = {number for each in strategies for number in each.numbers}
        assert handled == set(range(2000)) - {777}
        assert [item.volume for item in strategies[-1].failed] == [777]
        (dead,) = ingest.sink.dead_letters
        assert (dead.item, dead.deaths) == (tick("S007", 777), 3)
        assert ingest.sink.statistics().dead == 1
        assert works[0].source.statistics().dead == 1
    assert sum(each.startswith("broker.dead") for each in caplog.messages) == 1


async def test_a_restarted_ingest_is_told_with_gaps_and_what_was_received_is_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = trio.Event()
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue(ticks(300)))
        address = ingest.address
        work = world.work(ZeroMQ(address, prefetch=100), Strategy(held(go)))
        await until(lambda: work.strategy.received >= 80)
        ingest.scope.cancel()
        await ingest.done.wait()
        assert ingest.sink.statistics().in_doubt == 300
        again = Queue(ticks(40, first=300), ended=True)
        ingest = await world.ingest(ZeroMQ(address, prefetch=100), again)
        await until(lambda: work.source.statistics().reconnects == 1)
        received = sum(number < 300 for number in work.strategy.arrived)
        go.set()
        await ingest.done.wait()
        numbers = work.strategy.numbers
        assert len(numbers) == len(set(numbers))
        assert set(numbers) == set(range(received)) | set(range(300, 340)) or received < 300
        assert set(range(300, 340)) <= set(numbers)
        assert {gap.reason for gap in work.strategy.gaps} == {"reconnect"}
        later = [item.symbol for item in work.strategy.handled if item.volume >= 300]
        assert sorted(gap.symbol for gap in work.strategy.gaps) == sorted(set(later))
        work.strategy.check()
    events = [str(getattr(record, "event", "")) for record in caplog.records]
    assert events.count("broker.ingest_restarted") == 1
    (record,) = (each for each in caplog.records if "ingest_restarted" in each.message)
    assert vars(record)["at_most_lost"] == 300 - received


async def test_an_ingest_that_is_not_there_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_world() as world:
        other = await world.ingest(ZeroMQ(bind=HERE), Queue())
        address = other.address
        other.queue.end()
        # Without a worker it cannot know that nothing comes.
        other.scope.cancel()
        await other.done.wait()
        work = world.work(ZeroMQ(address), Strategy())
        await until(lambda: any("broker.ingest_away" in each for each in caplog.messages))
        assert not work.source.statistics().connected
        ingest = await world.ingest(ZeroMQ(address), Queue(ticks(10)))
        await until(lambda: len(work.strategy.handled) == 10)
        assert work.source.statistics().connected
        ingest.queue.end()
        await ingest.done.wait()
        await until(lambda: not work.source.statistics().connected)


async def test_an_ingest_without_a_worker_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue(ticks(10)))
        await until(lambda: any("broker.no_worker" in each for each in caplog.messages))
        (line,) = (each for each in caplog.messages if "broker.no_worker" in each)
        assert ingest.address in line
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await until(lambda: len(work.strategy.handled) == 10)
        ingest.queue.end()
        await ingest.done.wait()


async def test_a_worker_whose_ingest_never_came_ends_without_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To wait until a socket has sent what nobody takes would stop the event loop."""
    lingered: list[float] = []
    abandon = Wire.abandon

    def noting(wire: Wire, *, linger_s: float = 0.0) -> None:
        lingered.append(linger_s)
        abandon(wire, linger_s=linger_s)

    monkeypatch.setattr(Wire, "abandon", noting)
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue(ticks(10), ended=True))
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await ingest.done.wait()
        lingered.clear()
        work.source.drain()
        await work.done.wait()
        assert lingered == [0.0]


async def test_an_address_in_use_is_one_clear_error() -> None:
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue())
        with pytest.raises(BrokerError, match="another program listens there") as caught:
            await ZeroMQ(ingest.address).sink().run(Queue())
        assert caught.value.buffer == ingest.address


async def test_an_address_of_another_machine_is_one_clear_error() -> None:
    with pytest.raises(BrokerError, match=r"Bind tcp://\*:PORT for all"):
        await ZeroMQ(bind="tcp://192.0.2.7:5555").sink().run(Queue())


async def test_other_shards_are_one_clear_error(caplog: pytest.LogCaptureFixture) -> None:
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue())
        source = ZeroMQ(ingest.address, shards=32).source()
        with pytest.raises(BrokerError, match=r"32 shards and the ingest 64.*the same shards="):
            await source.run(Strategy(), Strategy())
    assert sum("broker.peer_refused" in each for each in caplog.messages) == 1


async def test_a_tick_that_cannot_be_written_costs_itself_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Local(tt.Tick):
        pass

    odd = [Local("S001", NOON, 1.0, 1.0, 1.0, 1.0, 1.0)] * 3
    async with open_world() as world:
        queue = Queue([*ticks(10), *odd, *ticks(10, first=10)], ended=True)
        ingest = await world.ingest(ZeroMQ(bind=HERE), queue)
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await ingest.done.wait()
        assert sorted(work.strategy.numbers) == list(range(20))
        assert ingest.sink.statistics().failed == 3
    # A line a second at most.
    assert sum("broker.not_written" in each for each in caplog.messages) == 1


async def test_large_ticks_go_in_several_messages() -> None:
    sent = [tick("L" * 1_000_000, number) for number in range(20)]
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue(sent, ended=True))
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await ingest.done.wait()
        assert ingest.sink.statistics().failed == 0
        assert sorted(work.strategy.numbers) == list(range(20))


def has_received(work: Work, ticks: int) -> bool:
    return work.strategy.received == ticks


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("who", ["nobody", "ingest", "work", "both"])
async def test_nothing_is_left_behind(who: str) -> None:
    async with open_world() as world:
        before = descriptors(), threads()
        for _ in range(3):
            queue = Queue(ticks(50), ended=who == "nobody")
            ingest = await world.ingest(ZeroMQ(bind=HERE), queue)
            go = trio.Event()
            work = world.work(ZeroMQ(ingest.address), Strategy(held(go)))
            await until(partial(has_received, work, 50))
            if who == "nobody":
                go.set()
                work.source.drain()
            if who in ("ingest", "both"):
                ingest.scope.cancel()
                await ingest.done.wait()
            if who != "nobody":
                work.scope.cancel()
            await work.done.wait()
            if who == "work":
                ingest.scope.cancel()
            await ingest.done.wait()
        assert descriptors() <= before[0]
        assert threads() <= before[1]


def threads() -> int:
    """Return how many threads there are, ZeroMQ's included, trio's idle ones not."""
    idle = sum(thread.name.startswith("Trio thread") for thread in threading.enumerate())
    return len(list(Path("/proc/self/task").iterdir())) - idle


async def test_junk_of_strangers_is_counted_and_nobody_else_notices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import zmq

    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue())
        work = world.work(ZeroMQ(ingest.address), Strategy())
        await until(lambda: work.source.statistics().shards == 64)
        context = zmq.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        stranger.connect(ingest.address)
        host, port = ingest.address.removeprefix("tcp://").split(":")
        plain = await trio.open_tcp_stream(host, int(port))
        await plain.send_all(b"GET / HTTP/1.1\r\n\r\n" * 100)
        known = [encode(Ping(1.0)), encode(Acked([(-1, 5, 2**60), (63, 1, 2**60)])), encode(Left())]
        for body in [b"", b"\xc1", b"\x90", b"\x91\xa5hello", b"\xff" * 10_000, *known]:
            stranger.send(body)
        stranger.send_multipart([b"a", b"b", b"c"])
        other = Hello(MAGIC, VERSION + 1, "work", b"w", 0, "n", 64, 10, b"", [], 0.0)
        stranger.send(encode(other))
        stranger.send(encode(attrs_like(other, version=VERSION, kind="ingest")))
        await until(lambda: ingest.sink.statistics().junk == 6)
        answers: list[bytes] = []
        while len(answers) < 5:
            with suppress(zmq.Again):
                answers.append(stranger.recv(zmq.NOBLOCK))
            await trio.sleep(0.005)
        stranger.send(b"x" * (MOST_FROM_WORKER + 1))
        ingest.queue.put(ticks(100))
        ingest.queue.end()
        await ingest.done.wait()
        assert len(work.strategy.handled) == 100
        assert work.source.statistics().redelivered == 0
        assert answers[:3] == [encode(Stranger())] * 3
        assert b"Run the same version of trio-ticks at both ends" in answers[3]
        assert b"workers connect to ingests" in answers[4]
        await plain.aclose()
        context.destroy(linger=0)
    assert sum(each.startswith("broker.junk") for each in caplog.messages) == 1


def attrs_like(hello: Hello, **changes: Any) -> Hello:
    import msgspec

    return msgspec.structs.replace(hello, **changes)


@pytest.mark.parametrize("kind", ["newer", "no ingest"])
async def test_an_ingest_of_another_kind_is_one_clear_error(kind: str) -> None:
    import zmq

    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    port = router.bind_to_random_port("tcp://127.0.0.1")
    error: list[BrokerError] = []

    async def run() -> None:
        try:
            await ZeroMQ(f"tcp://127.0.0.1:{port}").source().run(Strategy(), Strategy())
        except BrokerError as caught:
            error.append(caught)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: router.poll(0))
            peer, hello = router.recv_multipart()
            if kind == "newer":
                hello = encode(["welcome", MAGIC, VERSION + 1, "ingest", {"much": "else"}])
            router.send_multipart([peer, b"junk is left out"])
            router.send_multipart([peer, hello])
    context.destroy(linger=0)
    (caught,) = error
    assert {"newer": "version 2 of the wire", "no ingest": "kind 'work'"}[kind] in str(caught)


@attrs.frozen
class Sized:
    symbol: str
    timestamp: datetime
    size: float


async def test_what_cannot_be_read_has_failed_in_the_ledger_of_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No broker keeps it as a dead letter here, so it must not vanish."""
    told: list[Any] = []
    absent: Any = None
    items = [Sized("A", NOON, 1.0), Sized("A", NOON, absent), Sized("B", NOON, 2.0)]

    async def handler(_item: Sized) -> None: ...

    async with tt.open_pipeline(
        tt.IterableFeed(items),
        handler,
        buffer=ZeroMQ(f"tcp://127.0.0.1:{free_port()}", pack=8),
        overflow=tt.Block(),
        on_error=lambda item, _error: told.append(item),
    ) as pipeline:
        await pipeline.wait()
    ledger = pipeline.ledger.snapshot()
    assert (ledger.produced, ledger.consumed + ledger.failed) == (3, 3)
    assert ledger.failed in (1, 2)  # as many of A as were packed together with it
    assert told == []
    assert pipeline.ingest is not None
    assert pipeline.ingest.ledger.consumed == 3
    (line,) = (each for each in caplog.messages if each.startswith("broker.junk"))
    assert "cannot be read, and count as failed" in line


async def test_log_lines_hold_no_key(caplog: pytest.LogCaptureFixture) -> None:
    import zmq

    caplog.set_level(logging.DEBUG)
    public, secret = zmq.curve_keypair()
    async with open_world() as world:
        buffer = ZeroMQ(bind=HERE, public_key=public, secret_key=secret)
        ingest = await world.ingest(buffer, Queue(ticks(10), ended=True))
        work = world.work(ZeroMQ(ingest.address, server_key=public), Strategy())
        await ingest.done.wait()
        assert len(work.strategy.handled) == 10
        assert secret.decode() not in repr(buffer)
    assert secret.decode() not in caplog.text


async def test_a_wrong_or_missing_key_gets_nothing() -> None:
    import zmq

    public, secret = zmq.curve_keypair()
    other, _ = zmq.curve_keypair()
    async with open_world() as world:
        buffer = ZeroMQ(bind=HERE, public_key=public, secret_key=secret)
        queue = Queue(ticks(10), ended=True)
        ingest = await world.ingest(buffer, queue)
        wrong = world.work(ZeroMQ(ingest.address, server_key=other), Strategy())
        plain = world.work(ZeroMQ(ingest.address), Strategy())
        await trio.sleep(0.3)
        assert queue.taken == 0
        good = world.work(ZeroMQ(ingest.address, server_key=public), Strategy())
        await ingest.done.wait()
        assert len(good.strategy.handled) == 10
        assert not wrong.source.statistics().connected
        assert not plain.source.statistics().connected
