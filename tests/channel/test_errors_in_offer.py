"""What cannot be taken raises before anything is counted, so that the law holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send


@attrs.frozen
class Item:
    symbol: Any
    timestamp: Any = datetime(2024, 1, 1, tzinfo=UTC)


@attrs.frozen
class Timeless:
    symbol: str = "A"


async def bring(send: Send, call: str, item: Any) -> None:
    """Bring *item* by the method *call*; behind another one if that takes several."""
    if call == "send":
        await send.send(item)
    elif call == "send_many":
        await send.send_many([make_tick("A", 1), item])
    elif call == "deliver":
        send.deliver([make_tick("A", 1), item])
    else:
        send.send_nowait(item)


def open_channel(
    maxsize: int, overflow: Any, max_age: Any = None
) -> tuple[tt.TickSendChannel[Any], tt.TickReceiveChannel[Any]]:
    return tt.open_tick_channel(maxsize, overflow, max_age)


UNREADABLE = pytest.mark.parametrize(
    "item", [object(), Item([]), Timeless(), "text"], ids=["no symbol", "list", "no time", "str"]
)


def nothing_more(send: Any, produced: int, queued: int) -> None:
    send.ledger.check()
    assert (send.ledger.produced, send.ledger.queued) == (produced, queued)
    assert send.ledger.dropped == 0


@UNREADABLE
@pytest.mark.parametrize(
    "overflow",
    [
        tt.Conflate(),
        {tt.Tick: tt.Conflate()},
        {tt.Tick: tt.Block()},
        tt.DropOldest(longest_line=True),
        tt.DropNewest(max_per_symbol=3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("call", ["send", "send_many", "deliver", "send_nowait"])
async def test_a_keyed_channel_takes_nothing_of_a_batch_that_it_cannot_read(
    overflow: Any, item: Any, call: str
) -> None:
    send, receive = open_channel(4, overflow)
    await send.send(make_tick("B", 0))
    with pytest.raises((AttributeError, TypeError)):
        await bring(send, call, item)
    nothing_more(send, 1, 1)
    await send.send(make_tick("C", 2))
    assert numbers(await receive.receive_many()) == [0, 2]


@pytest.mark.parametrize("item", [object(), Item([])], ids=["no symbol", "list"])
async def test_a_fifo_channel_takes_nothing_of_a_batch_while_others_wait(item: Any) -> None:
    send, receive = open_channel(2, tt.Block())
    assert send.deliver(make_ticks(4)) is not None
    other = send.clone()
    with pytest.raises((AttributeError, TypeError)):
        other.deliver([make_tick("A", 4), item])
    nothing_more(send, 4, 4)
    send.close()
    other.close()
    assert numbers([tick async for tick in receive]) == [0, 1, 2, 3]


@UNREADABLE
@pytest.mark.parametrize(
    "overflow", [tt.Block(), tt.DropNewest(0), tt.DropOldest(), tt.Fail()], ids=repr
)
async def test_a_full_pipeline_takes_nothing_of_a_batch_that_it_cannot_read(
    overflow: Any, item: Any
) -> None:
    handler, raised = Gate(), list[Exception]()

    async def script(send: Send) -> None:
        assert send.deliver(make_ticks(2)) is None
        try:
            send.deliver([make_tick("A", 2), item])
        except (AttributeError, TypeError) as error:
            raised.append(error)
        nothing_more(send, 2, 2)
        handler.opened.set()

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, maxsize=2, workers=1, overflow=overflow, on_gap=print
    )
    assert len(raised) == 1
    assert (report.ledger.produced, report.ledger.consumed) == (2, 2)


@pytest.mark.parametrize("max_age", [None, tt.MaxAge(1.0, since="timestamp")])
async def test_ages_by_timestamp_are_read_before_anything_is_counted(max_age: Any) -> None:
    send, _receive = open_channel(4, tt.Block(), max_age)
    if max_age is None:
        await send.send(Timeless())  # nothing reads its timestamp
        nothing_more(send, 1, 1)
    else:
        with pytest.raises(AttributeError):
            await send.send(Timeless())
        nothing_more(send, 0, 0)


@pytest.mark.parametrize("overflow", [tt.DropNewest(0), tt.Conflate(), tt.Fail()], ids=repr)
def test_a_channel_without_a_clock_counts_nothing_outside_trio(overflow: Any) -> None:
    send, _receive = open_channel(4, overflow)
    with pytest.raises(RuntimeError):
        send.send_nowait(make_tick("A", 0))
    nothing_more(send, 0, 0)


async def test_a_listener_that_raises_leaves_the_law() -> None:
    send, receive = open_channel(1, tt.Block())

    def refuse(_items: object, _reason: object) -> None:
        raise RuntimeError("mine")

    assert send.deliver(make_ticks(2)) is not None
    turn = send.deliver([make_tick("A", 2)])
    assert turn is not None
    receive.state.drops.item_listeners += (refuse,)
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(RuntimeError, match="mine"):
            await turn
    nothing_more(send, 2, 2)
