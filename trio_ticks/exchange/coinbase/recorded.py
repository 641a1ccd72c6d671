"""A recording of Coinbase, played in its own words: the messages as they were received.

Rules: reading blocks on the disk, so it is done in a thread. Answers to the recorder's
own requests, and what no client can subscribe to here, are left out and counted.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Final, final

import msgspec

from ...feeds.captures import capture_symbols
from ...feeds.playback import call
from ...feeds.venues import find_language
from ...recordings.files import LineReader, split_line
from .session import RecordedMessage
from .words import Tongue

__all__ = ["RecordedMessages", "open_recorded_messages"]

_AHEAD: Final = 512
"""Messages that are read ahead."""
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


@final
class RecordedMessages:
    """The messages of a recording, each with the time at which it is due.

    Args:
        path: the recording.
        tongue: its dialect.
        symbols: the products in it.
        speed: a factor on its own pace.
    """

    def __init__(self, path: Path, tongue: Tongue, symbols: tuple[str, ...], speed: float) -> None:
        self.symbols = symbols
        self.left_out = 0
        """Lines that are no market data of the dialect."""
        self._tongue = tongue
        self._speed = speed
        self._file = LineReader(path)
        self._due: deque[tuple[float, RecordedMessage]] = deque()
        self._first_ns: int | None = None
        self._last_at = 0.0
        self._at_end = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def next(self) -> tuple[float, RecordedMessage] | None:
        """Return the next message and its time, in seconds; ``None`` at the end.

        Cancellation: waits for the thread that reads; nothing is lost.
        """
        while not self._due and not self._at_end:
            await call(self._read, in_thread=True)
        return self._due.popleft() if self._due else None

    def _read(self) -> None:
        for _ in range(_AHEAD):
            line = self._file.read()
            if line is None:
                self._at_end = True
                return
            try:
                ns, payload = split_line(line)
            except ValueError:
                self.left_out += 1
                continue
            message = None if payload is None else self._message(payload)
            if message is None:
                self.left_out += 1
                continue
            if ns is not None:
                first = self._first_ns = ns if self._first_ns is None else self._first_ns
                self._last_at = max(self._last_at, (ns - first) / 1e9 / self._speed)
            self._due.append((self._last_at, message))

    def _message(self, payload: bytes) -> RecordedMessage | None:
        try:
            fields = _object(payload)
        except (ValueError, RecursionError):
            return None
        kind = fields.get("channel") if self._tongue.numbers else fields.get("type")
        channel = _CHANNELS.get(kind) if isinstance(kind, str) else None
        if channel not in (*self._tongue.channels, self._tongue.heartbeats):
            return None
        rows = fields.get("events") if self._tongue.numbers else [fields]
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
) -> RecordedMessages:
    """Open the recording at *path*, of *venue*, whose dialect is *tongue*.

    Raises:
        ConfigError: it cannot be read, or makes no market data of the venue.

    Cancellation: waits for the thread that reads.
    """

    def read() -> tuple[str, ...]:
        return capture_symbols(path, find_language(venue, "all"))

    symbols = await call(read, in_thread=True)
    return RecordedMessages(path, tongue, symbols, speed)
