"""What is in a recording: span, symbols, rates, gaps, connections, damage.

Rules: blocks on the disk. Memory is bounded, whatever the file holds: symbols beyond
``MOST_SYMBOLS`` are counted together, and the curve of rates has a bounded number of
points.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, final

import attrs

from ..feeds.captures import recognise, recording_head
from ..feeds.decoding import LineDecoder, Lost
from ..feeds.venues import Codec
from ..recordings.events import facts_of, read_event
from ..recordings.files import LineReader
from ..recordings.growing import is_growing

__all__ = ["MOST_SYMBOLS", "Curve", "Silence", "Survey", "survey"]

MOST_SYMBOLS: Final = 100_000
_POINTS: Final = 4096
_LONGEST: Final = 5
"""How many of the longest silences are kept."""
_MOST_EVENTS: Final = 1000
_SECOND: Final = 10**9
_WIDTH_NS: Final = _SECOND // 8
"""The width of a piece of the curve, unless the recording is longer than 8 minutes."""

Progress = Callable[[int, int], None]
"""Called now and then with the bytes that were read, and those of the file."""


@final
@attrs.frozen(order=True)
class Silence:
    """A time in which no market data came."""

    ns: int
    """How long it was."""
    begin_ns: int
    """When the last item before it came, in ns since 1970."""


@final
class Curve:
    """How many items came when: counts by pieces of time of equal width."""

    def __init__(self) -> None:
        self.width_ns = _WIDTH_NS
        self.counts: dict[int, int] = {}
        """By the number of the piece since 1970."""
        self.peak = 0
        """The most items of one second."""
        self._second = -1
        self._in_second = 0

    def add(self, ns: int, count: int) -> None:
        """Count *count* items at *ns*."""
        second = ns // _SECOND
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += count
        self.peak = max(self.peak, self._in_second)
        piece = ns // self.width_ns
        self.counts[piece] = self.counts.get(piece, 0) + count
        while len(self.counts) > _POINTS:
            self.width_ns *= 2
            halved: Counter[int] = Counter()
            for piece, number in self.counts.items():
                halved[piece // 2] += number
            self.counts = dict(halved)

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Curve:
        """Return the sum of *curves*."""
        curves = list(curves)
        total = cls()
        total.width_ns = max((each.width_ns for each in curves), default=_WIDTH_NS)
        for each in curves:
            factor = total.width_ns // each.width_ns
            for piece, number in each.counts.items():
                at = piece // factor
                total.counts[at] = total.counts.get(at, 0) + number
        return total

    def points(self, most: int, begin_ns: int, end_ns: int) -> list[float]:
        """Return mean items a second, for at most *most* equal stretches of time."""
        first, last = begin_ns // self.width_ns, end_ns // self.width_ns
        count = last - first + 1
        points = [0.0] * min(most, count)
        for piece, number in self.counts.items():
            if first <= piece <= last:
                points[(piece - first) * len(points) // count] += number
        width_s = count / len(points) * self.width_ns / _SECOND
        return [number / width_s for number in points]


@attrs.define(kw_only=True)
class Survey:
    """What is in one recording."""

    path: Path
    size: int
    """In bytes."""
    venue: str
    head: dict[str, Any]
    """What its first line says, if it is one of our own; else empty."""
    growing: bool
    """Whether a recorder writes to it now."""
    closed: bool = False
    """Whether its last line says that it was ended in good order."""
    truncated: bool = False
    damages: int = 0
    """Places that could not be read."""
    lost_bytes: int = 0
    """How many bytes these have."""
    lines: int = 0
    malformed: int = 0
    ignored: int = 0
    unasked: int = 0
    unrecorded: int = 0
    """Messages that the recorder could not write."""
    items: Counter[str] = attrs.field(factory=Counter)
    """By kind."""
    symbols: Counter[str] = attrs.field(factory=Counter)
    """Items by symbol."""
    other_symbols: int = 0
    """Items of symbols beyond the most that are counted apart."""
    gaps: Counter[str] = attrs.field(factory=Counter)
    """Gaps by reason."""
    first_ns: int | None = None
    """When the first item came, in ns since 1970."""
    last_ns: int | None = None
    silences: list[Silence] = attrs.field(factory=list)
    """The longest ones, the longest first."""
    events: list[tuple[int | None, str, dict[str, Any]]] = attrs.field(factory=list)
    """Connections that were opened and lost, steps of the clock; the first 1,000."""
    curve: Curve = attrs.field(factory=Curve)

    @property
    def count(self) -> int:
        """How many items it has."""
        return self.items.total()

    @property
    def span_s(self) -> float:
        """From the first item to the last, in seconds."""
        if self.first_ns is None or self.last_ns is None:
            return 0.0
        return (self.last_ns - self.first_ns) / _SECOND

    @property
    def rate(self) -> float:
        """Items a second; 0 where the span is too short to tell."""
        return self.count / self.span_s if self.span_s >= 0.1 else 0.0

    @property
    def is_own(self) -> bool:
        """Whether our own recorder wrote it."""
        return bool(self.head)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing from it, as far as can be seen."""
        ended = self.closed or self.growing or not self.is_own
        return ended and not (self.damages or self.truncated or self.unrecorded)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        fields = attrs.asdict(
            self, recurse=False, filter=lambda field, _: field.name not in ("curve", "silences")
        )
        return fields | {
            "path": str(self.path),
            "items": dict(self.items),
            "symbols": dict(self.symbols),
            "gaps": dict(self.gaps),
            "span_s": self.span_s,
            "rate": self.rate,
            "peak_per_s": self.curve.peak,
            "whole": self.is_whole,
            "silences": [
                {"begin_ns": each.begin_ns, "seconds": each.ns / _SECOND} for each in self.silences
            ],
        }


