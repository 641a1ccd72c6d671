"""A producer's end that also shows to a recorder what it is handed.

It is for feeds without raw messages. A pipeline without a recorder has none, so that
recording costs nothing where it is not wanted.

Rules: what is recorded is what was brought, before anything is dropped. A tick that
stays with the caller was not brought.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol, TypeVar, final

import attrs
import trio

from ..errors import QueueFullError
from ..events import FeedEvent
from ..gaps import Gap
from ..ticks import MarketData
from .sending import TickSendChannel

__all__ = ["ItemTap", "TappedSendChannel"]

T = TypeVar("T", bound=MarketData)

_CONNECTION: Final = 1


class ItemTap(Protocol):
    """What the recorder is told; see :class:`~trio_ticks.recordings.taps.Tap`."""

    def items(self, items: Sequence[Any], /) -> None: ...
    def event(self, word: str, /, **facts: Any) -> None: ...


@final
class TappedSendChannel(TickSendChannel[T]):
    """Another handle on the channel of *send*, for a feed that is recorded.

    Args:
        send: an open handle.
        tap: is shown what comes.
    """

    def __init__(self, send: TickSendChannel[T], tap: ItemTap) -> None:
        super().__init__(send._state)
        self._tap = tap

    def clone(self) -> TickSendChannel[T]:
        """Return another handle on the same channel, which is recorded, too.

        Raises:
            trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        return TappedSendChannel(self, self._tap)

    def send_nowait(self, value: T) -> None:
        """Hand one tick to the channel without waiting; see the base class."""
        try:
            super().send_nowait(value)
        except (trio.WouldBlock, trio.ClosedResourceError):
            raise
        except (QueueFullError, trio.BrokenResourceError):
            self._record((value,))
            raise
        self._record((value,))

    def deliver(
        self, ticks: Sequence[T], *, arrived: Sequence[float] | None = None
    ) -> Awaitable[None] | None:
        """Take *ticks* over at once; see the base class."""
        self._check_open()
        self._record(ticks)
        return super().deliver(ticks, arrived=arrived)

    async def _send(self, ticks: Sequence[T]) -> None:
        if not self._closed:
            self._record(ticks)
        await super()._send(ticks)

    def mark_gap(self, gap: Gap, *, book: bool = False) -> None:
        """Say that something was lost before it reached the channel."""
        self._tap.event("gap", book=book, **attrs.asdict(gap))
        super().mark_gap(gap, book=book)

    def report_event(self, event: FeedEvent) -> None:
        """For feeds: tell the strategy of *event*, apart from the market data."""
        if event.kind == "lost":
            self._tap.event("lost", connection=_CONNECTION, reason=event.reason)
        elif event.kind == "back":
            self._tap.event("opened", connection=_CONNECTION)
        super().report_event(event)

    def _record(self, ticks: Sequence[T]) -> None:
        items = [tick for tick in ticks if not isinstance(tick, FeedEvent)]
        if items:
            self._tap.items(items)
