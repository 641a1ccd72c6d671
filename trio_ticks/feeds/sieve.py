"""Of what a codec has decoded, what goes on: what was asked for, under its own name.

Rules: what is left out is counted. Sync, no trio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, final

import attrs

from ..ticks import BookUpdate, Tick, Trade
from .core import FeedCore
from .newer import NewerOnly
from .venues import Language

__all__ = ["LONGEST_SYMBOL", "Sieve", "is_symbol"]

_PLAIN: Final = frozenset({Tick, Trade, BookUpdate})
"""Kinds of which the library's codecs keep no item that they have returned.

Of a bar they do, to return it again when it is complete.
"""
LONGEST_SYMBOL: Final = 256
"""In characters. A longer one, of a venue that is asked for all symbols, is junk."""


def is_symbol(text: str) -> bool:
    """Return whether *text* can be a symbol.

    Control characters would reach terminals by log lines and views; half a surrogate
    pair cannot be written as UTF-8 at all. Neither is printable.
    """
    return 0 < len(text) <= LONGEST_SYMBOL and text.isprintable()


@final
class Sieve:
    """Leaves out items that nobody has asked for, and renames the others.

    Args:
        core: of the feed.
        arrived: called with the names of the symbols of each batch, and its time.
        utc: returns the wall time.
        language: of the codec that makes the items; ``None``: they are the checked
            answers to a feed that asks again and again. Then they may be anybody's, so
            that renamed ones are copies; and the snapshot of a book is a duplicate if
            it equals the one before.
    """

    def __init__(
        self,
        core: FeedCore,
        arrived: Callable[[set[str], float], object],
        utc: Callable[[], datetime],
        language: Language | None = None,
    ) -> None:
        self._core = core
        self._arrived = arrived
        self._utc = utc
        self._language = language
        self._newer: NewerOnly | None = None
        if core.options.newer_only:
            self._newer = NewerOnly(keeps_snapshots=language is not None)
        self._renames = False
        self.names_changed()

    def names_changed(self) -> None:
        """Notice that symbols were added."""
        names = self._core.names
        self._renames = any(symbol != name for symbol, name in names.items())

    def sift(self, items: Sequence[Any], now: float) -> Sequence[Any]:
        """Return those of *items* that were asked for, under the user's names.

        Args:
            items: what has arrived.
            now: when, on trio's clock.

        Raises:
            ConfigError: they are no list of items: the codec is wrong.
        """
        names, language = self._core.names, self._language
        if language is None:
            symbols = {item.symbol for item in items}
        else:
            symbols = language.symbols_in(items)
        if not names.keys() >= symbols:
            if language is not None and not all(isinstance(symbol, str) for symbol in symbols):
                raise language.no_items(items)
            items = self._without_unasked(items)
            symbols = {item.symbol for item in items}
        if self._renames:
            items = self._renamed(items)
            symbols = {names.get(symbol, symbol) for symbol in symbols}
        if self._newer is not None:
            before = len(items)
            items = self._newer.keep(items, self._utc())
            self._core.stats.duplicates += before - len(items)
            symbols = {item.symbol for item in items}
        self._arrived(symbols, now)
        return items

    def _without_unasked(self, items: Sequence[Any]) -> Sequence[Any]:
        """Leave out and count the items of symbols that nobody has asked for."""
        names, stats = self._core.names, self._core.stats
        if self._core.takes_all:
            kept = [item for item in items if is_symbol(item.symbol)]
            stats.malformed += len(items) - len(kept)
        else:
            kept = [item for item in items if item.symbol in names]
            stats.unasked += len(items) - len(kept)
        return kept

    def _renamed(self, items: Sequence[Any]) -> Sequence[Any]:
        names = self._core.names
        fresh = self._language is not None and self._language.makes_fresh_items
        renamed = []
        for item in items:
            name = names.get(item.symbol, item.symbol)
            if fresh and type(item) in _PLAIN:
                # The codec has just made it, and nobody else has seen it yet.
                object.__setattr__(item, "symbol", name)
            else:
                item = attrs.evolve(item, symbol=name)
            renamed.append(item)
        return renamed
