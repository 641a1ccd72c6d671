"""What a source knows of symbols: which ingests bring them, and which missed ticks.

After an ingest was restarted, ticks of any symbol may be missing, also of one that
another worker had before: the first tick of each symbol of a later run gets a gap.

Rules: sans-I/O. At most 100,000 symbols of an ingest are known; others get no gap, and
are not compared. While there is one ingest, in its first run, no tick is looked at: to
remember the symbols of all would cost a twentieth of what a tick costs a worker.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final, final

from ...buffer import Stretch
from ...gaps import Gap

__all__ = ["Symbols"]

_MOST: Final = 100_000

_symbol = attrgetter("symbol")


@final
class _Known:
    """The symbols of one ingest."""

    __slots__ = ("later", "run", "seen", "told")

    def __init__(self, run: int) -> None:
        self.run = run
        """The run of the ingest whose ticks come."""
        self.later = False
        """Whether ticks of an earlier run came."""
        self.told: set[str] = set()
        """Symbols that came in this run, if it is a later one."""
        self.seen: set[str] = set()
        """Symbols that came in any run, if there are several ingests."""


@final
class Symbols:
    """The symbols of all ingests.

    Args:
        ingests: how many there are.

    Attributes:
        twice: the symbols that more than one ingest brought.
    """

    def __init__(self, ingests: int) -> None:
        self._alone = ingests == 1
        self._known: dict[int, _Known] = {}
        """The symbols of each ingest."""
        self.twice: set[str] = set()

    def note(self, ingest: int, run: int, stretch: Stretch) -> list[str]:
        """Take note of the ticks of *stretch*, and add the gaps that are due.

        Returns:
            Symbols that another ingest brought before, seen for the first time.
        """
        known = self._known.get(ingest)
        if known is None:
            known = self._known[ingest] = _Known(run)
        if run > known.run:
            known.run, known.later = run, True
            known.told = set()
        if self._alone and not known.later:
            return []
        symbols = set(map(_symbol, stretch.items))
        if known.later and run == known.run and len(known.told) < _MOST:
            missing = symbols - known.told
            known.told |= missing
            _add_gaps(stretch, missing)
        return [] if self._alone else self._compare(ingest, known, symbols)

    def _compare(self, ingest: int, known: _Known, symbols: set[str]) -> list[str]:
        """Return those of *symbols* of which it is news that another brought them."""
        if len(known.seen) < _MOST:
            known.seen |= symbols
        found: set[str] = set()
        if len(self.twice) < _MOST:
            for other, theirs in self._known.items():
                if other != ingest:
                    found |= (symbols & theirs.seen) - self.twice
            self.twice |= found
        return list(found)


def _add_gaps(stretch: Stretch, symbols: set[str]) -> None:
    """Put a gap before the first tick of each of *symbols*, which is emptied."""
    if not symbols:
        return
    gaps = dict(stretch.gaps)
    for place, item in enumerate(stretch.items):
        if item.symbol in symbols:
            symbols.discard(item.symbol)
            gap = Gap(item.symbol, item.timestamp, "reconnect", 0, item.timestamp)
            gaps[place] = gap.joined(gaps[place]) if place in gaps else gap
    stretch.gaps = sorted(gaps.items(), key=lambda each: each[0])
