"""Channels that have one fault each and else behave as trio's, to test check_channel.

Rules: each is a pair of classes around the two handles of trio's channel; trio's handle
does what the class does not override. ``Sender`` and ``Receiver`` have no fault.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import attrs
import trio

__all__ = ["BROKEN", "faithful"]

Ends = tuple[Any, Any]
Opened = Callable[[int], Ends]


class Shared:
    """What the handles of one channel share: trio's channel, and what faults need."""

    def __init__(self, maxsize: int) -> None:
        self.send, self.receive = trio.open_memory_channel[Any](maxsize)
        self.lot = trio.lowlevel.ParkingLot()
        self.stash: list[Any] = []


class End:
    """What both handles have in common."""

    def __init__(self, shared: Shared, inner: Any) -> None:
        self.shared = shared
        self.inner = inner

    def clone(self) -> Self:
        return type(self)(self.shared, self.inner.clone())

    def statistics(self) -> Any:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Sender(End, trio.abc.SendChannel[Any]):
    """trio's handle, and no fault."""

    def send_nowait(self, item: Any) -> None:
        self.inner.send_nowait(item)

    async def send(self, item: Any) -> None:
        await self.inner.send(item)


class Receiver(End, trio.abc.ReceiveChannel[Any]):
    """trio's handle, and no fault."""

    def receive_nowait(self) -> Any:
        return self.inner.receive_nowait()

    async def receive(self) -> Any:
        return await self.inner.receive()


def opened(sender: type[End], receiver: type[End]) -> Opened:
    def open(maxsize: int) -> Ends:
        shared = Shared(maxsize)
        return sender(shared, shared.send), receiver(shared, shared.receive)

    return open


faithful = opened(Sender, Receiver)


class LastFirst(Receiver):
    """The newest item comes first."""

    def receive_nowait(self) -> Any:
        found = self.inner.statistics()
        if found.tasks_waiting_send or not found.open_send_channels:
            return super().receive_nowait()
        items = [self.inner.receive_nowait() for _ in range(found.current_buffer_used)]
        if not items:
            return super().receive_nowait()
        last = items.pop()
        for item in items:
            self.shared.send.clone().send_nowait(item)
        return last


class Lot:
    """Statistics that count the tasks in the lot as ``field``; closing wakes them."""

    field = ""

    def statistics(self) -> Any:
        found = super().statistics()  # type: ignore[misc]  # a mixin in front of End
        waiting = self.shared.lot.statistics().tasks_waiting  # type: ignore[attr-defined]
        return attrs.evolve(found, **{self.field: waiting})

    def close(self) -> None:
        super().close()  # type: ignore[misc]  # a mixin in front of End
        self.shared.lot.unpark_all()  # type: ignore[attr-defined]


class BargingSender(Lot, Sender):
    """A sender tries again when it wakes; the first to run gets the room."""

    field = "tasks_waiting_send"

    async def send(self, item: Any) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                self.inner.send_nowait(item)
            except trio.WouldBlock:
                await self.shared.lot.park()
            else:
                return


class WakingReceiver(Receiver):
    """It wakes a sender of the lot for each item it takes, and all when closed."""

    def close(self) -> None:
        super().close()
        self.shared.lot.unpark_all()

    def receive_nowait(self) -> Any:
        item = self.inner.receive_nowait()
        self.shared.lot.unpark()
        return item

    async def receive(self) -> Any:
        item = await self.inner.receive()
        self.shared.lot.unpark()
        return item


class BargingReceiver(Receiver):
    """A receiver tries again when it wakes; the first to run gets the item."""

    def close(self) -> None:
        super().close()
        self.shared.lot.unpark_all()

    async def receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.inner.receive_nowait()
            except trio.WouldBlock:
                await self.shared.lot.park()


class WakingSender(Lot, Sender):
    """It wakes a receiver of the lot for each item that it sends."""

    field = "tasks_waiting_receive"

    def send_nowait(self, item: Any) -> None:
        self.inner.send_nowait(item)
        self.shared.lot.unpark()

    async def send(self, item: Any) -> None:
        await self.inner.send(item)
        self.shared.lot.unpark()


class LosesOnCancel(Receiver):
    """A receiver that is cancelled after it got its item loses it."""

    async def receive(self) -> Any:
        item = await self.inner.receive()
        await trio.lowlevel.checkpoint()
        return item


class DoublesOnCancel(Sender):
    """A sender that is cancelled after its item went in says that it has not sent."""

    async def send(self, item: Any) -> None:
        await self.inner.send(item)
        await trio.lowlevel.checkpoint()


class SendsOnCancel(Sender):
    """A sender that is cancelled while it waits leaves its item behind."""

    async def send(self, item: Any) -> None:
        try:
            await self.inner.send(item)
        except trio.Cancelled:
            self.shared.stash.append(item)
            raise


