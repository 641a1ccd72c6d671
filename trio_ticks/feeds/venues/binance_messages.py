"""The messages of Binance, as its codecs read them.

Rules: numbers come as text, so the decoders are not strict. What is absent is NaN, 0 or
empty; the codecs check what they need.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from ...checks import is_whole
from ...ticks import BookUpdate, Finite, Level, NonNegative, unchecked_book_update
from .base import BAD_MESSAGE
from .moments import moment_of

__all__ = [
    "Candle",
    "Event",
    "Levels",
    "any_frame",
    "book_depth",
    "book_frame",
    "candle_of",
    "channel_of",
    "chosen_book",
    "event",
    "frame",
    "is_quote",
    "levels_of",
    "moment",
    "object_of",
    "place_in",
    "read_snapshot",
    "symbol_in",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS: Final = 10**14
"""Times from here on are in microseconds: in milliseconds it is the year 5138."""

_Size = Annotated[float, msgspec.Meta(ge=0)]
_Number = Annotated[int, msgspec.Meta(le=2**63 - 1)]
"""Larger ones do not fit into a book update that goes to another process."""


class Event(msgspec.Struct, gc=False):
    """The fields of quotes and trades."""

    s: str = ""
    b: float = math.nan
    B: _Size = math.nan
    a: float = math.nan
    A: _Size = math.nan
    e: str = ""
    p: float = math.nan
    q: _Size = math.nan
    T: int = 0
    E: int = 0
    t: int = 0
    m: bool = False


class Frame(msgspec.Struct, gc=False):
    """A quote or a trade in a combined frame."""

    stream: str = ""
    data: Event | None = None


class Levels(msgspec.Struct, gc=False):
    """The changes of a book (``b``, ``a``), or its levels (``bids``, ``asks``).

    The changes' fields are in the order in which they are sent: msgspec looks for each
    behind the one before it.
    """

    e: str = ""
    E: int = 0
    T: int = 0
    s: str = ""
    U: _Number = 0
    u: _Number = 0
    pu: _Number = -1
    b: tuple[Level, ...] = ()
    a: tuple[Level, ...] = ()
    lastUpdateId: _Number = 0
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()


class BookFrame(msgspec.Struct, gc=False):
    """Levels in a combined frame."""

    stream: str = ""
    data: Levels | None = None


class CandleFields(msgspec.Struct):
    """A candle: its beginning, end, interval and prices."""

    t: int
    T: int
    i: str
    o: Finite
    h: Finite
    l: Finite  # noqa: E741 - the venue's name
    c: Finite
    v: NonNegative
    x: bool


class Candle(msgspec.Struct):
    """A message with a candle."""

    s: str
    k: CandleFields


class AnyFrame(msgspec.Struct):
    """Any combined frame; a message that is none has neither field."""

    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


frame: Final = msgspec.json.Decoder(Frame, strict=False).decode
book_frame: Final = msgspec.json.Decoder(BookFrame, strict=False).decode
event: Final = msgspec.json.Decoder(Event, strict=False).decode
levels_of: Final = msgspec.json.Decoder(Levels, strict=False).decode
candle_of: Final = msgspec.json.Decoder(Candle, strict=False).decode
any_frame: Final = msgspec.json.Decoder(AnyFrame).decode
object_of: Final = msgspec.json.Decoder(dict[str, Any]).decode


def moment(time: int) -> datetime:
    """Return the moment that *time*, in milliseconds or microseconds, stands for."""
    if time < _MICROSECONDS:
        return moment_of(time)
    return _EPOCH + timedelta(microseconds=time)


def book_depth(channel: str | None) -> int | None:
    """Return how many levels *channel* has: 0 for all of them, ``None`` for no book."""
    if channel is None or not channel.startswith("depth"):
        return None
    levels = channel.partition("@")[0].removeprefix("depth")
    return int(levels) if levels.isascii() and levels.isdigit() else None if levels else 0


def chosen_book(channels: tuple[str, ...]) -> str | None:
    """Return which of *channels* to take the order books from; ``None``: there is none.

    The changes of the whole book go before its best levels, more levels before fewer,
    and the faster of two streams before the slower.
    """
    books = [name for name in channels if name.startswith("depth")]
    return max(
        books, key=lambda name: (book_depth(name) or math.inf, "@100ms" in name), default=None
    )


def is_quote(fields: dict[str, Any]) -> bool:
    """Return whether a raw event, which names no stream, is meant to be a quote."""
    if fields.get("e", "bookTicker") != "bookTicker":
        return False
    return "s" in fields and not {"b", "a", "B", "A"}.isdisjoint(fields)


def channel_of(fields: dict[str, Any]) -> str:
    """Return the channel of a raw event; empty if it is no market data."""
    kind = fields.get("e")
    if is_quote(fields):
        return "bookTicker"
    if kind in ("trade", "aggTrade"):
        return str(kind)
    if kind == "depthUpdate" or (kind is None and "lastUpdateId" in fields):
        return "depth"
    return "kline_" if kind == "kline" else ""


def symbol_in(payload: bytes) -> str | None:
    """Return the symbol in a malformed *payload*, where that can be read."""
    try:
        fields = object_of(payload)
        symbol = fields.get("data", fields).get("s")
        if symbol is None and "lastUpdateId" in fields["data"]:
            symbol = fields["stream"].partition("@")[0].upper()
    except BAD_MESSAGE:
        return None
    return symbol if isinstance(symbol, str) and symbol else None


_NUMBERS: Final = ("u", "t", "lastUpdateId")


def place_in(payload: bytes) -> tuple[str, int] | None:
    """Return the stream of *payload* and its number there; ``None``: it has none.

    A candle is numbered by its time, all others by the venue's own numbers.
    """
    try:
        fields = object_of(payload)
        data = fields.get("data", fields)
        kind = data.get("e", "")
        stream = fields.get("stream") or f"{data['s']}@{channel_of(data)}"
        name = "a" if kind == "aggTrade" else "E" if kind == "kline" else ""
        number = data[name or next((each for each in _NUMBERS if each in data), "")]
    except BAD_MESSAGE:
        return None
    return (stream, number) if isinstance(stream, str) and is_whole(number) else None


def read_snapshot(symbol: str, body: bytes, arrived: datetime) -> BookUpdate:
    """Return the snapshot of the book of *symbol* that came over REST.

    Raises:
        ValueError: it is none.
    """
    found = levels_of(body)
    if found.lastUpdateId <= 0:
        raise ValueError("no lastUpdateId")
    when = moment(found.T or found.E) if found.T or found.E else arrived
    return unchecked_book_update(
        symbol, when, found.bids, found.asks, True, None, found.lastUpdateId
    )
