"""Delivers what was received into the workers' channel, one stretch after another.

Rules: while it waits for room the client is polled by another task. A delivery can be
cancelled alone, when its partition goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import final

import attrs
import trio

from ...buffer import Send, Stretch
from ...uninterrupted import uninterrupted
from .holding import Holding

__all__ = ["Delivering"]


@attrs.define
class _Delivery:
    shard: int
    stretch: Stretch
    scope: trio.CancelScope
    ended: trio.Event = attrs.field(factory=trio.Event)


@uninterrupted
@final
class Delivering:
    """The task that delivers.

    Args:
        holding: says what is next.
        send: the workers' channel.
        read: reads more, and returns whether there was any.
        delivered: is called after each delivery.
    """

    def __init__(
        self,
        holding: Holding,
        send: Send,
        read: Callable[[], bool],
        delivered: Callable[[], None],
    ) -> None:
        self._holding = holding
        self._send = send
        self._read = read
        self._delivered = delivered
        self._new = trio.Event()
        self._delivery: _Delivery | None = None

    def look(self) -> None:
        """Have the task look for something to deliver."""
        self._new.set()

    async def run(self) -> None:
        """Deliver, for ever.

        Cancellation: each tick of the stretch is in the channel, or given back by it.
        """
        while True:
            found = self._holding.next_ready()
            if found is None:
                if self._read():
                    continue
                self._new = trio.Event()
                await self._new.wait()
                continue
            shard, stretch = found
            found = None  # so that what is finished is freed before more is read
            with trio.CancelScope() as scope:
                self._delivery = delivery = _Delivery(shard, stretch, scope)
                await self._send.deliver(shard, stretch)
            self._delivery = None
            delivery.ended.set()
            del delivery
            # After a cancellation its ticks count as not delivered.
            if not scope.cancelled_caught:
                self._holding.delivered(stretch)
            del stretch
            self._delivered()

    def is_at(self, shards: Collection[int]) -> bool:
        """Tell whether ticks of *shards* are being delivered."""
        return self._delivery is not None and self._delivery.shard in shards

    def cancel(self, shards: Collection[int]) -> None:
        """Cancel a delivery of *shards*."""
        if self._delivery is not None and self._delivery.shard in shards:
            self._delivery.scope.cancel()

    async def end(self, shards: Collection[int]) -> None:
        """Cancel a delivery of *shards*, and wait for its end.

        Cancellation: the delivery is cancelled.
        """
        delivery = self._delivery
        self.cancel(shards)
        if delivery is not None and delivery.shard in shards:
            await delivery.ended.wait()