class TakesFromStash(Receiver):
    """It receives what cancelled senders left."""

    def receive_nowait(self) -> Any:
        try:
            return self.inner.receive_nowait()
        except trio.WouldBlock:
            if self.shared.stash:
                return self.shared.stash.pop()
            raise


class WrongErrorOnClose(Receiver):
    """A task whose own handle is closed gets the error of an ended channel."""

    async def receive(self) -> Any:
        try:
            return await self.inner.receive()
        except trio.ClosedResourceError:
            raise trio.EndOfChannel from None


class WrongStatistics(Sender):
    """The tasks that wait to send are not counted."""

    def statistics(self) -> Any:
        return attrs.evolve(self.inner.statistics(), tasks_waiting_send=0)


class WrongPeak(Sender):
    """The peak falls again when the buffer drains."""

    def statistics(self) -> Any:
        found = self.inner.statistics()
        return attrs.evolve(found, peak_buffer_used=found.current_buffer_used)


class LateClose(Receiver):
    """Closing a handle leaves the tasks asleep that wait on it."""

    def __init__(self, shared: Shared, inner: Any) -> None:
        super().__init__(shared, inner)
        self.asleep = 0

    async def receive(self) -> Any:
        self.asleep += 1
        try:
            return await self.inner.receive()
        finally:
            self.asleep -= 1

    def close(self) -> None:
        if not self.asleep:
            self.inner.close()


class EarlyEnd(Receiver):
    """The end comes as soon as the last sender is closed, whatever is in the buffer."""

    def receive_nowait(self) -> Any:
        item = self.inner.receive_nowait()
        if not self.inner.statistics().open_send_channels:
            raise trio.EndOfChannel
        return item


class CountsEachClose(Sender):
    """Closing a handle twice closes two of the channel's senders."""

    def __init__(self, shared: Shared, inner: Any) -> None:
        super().__init__(shared, inner)
        self.closed = False

    def clone(self) -> Self:
        twin = super().clone()
        self.shared.stash.append(twin)
        return twin

    def close(self) -> None:
        if self.closed and self.shared.stash:
            self.shared.stash.pop().inner.close()
        self.closed = True
        self.inner.close()


class ClonesClosed(Sender):
    """A closed handle can be cloned."""

    def clone(self) -> Self:
        try:
            return super().clone()
        except trio.ClosedResourceError:
            return type(self)(self.shared, self.inner)


class NoCheckpoint(Sender):
    """A send that finds room is no checkpoint."""

    async def send(self, item: Any) -> None:
        try:
            self.inner.send_nowait(item)
        except trio.WouldBlock:
            await self.inner.send(item)


class SwallowsBroken(Sender):
    """An item for which there is no receiver any more is dropped without a word."""

    def send_nowait(self, item: Any) -> None:
        try:
            self.inner.send_nowait(item)
        except trio.BrokenResourceError:
            return


class Untyped(End):
    """A sender that does not say that it is one."""

    send_nowait = Sender.send_nowait
    send = Sender.send


BROKEN: dict[str, tuple[Opened, str]] = {
    "last in, first out": (opened(Sender, LastFirst), "items come out in the order"),
    "send_nowait barges": (
        opened(BargingSender, WakingReceiver),
        "a waiting sender owns the room",
    ),
    "receive_nowait barges": (
        opened(WakingSender, BargingReceiver),
        "a waiting receiver owns the item",
    ),
    "lost on cancel": (opened(Sender, LosesOnCancel), "a receive that is cancelled"),
    "doubled on cancel": (opened(DoublesOnCancel, Receiver), "a send that is cancelled"),
    "sent on cancel": (opened(SendsOnCancel, TakesFromStash), "has not sent"),
    "wrong error on close": (opened(Sender, WrongErrorOnClose), "that very handle"),
    "wrong statistics": (opened(WrongStatistics, Receiver), "tasks_waiting_send"),
    "wrong peak": (opened(WrongPeak, Receiver), "peak_buffer_used"),
    "close does not wake": (opened(Sender, LateClose), "that very handle"),
    "the end comes early": (opened(Sender, EarlyEnd), "EndOfChannel"),
    "closing twice counts twice": (opened(CountsEachClose, Receiver), "closing twice"),
    "a closed handle can be cloned": (opened(ClonesClosed, Receiver), "a closed sender refuses"),
    "no checkpoint": (opened(NoCheckpoint, Receiver), "no checkpoint: send"),
    "a broken channel takes items": (opened(SwallowsBroken, Receiver), "BrokenResourceError"),
    "no trio.abc": (opened(Untyped, Receiver), "no trio.abc.SendChannel"),
}
"""Each fault: how to open a channel with it, and what the message has to contain."""