def survey(
    path: Path,
    venue: str | type[Codec] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Read the recording at *path*, and return what is in it.

    Args:
        path: of one file.
        venue: whose messages it holds; ``None``: the first lines tell.
        progress: called after each piece of the file.

    Raises:
        ConfigError: it cannot be read, or is no recording.
    """
    language = recognise(path, venue, None if recording_head(path) else "all")
    found = Survey(
        path=path,
        size=path.stat().st_size,
        venue=language.name,
        head=recording_head(path),
        growing=is_growing(path),
    )
    decoder = LineDecoder(language)
    with LineReader(path) as reader:
        while (lines := reader.read_lines()) is not None:
            for line in lines:
                _take(found, decoder, line.strip())
            if progress is not None:
                progress(reader.position, found.size)
        found.truncated, found.damages = reader.truncated, reader.damages
        found.lost_bytes, found.lines = reader.lost_bytes, reader.lines
    found.malformed, found.ignored = decoder.malformed, decoder.ignored
    found.unasked = decoder.unasked
    found.silences.sort(reverse=True)
    return found


def _take(found: Survey, decoder: LineDecoder, line: bytes) -> None:
    """Count what is in *line*."""
    if b" #" in line[:24] or line[:1] == b"#":
        _take_event(found, line)
    items = decoder.decode(line)
    if not items:
        return
    count = 0
    ns = items[-1][0]
    for _, item in items:
        if type(item) is Lost:
            found.gaps[item.reason] += 1
            continue
        count += 1
        found.items[type(item).__name__] += 1
        if item.symbol in found.symbols or len(found.symbols) < MOST_SYMBOLS:
            found.symbols[item.symbol] += 1
        else:
            found.other_symbols += 1
    if not count:
        return
    if found.first_ns is None:
        found.first_ns = ns
    elif found.last_ns is not None and ns > found.last_ns:
        silence = Silence(ns - found.last_ns, found.last_ns)
        if len(found.silences) < _LONGEST:
            heapq.heappush(found.silences, silence)
        elif silence > found.silences[0]:
            heapq.heapreplace(found.silences, silence)
    found.last_ns = max(ns, found.last_ns or 0)
    found.curve.add(ns, count)


def _take_event(found: Survey, line: bytes) -> None:
    event = read_event(line)
    if event is None:
        return
    word, body = event
    facts = facts_of(body)
    if word == "closed":
        found.closed = True
    elif word == "dropped":
        number = facts.get("messages")
        found.unrecorded += number if isinstance(number, int) else 0
    elif word in ("opened", "lost", "clock", "damaged") and len(found.events) < _MOST_EVENTS:
        moment, _, _ = line.partition(b" ")
        found.events.append((int(moment) if moment.isdigit() else found.last_ns, word, facts))
