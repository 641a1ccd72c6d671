"""The words of Coinbase's two dialects: requests, answers, and market data.

Rules: sans-I/O. A *tongue* turns what happens in the market into messages, as dicts;
the session numbers and encodes them. A zero is spelt in all the ways that the venue
spells it, one after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, final

import attrs
import msgspec

from ..wire import iso_utc
from .market import ONE, Change, Match, Product

__all__ = ["AdvancedTongue", "ExchangeTongue", "Message", "Refusal", "Request", "Tongue"]

Message = dict[str, Any]
Said = tuple[str, Message]
"""A message, and the channel that it belongs to."""

_ZEROS: Final = ("0", "0.0", "0.00", "0.000000", "0.00000000")
_MOST_ECHOED: Final = 64


@final
class Refusal(Exception):
    """A request that is refused: what the venue says, and why."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


@attrs.frozen(slots=True)
class Request:
    """A request that makes sense."""

    subscribes: bool
    pairs: tuple[tuple[str, str], ...]
    """Channels and products; the product of a channel without products is empty."""


class Tongue(Protocol):
    """A dialect of Coinbase."""

    channels: tuple[str, ...]
    """Those of market data."""
    heartbeats: str
    """The channel of heartbeats."""
    book: str
    """The channel of books."""
    numbers: bool
    """Whether each message of a connection has a number."""
    messages_per_s: int
    """How many messages a client may send in a second."""

    def read(self, text: str, products: Mapping[str, Product]) -> Request: ...
    def acknowledge(self, pairs: Iterable[tuple[str, str]], now: datetime) -> Message: ...
    def refuse(self, refusal: Refusal) -> Message: ...
    def open(self, channel: str, product: Product, now: datetime) -> list[Message]: ...
    def say(self, event: Change | Match, now: datetime) -> list[Said]: ...
    def beat(self, product: Product | None, count: int, now: datetime) -> Message: ...
    def surprise(self, now: datetime) -> Message: ...


class _ExchangeRequest(msgspec.Struct):
    type: str
    channels: list[str | dict[str, Any]]
    product_ids: list[str] = []


class _AdvancedRequest(msgspec.Struct):
    type: str
    channel: str
    product_ids: list[str] = []


_read_exchange: Final = msgspec.json.Decoder(_ExchangeRequest).decode
_read_advanced: Final = msgspec.json.Decoder(_AdvancedRequest).decode


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


class _Words:
    """What both dialects have in common."""

    def __init__(self) -> None:
        self._zeros = itertools.cycle(_ZEROS)
        self._said = 0

    def _size(self, units: int) -> str:
        return f"{units // ONE}.{units % ONE:08d}" if units else next(self._zeros)


def _check_products(names: Sequence[str], products: Mapping[str, Product]) -> None:
    """Refuse the whole request because of one product that there is not."""
    for name in names:
        if name not in products:
            raise Refusal("Failed to subscribe", f"{name[:_MOST_ECHOED]} is not a valid product")


