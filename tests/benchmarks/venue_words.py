"""A venue's quotes in its own words, for the load generator.

The same arguments always give the same messages. The words are those of the venues'
documentation, with all the fields that a real message has: what nobody wants has to be
skipped as well.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .wire import TEXT, Session, server_frame, symbol_names

__all__ = ["CHANNELS", "LIMITS", "VENUES", "encode_quotes"]

_PRICES = 4096
_EPOCH = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def _binance(index: int, name: str, bid: float, size: float) -> str:
    return (
        f'{{"stream":"{name.lower()}@bookTicker","data":{{"u":{50_093_421_613 + index},'
        f'"s":"{name}","b":"{bid:.8f}","B":"{size:.8f}","a":"{bid + 0.01:.8f}",'
        f'"A":"{size + 0.5:.8f}"}}}}'
    )


def _tickdb(index: int, name: str, bid: float, _size: float) -> str:
    return (
        f'{{"cmd":"ticker","data":{{"symbol":"{name}","type":"forex","last_price":"{bid:.5f}",'
        f'"ask_price":"{bid + 0.01:.5f}","bid_price":"{bid:.5f}","spread":"0.01000",'
        f'"timestamp":{1_773_334_426_000 + index // 50}}}}}'
    )


def _kraken(index: int, name: str, bid: float, size: float) -> str:
    return (
        f'{{"channel":"ticker","type":"update","data":[{{"symbol":"{name}","bid":{bid:.1f},'
        f'"bid_qty":{size:.8f},"ask":{bid + 0.1:.1f},"ask_qty":{size + 0.5:.8f},'
        f'"last":{bid:.1f},"volume":{812.0 + index / 1e6:.8f},"vwap":{bid - 10:.1f},'
        f'"low":{bid - 900:.1f},"high":{bid + 900:.1f},"change":250.0,"change_pct":0.32,'
        f'"timestamp":"{_stamp(index)}"}}]}}'
    )


def _coinbase(index: int, name: str, bid: float, size: float) -> str:
    return (
        f'{{"type":"ticker","sequence":{137_212_619_516 + index},"product_id":"{name}",'
        f'"price":"{bid:.2f}","open_24h":"84430.55","volume_24h":"{1836 + index / 1e6:.8f}",'
        f'"low_24h":"84400","high_24h":"85021.57","volume_30d":"175984.53012145",'
        f'"best_bid":"{bid:.2f}","best_bid_size":"{size:.8f}","best_ask":"{bid + 0.01:.2f}",'
        f'"best_ask_size":"{size + 0.5:.8f}","side":"sell","time":"{_stamp(index)}",'
        f'"trade_id":{1_102_042_811 + index},"last_size":"0.00000025"}}'
    )


def _advanced(index: int, name: str, bid: float, size: float) -> str:
    return (
        f'{{"channel":"ticker","timestamp":"{_stamp(index)}","sequence_num":{index},'
        f'"events":[{{"type":"update","tickers":[{{"type":"ticker","product_id":"{name}",'
        f'"price":"{bid:.2f}","volume_24_h":"{15328 + index / 1e6:.8f}","low_24_h":"67500.00",'
        f'"high_24_h":"69200.00","low_52_w":"25000.00","high_52_w":"73800.00",'
        f'"price_percent_chg_24_h":"1.85","best_bid":"{bid:.2f}",'
        f'"best_bid_quantity":"{size:.8f}","best_ask":"{bid + 0.01:.2f}",'
        f'"best_ask_quantity":"{size + 0.5:.8f}"}}]}}]}}'
    )


def _stamp(index: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=20 * index):%Y-%m-%dT%H:%M:%S.%f}Z"


VENUES: dict[str, Callable[[int, str, float, float], str]] = {
    "binance": _binance,
    "tickdb": _tickdb,
    "kraken": _kraken,
    "coinbase": _coinbase,
    "coinbase-advanced": _advanced,
}
CHANNELS = {"tickdb": ["ticker"]}
"""The channels that a feed asks for; a venue that is not here has its own default."""
LIMITS = {"binance": 1.5, "tickdb": 1.5, "kraken": 2.0}
"""How many flat ticks a quote may cost, from the wire to the handler."""


def encode_quotes(venue: str, ticks: int, *, symbols: int = 5) -> Session:
    """Encode *ticks* quotes in the words of *venue*, as text frames."""
    rng, words = random.Random(f"{symbols}"), VENUES[venue]
    prices = [price / 100 for price in rng.choices(range(6_100_000, 6_200_000), k=_PRICES)]
    sizes = [size / 100_000 for size in rng.choices(range(1, 999_999), k=_PRICES)]
    parts: list[bytes] = []
    ends: array[int] = array("Q")
    position = 0
    for index, name in enumerate(rng.choices(symbol_names(symbols), k=ticks)):
        payload = words(index, name, prices[index % _PRICES], sizes[index % _PRICES])
        frame = server_frame(TEXT, payload.encode("ascii"))
        parts.append(frame)
        position += len(frame)
        ends.append(position)
    return Session(b"".join(parts), ends)
