"""How each venue is asked for bars, and how it writes them.

Facts: TickDB's page on ``/v1/market/kline``; Binance's ``rest-api.md``, klines. Both
return at most 1,000 bars, and the time of a bar is its open.

Rules: sans-I/O. TickDB's numbers are text.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import msgspec

from ..rest.client import Parameters
from .paging import Row

__all__ = ["HISTORIES", "History", "Wanted"]

_NAN: Final = float("nan")


@final
@attrs.frozen(kw_only=True)
class Wanted:
    """Which bars are asked for."""

    symbol: str
    interval: str
    type: str | None
    adjust: str | None


@final
@attrs.frozen(kw_only=True)
class History:
    """Bars at one venue."""

    path: str
    intervals: tuple[str, ...]
    answer: Any
    """The type that an answer is decoded to."""
    params: Callable[[Wanted, int, int, int], Parameters]
    """Makes the query of what is wanted, the first and last millisecond, a limit."""
    rows: Callable[[Any], list[Row]]
    """Reads the answer.

    Raises ValueError, TypeError or LookupError if that makes no sense.
    """
    choices: frozenset[str] = frozenset()
    """Which of *type* and *adjust* it knows."""
    limit: int = 1000
    """The most bars in an answer."""


class _TickDBBar(msgspec.Struct, gc=False):
    time: int
    open: str | float
    high: str | float
    low: str | float
    close: str | float
    volume: str | float | None = None


class _TickDBData(msgspec.Struct):
    klines: list[_TickDBBar] | None = None


class _TickDBAnswer(msgspec.Struct):
    data: _TickDBData | None = None


def _tickdb_params(wanted: Wanted, first: int, last: int, limit: int) -> Parameters:
    return {
        "symbol": wanted.symbol,
        "interval": wanted.interval,
        "start_time": first,
        "end_time": last,
        "limit": limit,
        "type": wanted.type,
        "adjust": wanted.adjust,
    }


def _tickdb_rows(answer: _TickDBAnswer) -> list[Row]:
    bars = (answer.data and answer.data.klines) or []
    return [
        Row(
            bar.time,
            float(bar.open),
            float(bar.high),
            float(bar.low),
            float(bar.close),
            _NAN if bar.volume is None or bar.volume == "" else float(bar.volume),
        )
        for bar in bars
    ]


_BinanceBar = list[int | str]
"""Open time, open, high, low, close, volume, and what is of no use here."""


def _binance_params(wanted: Wanted, first: int, last: int, limit: int) -> Parameters:
    return {
        "symbol": wanted.symbol,
        "interval": wanted.interval,
        "startTime": first,
        "endTime": last,
        "limit": limit,
    }


def _binance_rows(answer: list[_BinanceBar]) -> list[Row]:
    # A bar that is too short gives Row too few arguments, which is a TypeError.
    return [Row(int(bar[0]), *map(float, bar[1:6])) for bar in answer]


HISTORIES: Final = MappingProxyType(
    {
        "tickdb": History(
            path="/v1/market/kline",
            intervals=("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "1d", "1w", "1M"),
            answer=_TickDBAnswer,
            params=_tickdb_params,
            rows=_tickdb_rows,
            choices=frozenset({"type", "adjust"}),
        ),
        "binance": History(
            path="/api/v3/klines",
            intervals=(
                *("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h"),
                *("1d", "3d", "1w", "1M"),
            ),
            answer=list[_BinanceBar],
            params=_binance_params,
            rows=_binance_rows,
        ),
    }
)
"""The venues by their names; they are those of ``rest.venues.REST_VENUES``."""
