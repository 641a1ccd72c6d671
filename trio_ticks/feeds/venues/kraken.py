"""Kraken spot, WebSocket v2: quotes, order books, trades and candles.

Facts: docs.kraken.com/exchange/api-reference/spot-websocket-v2.

Rules: a book update carries its message, since Kraken's checksum is made of the digits
as they were sent; ``kraken_checksum`` reads them where a book is kept. Snapshots of
trades and candles are history and make no items. Each statement that runs for every
message was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar, final

import attrs
import msgspec
from msgspec.structs import astuple

from ...ticks import (
    Bar,
    BookUpdate,
    Tick,
    Trade,
    to_utc,
    unchecked_book_update,
    unchecked_tick,
    unchecked_trade,
)
from .base import BAD_MESSAGE, Codec, CodecContext, Limits, MalformedMessage
from .kraken_checksum import KrakenChecksum

__all__ = ["KrakenCodec"]

T = TypeVar("T")

_DEPTHS: Final = (10, 25, 100, 500, 1000)
_MINUTES: Final = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
_SYMBOLS_A_REQUEST: Final = 100
_MOST_KEPT: Final = 10_000
"""Symbols of which anything is kept; far more than Kraken trades."""
_SUBSCRIBE, _UNSUBSCRIBE, _SNAPSHOT = 1, 2, 3
"""The numbers of our requests."""

_Size = Annotated[float, msgspec.Meta(ge=0)]


class _Level(msgspec.Struct, gc=False):
    price: float
    qty: _Size


class _Quote(msgspec.Struct, gc=False):
    """The best quote; a number that is absent is NaN, here and below."""

    symbol: str = ""
    bid: float = math.nan
    bid_qty: _Size = math.nan
    ask: float = math.nan
    ask_qty: _Size = math.nan
    volume: _Size = math.nan
    timestamp: datetime | None = None


class _Levels(msgspec.Struct, gc=False):
    symbol: str = ""
    bids: list[_Level] = []
    asks: list[_Level] = []
    checksum: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None = None
    timestamp: datetime | None = None


class _Trade(msgspec.Struct, gc=False):
    symbol: str = ""
    side: str = ""
    price: float = math.nan
    qty: _Size = math.nan
    trade_id: int | None = None
    timestamp: datetime | None = None


class _Candle(msgspec.Struct, gc=False):
    symbol: str = ""
    interval: int = 0
    interval_begin: datetime | None = None
    open: float = math.nan
    high: float = math.nan
    low: float = math.nan
    close: float = math.nan
    volume: _Size = math.nan


class _Frame(msgspec.Struct, Generic[T], gc=False, kw_only=True):
    channel: str = ""
    type: str = ""
    data: list[T]


class _Head(msgspec.Struct, gc=False):
    channel: str = ""


class _RawFrame(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_quotes: Final = msgspec.json.Decoder(_Frame[_Quote]).decode
_books: Final = msgspec.json.Decoder(_Frame[_Levels]).decode
_frames: Final[dict[str, Callable[[bytes], _Frame[Any]]]] = {
    "ticker": _quotes,
    "book": _books,
    "trade": msgspec.json.Decoder(_Frame[_Trade]).decode,
    "ohlc": msgspec.json.Decoder(_Frame[_Candle]).decode,
}
_head: Final = msgspec.json.Decoder(_Head).decode
_raw_frame: Final = msgspec.json.Decoder(_RawFrame).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
_PREFIX: Final = len('{"channel":"tick')
_CHANNELS: Final = {f'{{"channel":"{name}'.encode()[:_PREFIX]: name for name in _frames}
"""The channels by the first bytes of their messages, as the venue writes them."""
_TICKER: Final = b'{"channel":"tick'
_BOOK: Final = b'{"channel":"book'


def _encode(method: str, number: int, **params: object) -> str:
    return msgspec.json.encode({"method": method, "params": params, "req_id": number}).decode()


def _time(moment: datetime | None, otherwise: datetime) -> datetime:
    if moment is None:
        return otherwise
    return moment if moment.tzinfo is UTC else to_utc(moment)


def _check_finite(symbol: str, *numbers: float) -> None:
    if not symbol or not all(map(math.isfinite, numbers)):
        raise MalformedMessage("no symbol, or a number that is missing or not finite", symbol)


@final
class KrakenCodec(Codec):
    """Kraken spot: quotes (ticker), books with checksums, trades, candles (ohlc).

    Channels: ``ticker`` sends a quote when the best bid or ask changes, and
    ``ticker-trades`` only with trades. ``book`` has 10 levels a side, ``book-25`` to
    ``book-1000`` have more; of several the deepest is subscribed to. ``ohlc`` has
    candles of one minute, ``ohlc-5`` to ``ohlc-21600`` of so many. ``instrument`` makes
    no items.
    """

    url = "wss://ws.kraken.com/v2"
    channels = (
        "ticker",
        "ticker-trades",
        "book",
        *(f"book-{depth}" for depth in _DEPTHS[1:]),
        "trade",
        "ohlc",
        *(f"ohlc-{minutes}" for minutes in _MINUTES[1:]),
        "instrument",
    )
    default_channels = ("ticker",)
    new_book_checksum = KrakenChecksum
    # The venue does not say how many messages it takes ("Exceeded msg rate").
    limits = Limits(messages_per_s=5)

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        chosen = context.channels
        self._depth = max((d for d in _DEPTHS if _name("book", d, 10) in chosen), default=0)
        self._minutes = [m for m in _MINUTES if _name("ohlc", m, 1) in chosen]
        self._has_quotes = "ticker" in chosen or "ticker-trades" in chosen
        self._has_trades = "trade" in chosen
        self._active: dict[str, int] = {}
        """The symbols subscribed to, each with the depth of its book."""
        self._bars: dict[tuple[str, int], Bar] = {}
        """The running candle of each symbol and length."""
        self._wants_instruments = "instrument" in chosen
        self._readers: dict[str, Callable[[_Frame[Any], bytes], Sequence[Any]]] = {
            "ticker": self._read_quotes,
            "book": self._read_books,
            "trade": self._read_trades,
            "ohlc": self._read_bars,
        }

    # Requests

    def _channels(self) -> list[dict[str, object]]:
        """Return what is to be subscribed to for each symbol."""
        found: list[dict[str, object]] = []
        if self._has_quotes:
            trigger = "bbo" if "ticker" in self.context.channels else "trades"
            found.append({"channel": "ticker", "event_trigger": trigger, "snapshot": True})
        if self._depth:
            found.append(self._book_channel())
        if self._has_trades:
            found.append({"channel": "trade", "snapshot": False})
        return found + [
            {"channel": "ohlc", "interval": minutes, "snapshot": False} for minutes in self._minutes
        ]

    def _book_channel(self) -> dict[str, object]:
        return {"channel": "book", "depth": self._depth, "snapshot": True}

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that subscribe to *symbols*, such as ``BTC/USD``."""
        self._active.update(dict.fromkeys(symbols, self._depth))
        requests = self._requests("subscribe", symbols, _SUBSCRIBE)
        if self._wants_instruments:
            self._wants_instruments = False
            requests.append(_encode("subscribe", _SUBSCRIBE, channel="instrument", snapshot=True))
        return requests

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that unsubscribe from *symbols*."""
        for symbol in symbols:
            self._active.pop(symbol, None)
            for minutes in self._minutes:
                self._bars.pop((symbol, minutes), None)
        return self._requests("unsubscribe", symbols, _UNSUBSCRIBE)

    def _requests(self, method: str, symbols: Sequence[str], number: int) -> list[str | bytes]:
        return [
            _encode(method, number, symbol=list(symbols[first : first + _SYMBOLS_A_REQUEST]), **one)
            for one in self._channels()
            for first in range(0, len(symbols), _SYMBOLS_A_REQUEST)
        ]

    def request_snapshot(self, symbol: str, /) -> list[str | bytes]:
        """Return the messages that subscribe to the book of *symbol* anew."""
        if not self._depth or symbol not in self._active:
            return []
        return [
            _encode(method, _SNAPSHOT, symbol=[symbol], **self._book_channel())
            for method in ("unsubscribe", "subscribe")
        ]

    # Messages

    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        """Return the market data in *payloads*; count all other messages."""
        items: list[Any] = []
        quotes, books = self._has_quotes, self._depth > 0
        for payload in payloads:
            prefix = payload[:_PREFIX]
            try:
                if quotes and prefix == _TICKER:
                    quote = _quotes(payload)
                    entry = quote.data[0]
                    moment, volume = entry.timestamp, entry.volume
                    size = entry.bid_qty + entry.ask_qty
                    # A sum is finite only if each of its parts is.
                    if (
                        -math.inf < size + entry.bid + entry.ask + volume < math.inf
                        and moment is not None
                        and moment.tzinfo is UTC
                        and entry.symbol
                        and len(quote.data) == 1
                        and quote.channel == "ticker"
                    ):
                        items.append(
                            unchecked_tick(
                                entry.symbol,
                                moment,
                                entry.bid,
                                entry.ask,
                                entry.bid_qty,
                                entry.ask_qty,
                                volume,
                            )
                        )
                        continue
                found: Sequence[Any] | None = None
                # Books come as often as quotes, so they take the shorter way, too.
                if prefix == _BOOK and books:
                    book = _books(payload)
                    if book.channel == "book":
                        found = self._read_books(book, payload)
                if found is None:
                    found = self._read(payload, prefix)
            except BAD_MESSAGE as error:
                self._take_broken(payload, error)
                continue
            if found:
                items += found
            else:
                self.context.ignored()
        return items

    def _read(self, payload: bytes, prefix: bytes) -> Sequence[Any]:
        """Return the items in *payload*; none if it is nothing that is wanted."""
        channel = _CHANNELS.get(prefix) or _head(payload).channel
        if channel in _frames:
            frame = _frames[channel](payload)
            if frame.channel == channel:
                return self._readers[channel](frame, payload)
        self._take_control(_object(payload))
        return ()

    def _read_quotes(self, frame: _Frame[Any], _payload: bytes) -> list[Tick]:
        if not self._has_quotes:
            return []
        found = []
        for entry in frame.data:
            _check_finite(entry.symbol, entry.bid, entry.ask)
            quantities = entry.bid_qty, entry.ask_qty, entry.volume
            if math.inf in quantities:
                raise MalformedMessage("a quantity that is not finite", entry.symbol)
            moment = _time(entry.timestamp, self.context.arrived)
            found.append(unchecked_tick(entry.symbol, moment, entry.bid, entry.ask, *quantities))
        return found

    def _read_books(self, frame: _Frame[Any], payload: bytes) -> list[BookUpdate]:
        if not self._depth:
            return []
        snapshot = frame.type == "snapshot"
        found = []
        for index, entry in enumerate(frame.data):
            symbol, moment = entry.symbol, entry.timestamp
            if not symbol:
                raise ValueError("a book without a symbol")
            if moment is None or moment.tzinfo is not UTC:
                moment = _time(moment, self.context.arrived)
            bids, asks = tuple(map(astuple, entry.bids)), tuple(map(astuple, entry.asks))
            depth = self._active.get(symbol) or self._depth
            if snapshot:
                levels = max(len(bids), len(asks))
                if levels > depth:
                    # The subscription in a recording is another one than ours.
                    depth = min((d for d in _DEPTHS if d >= levels), default=levels)
            message = payload if len(frame.data) == 1 else _alone(payload, index)
            found.append(
                unchecked_book_update(
                    symbol,
                    moment,
                    bids,
                    asks,
                    snapshot,
                    None,
                    None,
                    depth,
                    entry.checksum,
                    message,
                )
            )
        return found

    def _read_trades(self, frame: _Frame[Any], _payload: bytes) -> list[Trade]:
        if not self._has_trades or frame.type == "snapshot":
            return []
        found = []
        for entry in frame.data:
            _check_finite(entry.symbol, entry.price, entry.qty)
            if entry.timestamp is None:
                raise MalformedMessage("a trade without its time", entry.symbol)
            if entry.side not in ("buy", "sell"):
                raise MalformedMessage("a trade without its side", entry.symbol)
            number = None if entry.trade_id is None else str(entry.trade_id)
            moment = _time(entry.timestamp, entry.timestamp)
            found.append(
                unchecked_trade(entry.symbol, moment, entry.price, entry.qty, entry.side, number)
            )
        return found

    def _read_bars(self, frame: _Frame[Any], _payload: bytes) -> list[Bar]:
        if frame.type == "snapshot":
            return []
        found = []
        for entry in frame.data:
            symbol, minutes = entry.symbol, entry.interval
            prices = entry.open, entry.high, entry.low, entry.close
            _check_finite(symbol, *prices, entry.volume)
            if entry.interval_begin is None:
                raise MalformedMessage("a candle without its beginning", symbol)
            if minutes not in self._minutes:
                continue
            bar = Bar(
                symbol, entry.interval_begin, minutes * 60.0, *prices, entry.volume, closed=False
            )
            before = self._bars.get((symbol, minutes))
            if before is not None and before.timestamp < bar.timestamp:
                # The venue does not say that a candle is complete; the next one does.
                found.append(attrs.evolve(before, closed=True))
            if symbol in self._active or len(self._bars) < _MOST_KEPT:
                self._bars[symbol, minutes] = bar
            found.append(bar)
        return found

    def _take_broken(self, payload: bytes, error: Exception) -> None:
        """Count a message that is not what its channel has, or is junk."""
        try:
            fields = _object(payload)
            symbol = _symbol_in(fields)
            channel = fields.get("channel", "")
            if isinstance(channel, str) and channel not in self._readers and channel:
                # Channels that are not read, such as instrument, may have other fields.
                self.context.ignored()
                return
            if channel == "ticker" and symbol and _is_withdrawn(fields["data"][0]):
                if self._has_quotes:
                    self.context.gap(symbol)
                self.context.ignored()
                return
        except BAD_MESSAGE:
            symbol = None
        self.context.malformed(payload, str(error), symbol)

    def _take_control(self, fields: dict[str, Any]) -> None:
        """Take a message that is no market data.

        Raises:
            ValueError: it is nothing that the venue says.
        """
        method, error, result = fields.get("method"), fields.get("error"), fields.get("result")
        number, symbol = fields.get("req_id"), fields.get("symbol")
        accepted = fields.get("success") is True
        if method == "unsubscribe" and number == _UNSUBSCRIBE:
            self.context.answered("unsubscribe", accepted)
        elif method == "pong":
            self.context.pong()
        elif error is not None:
            known = isinstance(symbol, str) and symbol
            self.context.refused(symbol if known else None, str(error))
        elif method == "subscribe" and isinstance(result, dict) and result.get("channel") == "book":
            symbol, depth = result.get("symbol"), result.get("depth")
            if symbol in self._active and depth in _DEPTHS:
                self._active[symbol] = depth
        elif not isinstance(method, str) and not fields.get("channel"):
            raise ValueError("neither a channel nor a method")


def _name(channel: str, number: int, usual: int) -> str:
    return channel if number == usual else f"{channel}-{number}"


def _alone(payload: bytes, index: int) -> bytes:
    """Return the entry *index* of *payload* as a message of its own."""
    return b'{"data":[' + bytes(_raw_frame(payload).data[index]) + b"]}"


def _is_withdrawn(entry: dict[str, Any]) -> bool:
    """Return whether a quote has neither side any more, or one of them."""
    return any(name in entry and entry[name] is None for name in ("bid", "ask"))


def _symbol_in(fields: dict[str, Any]) -> str | None:
    """Return the symbol in a message, where that can be read."""
    data = fields.get("data")
    entry = data[0] if isinstance(data, list) and data else None
    symbol = entry.get("symbol") if isinstance(entry, dict) else None
    return symbol if isinstance(symbol, str) and symbol else None
