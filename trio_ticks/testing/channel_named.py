"""Checks that no list of steps can express: types, protocols, single ticks.

Rules: each check opens a channel of its own and returns what is wrong with it, or
``None``. What they expect is what trio documents of its memory channel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import trio
import trio.testing

from .channel_lockstep import PATIENCE_S, Open, make_item

__all__ = ["NAMED"]

_SENDER = ("send", "send_nowait", "clone", "close", "aclose", "statistics")
_RECEIVER = ("receive", "receive_nowait", "clone", "close", "aclose", "statistics")
_TICKS = 6
"""How many ticks after its begin a call is cancelled at the latest."""
_PRODUCERS, _CONSUMERS, _ITEMS = 4, 3, 60


async def _types(open_pair: Open) -> str | None:
    for end, kind, names in zip(
        open_pair(1),
        (trio.abc.SendChannel, trio.abc.ReceiveChannel),
        (_SENDER, _RECEIVER),
        strict=True,
    ):
        if missing := [name for name in names if not callable(getattr(end, name, None))]:
            return f"{type(end).__name__} has no {', no '.join(missing)}"
        for handle in (end, end.clone()):
            if not isinstance(handle, kind):
                return f"{type(handle).__name__} is no trio.abc.{kind.__name__}"
    return None


async def _iteration(open_pair: Open) -> str | None:
    send, receive = open_pair(3)
    for number in range(3):
        await send.send(make_item(number))
    send.close()
    found = [int(item.bid) async for item in receive]
    if found != [0, 1, 2]:
        return f"three items were sent, and `async for` gave {found}"
    return None


async def _blocks(open_pair: Open) -> str | None:
    for entered in (True, False):
        send, receive = open_pair(1)
        if entered:
            async with send as inner_send, receive as inner_receive:
                same = inner_send is send and inner_receive is receive
        else:
            with send as inner_send, receive as inner_receive:
                same = inner_send is send and inner_receive is receive
        word = "async with" if entered else "with"
        if not same:
            return f"`{word} handle as name` gives something else than the handle"
        for call in (partial(send.send_nowait, make_item(0)), receive.receive_nowait):
            try:
                call()
            except trio.ClosedResourceError:
                continue
            return f"a handle is still open after its `{word}`"
    return None


async def _checkpoints(open_pair: Open) -> str | None:
    send, receive = open_pair(3)
    calls: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("send, where there is room", partial(send.send, make_item(0))),
        ("receive, where there is an item", receive.receive),
        ("aclose of a sender", send.clone().aclose),
        ("aclose of a receiver", receive.clone().aclose),
    ]
    closed = send.clone()
    closed.close()
    calls.append(("aclose of a closed sender", closed.aclose))
    for name, call in calls:
        try:
            with trio.testing.assert_checkpoints():
                await call()
        except AssertionError:
            return f"no checkpoint: {name}"
    await send.send(make_item(1))
    try:
        with trio.testing.assert_checkpoints():
            await receive.__anext__()
    except AssertionError:
        return "no checkpoint: `async for`"
    return None


async def _statistics(open_pair: Open) -> str | None:
    send, receive = open_pair(2)
    send.send_nowait(make_item(0))
    fields = ("current_buffer_used", "open_send_channels", "open_receive_channels")
    for handle in (send.clone(), receive.clone()):
        for field in fields:
            mine, first = (getattr(end.statistics(), field) for end in (handle, send))
            if mine != first:
                return f"statistics().{field} differs between two handles: {first} and {mine}"
    return None


async def _cancelled_sends(open_pair: Open) -> str | None:
    for full in (False, True):
        for ticks in range(_TICKS):
            send, receive = open_pair(1)
            if full:
                send.send_nowait(make_item(0))
            result = await _cancelled_after(ticks, partial(send.send, make_item(1)))
            found = [int(item.bid) for item in _drain(receive)]
            expected = ([0] if full else []) + ([1] if result != "cancelled" else [])
            if found != expected:
                where = "a full" if full else "an empty"
                return (
                    f"send to {where} channel, cancelled {ticks} ticks after its begin: "
                    f"{result}, and the channel held {found}"
                )
    return None


async def _cancelled_receives(open_pair: Open) -> str | None:
    for when in ("before the receive", "before the cancel", "after the cancel"):
        for ticks in range(_TICKS):
            send, receive = open_pair(1)
            put = partial(send.send_nowait, make_item(1))
            if when == "before the receive":
                put()
            result = await _cancelled_after(
                ticks,
                receive.receive,
                before=put if when == "before the cancel" else None,
                after=put if when == "after the cancel" else None,
            )
            found = [int(item.bid) for item in _drain(receive)]
            if found != ([1] if result == "cancelled" else []):
                return (
                    f"receive, cancelled {ticks} ticks after its begin, the item sent {when}: "
                    f"{result}, and the channel held {found}"
                )
    return None


async def _cancelled_after(
    ticks: int,
    call: Callable[[], Awaitable[Any]],
    *,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> str:
    """Begin *call* in a task, and cancel it *ticks* turns of the loop later.

    *before* and *after* are called in the same turn as the cancellation.
    """
    result = "cancelled"

    async def run() -> None:
        nonlocal result
        with scope:
            await call()
            result = "returned"

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        if before is not None:
            before()
        scope.cancel()
        if after is not None:
            after()
    return result


def _drain(receive: Any) -> list[Any]:
    items = []
    while True:
        try:
            items.append(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return items


async def _storm(open_pair: Open) -> str | None:
    """Have many tasks send and receive; each call may be cancelled, and is repeated."""
    send, receive = open_pair(2)
    chance = Random(11)
    scopes: list[trio.CancelScope] = []
    received: list[int] = []

    async def produce(first: int, handle: Any) -> None:
        with handle:
            for number in range(first, first + _ITEMS):
                sent = False
                while not sent:
                    with trio.CancelScope() as scope:
                        scopes.append(scope)
                        await handle.send(make_item(number, "ABC"[number % 3]))
                        sent = True

    async def consume(handle: Any) -> None:
        with handle:
            while True:
                with trio.CancelScope() as scope:
                    scopes.append(scope)
                    try:
                        item = await handle.receive()
                    except trio.EndOfChannel:
                        return
                    received.append(int(item.bid))

    async def cancel() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            if scopes and chance.random() < 0.5:
                scopes.pop(chance.randrange(len(scopes))).cancel()
            del scopes[: -_PRODUCERS - _CONSUMERS]

    with trio.move_on_after(PATIENCE_S) as patience:
        async with trio.open_nursery() as around:
            around.start_soon(cancel)
            async with trio.open_nursery() as nursery:
                for producer in range(_PRODUCERS):
                    nursery.start_soon(produce, producer * _ITEMS, send.clone())
                for _ in range(_CONSUMERS):
                    nursery.start_soon(consume, receive.clone())
                send.close()
            around.cancel_scope.cancel()
    count = _PRODUCERS * _ITEMS
    lost = sorted(set(range(count)) - set(received))
    doubled = sorted({number for number in received if received.count(number) > 1})
    if lost or doubled:
        hung = " (it hangs)" if patience.cancelled_caught else ""
        return f"of {count} items {len(lost)} were lost and {len(doubled)} came twice{hung}"
    return None


NAMED: dict[str, Callable[[Open], Awaitable[str | None]]] = {
    "the handles are trio.abc.SendChannel and trio.abc.ReceiveChannel": _types,
    "`async for` gives each item, and ends when the last sender is closed": _iteration,
    "`async with` and `with` close the handle": _blocks,
    "each await is a checkpoint": _checkpoints,
    "all handles tell the same statistics": _statistics,
    "a send that is cancelled has not sent, whenever it is cancelled": _cancelled_sends,
    "a receive that is cancelled has not received, whenever it is cancelled": _cancelled_receives,
    "no item is lost or doubled where calls are cancelled at random": _storm,
}
"""Each check, by what it checks."""
