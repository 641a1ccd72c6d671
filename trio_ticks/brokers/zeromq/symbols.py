"""What a source knows of symbols: which ingests bring them, in which of their runs.

After an ingest was restarted, ticks may be missing: the next tick of each symbol that
came in an earlier run gets a gap.

Rules: sans-I/O. At most 100,000 symbols of an ingest are known; others get no gap, and
are not compared.
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
class Symbols:
    """The symbols of all ingests.

    Attributes:
        twice: the symbols that more than one ingest brought.
    """

    def __init__(self) -> None:
        self._runs: dict[int, dict[str, int]] = {}
        """For each ingest the last run in which a symbol came."""
        self.twice: set[str] = set()

    def note(self, ingest: int, run: int, stretch: Stretch) -> list[str]:
        """Take note of the ticks of *stretch*, and add the gaps that are due.

        Returns:
            Symbols that another ingest brought before, seen for the first time.
        """
        runs = self._runs.setdefault(ingest, {})
        symbols = set(map(_symbol, stretch.items))
        if run > 1:
            missing = {symbol for symbol in symbols if runs.get(symbol, run) < run}
            if missing:
                _add_gaps(stretch, missing)
        if len(runs) < _MOST:
            runs.update(dict.fromkeys(symbols, run))
        found: list[str] = []
        if len(self._runs) > 1 and len(self.twice) < _MOST:
            for other, known in self._runs.items():
                if other != ingest:
                    found += (symbols & known.keys()) - self.twice
            self.twice.update(found)
        return found


def _add_gaps(stretch: Stretch, symbols: set[str]) -> None:
    """Put a gap before the first tick of each of *symbols*."""
    gaps = dict(stretch.gaps)
    for place, item in enumerate(stretch.items):
        if item.symbol in symbols:
            symbols.discard(item.symbol)
            gap = Gap(item.symbol, item.timestamp, "reconnect", 0, item.timestamp)
            gaps[place] = gap.joined(gaps[place]) if place in gaps else gap
    stretch.gaps = sorted(gaps.items(), key=lambda each: each[0])