@final
class ExchangeTongue(_Words):
    """The words of Coinbase Exchange."""

    channels: tuple[str, ...] = ("ticker", "matches", "level2_batch")
    heartbeats = "heartbeat"
    book = "level2_batch"
    numbers = False
    messages_per_s = 100
    _locked = frozenset({"level2", "level3", "full", "user"})

    def read(self, text: str, products: Mapping[str, Product]) -> Request:
        """Return the request in *text*.

        Raises:
            Refusal: it makes no sense, or there is no such product or channel.
        """
        try:
            request = _read_exchange(text)
        except (msgspec.DecodeError, RecursionError):
            raise Refusal("Malformed JSON") from None
        if request.type not in ("subscribe", "unsubscribe"):
            raise Refusal("Type has to be either subscribe or unsubscribe")
        pairs = []
        for entry in request.channels:
            own = entry.get("product_ids") if isinstance(entry, dict) else None
            name = entry.get("name") if isinstance(entry, dict) else entry
            if name in self._locked:
                raise Refusal("Failed to subscribe", f"{name} channel requires authentication")
            if name not in (*self.channels, self.heartbeats):
                shown = str(name)[:_MOST_ECHOED]
                raise Refusal("Failed to subscribe", f"{shown} is not a valid channel")
            wanted = own if isinstance(own, list) else request.product_ids
            wanted = [product for product in wanted if isinstance(product, str)]
            _check_products(wanted, products)
            pairs += [(name, product) for product in wanted]
        if not pairs:
            raise Refusal("Failed to subscribe", "no product ids or channels were given")
        return Request(request.type == "subscribe", tuple(pairs))

    def acknowledge(self, pairs: Iterable[tuple[str, str]], now: datetime) -> Message:
        """Return the acknowledgement, which lists all subscriptions, *pairs*."""
        by_channel: dict[str, list[str]] = {}
        for channel, product in pairs:
            by_channel.setdefault(channel, []).append(product)
        return {
            "type": "subscriptions",
            "channels": [
                # The venue calls the channel of books by another name than the client.
                {
                    "name": "level2_50" if name == self.book else name,
                    "product_ids": products,
                    "account_ids": None,
                }
                for name, products in by_channel.items()
            ],
        }

    def refuse(self, refusal: Refusal) -> Message:
        """Return the error that says *refusal*."""
        return {"type": "error", "message": refusal.message, "reason": refusal.reason}

    def open(self, channel: str, product: Product, now: datetime) -> list[Message]:
        """Return what a new subscriber of *channel* gets first."""
        if channel == self.book:
            bids, asks = (
                [[_price(price), self._size(size)] for price, size in sorted(side.items())]
                for side in (product.bids, product.asks)
            )
            bids.reverse()
            return [{"type": "snapshot", "product_id": product.name, "asks": asks, "bids": bids}]
        if product.last is not None and channel == "matches":
            return [{**self._match(product.last), "type": "last_match"}]
        if channel == "ticker":
            return [self._ticker(product, now)]
        return []

    def say(self, event: Change | Match, now: datetime) -> list[Said]:
        """Return the messages that tell of *event*."""
        if isinstance(event, Match):
            ticker = self._ticker(event.product, event.at)
            return [("matches", self._match(event)), ("ticker", ticker)]
        update = {
            "type": "l2update",
            "product_id": event.product.name,
            "changes": [
                [side, _price(price), self._size(size)] for side, price, size in event.levels
            ],
            "time": iso_utc(event.at),
        }
        return [(self.book, update)]

    def _match(self, match: Match) -> Message:
        return {
            "type": "match",
            "trade_id": match.trade_id,
            "maker_order_id": f"2a0da34e-61f7-4c36-88e5-{match.trade_id:012x}",
            "taker_order_id": f"3c82abaa-c01e-4608-be59-{match.trade_id:012x}",
            "side": match.maker,
            "size": self._size(match.size),
            "price": _price(match.price),
            "product_id": match.product.name,
            "sequence": match.sequence,
            "time": iso_utc(match.at),
        }

    def _ticker(self, product: Product, now: datetime) -> Message:
        last = product.last
        return {
            "type": "ticker",
            "sequence": product.sequence,
            "product_id": product.name,
            "price": _price(product.best_bid if last is None else last.price),
            "volume_24h": self._size(product.volume),
            "best_bid": _price(product.best_bid),
            "best_bid_size": self._size(product.bids[product.best_bid]),
            "best_ask": _price(product.best_ask),
            "best_ask_size": self._size(product.asks[product.best_ask]),
            "side": "buy" if last is None or last.maker == "sell" else "sell",
            "time": iso_utc(now),
            "trade_id": product.trade_id,
            "last_size": "0.00000001" if last is None else self._size(last.size),
        }

    def beat(self, product: Product | None, count: int, now: datetime) -> Message:
        """Return the heartbeat of *product*."""
        assert product is not None
        return {
            "type": "heartbeat",
            "sequence": product.sequence,
            "last_trade_id": product.trade_id,
            "product_id": product.name,
            "time": iso_utc(now),
        }

    def surprise(self, now: datetime) -> Message:
        """Return a message of a kind that no client knows."""
        return {"type": "surprise", "product_id": "BTC-USD", "sequence": "none"}


