"""The messages of Kraken's WebSocket v2, as text, since their digits count.

Rules: sans-I/O. Prices are cents and quantities units of 1e-8; every number is written
with all the digits that the pair has.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from .kraken_market import Candle, Levels, Pair, Step, checksum
from .wire import iso_utc

__all__ = [
    "HEARTBEAT",
    "acknowledge",
    "book",
    "candle",
    "instruments",
    "pong",
    "refuse",
    "status",
    "ticker",
    "trade",
]

HEARTBEAT: Final = b'{"channel":"heartbeat"}'
_DAY: Final = timedelta(days=1)


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _quantity(units: int) -> str:
    return f"{units // 10**8}.{units % 10**8:08d}"


def _data(channel: str, kind: str, fields: str) -> bytes:
    return f'{{"channel":"{channel}","type":"{kind}","data":[{{{fields}}}]}}'.encode()


def _symbol(pair: Pair) -> str:
    return f'"symbol":{msgspec.json.encode(pair.symbol).decode()}'


def status(now: datetime, system: str = "online") -> bytes:
    """Return what comes first on each connection, and again when something changes."""
    number = 17_408_390_984_690_501_469 + now.microsecond
    return _data(
        "status",
        "update",
        f'"version":"2.0.10","system":"{system}","api_version":"v2","connection_id":{number}',
    )


def instruments(symbols: list[str]) -> bytes:
    """Return the precisions of all pairs; increments are written with an exponent."""
    pairs = [
        {
            "symbol": symbol,
            "status": "online",
            "qty_precision": 8,
            "qty_increment": 1e-08,
            "price_precision": 2,
            "price_increment": 0.01,
        }
        for symbol in symbols
    ]
    data = {"assets": [], "pairs": pairs}
    return msgspec.json.encode({"channel": "instrument", "type": "snapshot", "data": data})


def ticker(pair: Pair, kind: str, now: datetime, *, withdrawn: bool = False) -> bytes:
    """Return the quote of *pair*; *withdrawn*: nothing is bid."""
    assert pair.bids is not None
    assert pair.asks is not None
    ((bid, bid_qty),), ((ask, ask_qty),) = pair.bids.top(1), pair.asks.top(1)
    return _data(
        "ticker",
        kind,
        f'{_symbol(pair)},"bid":{"null" if withdrawn else _price(bid)},'
        f'"bid_qty":{_quantity(bid_qty)},"ask":{_price(ask)},"ask_qty":{_quantity(ask_qty)},'
        f'"last":{_price(bid)},"volume":{_quantity(pair.volume)},"vwap":{_price(bid)},'
        f'"low":{_price(bid)},"high":{_price(ask)},"change":0.00,"change_pct":0.00,'
        f'"timestamp":"{iso_utc(now)}"',
    )


def _levels(levels: Levels) -> str:
    return ",".join(f'{{"price":{_price(p)},"qty":{_quantity(q)}}}' for p, q in levels)


def book(
    pair: Pair, kind: str, bids: Levels, asks: Levels, now: datetime, *, wrong: bool = False
) -> bytes:
    """Return levels of the book of *pair*, and its checksum; a *wrong* one if so."""
    assert pair.bids is not None
    assert pair.asks is not None
    number = checksum(pair.asks.top(10), pair.bids.top(10)) ^ wrong
    return _data(
        "book",
        kind,
        f'{_symbol(pair)},"bids":[{_levels(bids)}],"asks":[{_levels(asks)}],'
        f'"checksum":{number},"timestamp":"{iso_utc(now)}"',
    )


def trade(step: Step) -> bytes:
    """Return the trade of *step*."""
    pair = step.pair
    side = "sell" if pair.trade_id % 2 else "buy"
    return _data(
        "trade",
        "update",
        f'{_symbol(pair)},"side":"{side}","price":{_price(step.price)},'
        f'"qty":{_quantity(step.quantity)},"ord_type":"limit","trade_id":{pair.trade_id},'
        f'"timestamp":"{iso_utc(step.now)}"',
    )


def candle(pair: Pair, minutes: int, bar: Candle) -> bytes:
    """Return the running candle of *pair*."""
    begin = bar.begin.strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    return _data(
        "ohlc",
        "update",
        f'{_symbol(pair)},"interval":{minutes},"interval_begin":"{begin}",'
        f'"open":{_price(bar.open)},"high":{_price(bar.high)},"low":{_price(bar.low)},'
        f'"close":{_price(bar.close)},"volume":{_quantity(bar.volume)},'
        f'"vwap":{_price(bar.close)},"trades":{bar.trades}',
    )


def acknowledge(method: str, number: Any, now: datetime, **result: Any) -> bytes:
    """Return the acknowledgement of a request for one symbol."""
    message: dict[str, Any] = {"method": method, "result": result, "success": True}
    return _answer(message, number, now)


def refuse(method: str | None, number: Any, now: datetime, error: str, symbol: Any = None) -> bytes:
    """Return the refusal of a request, or of one of its symbols."""
    message: dict[str, Any] = {"error": error, "success": False}
    if method is not None:
        message["method"] = method
    if symbol is not None:
        message["symbol"] = symbol
    return _answer(message, number, now)


def pong(number: Any, now: datetime) -> bytes:
    """Return the answer to a ping."""
    return _answer({"method": "pong"}, number, now)


def _answer(message: dict[str, Any], number: Any, now: datetime) -> bytes:
    if number is not None:
        message["req_id"] = number
    message["time_in"] = message["time_out"] = iso_utc(now)
    return msgspec.json.encode(message)
