"""Coinbase Advanced Trade: quotes (``ticker``), books (``level2``), trades.

Facts: docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket, and a recording
of 2026.

Plan: one decoder reads each message, with all kinds of events that are known, and a
method for each channel makes the items. What that decoder does not take is looked at
again in ``_decode_rare``.

Rules: ``sequence_num`` counts all messages of a connection, whatever their channel, so
nobody can know what a missing one was about: each symbol has a gap, each book is wrong,
and another connection is made. A message that comes again is ignored. ``heartbeats`` is
always subscribed to, since the venue closes a connection that is quiet for a minute;
its messages also show within a second that one is missing. The snapshot of
``market_trades`` is history, and makes no trades.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, final

import msgspec

from ...ticks import (
    BookUpdate,
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
    Moment,
    Name,
    Names,
    Price,
    Size,
    without_empty,
)

__all__ = ["CoinbaseAdvancedCodec"]

_HEARTBEATS: Final = "heartbeats"
_Item = Tick | Trade | BookUpdate


class _Level(msgspec.Struct, gc=False):
    side: Literal["bid", "offer"]
    price_level: Price
    new_quantity: Size
    event_time: Moment | None = None


class _Ticker(msgspec.Struct, gc=False):
    product_id: Name
    best_bid: Price = 0.0
    best_ask: Price = 0.0
    best_bid_quantity: Size = math.nan
    best_ask_quantity: Size = math.nan
    volume_24_h: Size = math.nan


class _Trade(msgspec.Struct, gc=False):
    product_id: Name
    trade_id: Name
    price: Price
    size: Size
    side: Literal["BUY", "SELL"]
    time: Moment


class _Event(msgspec.Struct):
    """The fields of the events of all channels that are decoded."""

    type: str = ""
    product_id: str = ""
    updates: list[_Level] | None = None
    tickers: list[_Ticker] | None = None
    trades: list[_Trade] | None = None
    subscriptions: dict[str, list[str]] | None = None


class _Frame(msgspec.Struct):
    channel: str = ""
    sequence_num: int = -1
    timestamp: Moment | None = None
    events: list[_Event] = []
    type: str = ""
    message: str = ""


# Not strict, because Coinbase sends numbers as text.
_decode: Final = msgspec.json.Decoder(_Frame, strict=False).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


@final
class CoinbaseAdvancedCodec(Codec):
    """Coinbase Advanced Trade: quotes (ticker), books (level2), trades (market_trades).

    No channel needs a key. Where ``BTC-USDC`` is asked for, the venue answers for
    ``BTC-USD``; the items carry the name that was asked for.
    """

    url = "wss://advanced-trade-ws.coinbase.com"
    channels = ("ticker", "level2", "market_trades", _HEARTBEATS)
    default_channels = ("ticker",)
    notices = MappingProxyType(
        {"ticker": "quotes of the channel ticker come with trades only, and age between them"}
    )
    # The venue allows 8 messages a second and address; on the way some come closer to
    # each other. It allows 8 connections a second. The book of BTC-USD is 5.2 MB.
    limits = Limits(
        messages_per_s=6, connects_per_min=20, subscribe_within_s=5, message_bytes=1 << 24
    )

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        self._channels = dict.fromkeys(context.channels)
        self._names = Names(aliases=True)
        self._books = Books(context)
        self._last = -1
        """The number of the last message; -1: none has come yet."""
        self._older = -2
        """The number of the last message, if that had come before."""
        self._has_heartbeats = False
        self._makers: dict[str, Any] = {
            "ticker": self._take_tickers,
            "l2_data": self._take_levels,
            "market_trades": self._take_trades,
            "subscriptions": self._take_subscriptions,
        }

    # Requests

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that subscribe to *symbols*: one a channel."""
        self._books.forget(symbols)
        products = self._names.ask(symbols)
        if not products:
            return []
        requests = [] if self._has_heartbeats else [_request("subscribe", _HEARTBEATS)]
        self._has_heartbeats = True
        return requests + self._requests("subscribe", products)

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that unsubscribe from *symbols*; heartbeats go on."""
        self._books.forget(symbols)
        self._names.settled.update(symbols)
        return self._requests("unsubscribe", [symbol.upper() for symbol in symbols])

    def _requests(self, kind: str, products: list[str]) -> list[str | bytes]:
        if not products:
            return []
        return [
            _request(kind, channel, products)
            for channel in self._channels
            if channel != _HEARTBEATS
        ]

    def request_snapshot(self, symbol: str, /) -> list[str | bytes]:
        """Return the messages that subscribe anew to the book of *symbol*."""
        if "level2" not in self._channels:
            return []
        return [_request(kind, "level2", [symbol.upper()]) for kind in ("unsubscribe", "subscribe")]

    # Messages

    def decode(self, payloads: Sequence[bytes], /) -> list[_Item]:
        """Return the market data in *payloads*; count all other messages."""
        items: list[_Item] = []
        for payload in payloads:
            try:
                found = self._take(_decode(payload))
            except BAD_MESSAGE as error:
                rare = self._decode_rare(payload, error)
                if rare is None:
                    continue
                found = rare
            if found:
                items += found
            else:
                self.context.ignored()
        return items

    def _take(self, frame: _Frame) -> Sequence[_Item]:
        """Return the items in *frame*; none if it is to be ignored.

        Raises:
            ValueError: it makes no sense.
        """
        if not frame.channel:
            if frame.type != "error":
                raise ValueError("neither a channel nor an error")
            self._take_error(frame.message)
            return ()
        if not self._is_next(frame.sequence_num):
            return ()
        maker = self._makers.get(frame.channel)
        return () if maker is None else maker(frame)

    def _decode_rare(self, payload: bytes, error: Exception) -> Sequence[_Item] | None:
        """Return the items in a message that raised *error*.

        None at all if the message is to be ignored; ``None`` if it is malformed, and
        then it has been reported.
        """
        try:
            fields = _object(payload)
        except BAD_MESSAGE:
            self.context.malformed(payload, str(error))
            return None
        channel, number = fields.get("channel"), fields.get("sequence_num")
        if type(number) is int and number >= 0 and number != self._last:
            self._is_next(number)
        if isinstance(channel, str) and channel and channel not in self._makers:
            return ()  # A channel that is not decoded, or a kind that is new.
        rows = _rows(fields)
        if channel == "ticker":
            try:
                events = [{"tickers": [without_empty(row) for row in rows]}]
                return self._take_tickers(
                    msgspec.convert({**fields, "events": events}, _Frame, strict=False)
                )
            except BAD_MESSAGE as again:
                error = again
        symbol = self._symbol_in(rows)
        self.context.malformed(payload, str(error), symbol)
        if channel == "l2_data" and "level2" in self._channels and self._names.has(symbol):
            assert symbol is not None
            self._books.broke(symbol)
        return None

    def _symbol_in(self, rows: Iterable[dict[str, Any]]) -> str | None:
        for row in rows:
            product = row.get("product_id")
            if isinstance(product, str) and product:
                return self._names.asked.get(product, product)
        return None

    # The sequence of the connection

    def _is_next(self, number: int) -> bool:
        """Return whether the message with this number is new; report missing ones."""
        last = self._last
        if number < 0:
            return True  # It has no number.
        if number == last + 1 or last < 0:
            self._last, self._older = number, -2
            return True
        came_before = number == last or 0 < number < last
        if came_before and number != self._older + 1:
            self._older = number
            return False
        # Messages are missing, or the venue counts anew.
        self._last, self._older = number, -2
        self._lose_all(number - last - 1)
        return True

    def _lose_all(self, missed: int) -> None:
        symbols = list(dict.fromkeys(self._names.asked.values()))
        if "level2" in self._channels:
            self._books.all_lost(symbols)
        else:
            for symbol in symbols:
                self.context.gap(symbol)
        many = f"{missed} messages are missing" if missed > 0 else "the venue counts anew"
        self.context.reconnect(f"sequence_num: {many}")

    # Market data

    def _take_levels(self, frame: _Frame) -> list[_Item]:
        if "level2" not in self._channels:
            return []
        items: list[_Item] = []
        for event in frame.events:
            product, levels = event.product_id, event.updates
            if not product or levels is None:
                raise ValueError("levels of no product")
            asked = self._names.asked.get(product)
            symbol = asked or product
            bids: list[tuple[float, float]] = []
            asks: list[tuple[float, float]] = []
            for level in levels:
                side = bids if level.side == "bid" else asks
                side.append((level.price_level, level.new_quantity))
            if event.type == "snapshot":
                # The times of its levels are those of orders, or 1970.
                moment = self._time_of(frame)
                self._books.snapshot_came(symbol, asked=asked is not None)
            else:
                changed = levels[0].event_time if levels else None
                moment = self._time_of(frame) if changed is None else _utc(changed)
                if self._books.waiting:
                    self._books.update_came(symbol)
            items.append(
                unchecked_book_update(
                    symbol, moment, tuple(bids), tuple(asks), event.type == "snapshot"
                )
            )
        return items

    def _take_tickers(self, frame: _Frame) -> list[_Item]:
        if "ticker" not in self._channels:
            return []
        moment = self._time_of(frame)
        items: list[_Item] = []
        for event in frame.events:
            for row in event.tickers or ():
                symbol = self._names.asked.get(row.product_id, row.product_id)
                if not row.best_bid or not row.best_ask:
                    # A side of the book is empty: the quote before is no longer true.
                    self.context.gap(symbol)
                    continue
                items.append(
                    unchecked_tick(
                        symbol,
                        moment,
                        row.best_bid,
                        row.best_ask,
                        row.best_bid_quantity,
                        row.best_ask_quantity,
                        row.volume_24_h,
                    )
                )
        return items

    def _take_trades(self, frame: _Frame) -> list[_Item]:
        if "market_trades" not in self._channels:
            return []
        rows = [
            (_utc(row.time), len(row.trade_id), row.trade_id, row)
            for event in frame.events
            if event.type != "snapshot"
            for row in event.trades or ()
        ]
        # Nothing says in which order the trades of a message stand.
        rows.sort(key=lambda row: row[:3])
        asked = self._names.asked
        return [
            unchecked_trade(
                asked.get(row.product_id, row.product_id),
                moment,
                row.price,
                row.size,
                TAKER_SIDE[row.side],
                number,
            )
            for moment, _, number, row in rows
        ]

    def _time_of(self, frame: _Frame) -> datetime:
        return self.context.arrived if frame.timestamp is None else _utc(frame.timestamp)

    # Answers; they are ignored

    def _take_subscriptions(self, frame: _Frame) -> tuple[()]:
        """Take the acknowledgement, which lists all that is subscribed to by now."""
        asked = self._names.asked
        for event in frame.events:
            for channel, products in (event.subscriptions or {}).items():
                symbols = [asked[name] for name in products if name in asked]
                self._names.settled.update(symbols)
                if channel == "level2":
                    self._books.acknowledged(symbols)
        return ()

    def _take_error(self, words: str) -> None:
        if "unsubscribe" in words.lower():
            self.context.answered("unsubscribe", False)
            return
        symbol = self._names.find(words)
        self.context.refused(symbol, words or "an error")
        # It is not known whether one wrong product makes the venue refuse the others.
        # There is an error for each channel; the first of them is answered.
        others = self._names.not_settled_after(symbol)
        for request in self._requests("subscribe", [name.upper() for name in others]):
            self.context.reply(request)


def _rows(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events in a message, and the tickers and trades in them."""
    events = fields.get("events")
    found: list[dict[str, Any]] = []
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, dict):
            continue
        inner = [event.get("tickers"), event.get("trades")]
        nested = [row for rows in inner if isinstance(rows, list) for row in rows]
        found += [row for row in nested if isinstance(row, dict)] or [event]
    return found


def _request(kind: str, channel: str, products: list[str] | None = None) -> str | bytes:
    fields: dict[str, Any] = {"type": kind, "channel": channel}
    if products:
        fields["product_ids"] = products
    return msgspec.json.encode(fields).decode()


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else to_utc(moment)
