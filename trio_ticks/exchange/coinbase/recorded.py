"""A recording of Coinbase, played in its own words: what its messages are about."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from ...feeds.captures import capture_symbols
from ...feeds.playback import call
from ...feeds.venues import find_language
from ..recorded_messages import RecordedMessages
from .session import RecordedMessage
from .words import Tongue

__all__ = ["open_recorded_messages"]

_CHANNELS: Final = {
    "ticker": "ticker",
    "match": "matches",
    "last_match": "matches",
    "snapshot": "level2_batch",
    "l2update": "level2_batch",
    "heartbeat": "heartbeat",
    "l2_data": "level2",
    "market_trades": "market_trades",
}
"""Channels to subscribe to, by the messages' type (Exchange) or channel (Advanced)."""
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _message(payload: bytes, tongue: Tongue) -> RecordedMessage | None:
    """Return what *payload* says to clients in *tongue*; ``None``: nothing."""
    try:
        fields = _object(payload)
    except (ValueError, RecursionError):
        return None
    kind = fields.get("channel") if tongue.numbers else fields.get("type")
    channel = _CHANNELS.get(kind) if isinstance(kind, str) else None
    if channel not in (*tongue.channels, tongue.heartbeats):
        return None
    rows = fields.get("events") if tongue.numbers else [fields]
    products = frozenset(_products(rows))
    return RecordedMessage(channel, products, payload) if products else None


def _products(rows: Any) -> list[str]:
    """Return the products in *rows*, and in the tickers and trades in them."""
    found: list[str] = []
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            product = row.get("product_id")
            found += [product] if isinstance(product, str) else []
            found += _products(row.get("tickers")) + _products(row.get("trades"))
    return found


async def open_recorded_messages(
    path: Path, tongue: Tongue, venue: str, speed: float
) -> RecordedMessages[RecordedMessage]:
    """Open the recording at *path*, of *venue*, whose dialect is *tongue*.

    Raises:
        ConfigError: it cannot be read, or makes no market data of the venue.

    Cancellation: waits for the thread that reads.
    """

    def read() -> tuple[str, ...]:
        return capture_symbols(path, find_language(venue, "all"))

    symbols = await call(read, in_thread=True)
    return RecordedMessages(path, partial(_message, tongue=tongue), symbols, speed)
