"""TickDB: quotes, tickers, order books and trades of its documented WebSocket.

Facts: github.com/TickDB/tickdb-api-docs at cd837a2 (v1.0.2) and f4c6b35 (v1.0.3); what
the two disagree on is read in both forms. A push is ``{"cmd": channel, "data": {...}}``
with numbers as text and times in milliseconds, or an array of such objects.

The venue's channel ``ticker`` carries a quote for forex, metals and futures only, and
never its sizes. Hence the channel ``quote``, which is ours: it makes a tick of the best
levels of ``depth``, and for forex and metals, which have no depth, of ``ticker``.

Rules: a price of 0 stands for an absent one, as in the venue's older messages. A codec
has no timer: what is to be tried again is asked for when the next message comes, be it
the answer to a ping. Each statement that runs for every ticker was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, final

import msgspec

from ...ticks import (
    BookUpdate,
    Tick,
    unchecked_book_update,
    unchecked_tick,
    unchecked_trade,
)
from .base import BAD_MESSAGE, Codec, CodecContext, KeepAlive, Limits, MalformedMessage
from .flat import FlatCodec
from .moments import moment_of
from .tickdb_answers import Subscriptions
from .tickdb_pushes import Data, Deal, Push, decode_any, decode_push, decode_pushes, is_pair

__all__ = ["TickDBCodec", "TickDBFlatCodec", "TickDBMarketCodec", "TickDBOldCodec"]

_PING: Final = '{"cmd":"ping"}'
_PUSHES: Final = frozenset({"ticker", "depth", "trade"})


class TickDBCodec(Codec):
    """TickDB: best quotes, tickers, depth and trades of stocks, crypto, forex, futures.

    ``quote`` makes a :class:`Tick` of each change of the best levels. ``ticker`` makes
    a :class:`Tick` where the venue says bid and ask, without sizes; otherwise a
    :class:`Trade` at the last price, without its size, which may be the same trade
    again. ``depth`` makes a :class:`BookUpdate` that replaces the whole book, ``trade``
    a :class:`Trade`.
    """

    url = "wss://api.tickdb.ai/v1/realtime"
    key_parameter = "api_key"
    channels: ClassVar[tuple[str, ...]] = ("quote", "ticker", "depth", "trade")
    default_channels: ClassVar[tuple[str, ...]] = ("quote",)
    keep_alive = KeepAlive(_PING, every_s=60.0, within_s=20.0)
    # The venue limits connections and subscriptions by the user's plan, and documents
    # no rates. These keep a feed within the reconnects that it documents (1 s three
    # times, 5 s three times, then 30 s), and well within any likely rate.
    limits = Limits(messages_per_s=10, connects_per_min=12)

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        chosen = frozenset(context.channels)
        self._quotes = "quote" in chosen
        self._tickers = "ticker" in chosen
        self._books = "depth" in chosen
        self._trades = "trade" in chosen
        self._asked: dict[str, str | None] = {}
        """By the venue's spelling, that in which a symbol was asked for.

        ``None`` where a symbol without its suffix could be one of several.
        """
        self._quoted: set[str] = set()
        """Symbols that were asked for and whose ticker has a quote now."""
        self._two_sided: set[str] = set()
        """Symbols that were asked for and whose depth has two sides now."""
        self._subscriptions = Subscriptions(context, self._channels_of, self._spelled)

    # Requests

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that subscribe to *symbols*."""
        for symbol in symbols:
            self._asked[symbol] = symbol
            base = symbol.rpartition(".")[0]
            if base and self._asked.setdefault(base, symbol) not in (symbol, base):
                self._asked[base] = None
        return self._subscriptions.ask("subscribe", self._by_channel(symbols))

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that unsubscribe from *symbols*."""
        self._quoted.difference_update(symbols)
        self._two_sided.difference_update(symbols)
        return self._subscriptions.ask("unsubscribe", self._by_channel(symbols))

    def _by_channel(self, symbols: Sequence[str]) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for symbol in dict.fromkeys(symbols):
            for channel in self._channels_of(symbol):
                wanted.setdefault(channel, []).append(symbol)
        return wanted

    def _channels_of(self, symbol: str) -> tuple[str, ...]:
        """Return the venue's channels that bring what was chosen for *symbol*."""
        quote = "ticker" if is_pair(symbol) else "depth"
        return tuple(
            dict.fromkeys(quote if each == "quote" else each for each in self.context.channels)
        )

    def _spelled(self, symbol: str) -> str:
        """Return *symbol*, which the venue sends, as it was asked for.

        Older messages leave out the suffix (``NVDA`` of ``NVDA.US``), newer ones have
        it, and the user may have asked in either way.
        """
        asked = self._asked.get(symbol)
        if asked is None:
            base = symbol.rpartition(".")[0]
            asked = self._asked.get(base) if base else None
            return base if asked == base else symbol
        return asked

    # Messages

    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        """Return the market data in *payloads*; count all other messages."""
        items: list[Any] = []
        arrived = self.context.arrived
        asked, quoted = self._asked, self._quoted
        takes_quotes = self._tickers or self._quotes
        only_books = self._books and not self._quotes
        nan = math.nan
        stamp, moment = 0, arrived
        for payload in payloads:
            try:
                push = decode_push(payload)
                data, cmd = push.data, push.cmd
                symbol, time = asked.get(data.symbol), data.timestamp
                if symbol is not None and time > 0:
                    # Many pushes in a row have the same stamp.
                    if time != stamp:
                        moment, stamp = moment_of(time), time
                    if cmd == "ticker" and takes_quotes:
                        bid, ask = data.bid_price, data.ask_price
                        both = bid * ask
                        # It is 0 or NaN where a price is absent.
                        if both and both == both:
                            items.append(
                                unchecked_tick(symbol, moment, bid, ask, nan, nan, data.volume_24h)
                            )
                            quoted.add(symbol)
                            continue
                    elif cmd == "depth" and only_books:
                        bids, asks = data.bids, data.asks
                        if bids is not None and asks is not None:
                            items.append(unchecked_book_update(symbol, moment, bids, asks, True))
                            continue
                found = self._items_in(push, arrived)
            except BAD_MESSAGE:
                try:
                    found = self._decode_rare(payload, arrived)
                except BAD_MESSAGE as error:
                    about = error.symbol if isinstance(error, MalformedMessage) else None
                    self.context.malformed(payload, str(error) or type(error).__name__, about)
                    continue
            if found:
                items += found
            else:
                self.context.ignored()
        if self._subscriptions.retries:
            self._subscriptions.retry(arrived)
        return items

    def _decode_rare(self, payload: bytes, arrived: datetime) -> list[Any]:
        """Return the items in a message that is no single push with all its fields."""
        try:
            pushes = decode_pushes(payload)
            if all(push.cmd in _PUSHES for push in pushes):
                return self._items_of_array(list(pushes), arrived)
        except msgspec.ValidationError:
            pass
        found = decode_any(payload)
        return self._items_of_array(found if isinstance(found, list) else [found], arrived)

    def _items_of_array(self, messages: list[Any], arrived: datetime) -> list[Any]:
        """Return the items of all *messages*.

        One that is bad costs itself alone: its symbol has a gap. Only if its symbol
        cannot be read, or if there are no others, all of them are malformed.
        """
        items: list[Any] = []
        lost: list[str] = []
        for message in messages:
            try:
                items += self._items_of_any(message, arrived)
            except MalformedMessage as error:
                if error.symbol is None or len(messages) == 1:
                    raise
                lost.append(error.symbol)
        if lost and not items:
            raise MalformedMessage("none of the messages in the array makes sense", lost[0])
        for symbol in lost:
            self.context.gap(symbol, 1)
        return items

    def _items_of_any(self, message: Any, arrived: datetime) -> list[Any]:
        symbol = None
        try:
            if not isinstance(message, Push):
                if not isinstance(message, dict):
                    raise TypeError("neither an object nor an array of objects")
                if message.get("cmd") not in _PUSHES:
                    self._take_control(message)
                    return []
                fields = message["data"]
                symbol = fields.get("symbol")
                # A null stands for what the venue does not say.
                known = {name: value for name, value in fields.items() if value is not None}
                push = Push(message["cmd"], msgspec.convert(known, Data, strict=False))
            else:
                push, symbol = message, message.data.symbol
            return self._items_in(push, arrived)
        except MalformedMessage:
            raise
        except BAD_MESSAGE as error:
            about = self._spelled(symbol) if isinstance(symbol, str) and symbol else None
            raise MalformedMessage(str(error) or type(error).__name__, about) from None

    def _items_in(self, push: Push, arrived: datetime) -> list[Any]:
        """Return the items of one push.

        Raises:
            ValueError: it makes no sense.
        """
        data = push.data
        if push.cmd not in _PUSHES:
            raise ValueError("no push")
        if not data.symbol:
            raise ValueError("no symbol")
        symbol = self._spelled(data.symbol)
        if data.timestamp < 0:
            raise ValueError("a time before 1970")
        moment = moment_of(data.timestamp) if data.timestamp else arrived
        if push.cmd == "ticker":
            return self._of_ticker(symbol, moment, data)
        if push.cmd == "depth":
            return self._of_depth(symbol, moment, data)
        return self._of_trades(symbol, moment, data)

    def _of_ticker(self, symbol: str, moment: datetime, data: Data) -> list[Any]:
        bid, ask = data.bid_price, data.ask_price
        if bid * ask and bid * ask == bid * ask:
            if not (self._tickers or self._quotes):
                return []
            self._note(self._quoted, symbol)
            return [unchecked_tick(symbol, moment, bid, ask, math.nan, math.nan, data.volume_24h)]
        if math.isnan(data.last_price):
            raise ValueError("neither a quote nor a last price")
        self._withdraw(self._quoted, symbol)
        if not self._tickers:
            return []
        return [unchecked_trade(symbol, moment, data.last_price, math.nan, "neutral", None)]

    def _of_depth(self, symbol: str, moment: datetime, data: Data) -> list[Any]:
        if data.bids is None and data.asks is None:
            raise ValueError("depth without levels")
        bids, asks = data.bids or (), data.asks or ()
        items: list[Tick | BookUpdate] = []
        if self._books:
            items.append(
                unchecked_book_update(
                    symbol, moment, bids, asks, True, None, None, None, None, None
                )
            )
        if self._quotes:
            best_bid, best_ask = _best(bids), _best(asks)
            if best_bid is None or best_ask is None:
                self._withdraw(self._two_sided, symbol)
            else:
                (bid, bid_size), (ask, ask_size) = best_bid, best_ask
                self._note(self._two_sided, symbol)
                items.append(unchecked_tick(symbol, moment, bid, ask, bid_size, ask_size, math.nan))
        return items

    def _of_trades(self, symbol: str, moment: datetime, data: Data) -> list[Any]:
        deals = data.trades
        if deals is None:
            if math.isnan(data.price) or math.isnan(data.quantity):
                raise ValueError("a trade without price or quantity")
            deals = [Deal(data.price, data.quantity, data.id, data.side)]
        trades = []
        for deal in deals:
            if deal.timestamp < 0:
                raise ValueError("a time before 1970")
            at = moment_of(deal.timestamp) if deal.timestamp else moment
            number = None if deal.id in (None, "") else str(deal.id)
            trades.append(unchecked_trade(symbol, at, deal.price, deal.quantity, deal.side, number))
        return trades if self._trades else []

    def _note(self, quoted: set[str], symbol: str) -> None:
        if symbol in self._asked:
            quoted.add(symbol)

    def _withdraw(self, quoted: set[str], symbol: str) -> None:
        """Notice that *symbol* has no quote now; tell of a gap if it had one before."""
        if symbol in quoted:
            quoted.discard(symbol)
            self.context.gap(symbol)

    def _take_control(self, fields: dict[str, Any]) -> None:
        """Take a message that is no market data; all of these are ignored.

        Raises:
            ValueError: it is nothing that the venue sends.
        """
        cmd, data = fields.get("cmd"), fields.get("data")
        code = str(fields.get("code", 0))
        if cmd == "pong" or (cmd is None and isinstance(data, dict) and set(data) == {"timestamp"}):
            self.context.pong()
        elif cmd in ("subscribe", "error"):
            words = f"{fields.get('message') or 'refused'} (code {code})"
            told = data if isinstance(data, dict) else {}
            if cmd == "subscribe" and code == "0":
                self._subscriptions.accepted(told)
            else:
                self._subscriptions.refused(cmd, code, words, told, self.context.arrived)
        elif cmd == "unsubscribe":
            self.context.answered("unsubscribe", code == "0")
        elif not isinstance(cmd, str) and not {"code", "message", "data"} & fields.keys():
            raise ValueError("an object of no known kind")


@final
class TickDBMarketCodec(TickDBCodec):
    """TickDB: the tickers of a whole market, such as US_Stock; compressed.

    The symbols to subscribe to are the venue's *universes*. Its tickers of stocks have
    no quote: each makes a :class:`Trade` at the last price, without its size.
    """

    channels = ("ticker",)
    default_channels = ("ticker",)
    wildcard = "US_Stock"
    compression = "permessage-deflate"

    def _by_channel(self, symbols: Sequence[str]) -> dict[str, list[str]]:
        return {"": list(dict.fromkeys(symbols))}


@final
class TickDBOldCodec(TickDBCodec):
    """TickDB as its documentation v1.0.2 has it: with a ping every second."""

    keep_alive = KeepAlive(_PING, every_s=1.0, within_s=20.0)


@final
class TickDBFlatCodec(FlatCodec):
    """TickDB's undocumented flat form: the flat dialect at its own address."""

    url = "wss://stream.tickdb.ai/v1/market/ws"


def _best(levels: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the first of *levels*, which come best first, with a price and a size."""
    if levels and levels[0][0] and levels[0][1]:
        return levels[0]
    return next((level for level in levels if level[0] and level[1]), None)
