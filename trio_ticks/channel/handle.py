"""What the two handles of a channel have in common: the ledger, the clock, closing."""

from __future__ import annotations

from random import Random
from types import TracebackType
from typing import Generic, TypeVar

import trio

from ..clock import Clock
from ..ledger import Ledger
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .state import ChannelState
from .statistics import ChannelStatistics

__all__ = ["Handle"]

T = TypeVar("T", bound=MarketData)


@uninterrupted
class Handle(Generic[T]):
    """What the two handles have in common."""

    def __init__(self, state: ChannelState[T]) -> None:
        self._state = state
        self._closed = False

    @property
    def ledger(self) -> Ledger:
        """The channel's counters; the same object at both ends."""
        return self._state.ledger

    @property
    def clock(self) -> Clock:
        """The time of this channel, and of the pipeline that it belongs to."""
        return self._state.clock

    @property
    def random(self) -> Random:
        """The one source of chance of the pipeline that this channel belongs to."""
        return self._state.random

    @property
    def maxsize(self) -> int:
        """How many ticks the channel holds at most."""
        return self._state.maxsize

    def statistics(self) -> ChannelStatistics:
        """Return the channel at this moment: trio's fields by their names, and ours.

        The channel holds ``current_buffer_used`` of at most ``max_buffer_size`` ticks;
        ``peak_buffer_used`` is the most so far. Of these, ``ready`` ticks could begin
        now, and ``parked`` ones wait behind a tick of their symbol that a worker of a
        pipeline handles. ``waiting_for_room`` ticks were brought but are not in yet;
        something has waited so for ``blocked_s`` seconds in all. The oldest tick has
        waited for ``oldest_age_s``. ``open_send_channels``, ``open_receive_channels``,
        ``tasks_waiting_send`` and ``tasks_waiting_receive`` are trio's.
        """
        return self._state.statistics()

    def __len__(self) -> int:
        """How many ticks the channel holds now."""
        return self._state.used

    def __bool__(self) -> bool:
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"this {type(self).__name__} was closed")

    def close(self) -> None:
        """Close this handle; its clones stay open. Closing twice is harmless."""
        raise NotImplementedError

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close this handle.

        Cancellation: closes in any case; a checkpoint.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await trio.lowlevel.checkpoint()  # noqa: ASYNC102  # all is done before
