"""The producer's end of a channel.

Rules: what is brought is counted in the step in which it is brought. A task that waits
for room only waits: its ticks belong to the channel, and enter in the order of the
senders.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from ..events import FeedEvent
from ..gaps import Gap
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .deliveries import Delivery
from .handle import Handle
from .sleepers import Watch
from .state import ChannelState

__all__ = ["TickSendChannel"]

T = TypeVar("T", bound=MarketData)

_MANY = 256
"""After more ticks than this in one delivery the source yields once.

Workers then handle them before the next read: they are still in the CPU's cache, and
most are gone before Python's garbage collector has counted enough new objects to visit
them all. Measured over a socket, Python 3.11: 1.56 -> 1.46 µs a tick.
"""


class _Wait:
    """What :meth:`TickSendChannel.deliver` gives to await.

    Nothing is lost if it is never awaited.
    """

    __slots__ = ("_start",)

    def __init__(self, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._start = start

    def __await__(self) -> Generator[Any, None, None]:
        return self._start().__await__()


class _Turn(_Wait):
    """Ticks of a sender whose last delivery waits still.

    They are the caller's until this is awaited, which may be done once.
    """

    __slots__ = ("_forget",)

    def __init__(
        self, start: Callable[[], Coroutine[Any, Any, None]], forget: Callable[[], None]
    ) -> None:
        super().__init__(start)
        self._forget: Callable[[], None] | None = forget

    def __await__(self) -> Generator[Any, None, None]:
        if self._forget is None:
            # Its ticks were brought, or dropped with the wait that was cancelled.
            raise RuntimeError("this result of deliver() was awaited already")
        self._forget = None
        return super().__await__()

    def __del__(self) -> None:
        if self._forget is not None:
            self._forget()


@uninterrupted
class TickSendChannel(Handle[T], trio.abc.SendChannel[T]):
    """The producer's end of a channel.

    Made by :func:`open_tick_channel`; clone it for further producers.
    """

    def __init__(self, state: ChannelState[T]) -> None:
        super().__init__(state)
        state.senders[self] = None
        self._delivered: Delivery[T] | None = None
        """What :meth:`deliver` has left waiting, if anything."""
        self._turns = trio.Lock()
        """Held by the task whose ticks are the next behind it; others queue up."""

    async def __aenter__(self) -> TickSendChannel[T]:
        return self

    def __enter__(self) -> TickSendChannel[T]:
        return self

    def clone(self) -> TickSendChannel[T]:
        """Return another handle on the same channel.

        Receivers see the end when all are closed.

        Raises:
            trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        return TickSendChannel(self._state)

    async def send(self, value: T) -> None:
        """Hand one tick to the channel, as its overflow strategy says.

        A drop never raises.

        Raises:
            QueueFullError: the channel is full and the strategy is :class:`Fail`.
            trio.ClosedResourceError: this handle is closed (the tick stays with the
                caller), or was closed while the tick waited (it is dropped at
                shutdown).
            trio.BrokenResourceError: all receivers are closed; the tick is dropped at
                shutdown.

        Cancellation: a tick that waits for room is withdrawn, and counted as dropped at
        shutdown; in a pipeline that shuts down gracefully it stays, and is handled.
        Always a checkpoint.
        """
        await self._send((value,))

    def send_nowait(self, value: T) -> None:
        """Hand one tick to the channel without waiting: its strategy applies at once.

        Raises:
            trio.WouldBlock: the strategy is :class:`Block`, and there is no room, or
                others wait for it; the tick stays with the caller.
            QueueFullError: as for :meth:`send`.
            trio.ClosedResourceError: this handle is closed; the tick stays with the
                caller.
            trio.BrokenResourceError: as for :meth:`send`.
        """
        self._check_open()
        self._state.offer_now(value, self)
        self._state.drops.queue_changed()

    async def send_many(self, ticks: Iterable[T]) -> None:
        """Hand several ticks to the channel, in order.

        There is one checkpoint where there is room.

        Raises:
            QueueFullError: the channel is full and the strategy is :class:`Fail`; what
                found no room is counted as overflow.
            trio.ClosedResourceError: as for :meth:`send`.
            trio.BrokenResourceError: as for :meth:`send`.

        Cancellation: each tick is either in the channel, or counted as dropped at
        shutdown; in a pipeline that shuts down gracefully what waits stays, and is
        handled. Always a checkpoint.
        """
        await self._send(ticks if isinstance(ticks, list | tuple) else list(ticks))

    def deliver(
        self, ticks: Sequence[T], *, arrived: Sequence[float] | None = None
    ) -> Awaitable[None] | None:
        """Take *ticks* over at once.

        For a source that has a checkpoint of its own at each read.

        What found no room belongs to the channel, waits there, and enters as room
        comes, whether or not the result is awaited.

        Args:
            ticks: in order.
            arrived: when each of them arrived, on trio's clock, for a source whose
                ticks arrived elsewhere before; now, unless given.

        Returns:
            ``None`` where nothing is left to do; else what to await before anything
            else is delivered: until the ticks have found room or their patience is
            spent, or, after many at once, to let others handle them before there are
            more. Several tasks may await it. Where an earlier delivery of this handle
            waits still, nothing is taken before that is in: await the result, once, or
            the ticks are dropped at shutdown when it is thrown away.

        Raises:
            QueueFullError: as for :meth:`send_many`.
            trio.ClosedResourceError: this handle is closed; the ticks stay with the
                caller.
            trio.BrokenResourceError: all receivers are closed; the ticks are dropped at
                shutdown.

        Cancellation: cancelling the wait takes nothing back: what waits for room stays.
        A checkpoint only where there is something to await.
        """
        if self._closed:
            self._check_open()
        if self._delivered is not None:
            if self._delivered.waits:
                start = partial(self._deliver_next, ticks, arrived)
                return _Turn(start, partial(self._forget, ticks))
            self._delivered = None
        delivery = self._state.offer(ticks, self, kept=True, arrived=arrived)
        self._state.drops.queue_changed()
        if delivery is not None:
            self._delivered = delivery
            return _Wait(partial(self._wait_for, delivery))
        return _Wait(trio.lowlevel.checkpoint) if len(ticks) > _MANY else None

    async def _deliver_next(self, ticks: Sequence[T], arrived: Sequence[float] | None) -> None:
        """Wait for this handle's last delivery, then bring *ticks*."""
        brought = False
        try:
            async with self._turns:
                while self._delivered is not None and self._delivered.waits:
                    await self._wait_for(self._delivered)
                self._check_open()
                brought = True
                # Of this class: a subclass has seen the ticks already.
                wait = TickSendChannel.deliver(self, ticks, arrived=arrived)
        except BaseException:
            if not brought:
                self._forget(ticks)
            raise
        if wait is not None:
            await wait

    def _forget(self, ticks: Sequence[T]) -> None:
        """Take *ticks*, which their sender gave up, into account."""
        state = self._state
        if state.drops.item_listeners:
            state.drops.report_items(ticks, None)
        state.ledger.produced += len(ticks)
        state.drops.drop(ticks, "shutdown", at_head=False)

    async def _send(self, ticks: Sequence[T]) -> None:
        was_open = not self._closed
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            if was_open:
                self._send_though_cancelled(ticks)
            raise
        self._check_open()
        delivery = self._state.offer(ticks, self)
        self._state.drops.queue_changed()
        if delivery is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._wait_for(delivery)

    def _send_though_cancelled(self, ticks: Sequence[T]) -> None:
        """Account for *ticks*, whose sender was cancelled before it could bring them.

        In a graceful shutdown they are queued work like any other.
        """
        state = self._state
        if state.deliveries.draining and state.open_receivers:
            state.offer(ticks, self)
            state.drops.queue_changed()
        else:
            self._forget(ticks)

    async def _wait_for(self, delivery: Delivery[T]) -> None:
        """Wait until *delivery* is in, or the strategy's patience with it is spent."""
        state, deliveries = self._state, self._state.deliveries
        if not delivery.waits:
            await trio.lowlevel.checkpoint()
        while delivery.waits and not isinstance(delivery.error, trio.ClosedResourceError):
            left = deliveries.patience_left(delivery, state.now())
            if left <= 0:
                deliveries.expire(delivery, state.now())
                continue
            try:
                with trio.fail_after(left) as scope:
                    await self._park(delivery, scope)
            except trio.TooSlowError:
                deliveries.expire(delivery, state.now())
            except BaseException:
                # The patience and a scope around it ended at the same moment.
                deliveries.withdraw(delivery, state.now())
                raise
            finally:
                state.drops.queue_changed()
        if delivery.error is not None:
            raise delivery.error

    async def _park(self, delivery: Delivery[T], patience: trio.CancelScope) -> None:
        """Sleep until somebody ends the wait of *delivery*, or *patience* does."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del delivery.waiters[task]
            if not patience.cancel_called:
                self._state.deliveries.withdraw(delivery, self._state.now())
            return trio.lowlevel.Abort.SUCCEEDED

        task = trio.lowlevel.current_task()
        delivery.waiters[task] = patience
        await trio.lowlevel.wait_task_rescheduled(abort)

    @property
    def watches(self) -> list[Watch]:
        """For feeds: sources that workers may read while their readers live."""
        return self._state.sleepers.watches

    @property
    def takes_events(self) -> bool:
        """For feeds: whether events of symbols are sent too, in the symbol's line."""
        return self._state.takes_events

    def report_event(self, event: FeedEvent) -> None:
        """For feeds: tell the strategy of *event*, apart from the market data."""
        if self._state.on_event is not None:
            self._state.on_event(event)

    def mark_gap(self, gap: Gap, *, book: bool = False) -> None:
        """Say that something was lost before it reached the channel.

        It may be a sequence gap, or a reconnect. It is told before the symbol's next
        item.

        Args:
            gap: what is known of the loss.
            book: the symbol's book updates are worthless until a snapshot; they are
                held back, and a snapshot is asked for.
        """
        self._state.losses.lost_before(gap, book=book)
        if book:
            self._state.drops.book_lost()

    def close(self) -> None:
        """Close this handle.

        After the last sender receivers get what is queued, then the end. Tasks that
        wait in :meth:`send` or :meth:`send_many` of this handle get
        ``trio.ClosedResourceError``. What :meth:`deliver` left waiting stays.
        """
        if self._closed:
            return
        self._closed = True
        state = self._state
        del state.senders[self]
        state.deliveries.close(self, state.now())
        state.end_if_over()
