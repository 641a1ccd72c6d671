"""The messages that a connection has still to send."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ticks.feeds.websocket.outbox import Outbox


async def take_all(outbox: Outbox) -> list[str | bytes]:
    """Take what there is."""
    taken = []
    with trio.move_on_after(0):
        while True:
            taken.append(await outbox.take())
    return taken


async def test_in_order() -> None:
    outbox = Outbox()
    outbox.put(["a", b"b"])
    outbox.put(iter(["c"]))
    outbox.put([])
    assert await take_all(outbox) == ["a", b"b", "c"]


async def test_the_subscription_goes_first_and_in_its_order() -> None:
    outbox = Outbox()
    outbox.put(["later"])
    outbox.put_first(["1", "2", "3"])
    outbox.put_first([])
    assert await take_all(outbox) == ["1", "2", "3", "later"]


@pytest.mark.parametrize("first", [False, True])
async def test_take_waits(first: bool) -> None:
    outbox = Outbox()
    taken: list[str | bytes] = []

    async def take() -> None:
        taken.append(await outbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        outbox.put([])
        await wait_all_tasks_blocked()
        assert taken == []
        (outbox.put_first if first else outbox.put)(["a"])
    assert taken == ["a"]


async def test_a_cancelled_take_takes_nothing() -> None:
    outbox = Outbox()
    with trio.move_on_after(0):
        await outbox.take()
    outbox.put(["a"])
    assert await take_all(outbox) == ["a"]


async def test_it_does_not_grow_without_bound() -> None:
    outbox = Outbox()
    outbox.put(["x"] * Outbox.most)
    assert not outbox.overfull
    outbox.put(["y"] * 10)
    assert outbox.overfull
    assert await take_all(outbox) == ["x"] * Outbox.most


async def test_a_subscription_may_be_longer() -> None:
    outbox = Outbox()
    outbox.put_first(["x"] * (Outbox.most + 1))
    assert not outbox.overfull
    assert len(await take_all(outbox)) == Outbox.most + 1


async def test_long_messages_are_fewer() -> None:
    outbox = Outbox()
    half = "x" * (Outbox.most_size // 2)
    for _ in range(2):
        outbox.put([half, half])
        assert not outbox.overfull
        assert len(await take_all(outbox)) == 2
    outbox.put([half, half, "y"])
    assert outbox.overfull
    assert await take_all(outbox) == [half, half]


async def test_one_message_may_be_longer() -> None:
    outbox = Outbox()
    outbox.put(["x" * (Outbox.most_size + 1)])
    assert not outbox.overfull


async def test_all_is_sent_when_another_message_is_wanted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outbox = Outbox()
    sent_at: list[float] = []

    async def send() -> None:
        while True:
            await outbox.take()
            await trio.sleep(1)

    async def wait() -> None:
        await outbox.wait_sent(100)
        sent_at.append(trio.current_time())

    began = trio.current_time()
    outbox.put(["a", "b"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        nursery.start_soon(send)
        await trio.sleep(10)
        assert [at - began for at in sent_at] == [2, 2]
        outbox.put(["c"])
        assert not outbox.is_idle
        await wait()
        assert sent_at[2] - began == 11
        outbox.put(["d", "e", "f"])
        await outbox.wait_sent(0.5)
        assert trio.current_time() - began == 11.5
        nursery.cancel_scope.cancel()
