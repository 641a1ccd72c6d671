"""Counts by symbol, for those who ask for them: bounded, once a batch, and shared among all who listen to one channel.

Rules: a symbol that has a count of its own keeps it, so that counters never fall; whoever comes when all places are taken is ``other``.
While nobody asks, nothing is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final

from ..channel_state import ChannelState
from ..errors import ConfigError
from ..ledger import INTENTIONAL, DropReason

__all__ = ["MOST_LABELS", "OTHER", "ItemHook", "SymbolCounts", "counted_symbols", "hear_items", "stop_hearing_items"]

MOST_LABELS: Final = 1000
"""So many symbols may have counts of their own: each makes a scrape longer."""
OTHER: Final = "other"

ItemHook = Callable[[Sequence[Any], DropReason | None], None]
_symbol_of = attrgetter("symbol")


class _All:
    """Several hooks as one."""

    def __init__(self, hooks: tuple[ItemHook, ...]) -> None:
        self.hooks = hooks

    def __call__(self, items: Sequence[Any], reason: DropReason | None) -> None:
        for hook in self.hooks:
            hook(items, reason)


def _hooks(state: ChannelState[Any]) -> tuple[ItemHook, ...]:
    return () if state.on_items is None else state.on_items.hooks if isinstance(state.on_items, _All) else (state.on_items,)


def _set(state: ChannelState[Any], hooks: tuple[ItemHook, ...]) -> None:
    state.on_items = None if not hooks else hooks[0] if len(hooks) == 1 else _All(hooks)


def hear_items(state: ChannelState[Any], hook: ItemHook) -> None:
    """Have *hook* called with what comes into the channel and what is dropped there, beside all others that are."""
    _set(state, (*_hooks(state), hook))


def stop_hearing_items(state: ChannelState[Any], hook: ItemHook) -> None:
    """Have *hook* called no more; nothing happens where it is not."""
    _set(state, tuple(each for each in _hooks(state) if each != hook))


class SymbolCounts:
    """How many ticks each symbol brought, and how many of them the queue discarded.

    Args:
        symbols: which symbols have counts of their own; a number: the first so many that come.

    Raises:
        ConfigError: more than ``MOST_LABELS``, or no symbols at all.
    """

    def __init__(self, symbols: int | Sequence[str]) -> None:
        number = symbols if isinstance(symbols, int) else len(set(symbols)) if isinstance(symbols, Iterable) else 0
        if isinstance(symbols, bool | str) or not 1 <= number <= MOST_LABELS:
            raise ConfigError(f"symbols must be a list of symbols or how many of them, 1 to {MOST_LABELS}, got {symbols!r}")
        self._room = number if isinstance(symbols, int) else 0
        names = () if isinstance(symbols, int) else symbols
        self.received: dict[str, int] = dict.fromkeys(names, 0)
        self.lost: dict[str, int] = dict.fromkeys(names, 0)
        self.intentional: dict[str, int] = dict.fromkeys(names, 0)

    def count(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Count *items*, which a sender brought, or which were dropped for *reason*."""
        counts = self.received if reason is None else self.intentional if reason in INTENTIONAL else self.lost
        for symbol, number in Counter(map(_symbol_of, items)).items():
            if symbol in counts:
                counts[symbol] += number
            else:
                counts[self._name(symbol)] += number

    def _name(self, symbol: str) -> str:
        """Return under which name to count *symbol*, which has no count yet."""
        if self._room:
            self._room -= 1
        else:
            symbol = OTHER
        for counts in (self.received, self.lost, self.intentional):
            counts.setdefault(symbol, 0)
        return symbol


@contextmanager
def counted_symbols(state: ChannelState[Any], symbols: int | Sequence[str]) -> Iterator[SymbolCounts | None]:
    """Count by symbol for as long as the block lasts, unless *symbols* is 0.

    Raises:
        ConfigError: *symbols* cannot be.
    """
    if symbols == 0 and not isinstance(symbols, bool):
        yield None
        return
    counts = SymbolCounts(symbols)
    hear_items(state, counts.count)
    try:
        yield counts
    finally:
        stop_hearing_items(state, counts.count)
