"""What the tests of recordings share: makers of lines, and the real recording's path.

The real recording is not part of this repository. The variable TRIO_TICKS_RECORDINGS
names the folder that holds it; tests that need it are skipped where that is not set,
and each of them has a smaller sibling that plays a recording made here.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from trio_ticks.feeds.captures import CaptureReader
from trio_ticks.feeds.venues import Codec, find_language

__all__ = [
    "COINBASE",
    "KRAKEN",
    "REAL",
    "T0",
    "book",
    "busy_day",
    "combined",
    "flat",
    "needs_real",
    "read_all",
    "trade",
    "write",
]

_FOLDER = os.environ.get("TRIO_TICKS_RECORDINGS", "")
REAL = Path(_FOLDER) / "binance/binance_spot_btcusdt_20240808.gz"
COINBASE = Path(_FOLDER) / "coinbase/COINBASE.ws.28.0"
KRAKEN = Path(_FOLDER) / "kraken/kraken_v2_book_btcusd_sample.jsonl"
needs_real = pytest.mark.skipif(
    not _FOLDER, reason="TRIO_TICKS_RECORDINGS does not name a folder of real recordings"
)

T0 = 1_723_161_254_000_000_000


def combined(stream: str, **data: Any) -> str:
    return json.dumps({"stream": stream, "data": data})


def book(n: int, *, symbol: str = "BTCUSDT", at_ms: int | None = None) -> str:
    """Make the line of a bookTicker: quotes one a millisecond, bid n, ask n + 1."""
    data = combined(
        f"{symbol.lower()}@bookTicker",
        u=n,
        s=symbol,
        b=f"{n}.00000000",
        B="3.50000000",
        a=f"{n + 1}.00000000",
        A="0.00000000",
    )
    return f"{T0 + (n if at_ms is None else at_ms) * 1_000_000} {data}"


def trade(n: int, size: str, symbol: str = "BTCUSDT") -> str:
    """Make the line of a trade, which the venue has dated 7 ms before it arrived."""
    data = combined(
        f"{symbol.lower()}@trade",
        e="trade",
        s=symbol,
        t=n,
        p="1.0",
        q=size,
        T=T0 // 1_000_000 + n - 7,
        m=False,
    )
    return f"{T0 + n * 1_000_000} {data}"


def flat(symbol: str = "SPY", bid: float = 1.5, **fields: Any) -> str:
    """Make a flat tick, of 14:30:00.123456 on 2 March 2026."""
    tick = {
        "symbol": symbol,
        "timestamp": "2026-03-02T14:30:00.123456Z",
        "bid": bid,
        "ask": "1.75",
        "bid_size": 4,
        "ask_size": 3,
        "volume": 9,
    }
    return json.dumps(tick | fields)


def busy_day(lines: int) -> list[str]:
    """Make *lines* of quotes and trades at random moments, 200 a second.

    They are the same each time.
    """
    random = Random(lines)
    moments = sorted(random.sample(range(lines * 5), lines))
    return [book(at) if random.random() < 0.7 else trade(at, "0.5") for at in moments]


def write(path: Path, *lines: str | bytes, compressed: bool = False) -> Path:
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


def read_all(
    path: Path, venue: str | type[Codec] = "binance", channels: Any = None, **options: Any
) -> tuple[list[tuple[int, Any]], CaptureReader]:
    """Return the items in the recording at *path*, each with its time in ns."""
    with CaptureReader(path, find_language(venue, channels), **options) as reader:
        return reader.read(10**9), reader
