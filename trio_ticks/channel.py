"""The bounded channel: a buffer with an overflow strategy, between trio memory channels that do all the waiting.

Rules: ticks live in our buffer, since trio's own cannot evict, conflate or keep lanes; two memory channels of capacity 0 carry only wake-ups,
one for receivers ("there are ticks") and one for senders ("there is room"), and with them trio's semantics of closing, cloning and
cancelling. Between two checkpoints every change is whole: a tick is with the sender, in the buffer, or counted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

import trio

from .buffers import FifoBuffer, Lanes
from .errors import ConfigError, QueueFullError
from .ledger import DropReason, Ledger
from .overflow import Block, DropNewest, DropOldest, Fail, OverflowStrategy
from .ticks import MarketData

__all__ = ["ChannelState", "TickReceiveChannel", "TickSendChannel", "open_tick_channel"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=MarketData)

_WAKE_AT_ONCE = 2


class ChannelState(Generic[T]):
    """What the two ends share. Sync, but for the one wait for room; the worker pool works on it directly."""

    def __init__(self, maxsize: int, overflow: OverflowStrategy, max_age: float | None) -> None:
        self.maxsize = maxsize
        self.overflow = overflow
        self.max_age = max_age
        self.buffer: FifoBuffer[T] = FifoBuffer()
        self.lanes: Lanes[T] = Lanes()
        self.ledger = Ledger(self._measure)
        self.peak = 0
        """Most ticks that were ever queued at once."""
        self.open_senders = 0
        self.open_receivers = 0
        self.sleeping_senders = 0
        self.sleeping_receivers = 0
        self.on_change: Callable[[], None] | None = None
        """Called when the number of queued ticks may have crossed a mark: after a send, and when a worker rests."""
        self._wake_receivers, self.items_gate = trio.open_memory_channel[None](0)
        self.room_gate, self._wake_senders = trio.open_memory_channel[None](0)
        self._low = maxsize // 2
        self._waited_in_episode = 0.0
        self._waited_before = 0.0
        self._waiting_since = 0.0
        self._waiting = 0
        self._next_log: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def _measure(self) -> int:
        return len(self.buffer) + len(self.lanes)

    @property
    def queued(self) -> int:
        """How many ticks take room now."""
        return len(self.buffer) + self.lanes.parked

    @property
    def blocked_s(self) -> float:
        """How long at least one sender has waited for room, in seconds."""
        return self._waited_before + self._waited_in_episode + self._waited_now()

    def _waited_now(self) -> float:
        return trio.current_time() - self._waiting_since if self._waiting else 0.0

    # Sending

    def offer(self, items: Sequence[T], *, first_in_line: bool = False) -> Sequence[T]:
        """Take in what the strategy takes without waiting, and return the rest. Newcomers stay behind senders that wait."""
        queued = self.queued
        if queued <= self._low:
            self._waited_before += self._waited_in_episode
            self._waited_in_episode = 0.0
        room = 0 if self._waiting and not first_in_line else self.maxsize - queued
        if len(items) <= room:
            self._admit(items)
            return ()
        if isinstance(self.overflow, DropOldest):
            self._make_room(len(items) - room)
            self._admit(items[-self.maxsize :])
            self.discard(items[: -self.maxsize], "evicted")
            return ()
        if room > 0:
            self._admit(items[:room])
            return items[room:]
        return items

    def _admit(self, items: Sequence[T]) -> None:
        count = len(items)
        if not count:
            return
        self.ledger.produced += count
        self.buffer.extend(items, trio.current_time())
        queued = self.queued
        if queued > self.peak:
            self.peak = queued
        if self.sleeping_receivers:
            self.wake_receivers(min(count, _WAKE_AT_ONCE))

    def _make_room(self, wanted: int) -> None:
        """Evict the *wanted* oldest ticks, or all there are. Parked ticks came before those in the buffer."""
        evicted = self.lanes.evict(wanted)
        evicted += self.buffer.take_many(wanted - len(evicted))
        if evicted:
            self.count_drop(len(evicted), "evicted")

    def discard(self, items: Sequence[T], reason: DropReason) -> None:
        """Count *items*, which no buffer holds, as produced and dropped."""
        count = len(items)
        if not count:
            return
        self.ledger.produced += count
        self.count_drop(count, reason)

    def count_drop(self, count: int, reason: DropReason) -> None:
        drops = self.ledger.in_channel
        setattr(drops, reason, getattr(drops, reason) + count)
        self.log_drop(count, reason)

    def log_drop(self, count: int, reason: DropReason) -> None:
        """Log at most once a second per reason, with the count since the last line."""
        now = trio.current_time()
        self._unlogged[reason] = self._unlogged.get(reason, 0) + count
        if now < self._next_log.get(reason, -math.inf):
            return
        self._next_log[reason] = now + 1.0
        dropped = self._unlogged.pop(reason)
        logger.warning(
            "ticks.dropped: %d %s (%d of %d queued, %s)",
            dropped,
            reason,
            self.queued,
            self.maxsize,
            self.overflow,
            extra={"reason": reason, "dropped": dropped, "queued": self.queued, "maxsize": self.maxsize, "strategy": repr(self.overflow)},
        )

    def log_failure(self, symbol: str, error: Exception) -> None:
        """Log a handler's exception, at most once a second, with the count since the last line."""
        now = trio.current_time()
        self._unlogged["failed"] = self._unlogged.get("failed", 0) + 1
        if now < self._next_log.get("failed", -math.inf):
            return
        self._next_log["failed"] = now + 1.0
        count = self._unlogged.pop("failed")
        logger.error(
            "handler.failed: %d ticks, the last of %s", count, symbol, exc_info=error, extra={"failed": count, "symbol": symbol}
        )

    def patience(self) -> float:
        """Seconds that a sender may still wait for room in this episode."""
        if isinstance(self.overflow, DropNewest):
            return self.overflow.timeout - self._waited_in_episode - self._waited_now()
        return math.inf if isinstance(self.overflow, Block) else 0.0

    async def wait_for_room(self, gate: trio.MemorySendChannel[None]) -> None:
        """Wait until a receiver has made room, or the patience is spent (trio.TooSlowError)."""
        with trio.fail_after(self.patience()):
            if not self._waiting:
                self._waiting_since = trio.current_time()
            self._waiting += 1
            self.sleeping_senders += 1
            woken = False
            try:
                await gate.send(None)
                woken = True
            finally:
                if not woken:
                    self.sleeping_senders -= 1
                self._waiting -= 1
                if not self._waiting:
                    self._waited_in_episode += trio.current_time() - self._waiting_since

    def wake_sender(self) -> None:
        """Let the sender that has waited longest look for room again."""
        if self.sleeping_senders and self.open_receivers and self.queued < self.maxsize:
            try:
                self._wake_senders.receive_nowait()
            except trio.WouldBlock:
                return  # It was cancelled, and has not run since to say so.
            self.sleeping_senders -= 1

    # Receiving

    def wake_receivers(self, count: int) -> None:
        """Let up to *count* sleeping receivers look for ticks again. The end of the last sender has woken them all."""
        if not self.open_senders:
            return
        for _ in range(min(count, self.sleeping_receivers)):
            try:
                self._wake_receivers.send_nowait(None)
            except trio.WouldBlock:
                return  # The rest were cancelled or closed, and have not run since to say so.
            self.sleeping_receivers -= 1

    async def wait_for_items(self, gate: trio.MemoryReceiveChannel[None]) -> None:
        """Wait until there may be ticks. Raises trio.EndOfChannel where no more can come."""
        if self.on_change is not None:
            self.on_change()
        self.sleeping_receivers += 1
        woken = False
        try:
            await gate.receive()
            woken = True
        finally:
            if not woken:
                self.sleeping_receivers -= 1
        # Each that wakes wakes two more where there is more than it needs: all are up in a few steps, and quick handlers leave most asleep.
        if self.sleeping_receivers:
            self.wake_receivers(min(len(self.buffer) - 1, _WAKE_AT_ONCE))

    def is_stale(self, arrived: float) -> bool:
        return self.max_age is not None and trio.current_time() - arrived > self.max_age

    def take(self, limit: int) -> list[T]:
        """Remove and return up to *limit* fresh ticks, in order; those that are too old are counted as stale on the way."""
        if self.max_age is None:
            batch = self.buffer.take_many(limit)
        else:
            batch = []
            stale = 0
            while self.buffer and len(batch) < limit:
                item = self.buffer.take()
                if self.is_stale(self.buffer.arrival()):
                    stale += 1
                else:
                    batch.append(item)
            if stale:
                self.count_drop(stale, "stale")
        self.ledger.delivered += len(batch)
        if self.sleeping_senders:
            self.wake_sender()
        return batch

    def abandon(self) -> None:
        """Count all that is queued as shutdown: nobody is left to receive it."""
        count = self.lanes.parked + len(self.buffer)
        self.lanes.evict(count)
        self.buffer.take_many(count)
        if count:
            self.count_drop(count, "shutdown")


