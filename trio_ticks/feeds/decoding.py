"""From the lines of a recording to market data, by the codec of its venue.

One codec decodes all messages of a connection. A recording that does not tell of
connections is taken for one. ``trio_ticks.recordings.files`` describes the lines.

Rules: sync, no I/O. No line raises: what makes no market data is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, final

import attrs

from ..gaps import Gap, GapReason
from ..recordings.events import ITEM_WORDS, facts_of, read_event
from ..recordings.files import split_line
from ..ticks import to_utc
from .recorded import Connections
from .recorded_items import item_of
from .venues import Language

__all__ = ["LATEST_NS", "LineDecoder", "Lost", "utc_from_ns"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNKNOWN: Final = _EPOCH
"""When a message arrived, for a codec, where the line does not say it."""
_EXACT: Final = 4 * 10**18
"""Up to so many nanoseconds a double holds a microsecond exactly: the year 2096."""
_from_timestamp: Final = datetime.fromtimestamp
_HEAD: Final = 19
"""Digits of a time between 2001 and 2286."""
_MOST_KNOWN: Final = 10_000
LATEST_NS: Final = 10**19
"""Nanoseconds since 1970 at which no message can have been received: the year 2286."""


def utc_from_ns(ns: int) -> datetime:
    """Return the moment *ns* nanoseconds after 1970, to the microsecond."""
    if 0 <= ns < _EXACT:
        return _from_timestamp(ns // 1000 / 1e6, UTC)  # in half the time
    return _EPOCH + timedelta(microseconds=ns // 1000)


@final
@attrs.frozen
class Lost:
    """Stands among the items of a recording where the codec has found a gap."""

    symbol: str
    reason: GapReason
    count: int
    book: bool
    """Whether the symbol's book updates are worthless until its next snapshot."""
    ns: int
    """When the message that shows it was received."""

    def as_gap(self, when: datetime) -> Gap:
        """Return the gap to tell the strategy of, found at the time *when*."""
        return Gap(self.symbol, when, self.reason, self.count, when)


@final
class _CaptureContext:
    """The :class:`~trio_ticks.CodecContext` of the codec that decodes a recording.

    Answers to the venue, and wishes for another connection, have no effect: what
    happened is recorded.
    """

    __slots__ = ("_decoder", "channels", "ns")

    def __init__(self, decoder: LineDecoder, channels: tuple[str, ...]) -> None:
        self._decoder = decoder
        self.channels = channels
        self.ns: int | None = None
        """When the message being decoded was received; ``None``: it is not known."""

    @property
    def arrived(self) -> datetime:
        """When the message being decoded was received, in UTC."""
        return _UNKNOWN if self.ns is None else utc_from_ns(self.ns)

    def ignored(self, count: int = 1) -> None:
        """Count messages that are no market data."""
        self._decoder.ignored += count

    def malformed(self, payload: bytes, reason: str, symbol: str | None = None) -> None:
        """Count *payload* as malformed, and note the symbol's gap."""
        self._decoder.malformed += 1
        if symbol is not None:
            self._decoder.lost.append((symbol, "malformed", 1, False))

    def refused(self, symbol: str | None, reason: str, *, final: bool = False) -> None:
        """Count a subscription that the venue has refused."""
        self._decoder.refused += 1

    def reply(self, message: str | bytes) -> None:
        """Do nothing."""

    def pong(self) -> None:
        """Do nothing."""

    def gap(self, symbol: str, missed: int = 0) -> None:
        """Note a gap in the venue's sequence."""
        self._decoder.lost.append((symbol, "sequence", missed, False))

    def need_snapshot(self, symbol: str) -> None:
        """Note that the symbol's book is wrong until its next snapshot."""
        self._decoder.lost.append((symbol, "sequence", 0, True))

    def reconnect(self, reason: str) -> None:
        """Do nothing."""

    def replace(self, reason: str) -> None:
        """Do nothing."""

    def answered(self, request: Literal["throttle", "unsubscribe"], accepted: bool) -> None:
        """Do nothing."""


