"""An item with the gap before it, as buffer and lanes hold it.

Warning: a marked item is no item. Code that handles one unwraps it by :func:`plain`, or
by :meth:`Losses.unmark <trio_ticks.channel.losses.Losses.unmark>`, which keeps the gap
and the count of marks. Sync; no clock.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from ..gaps import Gap
from ..ticks import MarketData

__all__ = ["Marked", "plain"]

T = TypeVar("T", bound=MarketData)


class Marked(Generic[T]):
    """An item, with the gap that lies right before it."""

    __slots__ = ("gap", "item")

    def __init__(self, item: T, gap: Gap) -> None:
        self.item = item
        self.gap = gap

    @property
    def symbol(self) -> str:
        """The item's symbol."""
        return self.item.symbol

    @property
    def timestamp(self) -> datetime:
        """The item's timestamp."""
        return self.item.timestamp


def plain(item: Any) -> Any:
    """Return *item* without its mark, if it has one."""
    return item.item if isinstance(item, Marked) else item
