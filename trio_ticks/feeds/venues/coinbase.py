"""Coinbase Exchange: quotes (``ticker``), trades (``matches``), books, heartbeats.

Facts: docs.cdp.coinbase.com/exchange/websocket-feed, and a recording of 2021.

Plan: one decoder reads all kinds of messages that are known, each into a small struct
by its ``type``, and a method for each kind makes the item. What that decoder does not
take is looked at again in ``_decode_rare``.

Rules: a ticker comes with each trade, and not when the quote changes, so its quote ages
until the next trade. Its ``sequence`` is the product's, of which this feed shows only a
part: holes in it mean nothing, but a smaller number is an older quote and is ignored,
unless its time is later: then the number before was wrong, or they begin anew.
Trades have numbers without holes. Books have none: the venue guarantees their delivery.
``last_match`` is history, and makes no trade.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, final

import msgspec

from ...ticks import (
    BookUpdate,
    Level,
    Tick,
    Trade,
    to_utc,
    unchecked_book_update,
    unchecked_tick,
    unchecked_trade,
)
from .base import BAD_MESSAGE, Codec, CodecContext, Limits
from .coinbase_common import (
    TAKER_SIDE,
    Books,
    Id,
    Moment,
    Name,
    Names,
    Price,
    Size,
    TradeNumbers,
    without_empty,
)

__all__ = ["CoinbaseCodec"]

_BOOKS: Final = "level2_batch"
_Item = Tick | Trade | BookUpdate


class _Ticker(msgspec.Struct, tag="ticker", gc=False):
    product_id: Name
    sequence: Id = 0
    best_bid: Price = 0.0
    best_ask: Price = 0.0
    # Recordings of 2021 have no sizes.
    best_bid_size: Size = math.nan
    best_ask_size: Size = math.nan
    volume_24h: Size = math.nan
    time: Moment | None = None


class _Match(msgspec.Struct, tag="match", gc=False):
    product_id: Name
    trade_id: Id
    side: Literal["buy", "sell"]
    size: Size
    price: Price
    time: Moment


class _LastMatch(msgspec.Struct, tag="last_match", gc=False):
    product_id: Name
    trade_id: Id


class _Snapshot(msgspec.Struct, tag="snapshot"):
    product_id: Name
    bids: tuple[tuple[Price, Size], ...]
    asks: tuple[tuple[Price, Size], ...]
    time: Moment | None = None


class _L2Update(msgspec.Struct, tag="l2update", gc=False):
    product_id: Name
    changes: list[tuple[Literal["buy", "sell"], Price, Size]]
    time: Moment


class _Heartbeat(msgspec.Struct, tag="heartbeat", gc=False):
    product_id: Name
    last_trade_id: Id = 0


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] | None = None


class _Subscriptions(msgspec.Struct, tag="subscriptions"):
    channels: list[_Channel]


class _Error(msgspec.Struct, tag="error"):
    message: str = ""
    reason: str = ""


_Message = (
    _L2Update | _Ticker | _Match | _Snapshot | _Heartbeat | _LastMatch | _Subscriptions | _Error
)
_KINDS: Final = frozenset(
    {"l2update", "ticker", "match", "snapshot", "heartbeat", "last_match", "subscriptions", "error"}
)
# Not strict, because Coinbase sends numbers as text.
_decode: Final = msgspec.json.Decoder(_Message, strict=False).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


@final
class CoinbaseCodec(Codec):
    """Coinbase Exchange: quotes (ticker), trades (matches), books (level2_batch).

    No channel needs a key. ``level2`` would, and says the same as ``level2_batch`` up
    to 50 ms earlier; to log in, derive a codec that adds the signature to the message
    of ``subscribe``.
    """

    url = "wss://ws-feed.exchange.coinbase.com"
    channels = ("ticker", "matches", _BOOKS, "heartbeat")
    default_channels = ("ticker",)
    notices = MappingProxyType(
        {"ticker": "quotes of the channel ticker come with trades only, and age between them"}
    )
    # The venue allows 100 messages a second; on the way some come closer to each other.
    # It allows 8 connections a second, and 20 at once. A whole book has up to 5 MB.
    limits = Limits(
        messages_per_s=80, connects_per_min=20, subscribe_within_s=5, message_bytes=1 << 24
    )

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        self._quotes = "ticker" in context.channels
        self._trades = "matches" in context.channels
        self._levels = _BOOKS in context.channels
        self._names = Names()
        self._asked = self._names.asked
        self._books = Books(context)
        self._numbers = TradeNumbers()
        self._latest: dict[str, tuple[int, datetime]] = {}
        """By symbol, the sequence and the time of the last ticker."""
        self._makers: dict[type[Any], Any] = {
            _L2Update: self._take_update,
            _Ticker: self._take_ticker,
            _Match: self._take_match,
            _Snapshot: self._take_snapshot,
            _Heartbeat: self._take_heartbeat,
            _LastMatch: self._take_last_match,
            _Subscriptions: self._take_subscriptions,
            _Error: self._take_error,
        }

    # Requests

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the message that subscribes to *symbols*; upper or lower case."""
        self._forget(symbols)
        return _request("subscribe", self._names.ask(symbols), self.context.channels)

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the message that unsubscribes from *symbols*."""
        self._forget(symbols)
        self._names.settled.update(symbols)
        products = [symbol.upper() for symbol in symbols]
        return _request("unsubscribe", products, self.context.channels)

    def request_snapshot(self, symbol: str, /) -> list[str | bytes]:
        """Return the messages that subscribe anew to the book of *symbol*."""
        if not self._levels:
            return []
        product = [symbol.upper()]
        return [
            *_request("unsubscribe", product, (_BOOKS,)),
            *_request("subscribe", product, (_BOOKS,)),
        ]

    def _forget(self, symbols: Sequence[str]) -> None:
        self._books.forget(symbols)
        self._numbers.forget(symbols)
        for symbol in symbols:
            self._latest.pop(symbol, None)

    # Messages

    def decode(self, payloads: Sequence[bytes], /) -> list[_Item]:
        """Return the market data in *payloads*; count all other messages."""
        items: list[_Item] = []
        makers = self._makers
        for payload in payloads:
            try:
                message = _decode(payload)
                item = makers[type(message)](message)
            except BAD_MESSAGE as error:
                item = self._decode_rare(payload, error)
                if item is False:
                    continue
            if item is None:
                self.context.ignored()
            else:
                items.append(item)
        return items

    def _decode_rare(self, payload: bytes, error: Exception) -> Any:
        """Return what is in a message that raised *error*.

        The item; ``None`` if the message is to be ignored; False if it is malformed,
        and then it has been reported.
        """
        try:
            fields = _object(payload)
        except BAD_MESSAGE:
            self.context.malformed(payload, str(error))
            return False
        kind, symbol = fields.get("type"), self._symbol_in(fields)
        if isinstance(kind, str) and kind and kind not in _KINDS:
            return None  # The venue may add kinds at any time.
        if kind == "ticker":
            try:
                return self._take_ticker(
                    msgspec.convert(without_empty(fields), _Ticker, strict=False)
                )
            except BAD_MESSAGE as again:
                error = again
        self.context.malformed(payload, str(error), symbol)
        if kind in ("l2update", "snapshot") and self._levels and self._names.has(symbol):
            assert symbol is not None
            self._books.broke(symbol)
        return False

    def _symbol_in(self, fields: dict[str, Any]) -> str | None:
        product = fields.get("product_id")
        if not isinstance(product, str) or not product:
            return None
        return self._asked.get(product, product)

    # Market data

    def _take_update(self, message: _L2Update) -> BookUpdate | None:
        if not self._levels:
            return None
        product, moment = message.product_id, message.time
        symbol = self._asked.get(product, product)
        if self._books.waiting:
            self._books.update_came(symbol)
        if moment.tzinfo is not UTC:
            moment = to_utc(moment)
        changes = message.changes
        if len(changes) == 1:
            # In the recording of 2021 that is so of all; lists would take a tenth more.
            side, price, size = changes[0]
            level = ((price, size),)
            if side == "buy":
                return unchecked_book_update(symbol, moment, level, (), False)
            return unchecked_book_update(symbol, moment, (), level, False)
        bids: list[Level] = []
        asks: list[Level] = []
        for side, price, size in changes:
            (bids if side == "buy" else asks).append((price, size))
        return unchecked_book_update(symbol, moment, tuple(bids), tuple(asks), False)

    def _take_snapshot(self, message: _Snapshot) -> BookUpdate | None:
        if not self._levels:
            return None
        asked = self._asked.get(message.product_id)
        symbol = asked or message.product_id
        self._books.snapshot_came(symbol, asked=asked is not None)
        moment = self.context.arrived if message.time is None else _utc(message.time)
        return unchecked_book_update(symbol, moment, message.bids, message.asks, True)

    def _take_ticker(self, message: _Ticker) -> Tick | None:
        if not self._quotes:
            return None
        asked = self._asked.get(message.product_id)
        symbol = asked or message.product_id
        moment = self.context.arrived if message.time is None else _utc(message.time)
        number = message.sequence
        if asked is not None and number:
            latest = self._latest.get(symbol)
            if latest is not None and number <= latest[0] and moment <= latest[1]:
                return None
            self._latest[symbol] = number, moment
        if not message.best_bid or not message.best_ask:
            # A side of the book is empty: the quote before is no longer true.
            self.context.gap(symbol)
            return None
        return unchecked_tick(
            symbol,
            moment,
            message.best_bid,
            message.best_ask,
            message.best_bid_size,
            message.best_ask_size,
            message.volume_24h,
        )

    def _take_match(self, message: _Match) -> Trade | None:
        if not self._trades:
            return None
        number = message.trade_id
        asked = self._asked.get(message.product_id)
        if asked is not None and (missed := self._numbers.trade_came(asked, number)):
            self.context.gap(asked, missed)
        return unchecked_trade(
            asked or message.product_id,
            _utc(message.time),
            message.price,
            message.size,
            TAKER_SIDE[message.side],
            str(number),
        )

    # All other messages; each is ignored

    def _take_last_match(self, message: _LastMatch) -> None:
        asked = self._asked.get(message.product_id)
        if asked is not None:
            self._numbers.begin(asked, message.trade_id)

    def _take_heartbeat(self, message: _Heartbeat) -> None:
        asked = self._asked.get(message.product_id)
        if asked is None or not self._trades or not message.last_trade_id:
            return
        if missed := self._numbers.heartbeat_came(asked, message.last_trade_id):
            self.context.gap(asked, missed)

    def _take_subscriptions(self, message: _Subscriptions) -> None:
        """Take the acknowledgement, which lists all that is subscribed to by now."""
        asked = self._names.asked
        for channel in message.channels:
            symbols = [asked[name] for name in channel.product_ids or () if name in asked]
            self._names.settled.update(symbols)
            if channel.name.startswith("level2"):
                self._books.acknowledged(symbols)

    def _take_error(self, message: _Error) -> None:
        words = ": ".join(filter(None, (message.message, message.reason))) or "an error"
        if "unsubscribe" in message.message.lower():
            self.context.answered("unsubscribe", False)
            return
        symbol = self._names.find(message.reason) or self._names.find(message.message)
        self.context.refused(symbol, words)
        # One wrong product makes the venue refuse all of a request: ask for the others.
        products = [name.upper() for name in self._names.not_settled_after(symbol)]
        for request in _request("subscribe", products, self.context.channels):
            self.context.reply(request)


def _request(kind: str, products: list[str], channels: Sequence[str]) -> list[str | bytes]:
    if not products:
        return []
    fields = {"type": kind, "product_ids": products, "channels": list(channels)}
    return [msgspec.json.encode(fields).decode()]


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else to_utc(moment)
