"""Count ticks by symbol for the metrics, with a bounded number of symbols.

Rules: the counts are made once a batch, and shared by all listeners of one channel. A
symbol that has a count of its own keeps it, so that counters never fall; a symbol that
comes when all places are taken is counted as ``other``. Without a listener, nothing is
called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Final

from ..checks import is_whole
from ..errors import ConfigError
from ..ledger import INTENTIONAL, DropReason
from ..metrics.observed import ItemListeners, Observed

__all__ = [
    "MOST_LABELS",
    "OTHER",
    "SymbolCounts",
    "counted_halves",
    "counted_symbols",
]

MOST_LABELS: Final = 1000
"""How many symbols may have counts of their own; each of them makes a scrape longer."""
OTHER: Final = "other"

_symbol_of = attrgetter("symbol")


class SymbolCounts:
    """How many ticks each symbol brought, and how many of them the queue discarded.

    Args:
        symbols: the symbols that have counts of their own; with a number *n*, the first
            *n* that come.

    Raises:
        ConfigError: more than ``MOST_LABELS`` symbols are asked for, or none.
    """

    def __init__(self, symbols: int | Sequence[str]) -> None:
        if is_whole(symbols):
            number = symbols
        elif isinstance(symbols, Iterable) and not isinstance(symbols, str):
            number = len(set(symbols))
        else:
            number = 0
        if not 1 <= number <= MOST_LABELS:
            raise ConfigError(
                f"symbols must be a list of symbols or how many of them, 1 to {MOST_LABELS}, "
                f"got {symbols!r}"
            )
        self._room = number if isinstance(symbols, int) else 0
        names = () if isinstance(symbols, int) else symbols
        self.received: dict[str, int] = dict.fromkeys(names, 0)
        self.lost: dict[str, int] = dict.fromkeys(names, 0)
        self.intentional: dict[str, int] = dict.fromkeys(names, 0)

    def count(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Count *items*, which a sender brought, or which were dropped for *reason*."""
        counts = (
            self.received
            if reason is None
            else self.intentional
            if reason in INTENTIONAL
            else self.lost
        )
        for symbol, number in Counter(map(_symbol_of, items)).items():
            if symbol in counts:
                counts[symbol] += number
            else:
                counts[self._name(symbol)] += number

    def _name(self, symbol: str) -> str:
        """Return the name under which to count *symbol*, which has no count yet."""
        if self._room:
            self._room -= 1
        else:
            symbol = OTHER
        for counts in (self.received, self.lost, self.intentional):
            counts.setdefault(symbol, 0)
        return symbol


@contextmanager
def counted_symbols(
    listeners: ItemListeners, symbols: int | Sequence[str]
) -> Iterator[SymbolCounts | None]:
    """Count by symbol for as long as the block lasts, unless *symbols* is 0.

    Raises:
        ConfigError: *symbols* is neither a list of names nor a number within bounds.
    """
    if is_whole(symbols) and symbols == 0:
        yield None
        return
    counts = SymbolCounts(symbols)
    listeners.add(counts.count)
    try:
        yield counts
    finally:
        listeners.remove(counts.count)


@contextmanager
def counted_halves(
    pipeline: Observed, symbols: int | Sequence[str]
) -> Iterator[tuple[SymbolCounts | None, SymbolCounts | None]]:
    """Count by symbol in *pipeline* and in the ingest beside it, if there is one.

    Raises:
        ConfigError: as :func:`counted_symbols`.
    """
    with ExitStack() as stack:
        own, ingest = (
            None
            if half is None
            else stack.enter_context(counted_symbols(half.item_listeners, symbols))
            for half in (pipeline, pipeline.ingest)
        )
        yield own, ingest