class _End(Generic[T]):
    """What the two handles have in common: an open state, and async context management."""

    def __init__(self, state: ChannelState[T]) -> None:
        self._state = state
        self._closed = False

    @property
    def ledger(self) -> Ledger:
        """The channel's counters; the same object at both ends."""
        return self._state.ledger

    @property
    def maxsize(self) -> int:
        """How many ticks the channel holds at most."""
        return self._state.maxsize

    def __len__(self) -> int:
        """How many ticks are queued now."""
        return self._state.queued

    def __bool__(self) -> bool:
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"this {type(self).__name__} was closed")

    def close(self) -> None:
        """Close this handle; its clones stay open. Closing twice is harmless."""
        raise NotImplementedError

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close this handle.

        Cancellation: closes in any case; a checkpoint.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class TickSendChannel(_End[T]):
    """The producer's end. Made by :func:`open_tick_channel`; clone it to give several producers one each."""

    def __init__(self, state: ChannelState[T], gate: trio.MemorySendChannel[None]) -> None:
        super().__init__(state)
        self._gate = gate
        state.open_senders += 1

    async def __aenter__(self) -> TickSendChannel[T]:
        return self

    def __enter__(self) -> TickSendChannel[T]:
        return self

    def clone(self) -> TickSendChannel[T]:
        """Return another handle on the same channel. Receivers see the end when all are closed.

        Raises:
            trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        return TickSendChannel(self._state, self._gate.clone())

    async def send(self, tick: T) -> None:
        """Hand one tick to the channel, as its overflow strategy says. A drop is counted and never raises.

        Raises:
            QueueFullError: the channel is full and the strategy is :class:`Fail`.
            trio.ClosedResourceError: this handle is closed (the tick stays with the caller).
            trio.BrokenResourceError: all receivers are closed; the tick is counted as dropped at shutdown.

        Cancellation: the tick is either in the channel, or counted as dropped at shutdown. Always a checkpoint.
        """
        await self.send_many((tick,))

    async def send_many(self, ticks: Iterable[T]) -> None:
        """Hand several ticks to the channel, in order, with one checkpoint for all where there is room.

        Raises:
            QueueFullError: the channel is full and the strategy is :class:`Fail`; what found no room is counted as overflow.
            trio.ClosedResourceError: this handle is closed (the ticks stay with the caller).
            trio.BrokenResourceError: all receivers are closed; what is left is counted as dropped at shutdown.

        Cancellation: each tick is either in the channel, or counted as dropped at shutdown. Always a checkpoint.
        """
        self._check_open()
        state = self._state
        rest: Sequence[T] = ticks if isinstance(ticks, list | tuple) else list(ticks)
        if state.open_receivers:
            rest = state.offer(rest)
            if state.on_change is not None:
                state.on_change()
        if rest:
            await self._send_rest(rest)
        await trio.lowlevel.checkpoint()

    async def _send_rest(self, rest: Sequence[T]) -> None:
        """Wait for room as long as the strategy's patience lasts; then apply its verdict to what is left."""
        state = self._state
        try:
            while rest:
                if not state.open_receivers:
                    raise trio.BrokenResourceError("all receivers of this channel are closed")
                if state.patience() <= 0:
                    rest, lost = (), rest
                    state.discard(lost, "overflow")
                    if isinstance(state.overflow, Fail):
                        raise QueueFullError(
                            f"the channel is full ({state.maxsize} ticks) and its strategy is Fail(); {len(lost)} found no room",
                            maxsize=state.maxsize,
                        )
                    break
                try:
                    await state.wait_for_room(self._gate)
                except trio.TooSlowError:
                    continue
                if state.open_receivers:
                    rest = state.offer(rest, first_in_line=True)
        finally:
            state.discard(rest, "shutdown")
            # Our turn is over, whatever came of it: what room is left belongs to the next in line.
            state.wake_sender()
            if state.on_change is not None:
                state.on_change()

    def close(self) -> None:
        """Close this handle; when it is the last sender, receivers get what is queued and then the end."""
        if self._closed:
            return
        self._closed = True
        self._gate.close()
        state = self._state
        state.open_senders -= 1
        if not state.open_senders:
            state._wake_receivers.close()


