"""The bounded channel: the two handles that producers and consumers hold, and :func:`open_tick_channel`.

Rules: async methods are always a checkpoint; a cancelled call loses nothing: a tick is in the channel, or counted. The sync state behind
the handles is :class:`~trio_ticks.channel_state.ChannelState`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

import trio

from .channel_state import ChannelState
from .errors import ConfigError
from .freshness import MaxAge, check_max_age
from .gaps import Gap
from .ledger import Ledger
from .overflow import DropNewest, Overflow, OverflowStrategy, check_policy
from .socket_watch import SocketWatch
from .ticks import MarketData

__all__ = ["TickReceiveChannel", "TickSendChannel", "open_tick_channel"]

T = TypeVar("T", bound=MarketData)

_HEAP = 256
"""Ticks in a batch that workers should have had before the source brings more: then they are handled while they are warm in the CPU's
caches, and most are gone before Python's garbage collector would have counted enough of them for a look at them all."""


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

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close this handle.

        Cancellation: closes in any case; a checkpoint.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
        await trio.lowlevel.checkpoint()  # noqa: ASYNC102  # all is done before


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
        rest = self._offer(ticks if isinstance(ticks, list | tuple) else list(ticks))
        if rest:
            await self._send_rest(rest)
        await trio.lowlevel.checkpoint()

    def deliver(self, ticks: Sequence[T]) -> Awaitable[None] | None:
        """As :meth:`send_many`, but at once for a few ticks that find room: for a source that has a checkpoint of its own at each read.

        What wakes for the ticks then runs before the source does, and not after it in half of all cases.

        Returns:
            ``None`` where all is done; else what to await before anything else is delivered: for the ticks that found no room, or,
            after many at once, to let others have them before there are more. Somebody has to: it has what is left of the ticks.

        Raises:
            QueueFullError: as there.
            trio.ClosedResourceError: as there.
            trio.BrokenResourceError: as there.

        Cancellation: as there, but a checkpoint only where there is something to await.
        """
        rest = self._offer(ticks)
        if rest:
            return self._send_rest(rest)
        return trio.lowlevel.checkpoint() if len(ticks) > _HEAP else None  # noqa: ASYNC105  # for whoever delivers

    def _offer(self, ticks: Sequence[T]) -> Sequence[T]:
        """Hand over what finds room at once; return the rest."""
        self._check_open()
        state = self._state
        rest = ticks
        if state.open_receivers:
            rest = state.offer(rest)
            if state.on_change is not None:
                state.on_change()
        return rest

    async def _send_rest(self, rest: Sequence[T]) -> None:
        """Wait for room as long as the strategy's patience lasts; then apply its verdict to what is left."""
        state = self._state
        began = state.now()
        try:
            if state.open_receivers and state.room > 0:
                # Others have run since they were offered: who is to wait for a delivery need not be who began it.
                rest = state.offer(rest)
            while rest:
                if not state.open_receivers:
                    raise trio.BrokenResourceError("all receivers of this channel are closed")
                if state.admission.patience(rest, state.now() - began) > 0:
                    try:
                        await state.wait_for_room(self._gate, rest, state.now() - began)
                    except trio.TooSlowError:
                        continue
                else:
                    refused, rest = rest, ()
                    rest = state.admission.give_up(refused)
                    began = state.now()
                if state.open_receivers and rest:
                    left = len(rest)
                    rest = state.offer(rest, first_in_line=True)
                    if len(rest) < left:
                        began = state.now()
        finally:
            state.drop_new(rest, "shutdown")
            # Our turn is over, whatever came of it: what room is left belongs to the next in line.
            state.wake_sender()
            if state.on_change is not None:
                state.on_change()

    @property
    def watches(self) -> list[SocketWatch]:
        """For feeds: sockets whose readers workers may stand in for, each for as long as its connection lives."""
        return self._state.watches

    def mark_gap(self, gap: Gap, *, book: bool = False) -> None:
        """Say that something was lost before it reached the channel (a sequence gap, a reconnect).

        It is told before the symbol's next item.

        Args:
            gap: what is known of the loss.
            book: the symbol's book updates are worthless until a snapshot; they are held back, and a snapshot is asked for.
        """
        self._state.tell_gap(gap, book=book)

    def close(self) -> None:
        """Close this handle; when it is the last sender, receivers get what is queued and then the end."""
        if self._closed:
            return
        self._closed = True
        self._gate.close()
        self._state.close_senders()


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
        state = self._state
        if state.on_change is not None:
            state.on_change()
        state.sleeping_receivers += 1
        woken = False
        try:
            await self._gate.receive()
            woken = True
        finally:
            if woken:
                state.coming -= 1
            else:
                state.sleeping_receivers -= 1

    async def wait_or_read(self, scope: trio.CancelScope) -> None:
        """As :meth:`wait`; but where ticks come one by one over a socket, in its reader's place, and have them put into the channel.

        For worker pools: for who then takes ticks at once, since it is not there for others' before that. Where it is needed for those, or
        all senders close, *scope*, which it has to be in, is cancelled.

        Raises:
            trio.EndOfChannel: all senders were closed before.
            trio.ClosedResourceError: this handle was closed before.

        Cancellation: as there; what it has read is in the channel, or the reader's to deliver.
        """
        state = self._state
        watch = next((watch for watch in state.watches if watch.free), None) if state.open_senders else None
        if watch is None:
            await self.wait()
            return
        self._check_open()
        if state.on_change is not None:
            state.on_change()
        state.sleeping_receivers += 1
        state.standing_in.append(watch)
        readable = False
        try:
            readable = await watch.stand_in(scope)
        finally:
            if watch in state.standing_in:
                state.standing_in.remove(watch)
                state.sleeping_receivers -= 1
            else:
                state.coming -= 1
        if readable:
            state.coming += 1
            try:
                watch.pump()
            finally:
                state.coming -= 1

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
        self._state.close_receivers()


def open_tick_channel(
    maxsize: int = 1000,
    overflow: Overflow | None = None,
    max_age: MaxAge | float | None = None,
    *,
    default: OverflowStrategy = DropNewest(),  # noqa: B008  # frozen
) -> tuple[TickSendChannel[T], TickReceiveChannel[T]]:
    """Open a bounded channel for ticks, or for anything with a ``symbol`` and a ``timestamp``.

    Args:
        maxsize: how many ticks it holds at most. Size it as ``burst seconds x ticks a second x safety factor``.
        overflow: what to do when it is full: a strategy, or a mapping from kinds of items to strategies; *default* unless given.
        max_age: a tick that has waited longer (in seconds) when its turn comes is counted as ``stale`` and not delivered; a
            :class:`MaxAge` measures by the tick's own timestamp instead.
        default: the strategy for kinds of items that a mapping does not list.

    Raises:
        ConfigError: a setting cannot work.
    """
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
        raise ConfigError(f"maxsize must be a whole number of ticks, 1 or more, got {maxsize!r}")
    policy = default if overflow is None else check_policy(overflow)
    state: ChannelState[T] = ChannelState(maxsize, policy, default, check_max_age(max_age))
    return TickSendChannel(state, state.room_gate), TickReceiveChannel(state, state.items_gate)
