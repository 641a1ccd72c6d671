"""The faults of the classic asyncio.Queue pipeline, with a test for each.

A comment in each test says what the classic does. The classic: one reader task that
polls a ``running`` flag around ``await websocket.recv()`` and
``wait_for(queue.put(...))``, some worker tasks around ``wait_for(queue.get(),
timeout)``, and a ``stop()`` that clears the flag and gathers the tasks. The clock is
virtual.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.feed_venues import answers, leave, memory_feed, quote, says, websocket
from tests.worlds.helpers import make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import (
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    raises_as_itself,
    sleepy_feed,
)
from trio_ticks import open_pipeline, run_pipeline


async def test_stopping_while_the_reader_waits_in_an_idle_receive(
    autojump_clock: MockClock,
) -> None:
    # The classic checks its flag between two messages. In a quiet market there is no
    # next message, and stop() waits for ever.
    async with memory_feed(websocket(says(quote()))) as (feed, _venue):
        handler = Recorder()
        async with open_pipeline(feed, handler) as pipeline:
            # Longer than anything that is due, but shorter than the watchdog: the
            # reader waits in its receive.
            await trio.sleep(5)
            assert pipeline.metrics().producer_connected
            began = trio.current_time()
        assert trio.current_time() - began < 1
    assert_accounted(pipeline.report, consumed=1)


async def test_stopping_while_the_reader_is_blocked_in_a_full_queue(
    autojump_clock: MockClock,
) -> None:
    # The classic's reader waits in queue.put() for workers that have just been stopped:
    # no task will ever make room.
    async with memory_feed(websocket(says(*(quote(volume=n) for n in range(20))))) as (
        feed,
        _venue,
    ):
        gate = Gate()
        async with open_pipeline(
            feed, gate, workers=1, maxsize=5, overflow=tt.Block(), shutdown_timeout=2
        ) as pipeline:
            await trio.sleep(5)
            assert len(gate.entered) == 1
            assert pipeline.statistics().current_buffer_used == 5
            began = trio.current_time()
        assert trio.current_time() - began < 2 + 1
    # What was still in the socket was never produced. Produced were: one in flight,
    # five queued, and those that waited to be sent.
    assert pipeline.report.produced > 6
    assert_accounted(pipeline.report, consumed=0, shutdown=pipeline.report.produced)


async def test_stopping_with_a_full_queue_loses_nothing_silently(autojump_clock: MockClock) -> None:
    # The classic cancels its workers and forgets the queue: its ticks are lost, and no
    # counter says so.
    async with open_pipeline(
        sleepy_feed(make_ticks(100)),
        Recorder(seconds=1.0),
        workers=1,
        maxsize=50,
        write_timeout=0,
        shutdown_timeout=10,
    ) as pipeline:
        await trio.sleep(0.5)
    assert_accounted(pipeline.report, produced=100, consumed=10, overflow=50, shutdown=40)


async def test_stopping_with_an_empty_queue_and_time_left_handles_everything(
    autojump_clock: MockClock,
) -> None:
    # The classic's workers check the flag first: ticks that they could have handled in
    # time are not handled.
    handler = Recorder(seconds=0.1)
    async with open_pipeline(
        sleepy_feed(make_ticks(40)), handler, workers=1, shutdown_timeout=10
    ) as pipeline:
        await trio.sleep(0.05)
    assert numbers(handler.ticks) == list(range(40))
    assert_accounted(pipeline.report, consumed=40)


@pytest.mark.parametrize(
    "where", ["before the first await", "before the first tick", "while connecting"]
)
async def test_an_error_before_any_tick_was_read(where: str, autojump_clock: MockClock) -> None:
    # The classic's reader task dies unseen: the task keeps its exception, the workers
    # wait at an empty queue, and the program does nothing, for ever, and logs nothing.
    error = RuntimeError("of a kind that nobody expects, and that trying again does not mend")

    async def script(send: Send) -> None:
        if where != "before the first await":
            await trio.sleep(1.0)
        raise error

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        raise error

    connecting = where == "while connecting"
    feed = (
        tt.WebSocketFeed("ws://venue.test", symbols=["SPY"], open_stream=open_stream)
        if connecting
        else ScriptFeed(script)
    )
    with trio.fail_after(60), raises_as_itself(error):
        await run_pipeline(feed, Recorder())


async def test_a_handler_that_is_configured_is_called(autojump_clock: MockClock) -> None:
    # The classic takes an on_error (or an on_overflow) in its constructor, stores it,
    # and logs instead of calling it.
    told: list[tuple[int, str]] = []
    gaps: list[tt.Gap] = []

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1.0)
        if number(tick) == 2:
            raise ValueError("two")

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(10))
        await trio.sleep(5)
        await send.send_many(make_ticks(2, first=10))

    report = await run_pipeline(
        ScriptFeed(script),
        handler,
        workers=1,
        maxsize=5,
        write_timeout=0,
        on_error=lambda tick, error: told.append((number(tick), str(error))),
        on_gap=gaps.append,
    )
    assert told == [(2, "two")]
    assert sum(gap.count for gap in gaps if gap.count) == report.dropped == 5
    assert_accounted(report, failed=1, overflow=5, consumed=6)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_not_tried_for_ever(
    status: int, autojump_clock: MockClock
) -> None:
    # The classic catches Exception around its connection and retries every few seconds,
    # for ever: the venue bans the address.
    refusal = answers(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")
    async with memory_feed(refusal, api_key="a-key") as (feed, venue):
        with pytest.raises(tt.FeedAuthError) as caught:
            await run_pipeline(feed, Recorder())
        assert len(venue.dialled_at) == 1
    assert caught.value.status == status
    assert "a-key" not in str(caught.value)


async def test_a_server_that_drops_every_connection_is_not_hammered(
    autojump_clock: MockClock,
) -> None:
    # The classic resets its backoff when it has connected. A server that accepts and
    # hangs up at once then gets a connection every second, for ever.
    async with (
        memory_feed(websocket(leave)) as (feed, venue),
        open_pipeline(feed, Recorder()) as pipeline,
    ):
        await trio.sleep(3600)
        assert pipeline.metrics().reconnects == len(venue.dialled_at) - 1
    assert venue.gaps[:7] == pytest.approx([1, 2, 4, 8, 16, 32, 60], abs=0.5)
    assert len(venue.dialled_at) <= 7 + 3600 / 60


async def test_ticks_of_one_symbol_are_not_handled_out_of_order_by_two_workers(
    autojump_clock: MockClock,
) -> None:
    # The classic's workers take from one queue: while the first sleeps on tick 1, the
    # second handles tick 2 of the same symbol, and a strategy sees the prices go back
    # in time.
    handled: dict[str, list[int]] = defaultdict(list)
    at_once: dict[str, int] = defaultdict(int)

    async def handler(tick: tt.Tick) -> None:
        at_once[tick.symbol] += 1
        assert at_once[tick.symbol] == 1
        # The earlier, the slower.
        await trio.sleep(1.0 / (1 + number(tick)))
        handled[tick.symbol].append(number(tick))
        at_once[tick.symbol] -= 1

    report = await run_pipeline(listed(make_ticks(60, "ABC")), handler, workers=4)
    assert handled == {symbol: list(range(index, 60, 3)) for index, symbol in enumerate("ABC")}
    assert_accounted(report, consumed=60, failed=0)


async def test_a_tick_that_is_half_a_minute_old_is_known_to_be(autojump_clock: MockClock) -> None:
    # The classic waits write_timeout for each tick, drops none, and gives the strategy
    # ticks that are half a minute old as if they were new.
    ticks = [make_tick(n=n, age_s=30.0) for n in range(3)]
    report = await run_pipeline(listed(ticks), Recorder())
    assert report.processing_lag_ms.p50 >= 29_000
    # It can be told not to: the strategy sees none of them.
    strategy = Recorder()

    async def script(send: Send) -> None:
        # A fresh one first: it shows the venue's clock to be right.
        await send.send(make_tick(n=99))
        await send.send_many(ticks)

    report = await run_pipeline(
        ScriptFeed(script), strategy, max_age=tt.MaxAge(5.0, since="timestamp")
    )
    assert numbers(strategy.ticks) == [99]
    assert_accounted(report, consumed=1, stale=3)


async def test_a_sustained_overload_leaves_no_backlog(autojump_clock: MockClock) -> None:
    # The same fault in motion: at twenty times what the workers can take, the age of
    # the classic's ticks grows by a second every second.
    sent_at: dict[int, float] = {}
    oldest = 0.0

    async def script(send: Send) -> None:
        began, first = trio.current_time(), 0
        while first < 20_000:
            batch = make_ticks(20, first=first)
            sent_at.update(dict.fromkeys(numbers(batch), began + first / 1000))
            await send.send_many(batch)
            first += 20
            # As with a socket: ticks that could not be read in time wait in the
            # system's buffers, and still come.
            await trio.sleep_until(began + first / 1000)

    async def handler(tick: tt.Tick) -> None:
        nonlocal oldest
        oldest = max(oldest, trio.current_time() - sent_at[number(tick)])
        await trio.sleep(0.02)

    report = await run_pipeline(
        ScriptFeed(script), handler, workers=1, maxsize=100, write_timeout=1.0
    )
    assert_accounted(report, produced=20_000)
    # The patience, once, and the queue's own wait: 100 ticks of 20 ms.
    assert oldest <= 1.0 + 100 * 0.02 + 0.1
    assert report.dropped_by_reason["overflow"] > 18_000


@pytest.mark.parametrize("seed", range(20))
async def test_a_timeout_around_a_receive_loses_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    # The classic's wait_for(queue.get(), 1.0): if the timeout fires in the same turn of
    # the loop in which the item was handed over, get() has taken it, wait_for is
    # cancelled, and the item is lost.
    rng = random.Random(seed)
    ends: tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]] = tt.open_tick_channel(
        10, tt.Block()
    )
    send, receive = ends
    received: list[int] = []

    async def producer() -> None:
        async with send:
            for tick in make_ticks(300):
                # On the very instants on which the timeouts fire, too.
                await trio.sleep(rng.choice([0, 0, 0.1, 0.2]))
                await send.send(tick)

    async def consumer(receive: tt.TickReceiveChannel[tt.Tick]) -> None:
        async with receive:
            while True:
                with trio.move_on_after(rng.choice([0, 0.1, 0.2])):
                    try:
                        received.append(number(await receive.receive()))
                    except trio.EndOfChannel:
                        return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(producer)
        for _ in range(3):
            nursery.start_soon(consumer, receive.clone())
        receive.close()
    assert sorted(received) == list(range(300))
    assert send.ledger.delivered == 300
    send.ledger.check()


async def test_a_worker_that_is_cancelled_at_the_wrong_moment_counts_what_it_held(
    autojump_clock: MockClock,
) -> None:
    # The same in the classic's workers: cancelled between get() and the handler, they
    # lose the tick.
    for moment in range(30):
        async with open_pipeline(
            sleepy_feed(make_ticks(20, "ABC")),
            Recorder(seconds=0.01),
            workers=2,
            shutdown_timeout=moment * 0.005,
        ) as pipeline:
            await wait_all_tasks_blocked()
        assert_accounted(pipeline.report, produced=20)


async def test_latency_and_connection_are_filled_in(autojump_clock: MockClock) -> None:
    # The classic declares avg_processing_latency_ms and connected in its metrics, and
    # never assigns to either.
    async with (
        memory_feed(
            websocket(says(*(quote(volume=n) for n in range(5)))),
            answers("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        ) as (
            feed,
            venue,
        ),
        open_pipeline(feed, Recorder(seconds=0.25), workers=1) as pipeline,
    ):
        assert not pipeline.metrics().producer_connected
        await trio.sleep(5)
        now = pipeline.metrics()
        assert now.producer_connected
        assert now.avg_processing_latency_ms == pytest.approx(250)
        assert (
            now.handler_latency_ms.count
            == now.queue_wait_ms.count
            == now.processing_lag_ms.count
            == 5
        )
        assert now.reconnects == 0
        await trio.aclose_forcefully(venue.streams[0])
        await trio.sleep(0.1)
        assert not pipeline.metrics().producer_connected
