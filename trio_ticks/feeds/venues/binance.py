"""Binance spot and USD-M futures: quotes, trades, candles and order books.

Messages come as combined frames, ``{"stream": ..., "data": ...}``, or raw, as the
address says. Facts: github.com/binance/binance-spot-api-docs, web-socket-streams.md and
rest-api.md at a5e0bc3. For USD-M developers.binance.com/docs/derivatives/
usds-margined-futures; since April 2026 its addresses differ by the kind of data.

Rules: a spot bookTicker has no time of its own, so its timestamp is its arrival, as is
that of a partial book. A quote says no volume either: a tick has the sum of the trades
that have come since the connection was opened, and NaN before the first of them and
where no trades are subscribed to. An update of a USD-M book names the update before
it (``pu``), so it is taken to begin right after that. Each statement that runs for
every message was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, final

import msgspec

from ...ticks import (
    Bar,
    BookUpdate,
    Tick,
    Trade,
    unchecked_book_update,
    unchecked_tick,
    unchecked_trade,
)
from ..sequence import SequenceTracker
from .base import BAD_MESSAGE, Codec, CodecContext, Limits
from .binance_messages import (
    Candle,
    Event,
    Levels,
    any_frame,
    book_depth,
    book_frame,
    candle_of,
    channel_of,
    chosen_book,
    event,
    frame,
    levels_of,
    moment,
    object_of,
    place_in,
    read_snapshot,
    symbol_in,
)
from .rest_snapshots import RestSnapshots

__all__ = ["BinanceCodec", "BinanceUsdmCodec", "BinanceUsdmMarketCodec"]

_STREAMS_A_REQUEST: Final = 200
"""Keeps a request small, and 1,024 streams within six requests."""
_MAX_VOLUMES: Final = 16_384
"""Symbols whose volume is summed; more than Binance trades."""
_SUBSCRIBE, _UNSUBSCRIBE = 1, 2
_DAY_S: Final = 86_400.0
_DEPTHS: Final = ("5", "10", "20")
_INTERVALS: Final = (
    *("1m", "3m", "5m", "15m", "30m"),
    *("1h", "2h", "4h", "6h", "8h", "12h"),
    *("1d", "3d", "1w", "1M"),
)

_Item = Tick | Trade | Bar | BookUpdate


def _books(*speeds: str) -> tuple[str, ...]:
    """Return the channels of order books that come at *speeds*, besides the usual."""
    return tuple(f"depth{n}{speed}" for n in ("", *_DEPTHS) for speed in ("", *speeds))


class _BinanceCodec(Codec):
    """What the codecs of Binance have in common."""

    default_channels = ("bookTicker",)
    # The venue allows five messages a second, our pongs among them, and 300 connections
    # in five minutes.
    limits = Limits(subscriptions=1024, messages_per_s=4, connects_per_min=60, connection_s=_DAY_S)
    quote_kind: ClassVar[str] = ""
    """What a quote calls itself."""
    has_previous: ClassVar[bool] = False
    """Whether an update of a book names the one before it, and a book its events."""

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        channels = context.channels
        self._quotes = "bookTicker" in channels
        self._trades = "trade" in channels
        self._totals = "aggTrade" in channels and not self._trades
        self._bars = frozenset(name for name in channels if name.startswith("kline_"))
        self._book = chosen_book(channels)
        self._depth = book_depth(self._book)
        self._whole_books = [name for name in self.channels if book_depth(name) == 0]
        self._streams = [
            name
            for name in channels
            if (not name.startswith("depth") or name == self._book)
            and (name != "aggTrade" or self._totals)
        ]
        self._asked: dict[str, str] = {}
        """By the venue's spelling, the spelling in which a symbol was asked for."""
        self._books: dict[str, tuple[str, str]] = {}
        """By the stream of a whole book, its symbol in the venue's spelling, and as it
        was asked for. A recording may have another speed than was chosen here."""
        self._volume: dict[str, float] = {}
        self._numbers = SequenceTracker()
        # By the first letters of a stream's channel.
        self._readers: dict[bytes, Callable[[bytes], _Item | None]] = {}
        if self._depth is not None:
            self._readers[b"dept"] = self._read_book
        if self._trades or self._totals:
            self._readers[b"trad" if self._trades else b"aggT"] = self._read_trade
        self._sole = b"" if self._readers else b"book"
        """The first letters of the only channel that is read the fast way.

        Empty if there are several: then the channel is looked up in each message."""
        if [*self._readers] == [b"dept"] and not self._quotes:
            self._sole = b"dept"

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that subscribe to *symbols*; upper or lower case."""
        for symbol in symbols:
            self._asked[symbol.upper()] = symbol
            self._numbers.reset(symbol.upper())
            if self._depth == 0:
                for name in self._whole_books:
                    self._books[f"{symbol.lower()}@{name}"] = symbol.upper(), symbol
        return self._request("SUBSCRIBE", symbols, _SUBSCRIBE)

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that unsubscribe from *symbols*."""
        return self._request("UNSUBSCRIBE", symbols, _UNSUBSCRIBE)

    def _request(self, method: str, symbols: Sequence[str], number: int) -> list[str | bytes]:
        streams = [f"{symbol.lower()}@{name}" for symbol in symbols for name in self._streams]
        return [
            msgspec.json.encode(
                {
                    "method": method,
                    "params": streams[first : first + _STREAMS_A_REQUEST],
                    "id": number,
                }
            ).decode()
            for first in range(0, len(streams), _STREAMS_A_REQUEST)
        ]

    def place_of(self, payload: bytes, /) -> tuple[str, int] | None:
        """Return the stream that *payload* belongs to, and its number in there."""
        return place_in(payload)

    def succeed(self, codec: Codec, /) -> None:
        """Go on with the volumes and the numbers of the trades of *codec*."""
        if isinstance(codec, _BinanceCodec):
            self._volume, self._numbers = codec._volume, codec._numbers

    # Messages

    def decode(self, payloads: Sequence[bytes], /) -> list[_Item]:
        """Return the market data in *payloads*; count all other messages."""
        items: list[_Item] = []
        arrived = self.context.arrived
        asked, volume, quotes = self._asked, self._volume, self._quotes
        readers, kind, sole = self._readers, self.quote_kind, self._sole
        for payload in payloads:
            name = sole
            if not name:
                # The name of the stream is near the beginning of a combined frame.
                at = payload.find(b"@", 0, 64) + 1
                name = payload[at : at + 4]
            try:
                if quotes and name == b"book":
                    found = frame(payload).data
                    if found is None:
                        raise ValueError("no combined frame")
                    symbol, bid, ask = found.s, found.b, found.a
                    bid_size, ask_size = found.B, found.A
                    # A sum is finite only if each of its parts is.
                    if (
                        -math.inf < bid_size + ask_size + bid + ask < math.inf
                        and symbol
                        and found.e == kind
                    ):
                        items.append(
                            unchecked_tick(
                                asked.get(symbol, symbol),
                                arrived if not found.T else moment(found.T),
                                bid,
                                ask,
                                bid_size,
                                ask_size,
                                volume.get(symbol, math.nan),
                            )
                        )
                        continue
                elif name in readers:
                    item = readers[name](payload)
                    if item is not None:
                        items.append(item)
                        continue
            except BAD_MESSAGE:
                pass
            try:
                item = self._decode_rare(payload, arrived)
            except BAD_MESSAGE as error:
                about = symbol_in(payload)
                self.context.malformed(payload, str(error), about and asked.get(about, about))
                continue
            if item is None:
                self.context.ignored()
            else:
                items.append(item)
        return items

    def _read_trade(self, payload: bytes) -> Trade | None:
        """Return the trade in a combined frame; ``None``: a closer look is due."""
        found = frame(payload).data
        return None if found is None or not found.e else self._decode_trade(found)

    def _read_book(self, payload: bytes) -> BookUpdate | None:
        """Return the update in a combined frame; ``None``: a closer look is due."""
        envelope = book_frame(payload)
        found = envelope.data
        if found is None:
            return None
        symbol, asked = self._books.get(envelope.stream, ("", ""))
        when = found.T or found.E
        # What comes all the time: the next update of a whole book that was asked for.
        if symbol and found.s == symbol and found.e == "depthUpdate" and when:
            first, last = found.pu + 1 if self.has_previous else found.U, found.u
            if 0 < first <= last:
                bids, asks = found.b, found.a
                return unchecked_book_update(asked, moment(when), bids, asks, False, first, last)
        return self._decode_book(found, envelope.stream, self.context.arrived)

    def _decode_rare(self, payload: bytes, arrived: datetime) -> _Item | None:
        """Return the item in any message.

        Raises:
            ValueError: it is malformed.
        """
        envelope = any_frame(payload)
        raw = payload if not envelope.data else bytes(envelope.data)
        stream = envelope.stream
        channel = "" if stream.startswith("!") else stream.partition("@")[2].partition("@")[0]
        if not channel or stream.startswith("!"):
            fields = object_of(raw)
            channel = "" if stream.startswith("!") else channel_of(fields)
            if not channel:
                self._take_control(fields)
                return None
        if channel == "bookTicker":
            return self._decode_quote(event(raw), arrived)
        if channel == "trade" or (channel == "aggTrade" and self._totals):
            return self._decode_trade(event(raw))
        if channel.startswith("depth") and self._depth is not None:
            return self._decode_book(levels_of(raw), stream, arrived)
        if channel.startswith("kline_") and self._bars:
            return self._decode_bar(candle_of(raw))
        return None

    def _decode_quote(self, found: Event, arrived: datetime) -> Tick | None:
        if found.e not in ("", "bookTicker"):
            return None
        numbers = (found.b, found.a, found.B, found.A)
        if not found.s or not all(map(math.isfinite, numbers)):
            raise ValueError("an empty symbol, or a number that is missing or not finite")
        if not self._quotes:
            return None
        symbol = self._asked.get(found.s, found.s)
        when = moment(found.T) if found.T else arrived
        return unchecked_tick(symbol, when, *numbers, self._volume.get(found.s, math.nan))

    def _decode_trade(self, found: Event) -> Trade | None:
        symbol, whole = found.s, found.e != "aggTrade"
        if not symbol or not math.isfinite(found.p) or not math.isfinite(found.q):
            raise ValueError("an empty symbol, or a number that is missing or not finite")
        if found.T <= 0:
            raise ValueError("a trade without its time")
        when = moment(found.T)
        number = found.t
        if not whole:
            if not math.isfinite(found.a) or found.a != int(found.a):
                raise ValueError("a trade without its number")
            number = int(found.a)
        if whole and self._totals:
            return None
        if symbol in self._volume or len(self._volume) < _MAX_VOLUMES:
            self._volume[symbol] = self._volume.get(symbol, 0.0) + found.q
        if not (self._trades if whole else self._totals):
            return None
        asked = self._asked.get(symbol)
        # Of symbols that were not asked for nothing is kept.
        if asked is not None and (missed := self._numbers.check(symbol, number)) > 0:
            self.context.gap(asked, missed)
        # The buyer was the maker, so the seller took the liquidity.
        side: Literal["buy", "sell"] = "sell" if found.m else "buy"
        return unchecked_trade(asked or symbol, when, found.p, found.q, side, str(number))

    def _decode_book(self, found: Levels, stream: str, arrived: datetime) -> BookUpdate | None:
        """Return an update of a book, or its best levels, or its snapshot."""
        named = stream.partition("@")
        symbol = found.s or named[0].upper()
        depth, last = self._depth, found.u
        # A stream of the best levels says their number in its name.
        best = book_depth(named[2]) if stream else None
        if not found.e:
            last = found.lastUpdateId
            if not symbol:
                # The answer over REST, as a recorder may write it, names no symbol.
                if len(self._asked) != 1:
                    return None
                (symbol,) = self._asked
        if last <= 0:
            raise ValueError("a book without its number")
        if found.e not in ("", "depthUpdate") or (stream and best != depth):
            return None
        asked = self._asked.get(symbol, symbol)
        when = moment(found.T or found.E) if found.T or found.E else arrived
        bids, asks = (found.b, found.a) if found.e else (found.bids, found.asks)
        if not found.e or depth:
            if depth and max(len(bids), len(asks)) > depth:
                # The whole book, where only its best levels are wanted.
                return None
            limit = depth or None
            return unchecked_book_update(asked, when, bids, asks, True, None, last, limit)
        first = found.pu + 1 if self.has_previous else found.U
        if not 0 < first <= last:
            raise ValueError("an update of a book without its first number")
        return unchecked_book_update(asked, when, bids, asks, False, first, last)

    def _decode_bar(self, found: Candle) -> Bar | None:
        """Return a candle, which is closed if the venue says so (``x``)."""
        candle = found.k
        if f"kline_{candle.i}" not in self._bars:
            return None
        if not found.s or candle.t <= 0 or candle.t >= candle.T:
            raise ValueError("a candle without its symbol or its times")
        begin = moment(candle.t)
        length = round((moment(candle.T) - begin).total_seconds())
        prices = (candle.o, candle.h, candle.l, candle.c)
        symbol = self._asked.get(found.s, found.s)
        return Bar(symbol, begin, length, *prices, candle.v, closed=candle.x)

    def _take_control(self, fields: dict[str, Any]) -> None:
        """Take a message that is no market data; all of these are ignored."""
        number, error = fields.get("id"), fields.get("error")
        if error is None and "code" in fields and "msg" in fields:
            error = fields
        if error is not None:
            words = str((isinstance(error, dict) and error.get("msg")) or error)
            if number == _UNSUBSCRIBE:
                self.context.answered("unsubscribe", False)
            else:
                self.context.refused(None, words)
        elif number == _UNSUBSCRIBE and "result" in fields:
            self.context.answered("unsubscribe", True)
        elif fields.get("e") == "serverShutdown":
            self.context.replace("the venue announces its shutdown")


