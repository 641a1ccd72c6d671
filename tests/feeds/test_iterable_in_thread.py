"""An iterable that blocks, read in a thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks


async def test_the_loop_goes_on_while_the_iterable_blocks() -> None:
    go_on, made = threading.Event(), make_ticks(3)

    def blocking() -> Iterator[tt.Tick]:
        yield made[0]
        # It would block for ever if the loop could not set the event.
        go_on.wait(60)
        yield from made[1:]

    seen: list[tt.Tick] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(tick)
        go_on.set()

    with trio.fail_after(60):
        report = await tt.run_pipeline(
            tt.IterableFeed(blocking(), in_thread=True), handler, signals=False
        )
    assert seen == made
    assert report.consumed == 3
    assert go_on.is_set()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
async def test_all_ticks_come_in_order(count: int) -> None:
    made = make_ticks(count)
    feed = tt.IterableFeed(iter(made), in_thread=True)
    send: tt.TickSendChannel[tt.Tick]
    receive: tt.TickReceiveChannel[tt.Tick]
    send, receive = tt.open_tick_channel(2000, overflow=tt.Block())
    with trio.fail_after(60):
        async with send:
            await feed.run(send)
        assert [tick async for tick in receive] == made
    assert feed.stats.messages == count
    send.ledger.check()


async def test_what_the_iterable_raises_comes_after_its_ticks() -> None:
    made = make_ticks(5)

    def failing() -> Iterator[tt.Tick]:
        yield from made
        raise OSError("the file has ended early")

    send: tt.TickSendChannel[tt.Tick]
    receive: tt.TickReceiveChannel[tt.Tick]
    send, receive = tt.open_tick_channel(100)
    with trio.fail_after(60):
        with pytest.raises(OSError, match="the file has ended early"):
            await tt.IterableFeed(failing(), in_thread=True).run(send)
        assert await receive.receive_many(100) == made


async def test_what_it_raises_later_is_not_lost() -> None:
    go_on = threading.Event()

    def failing() -> Iterator[tt.Tick]:
        yield make_ticks(1)[0]
        go_on.wait(60)
        raise OSError("the file has ended early")

    feed = tt.IterableFeed(failing(), in_thread=True)

    class Slow:
        async def send_many(self, _ticks: list[tt.Tick]) -> None:
            # The thread ends while its first tick is still being sent.
            go_on.set()
            await trio.sleep(0.3)

    with trio.fail_after(60), pytest.raises(OSError, match="the file has ended early"):
        await feed.run(Slow())


async def test_an_item_that_is_no_tick_is_named() -> None:
    made = make_ticks(2)
    send: tt.TickSendChannel[tt.Tick]
    receive: tt.TickReceiveChannel[tt.Tick]
    send, receive = tt.open_tick_channel(100)
    with trio.fail_after(60):
        with pytest.raises(TypeError, match="item 2 of the iterable is a str"):
            await tt.IterableFeed([*made, "x"], in_thread=True).run(send)
        assert await receive.receive_many(100) == made


async def test_a_stop_does_not_wait_for_a_blocked_iterable_which_is_closed_later() -> None:
    go_on, blocks, closed = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[tt.Tick]:
        try:
            yield make_ticks(1)[0]
            blocks.set()
            go_on.wait(60)
            yield make_ticks(1)[0]
        finally:
            closed.set()

    feed = tt.IterableFeed(blocking(), in_thread=True)
    handled = trio.Event()

    async def handler(_tick: tt.Tick) -> None:
        handled.set()

    try:
        with trio.fail_after(60):
            async with tt.open_pipeline(feed, handler) as pipeline:
                await handled.wait()
                await trio.to_thread.run_sync(blocks.wait)
            assert not closed.is_set()
    finally:
        go_on.set()
    with trio.fail_after(60):
        await trio.to_thread.run_sync(closed.wait)
    assert pipeline.report.produced == 1
    pipeline.ledger.check()
    assert not feed.stats.connected


def test_an_async_iterable_is_refused() -> None:
    async def ticks() -> AsyncIterator[tt.Tick]:
        yield make_ticks(1)[0]

    with pytest.raises(tt.ConfigError, match="in_thread=True is for iterables that block"):
        tt.IterableFeed(ticks(), in_thread=True)
