"""What is in an answer: the items that are market data, and what is wrong with others.

Rules: sans-I/O. A bad item costs itself alone. Whatever the user's function returns,
nothing here raises.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, final

import attrs

from ...ticks import Bar, BookUpdate, Tick, Trade
from ..sieve import LONGEST_SYMBOL, is_symbol

__all__ = ["Answer", "Fault", "read_answer"]

_KINDS: Final = frozenset({Tick, Trade, BookUpdate, Bar})
"""Their fields were checked when they were made; only the symbol's length was not."""
_ALONE: Final = (str, bytes, bytearray, Mapping)
"""Iterables that are never a list of items."""


@final
@attrs.frozen
class Fault:
    """Something in an answer that is no market data."""

    shown: str
    """Its beginning, for people."""
    reason: str
    symbol: str | None = None
    """Its symbol, if it has one that can be read."""


@final
@attrs.frozen
class Answer:
    """What one call of the user's function has brought."""

    items: list[Any]
    faults: list[Fault]
    error: Exception | None = None
    """What the iterable raised after these items."""


def read_answer(answer: object, most: int, *, renames: bool = False) -> Answer:
    """Return the market data in *answer*, in its order, and what else is in it.

    Args:
        answer: an item, an iterable of items, or ``None`` for nothing.
        most: the most items to take.
        renames: whether items have to be copied under another symbol.
    """
    if answer is None:
        return Answer([], [])
    if isinstance(answer, _ALONE) or not isinstance(answer, Iterable) or _looks_like(answer):
        answer = (answer,)
    items: list[Any] = []
    faults: list[Fault] = []
    taken = 0
    try:
        for item in answer:
            taken += 1
            if taken > most:
                faults.append(Fault(_shown(item), f"more than {most:,} items in an answer"))
                break
            fault = _fault_in(item, renames)
            if fault is None:
                items.append(item)
            else:
                faults.append(fault)
    except Exception as error:
        return Answer(items, faults, error)
    return Answer(items, faults)


def _looks_like(answer: object) -> bool:
    """Return whether *answer* is an item that can be iterated over."""
    return type(answer) in _KINDS or hasattr(type(answer), "symbol")


def _fault_in(item: Any, renames: bool) -> Fault | None:
    if type(item) in _KINDS and is_symbol(item.symbol):
        return None
    try:
        symbol, timestamp = item.symbol, item.timestamp
    except Exception:
        return Fault(_shown(item), f"a {type(item).__name__} is no market data")
    if not isinstance(symbol, str) or not is_symbol(symbol):
        reason = f"no symbol of 1 to {LONGEST_SYMBOL} printable characters"
        return Fault(_shown(item), reason)
    if not isinstance(timestamp, datetime) or timestamp.utcoffset() is None:
        return Fault(_shown(item), "no timestamp with a time zone", symbol)
    if renames and not attrs.has(type(item)):
        reason = f"a {type(item).__name__} cannot be renamed, since it is no attrs class"
        return Fault(_shown(item), reason, symbol)
    return None


def _shown(item: object) -> str:
    return reprlib.repr(item)