@final
class BinanceCodec(_BinanceCodec):
    """Binance spot: quotes (bookTicker), trades, candles, order books (depth).

    Channels: ``depth`` and ``depth@100ms`` have the changes of the whole book, of which
    the snapshot comes over REST; ``depth5`` to ``depth20@100ms`` have its best levels
    each time. One of these is subscribed to: the changes before the best levels, more
    levels before fewer. ``aggTrade`` has the trades of one order together; it is left
    out where ``trade`` has each of them. ``kline_1s`` to ``kline_1M`` have the running
    candle, ``closed=False``, and at its end once with ``closed=True``.
    """

    url = "wss://stream.binance.com:9443/stream"
    channels = (
        "bookTicker",
        "trade",
        "aggTrade",
        *_books("@100ms"),
        "kline_1s",
        *(f"kline_{interval}" for interval in _INTERVALS),
    )
    # A snapshot of 1,000 levels weighs 50, of 6,000 a minute.
    rest_snapshots = RestSnapshots(
        url="https://data-api.binance.vision",
        path="/api/v3/depth",
        channels=frozenset(("depth", "depth@100ms")),
        domains=("binance.com", "binance.vision", "binance.us"),
        parameters=lambda symbol: {"symbol": symbol.upper(), "limit": 1000},
        parse=read_snapshot,
        requests_per_min=100,
    )


