"""A recording as columns: when each item arrived, of which symbol and kind it is.

For whoever counts and simulates, and needs the items of a day at once: 21 bytes an item
in place of an object. The items are those of a :class:`~trio_ticks.ReplayFeed`, in its
order.

Rules: the venue's codec decides what is an item, here as everywhere. Blocks on the
disk, and computes: call it in a thread or a process of its own.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from .captures import Lost
from .recording_files import Where, check_paths, find_recordings
from .replay import ns_of
from .timeline import Counts, Timeline
from .venues import Codec

__all__ = ["Columns", "pieces", "read_columns"]

_PIECE: Final = 512
"""Few enough to stay in the processor's cache."""
_MOST_SYMBOLS: Final = 1_000_000
"""Their names are kept; no venue has so many, but a damaged file may."""


@final
@attrs.frozen(eq=False)
class Columns:
    """The items of a recording, in the order in which they are due.

    Each array has a member an item. ``numpy.frombuffer(columns.arrival_ns, "i8")`` and
    the like see them without a copy.
    """

    arrival_ns: array[int]
    """When it was received, in ns since 1970; never falls (``"q"``)."""
    event_ns: array[int]
    """Its own timestamp, in ns since 1970, to the microsecond (``"q"``)."""
    symbol: array[int]
    """Of which symbol it is: an index into :attr:`symbols` (``"I"``)."""
    kind: array[int]
    """Of which class it is: an index into :attr:`kinds` (``"B"``)."""
    symbols: tuple[str, ...]
    """In the order of their first items."""
    kinds: tuple[type[Any], ...]
    """:class:`~trio_ticks.Tick` and the like, in the order of their first items."""
    venues: tuple[str, ...]
    """Whose recordings were read."""
    lines: int
    """Lines read."""
    malformed: int
    """Those that are no valid message, or have no time."""
    gaps: int
    """Gaps in the venues' sequences."""

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @property
    def span_s(self) -> float:
        """From the first item to the last, in seconds; 0 if there is none."""
        return (self.arrival_ns[-1] - self.arrival_ns[0]) / 1e9 if self.arrival_ns else 0.0


def read_columns(
    recording: Where,
    *,
    symbols: Collection[str] | None = None,
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    most: int | None = None,
    on_progress: Callable[[float, int], object] | None = None,
) -> Columns:
    """Read *recording* into columns.

    Args:
        recording: as for :class:`~trio_ticks.ReplayFeed`, as are the next five.
        symbols: only items of these.
        venue: whose messages they are.
        channels: the channels to read.
        start: from this time on.
        end: up to this time.
        most: read no more items than this; ``None``: all.
        on_progress: called now and then with the share of the recording's bytes that
            was read, from 0 to 1, and the number of items so far.

    Raises:
        ConfigError: there is no such recording, it cannot be played, or it has more
            than a million symbols.
    """
    files = find_recordings(check_paths(recording), venue, channels)
    start_ns, end_ns = ns_of("start", start), ns_of("end", end)
    last_ns = math.inf if end_ns is None else end_ns - 1
    limit = math.inf if most is None else most
    columns = _Columns()
    with Timeline(files, symbols) as timeline:
        if start_ns is not None:
            for _ in pieces(timeline, start_ns - 1):
                pass
        for piece in pieces(timeline, last_ns):
            columns.add(piece)
            if on_progress is not None:
                on_progress(timeline.share, len(columns.arrival_ns))
            if len(columns.arrival_ns) >= limit:
                break
        counts = timeline.counts
    return columns.made(tuple(sorted({file.language.name for file in files})), counts, most)


def pieces(timeline: Timeline, until_ns: float) -> Iterable[list[tuple[int, Any]]]:
    """Yield the items up to *until_ns*; read what has to be read."""
    while not timeline.ended:
        piece = timeline.take(until_ns, _PIECE)
        if piece:
            yield piece
        elif timeline.starved is not None:
            timeline.starved.add(timeline.starved.read())
        elif timeline.next_ns() is not None:
            return  # what comes next is later


@final
class _Columns:
    """Collects items."""

    def __init__(self) -> None:
        self.arrival_ns, self.event_ns = array("q"), array("q")
        self.symbol, self.kind = array("I"), array("B")
        self._symbols: dict[str, int] = {}
        self._kinds: dict[type[Any], int] = {}
        self._gaps = 0

    def add(self, piece: list[tuple[int, Any]]) -> None:
        """Append the items of *piece*."""
        symbols, kinds = self._symbols, self._kinds
        try:
            # The usual piece: a column at a time, which takes half as long.
            kind = [kinds[type(item)] for _, item in piece]
            symbol = [symbols[item.symbol] for _, item in piece]
        except KeyError:
            piece = self._without_gaps(piece)
            kind = [kinds.setdefault(type(item), len(kinds)) for _, item in piece]
            symbol = [self._number(item.symbol) for _, item in piece]
        self.kind.extend(kind)
        self.symbol.extend(symbol)
        self.arrival_ns.extend([ns for ns, _ in piece])
        # To the microsecond, as datetimes are: a float has no more digits.
        self.event_ns.extend(
            [int(item.timestamp.timestamp() * 1e6 + 0.5) * 1000 for _, item in piece]
        )

    def _without_gaps(self, piece: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        kept = [pair for pair in piece if type(pair[1]) is not Lost]
        self._gaps += len(piece) - len(kept)
        return kept

    def _number(self, symbol: str) -> int:
        if symbol not in self._symbols and len(self._symbols) >= _MOST_SYMBOLS:
            raise ConfigError(
                f"the recording has more than {_MOST_SYMBOLS:,} symbols: choose some by symbols="
            )
        return self._symbols.setdefault(symbol, len(self._symbols))

    def made(self, venues: tuple[str, ...], counts: Counts, most: int | None) -> Columns:
        """Return what was collected, *most* items at most."""
        return Columns(
            self.arrival_ns[:most],
            self.event_ns[:most],
            self.symbol[:most],
            self.kind[:most],
            tuple(self._symbols),
            tuple(self._kinds),
            venues,
            counts[0],
            counts[1],
            self._gaps,
        )