class TickReceiveChannel(_End[T]):
    """The consumers' end. Made by :func:`open_tick_channel`; clone it to give each worker its own."""

    def __init__(self, state: ChannelState[T], gate: trio.MemoryReceiveChannel[None]) -> None:
        super().__init__(state)
        self._gate = gate
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
        return TickReceiveChannel(self._state, self._gate.clone())

    @property
    def state(self) -> ChannelState[T]:
        """The shared state, for worker pools."""
        return self._state

    async def wait(self) -> None:
        """Wait until there may be ticks to take.

        Raises:
            trio.EndOfChannel: all senders are closed.
            trio.ClosedResourceError: this handle is closed.

        Cancellation: nothing was taken. Always a checkpoint.
        """
        self._check_open()
        await self._state.wait_for_items(self._gate)

    async def receive(self) -> T:
        """Return the next tick, waiting for one if need be.

        Raises:
            trio.EndOfChannel: all senders are closed and nothing is queued.
            trio.ClosedResourceError: this handle is closed.

        Cancellation: the tick stays in the channel. Always a checkpoint.
        """
        return (await self.receive_many(1))[0]

    async def receive_many(self, max: int | None = None) -> list[T]:
        """Return what is queued, at least one tick and at most *max* (default: all), with one checkpoint for all.

        Raises:
            trio.EndOfChannel: all senders are closed and nothing is queued.
            trio.ClosedResourceError: this handle is closed.
            ValueError: *max* is less than 1.

        Cancellation: the ticks stay in the channel. Always a checkpoint.
        """
        state = self._state
        limit = state.maxsize if max is None else max
        if limit < 1:
            raise ValueError(f"max must be at least 1, got {max!r}")
        self._check_open()
        # Before the ticks are taken: from here to the return nothing can be cancelled.
        await trio.lowlevel.checkpoint()
        while not (batch := state.take(limit)):
            try:
                await self.wait()
            except trio.EndOfChannel:
                # The end wakes everybody at once; those who were woken for ticks before may not have taken them all.
                if not state.buffer:
                    raise
        return batch

    def __aiter__(self) -> TickReceiveChannel[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Close this handle; when it is the last receiver, what is queued is counted as dropped at shutdown, and senders break."""
        if self._closed:
            return
        self._closed = True
        self._gate.close()
        state = self._state
        state.open_receivers -= 1
        if not state.open_receivers:
            state._wake_senders.close()
            state.abandon()


def open_tick_channel(
    maxsize: int = 1000, overflow: OverflowStrategy | None = None, max_age: float | None = None
) -> tuple[TickSendChannel[T], TickReceiveChannel[T]]:
    """Open a bounded channel for ticks, or for anything with a ``symbol`` and a ``timestamp``.

    Args:
        maxsize: how many ticks it holds at most. Size it as ``burst seconds x ticks a second x safety factor``.
        overflow: what to do when it is full; ``DropNewest(timeout=1.0)`` unless given.
        max_age: in seconds; a tick that has waited longer when its turn comes is counted as ``stale`` and not delivered.

    Raises:
        ConfigError: a setting cannot work.
    """
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
        raise ConfigError(f"maxsize must be a whole number of ticks, 1 or more, got {maxsize!r}")
    if overflow is None:
        overflow = DropNewest()
    if not isinstance(overflow, OverflowStrategy):
        raise ConfigError(f"overflow must be a strategy such as DropNewest(timeout=1.0), got {overflow!r}")
    if max_age is not None and not (isinstance(max_age, int | float) and max_age > 0):
        raise ConfigError(f"max_age must be a positive number of seconds or None, got {max_age!r}")
    state: ChannelState[T] = ChannelState(maxsize, overflow, max_age)
    return TickSendChannel(state, state.room_gate), TickReceiveChannel(state, state.items_gate)


