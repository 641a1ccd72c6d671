"""The messages of Binance, spot and USD-M futures. Sans-I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from .binance_market import Event, NumberedPair, end_of
from .kraken_market import Candle, Levels

__all__ = ["agg_trade", "best", "book_ticker", "depth", "encode", "kline", "snapshot", "trade"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_AGGREGATED: Final = 5_000_000
"""By how much the numbers of aggregated trades are larger than those of trades."""

encode: Final = msgspec.json.encode


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}000000"


def _quantity(units: int) -> str:
    return f"{units // 10**8}.{units % 10**8:08d}"


def _levels(levels: Levels) -> list[list[str]]:
    return [[_price(price), _quantity(quantity)] for price, quantity in levels]


def _stamped(kind: str, event: Event) -> dict[str, Any]:
    return {"e": kind, "E": _ms(event.now) + 1, "s": event.pair.symbol}


def book_ticker(event: Event) -> dict[str, Any]:
    """Return the best quote; only that of USD-M has a kind and times."""
    pair = event.pair
    ((bid, bid_size),), ((ask, ask_size),) = pair.top(1)
    fields = {
        "u": event.last,
        "s": pair.symbol,
        "b": _price(bid),
        "B": _quantity(bid_size),
        "a": _price(ask),
        "A": _quantity(ask_size),
    }
    if pair.futures:
        fields |= {"e": "bookTicker", "T": _ms(event.now), "E": _ms(event.now) + 1}
    return fields


def trade(event: Event) -> dict[str, Any]:
    """Return the trade."""
    return _stamped("trade", event) | {
        "t": event.trade_id,
        "p": _price(event.price),
        "q": _quantity(event.quantity),
        "T": _ms(event.now),
        "m": event.trade_id % 2 == 0,
        "M": True,
    }


def agg_trade(event: Event) -> dict[str, Any]:
    """Return the trade as the whole of what one order has traded."""
    return _stamped("aggTrade", event) | {
        "a": _AGGREGATED + event.trade_id,
        "p": _price(event.price),
        "q": _quantity(event.quantity),
        "f": event.trade_id,
        "l": event.trade_id,
        "T": _ms(event.now),
        "m": event.trade_id % 2 == 0,
        "M": True,
    }


def depth(event: Event, bids: Levels, asks: Levels) -> dict[str, Any]:
    """Return changes of a book, of which USD-M has its time and the event before."""
    fields = _stamped("depthUpdate", event) | {"U": event.first, "u": event.last}
    if event.pair.futures:
        fields |= {"T": _ms(event.now), "pu": event.previous}
    return fields | {"b": _levels(bids), "a": _levels(asks)}


def best(event: Event, levels: int) -> dict[str, Any]:
    """Return the best *levels* of a book; those of USD-M look like changes."""
    bids, asks = event.pair.top(levels)
    if event.pair.futures:
        return depth(event, bids, asks)
    return {"lastUpdateId": event.last, "bids": _levels(bids), "asks": _levels(asks)}


def snapshot(pair: NumberedPair, levels: int, now: datetime) -> dict[str, Any]:
    """Return the answer over REST with the best *levels* of a book."""
    bids, asks = pair.top(levels)
    fields: dict[str, Any] = {"lastUpdateId": pair.last}
    if pair.futures:
        fields |= {"E": _ms(now), "T": _ms(now)}
    return fields | {"bids": _levels(bids), "asks": _levels(asks)}


def kline(event: Event, interval: str, candle: Candle, *, closed: bool) -> dict[str, Any]:
    """Return a candle."""
    volume = _quantity(candle.volume)
    fields = {
        "t": _ms(candle.begin),
        "T": _ms(end_of(interval, candle.begin)) - 1,
        "s": event.pair.symbol,
        "i": interval,
        "f": event.trade_id - candle.trades + 1,
        "L": event.trade_id,
        "o": _price(candle.open),
        "c": _price(candle.close),
        "h": _price(candle.high),
        "l": _price(candle.low),
        "v": volume,
        "n": candle.trades,
        "x": closed,
        "q": volume,
        "V": volume,
        "Q": volume,
        "B": "0",
    }
    return _stamped("kline", event) | {"k": fields}
