"""Leaves out what a venue sends again after a reconnect. Sans-I/O.

Rules: equal time alone is no duplicate, since some venues stamp whole seconds. A stamp
from the future is not remembered, or one wrong stamp would make a duplicate of all that
comes after it. Bounded: the least recently seen symbols are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, final

from ..ticks import Trade

__all__ = ["NewerOnly"]

_MOST: Final = 100_000
_AHEAD: Final = timedelta(seconds=2)
"""By how much a venue's clock may be ahead of ours; in a recording it was 1.27 s."""
_LONGEST_NUMBER: Final = 30
"""In digits. A longer number is junk, and could take long to convert."""


@final
class _Last:
    """What is known of the items of one symbol and kind."""

    __slots__ = ("at", "item", "number")

    def __init__(self) -> None:
        self.at: datetime | None = None
        self.item: Any = None
        self.number: int | None = None


@final
class NewerOnly:
    """Keeps only what is new: by sequence or trade number, by time, by its fields.

    An item is left out if its number was seen before, if it is older than the symbol's
    last one of its kind, or if it equals that in every field. Numbers are compared
    where the venue gives whole ones. Times are compared while the venue's clock is at
    most two seconds ahead of ours.

    Args:
        keeps_snapshots: whether the snapshot of a book is always kept, as it has to be
            where the updates that follow build on it.
    """

    def __init__(self, *, keeps_snapshots: bool = True) -> None:
        self._keeps_snapshots = keeps_snapshots
        self._last: OrderedDict[tuple[str, type[Any]], _Last] = OrderedDict()
        self.duplicates = 0
        """How many items were left out."""

    def keep(self, items: Sequence[Any], now: datetime) -> list[Any]:
        """Return those of *items* that are new, in their order; they arrive *now*."""
        kept = []
        latest = now + _AHEAD
        for item in items:
            key = (item.symbol, type(item))
            last = self._last.get(key)
            if last is None:
                last = self._last[key] = _Last()
                if len(self._last) > _MOST:
                    self._last.popitem(last=False)
            else:
                self._last.move_to_end(key)
            if self._is_new(item, last, latest) or (
                self._keeps_snapshots and getattr(item, "snapshot", False)
            ):
                kept.append(item)
            else:
                self.duplicates += 1
        return kept

    def _is_new(self, item: Any, last: _Last, latest: datetime) -> bool:
        number = _number(item)
        if number is not None and last.number is not None:
            # A smaller number with a later time is new: the venue counts from 1 again.
            is_later = last.at is not None and item.timestamp > last.at
            if number <= last.number and not is_later:
                return False
        elif _equal(item, last.item) or (last.at is not None and item.timestamp < last.at):
            return False
        last.item = item
        if item.timestamp <= latest:
            last.at = item.timestamp
        if number is not None:
            last.number = number
        return True


def _equal(item: Any, other: Any) -> bool:
    try:
        return bool(item == other)
    except Exception:
        # An item of the user's own class, which holds an array, for example.
        return False


def _number(item: Any) -> int | None:
    """Return the venue's number of *item*, where it is a whole one."""
    if isinstance(item, Trade):
        text = item.trade_id
        if text is None or len(text) > _LONGEST_NUMBER or not (text.isascii() and text.isdigit()):
            return None
        return int(text)
    number = getattr(item, "last_sequence", None)
    return number if isinstance(number, int) else None