@final
class LineDecoder:
    """Makes pairs of a time and an item out of the lines of one recording.

    Args:
        language: of the venue.
        symbols: only items of these are returned; ``None``: of all.
        subscribed: the symbols to make the codec subscribe to, as on a connection.
        only: only items of this class are returned; ``None``: all, and gaps.
    """

    def __init__(
        self,
        language: Language,
        symbols: Collection[str] | None = None,
        *,
        subscribed: Iterable[str] = (),
        only: type[Any] | None = None,
    ) -> None:
        self.made = 0
        """Lines with market data in them, wanted or not."""
        self.malformed = 0
        """Lines that are no valid message, or have no time."""
        self.ignored = 0
        """Other lines without market data that is wanted: heartbeats, empty lines."""
        self.refused = 0
        """Subscriptions that the venue has refused."""
        self.left_out = 0
        """Items of another class than *only*."""
        self.unasked = 0
        """Items of symbols that the recorded feed had not asked for."""
        self.headed = 0
        """Lines with a receive time."""
        self.untimed = 0
        """Malformed lines that would be market data if the time were known."""
        self.lost: list[tuple[str, GapReason, int, bool]] = []
        """The gaps found in the line being decoded: the first fields of a ``Lost``."""
        self._symbols = symbols
        self._only = only
        self._context = _CaptureContext(self, language.channels)
        self._connections = Connections(
            language, partial(language.codec_for, self._context), subscribed
        )
        self._codec_decode = self._connections.decode
        self._symbols_in = language.symbols_in
        self._last_ns: int | None = None
        self._known: set[str] = set()
        """Symbols whose items are handed on as they are, until the next event."""
        self._takes_all: Final = symbols is None and only is None

    def decode(self, line: bytes) -> list[tuple[int, Any]]:
        """Return the items in *line*, each with the time to play it at, in ns.

        In a recording of our own they have the user's names, and those of symbols that
        were not asked for are left out, as they were live.
        """
        # The usual line: a time, and a message that is one item of a known symbol. The
        # way through all the functions would take twice as long.
        if line[_HEAD : _HEAD + 2] == b" {" and (head := line[:_HEAD]).isdigit():
            ns: int | None = int(head)
            message: bytes | None = line[_HEAD + 1 :]
        else:
            try:
                ns, message = split_line(line)
            except ValueError:
                self.malformed += 1
                return []
        if message is None or not line:
            return self._take_event(line)
        self._context.ns = ns
        items = self._codec_decode((message,))
        if type(items) is list and len(items) == 1 and ns is not None and not self.lost:
            symbol = getattr(items[0], "symbol", None)
            if type(symbol) is str and symbol in self._known:
                self.headed += 1
                self.made += 1
                self._last_ns = ns
                return [(ns, items[0])]
        return self._decoded(ns, items)

    def _decoded(self, ns: int | None, items: Any) -> list[tuple[int, Any]]:
        """Return those of *items* that are wanted, as :meth:`decode` does."""
        symbols = self._symbols_in(items)  # raises where they are no items
        connections = self._connections
        if connections.names is None:
            connections.saw(symbols)
        elif symbols and (connections.renames or not connections.names.keys() >= symbols):
            items = self._asked_for(items, connections.names)
            symbols = set()
        if self._takes_all and len(self._known) < _MOST_KNOWN:
            self._known |= symbols
        return self._timed(ns, items)

    def _take_event(self, line: bytes) -> list[tuple[int, Any]]:
        """Do what a line of the recorder's own asks for; return the item in it."""
        event = read_event(line) if line else None
        if event is None:
            self.ignored += 1
            return []
        self._known.clear()  # it may be about the symbols
        word, body = event
        ns, _, _ = line.partition(b" ")
        when = int(ns) if ns.isdigit() else self._last_ns
        if word in ITEM_WORDS:
            return self._take_item(when, word, body)
        self.ignored += 1
        for symbol, reason, book in self._connections.take(word, body):
            self.lost.append((symbol, reason, 0, book))
        self._codec_decode = self._connections.decode
        return self._with_gaps([], when) if self.lost else []

    def _take_item(self, ns: int | None, word: str, body: bytes) -> list[tuple[int, Any]]:
        """Return the item of an event; a gap as a :class:`Lost`."""
        try:
            item = item_of(word, body)
        except ValueError:
            self.malformed += 1
            return []
        if type(item) is Gap:
            self.ignored += 1
            book = facts_of(body).get("book") is True
            self.lost.append((item.symbol, item.reason, item.count, book))
            return self._with_gaps([], ns)
        self._connections.saw((item.symbol,))
        return self._timed(ns, [item])

    def _asked_for(self, items: Iterable[Any], names: Mapping[str, str]) -> list[Any]:
        """Return those of *items* that were asked for, by the user's names."""
        found: list[Any] = []
        for item in items:
            name = names.get(item.symbol)
            if name is None:
                if self._connections.takes_all:
                    found.append(item)
                else:
                    self.unasked += 1
            else:
                found.append(item if name == item.symbol else attrs.evolve(item, symbol=name))
        if not found:
            self.ignored += 1
        return found

    def _timed(self, ns: int | None, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """Return *items*, which came at *ns*, with the time to play each at."""
        if ns is not None:
            self.headed += 1
            timed = [(ns, item) for item in items]
        else:
            timed = self._by_own_times(items)
        if timed:
            self.made += 1
            self._last_ns = timed[-1][0]
            if self._symbols is not None or self._only is not None:
                timed = self._wanted(timed)
        return self._with_gaps(timed, ns) if self.lost else timed

    def _by_own_times(self, items: Iterable[Any]) -> list[tuple[int, Any]]:
        """Return *items* with their own times; none if one of them has no time."""
        try:
            timed = [
                ((to_utc(item.timestamp) - _EPOCH) // _MICROSECOND * 1000, item) for item in items
            ]
        except (ValueError, TypeError, AttributeError, OverflowError):
            self.malformed += 1
            return []
        if all(0 < ns < LATEST_NS for ns, _ in timed):
            return timed
        self.malformed += 1
        self.untimed += any(item.timestamp == _UNKNOWN for _, item in timed)
        return []

    def _wanted(self, timed: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        symbols, only = self._symbols, self._only
        kept = timed
        if symbols is not None:
            kept = [pair for pair in kept if pair[1].symbol in symbols]
        if only is not None:
            of_all = len(kept)
            kept = [pair for pair in kept if isinstance(pair[1], only)]
            self.left_out += of_all - len(kept)
        if not kept:
            self.ignored += 1
        return kept

    def _with_gaps(self, timed: list[tuple[int, Any]], ns: int | None) -> list[tuple[int, Any]]:
        """Return *timed* with the gaps that the line has shown before them."""
        lost, self.lost = self.lost, []
        when = self._last_ns if ns is None else ns
        # Before the first item there is nothing to have a gap in.
        if self._only is not None or when is None:
            return timed
        symbols, names = self._symbols, self._connections.names or {}
        gaps: list[tuple[int, Any]] = []
        for symbol, reason, count, book in lost:
            name = names.get(symbol, symbol)
            if symbols is None or name in symbols:
                gaps.append((when, Lost(name, reason, count, book, when)))
        return gaps + timed