@final
class AdvancedTongue(_Words):
    """The words of Coinbase Advanced Trade."""

    channels: tuple[str, ...] = ("ticker", "level2", "market_trades")
    heartbeats = "heartbeats"
    book = "level2"
    numbers = True
    messages_per_s = 8

    def read(self, text: str, products: Mapping[str, Product]) -> Request:
        """Return the request in *text*.

        Raises:
            Refusal: it makes no sense, or there is no such product or channel.
        """
        try:
            request = _read_advanced(text)
        except (msgspec.DecodeError, RecursionError):
            raise Refusal("cannot unmarshal the request") from None
        if request.type not in ("subscribe", "unsubscribe"):
            raise Refusal("type must be subscribe or unsubscribe")
        subscribes = request.type == "subscribe"
        if request.channel == self.heartbeats:
            return Request(subscribes, ((self.heartbeats, ""),))
        if request.channel not in self.channels:
            raise Refusal(f"no channel {request.channel[:_MOST_ECHOED]}")
        try:
            _check_products(request.product_ids, products)
        except Refusal as refusal:
            raise Refusal(refusal.reason) from None
        if not request.product_ids:
            raise Refusal("no product_ids")
        return Request(subscribes, tuple((request.channel, name) for name in request.product_ids))

    def acknowledge(self, pairs: Iterable[tuple[str, str]], now: datetime) -> Message:
        """Return the acknowledgement, which lists all subscriptions, *pairs*."""
        by_channel: dict[str, list[str]] = {}
        for channel, product in pairs:
            by_channel.setdefault(channel, []).append(product or channel)
        return self._frame("subscriptions", now, {"subscriptions": by_channel})

    def refuse(self, refusal: Refusal) -> Message:
        """Return the error that says *refusal*."""
        return {"type": "error", "message": refusal.message}

    def open(self, channel: str, product: Product, now: datetime) -> list[Message]:
        """Return what a new subscriber of *channel* gets first."""
        if channel == self.book:
            updates = [
                self._level(side, price, size, "1970-01-01T00:00:00Z")
                for side, levels in (("buy", product.bids), ("sell", product.asks))
                for price, size in levels.items()
            ]
            event = {"type": "snapshot", "product_id": product.name, "updates": updates}
            return [self._frame("l2_data", now, event)]
        if channel == "market_trades":
            trades = [] if product.last is None else [self._trade(product.last)]
            return [self._frame("market_trades", now, {"type": "snapshot", "trades": trades})]
        event = {"type": "snapshot", "tickers": [self._ticker(product)]}
        return [self._frame("ticker", now, event)]

    def say(self, event: Change | Match, now: datetime) -> list[Said]:
        """Return the messages that tell of *event*."""
        if isinstance(event, Match):
            trades = {"type": "update", "trades": [self._trade(event)]}
            tickers = {"type": "update", "tickers": [self._ticker(event.product)]}
            return [
                ("market_trades", self._frame("market_trades", now, trades)),
                ("ticker", self._frame("ticker", now, tickers)),
            ]
        at = _fine(event.at, event.product.sequence)
        updates = [self._level(side, price, size, at) for side, price, size in event.levels]
        fields = {"type": "update", "product_id": event.product.name, "updates": updates}
        return [(self.book, self._frame("l2_data", now, fields))]

    def _frame(self, channel: str, now: datetime, event: Message) -> Message:
        self._said += 1
        return {"channel": channel, "timestamp": _fine(now, self._said), "events": [event]}

    def _level(self, side: str, price: int, size: int, at: str) -> Message:
        return {
            "side": "bid" if side == "buy" else "offer",
            "event_time": at,
            "price_level": _price(price),
            "new_quantity": self._size(size),
        }

    def _trade(self, match: Match) -> Message:
        return {
            "trade_id": str(match.trade_id),
            "product_id": match.product.name,
            "price": _price(match.price),
            "size": self._size(match.size),
            "side": match.maker.upper(),
            "time": _fine(match.at, 0),
        }

    def _ticker(self, product: Product) -> Message:
        last = product.last
        return {
            "type": "ticker",
            "product_id": product.name,
            "price": _price(product.best_bid if last is None else last.price),
            "volume_24_h": self._size(product.volume),
            "best_bid": _price(product.best_bid),
            "best_bid_quantity": self._size(product.bids[product.best_bid]),
            "best_ask": _price(product.best_ask),
            "best_ask_quantity": self._size(product.asks[product.best_ask]),
        }

    def beat(self, product: Product | None, count: int, now: datetime) -> Message:
        """Return a heartbeat, the *count*-th one of the connection."""
        event = {
            "current_time": f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond:06d}000 +0000 UTC m=+1.0",
            "heartbeat_counter": count,
        }
        return self._frame("heartbeats", now, event)

    def surprise(self, now: datetime) -> Message:
        """Return a message of a kind that no client knows."""
        return self._frame("surprise", now, {"type": 5, "tickers": "none"})


def _fine(when: datetime, nanoseconds: int) -> str:
    """Return *when* with up to nine digits of a second, without zeros at the end.

    The last three are made up. They stay below 500, so that rounding gives *when*.
    """
    digits = f"{when.microsecond:06d}{nanoseconds % 500:03d}".rstrip("0")
    return f"{when:%Y-%m-%dT%H:%M:%S}" + ("." + digits if digits else "") + "Z"