class _BinanceUsdmCodec(_BinanceCodec):
    """What the codecs of Binance's USD-M futures have in common."""

    quote_kind = "bookTicker"
    has_previous = True


@final
class BinanceUsdmCodec(_BinanceUsdmCodec):
    """Binance USD-M futures: quotes (bookTicker) and order books (depth).

    Channels are as for spot. Trades and candles have an address of their own, and so a
    venue: ``binance-usdm-market``.
    """

    url = "wss://fstream.binance.com/public/stream"
    channels = ("bookTicker", *_books("@100ms", "@500ms"))
    # A snapshot of 1,000 levels weighs 20, of 2,400 a minute.
    rest_snapshots = RestSnapshots(
        url="https://fapi.binance.com",
        path="/fapi/v1/depth",
        channels=frozenset(("depth", "depth@100ms", "depth@500ms")),
        domains=("binance.com",),
        parameters=lambda symbol: {"symbol": symbol.upper(), "limit": 1000},
        parse=read_snapshot,
        requests_per_min=100,
    )


@final
class BinanceUsdmMarketCodec(_BinanceUsdmCodec):
    """Binance USD-M futures: trades (aggTrade) and candles (kline)."""

    url = "wss://fstream.binance.com/market/stream"
    channels = ("aggTrade", *(f"kline_{interval}" for interval in _INTERVALS))
    default_channels = ("aggTrade",)
