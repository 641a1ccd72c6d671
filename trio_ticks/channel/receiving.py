"""The consumers' end of a channel.

Rules: a task in ``receive()`` owns the tick that is handed to it, before it runs.
Workers of a pool wait here to be woken only; how they take ticks is in taking.py.
"""

from __future__ import annotations

from typing import Any, TypeVar

import trio

from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .handle import Handle
from .state import ChannelState

__all__ = ["TickReceiveChannel"]

T = TypeVar("T", bound=MarketData)


@uninterrupted
class TickReceiveChannel(Handle[T], trio.abc.ReceiveChannel[T]):
    """The consumers' end of a channel.

    Made by :func:`open_tick_channel`; clone it for further consumers.
    """

    def __init__(
        self,
        state: ChannelState[T],
        item_gate: trio.MemoryReceiveChannel[Any],
        wake_gate: trio.MemoryReceiveChannel[None],
    ) -> None:
        super().__init__(state)
        self._item_gate = item_gate
        self._wake_gate = wake_gate
        state.open_receivers += 1

    async def __aenter__(self) -> TickReceiveChannel[T]:
        return self

    def __enter__(self) -> TickReceiveChannel[T]:
        return self

    def clone(self) -> TickReceiveChannel[T]:
        """Return another handle on the same channel; each tick goes to one of them.

        Raises:
            trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        return TickReceiveChannel(self._state, self._item_gate.clone(), self._wake_gate.clone())

    @property
    def state(self) -> ChannelState[T]:
        """The shared state, for worker pools."""
        return self._state

    async def wait(self) -> None:
        """Wait until there may be ticks to take: for the workers of a pool.

        Raises:
            trio.EndOfChannel: all senders are closed, and nothing waits for room.
            trio.ClosedResourceError: this handle is closed.

        Cancellation: nothing was taken. Always a checkpoint.
        """
        self._check_open()
        self._state.drops.queue_changed()
        sleepers = self._state.sleepers
        sleepers.sleeping += 1
        woken = False
        try:
            await self._wake_gate.receive()
            woken = True
        finally:
            if woken:
                sleepers.coming -= 1
            else:
                sleepers.sleeping -= 1

    async def wait_or_read(self, scope: trio.CancelScope) -> None:
        """As :meth:`wait`; but may read a socket in its reader's place.

        It does so where ticks come one by one. For the worker of a pool that takes
        ticks at once when it has read them. Where it is needed for others' ticks
        before, or all senders close, *scope* is cancelled, in which it has to be.

        Raises:
            trio.EndOfChannel: all senders were closed before.
            trio.ClosedResourceError: this handle was closed before.

        Cancellation: as there; what it has read is in the channel, or the reader's to
        deliver.
        """
        sleepers = self._state.sleepers
        for watch in () if sleepers.ended else sleepers.watches:
            if watch.free:
                break
        else:
            await self.wait()
            return
        self._check_open()
        self._state.drops.queue_changed()
        sleepers.sleeping += 1
        sleepers.standing_in.append(watch)
        readable = False
        try:
            readable = await watch.stand_in(scope)
        finally:
            if watch in sleepers.standing_in:
                sleepers.standing_in.remove(watch)
                sleepers.sleeping -= 1
            else:
                sleepers.coming -= 1
        if readable:
            sleepers.coming += 1
            try:
                watch.pump()
            finally:
                sleepers.coming -= 1

    async def receive(self) -> T:
        """Return the next tick, waiting for one if need be.

        Raises:
            trio.EndOfChannel: all senders are closed and nothing is queued.
            trio.ClosedResourceError: this handle is closed.

        Cancellation: the tick stays in the channel. Always a checkpoint.
        """
        return (await self._receive(1))[0]

    def receive_nowait(self) -> T:
        """Return the next tick, if there is one.

        Raises:
            trio.WouldBlock: nothing is queued.
            trio.EndOfChannel: all senders are closed and nothing is queued.
            trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        batch = self._state.taking.take(1)
        if not batch:
            raise trio.EndOfChannel if self._state.sleepers.ended else trio.WouldBlock
        return batch[0]

    async def receive_many(self, max: int | None = None) -> list[T]:
        """Return what is queued, with one checkpoint.

        At least one tick and at most *max* (default: all).

        Raises:
            trio.EndOfChannel: all senders are closed and nothing is queued.
            trio.ClosedResourceError: this handle is closed.
            ValueError: *max* is less than 1.

        Cancellation: the ticks stay in the channel. Always a checkpoint.
        """
        limit = self._state.maxsize if max is None else max
        if limit < 1:
            raise ValueError(f"max must be at least 1, got {max!r}")
        return await self._receive(limit)

    async def _receive(self, limit: int) -> list[T]:
        state = self._state
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        if batch := state.taking.take(limit):
            # From here to the return nothing can be cancelled: the ticks are the
            # caller's.
            await trio.lowlevel.cancel_shielded_checkpoint()
            return batch
        state.sleepers.receiving += 1
        try:
            first: T = await self._item_gate.receive()
        finally:
            state.sleepers.receiving -= 1
        return [first, *state.taking.take(limit - 1)] if limit > 1 else [first]

    def __aiter__(self) -> TickReceiveChannel[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Close this handle.

        After the last receiver all that is queued is dropped at shutdown. Senders get
        ``trio.BrokenResourceError`` then.
        """
        if self._closed:
            return
        self._closed = True
        self._item_gate.close()
        self._wake_gate.close()
        self._state.close_receiver()
