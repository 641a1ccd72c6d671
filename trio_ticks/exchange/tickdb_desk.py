"""TickDB over REST: bars, tickers, depth, trades, and which symbols there are.

Facts: TickDB's pages on REST and on errors. An error about parameters has its code as
text and again as ``error``; one about the plan has it as a number.

Rules: sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, final

import msgspec

from ..feeds.venues.tickdb_pushes import is_pair
from .desk import REST_FAULTS, RestFaults, Stock
from .flat_dialect import key_refusal
from .http import Call, RestAnswer, json_answer
from .past import LENGTHS, Past, PastBar, Range
from .tickdb_dialect import kind_of
from .wire import FlatTick

__all__ = ["TICKDB_REST_FAULTS", "TickDBDesk"]

TICKDB_REST_FAULTS: Final = MappingProxyType(
    {
        **REST_FAULTS,
        "free-plan": "bars may not be asked for by time: 3008",
        "ambiguous": "over REST a symbol needs its type: AMBIGUOUS_SYMBOL",
    }
)
_INTERVALS: Final = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "1d", "1w", "1M")
_MOST_SYMBOLS: Final = 50


class _Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, answer: RestAnswer) -> None:
        super().__init__()
        self.answer = answer


def _wrong(code: str, words: str, status: int = 400) -> _Refused:
    """Return an error about parameters, whose code is text."""
    return _Refused(json_answer(status, {"code": code, "message": words, "error": code}))


@final
class TickDBDesk:
    """Answers as ``https://api.tickdb.ai`` does."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        busy = {"code": 3001, "message": "rate limit exceeded", "data": None}
        failed = {"code": 5000, "message": "internal error", "data": None}
        self._faults = RestFaults(stock.faults, busy, failed)
        self._pasts: dict[str, Past] = {}
        self._paths: dict[str, Callable[[Call, datetime], Any]] = {
            "/v1/market/kline": self._kline,
            "/v1/market/kline/latest": self._latest,
            "/v1/market/ticker": self._ticker,
            "/v1/market/depth": self._depth,
            "/v1/market/trades": self._trades,
            "/v1/market/intervals/kline": lambda _call, _now: {"intervals": list(_INTERVALS)},
            "/v1/symbols/available": self._available,
        }

    def answer(self, call: Call, now: datetime, clock: float) -> RestAnswer:
        """Return the answer to a request; the key is in the header ``X-API-Key``."""
        given = [value for name, value in call.headers if name == b"x-api-key"]
        refusal = key_refusal(given, self._stock.api_key)
        if refusal is not None:
            body = {"code": refusal.code, "message": "this key is no good", "data": None}
            return json_answer(refusal.status, body)
        struck = self._faults.strike(clock)
        if struck is not None:
            return struck
        make = self._paths.get(call.path)
        if make is None:
            return json_answer(404, {"code": "2001", "message": "no such path", "error": "2001"})
        try:
            data = make(call, now)
        except _Refused as refused:
            return refused.answer
        content = {"code": 0, "message": "success", "data": data}
        return json_answer(200, content, delay_s=self._faults.delay_s)

    # Bars

    def _kline(self, call: Call, now: datetime) -> dict[str, Any]:
        symbol, interval = self._symbol(call), self._interval(call)
        bounds = [_whole(call, name) for name in ("start_time", "end_time")]
        chosen = self._stock.faults
        if "free-plan" in chosen and bounds != [None, None]:
            words = "historical range is not available on the current plan"
            raise _Refused(json_answer(403, {"code": 3008, "message": words, "data": None}))
        first, last = bounds
        if first is not None and last is not None and first > last:
            raise _wrong("2003", "start_time is after end_time")
        away = 1 if "exclusive-bounds" in chosen else 0
        asked = _whole(call, "limit") or 0
        wanted = Range(
            interval=interval,
            first_ms=None if first is None else first + away,
            last_ms=None if last is None else last - away,
            limit=min(asked, 1000) if asked > 0 else 100,
            newest="keeps-newest" in chosen,
            now_ms=_ms(now),
            forming="bar-forming" in chosen,
        )
        bars = self._past(symbol).bars(wanted)
        head = {"symbol": symbol, "type": kind_of(symbol), "interval": interval}
        if "adjust" in call.parameters:
            head["adjust"] = call.parameters["adjust"]
        return {**head, "klines": [_written(bar) for bar in bars]}

    def _latest(self, call: Call, now: datetime) -> dict[str, Any]:
        interval = self._interval(call)
        found = []
        for symbol in self._symbols(call):
            wanted = Range(
                interval=interval,
                first_ms=None,
                last_ms=None,
                limit=1,
                newest=True,
                now_ms=_ms(now),
                forming=True,
            )
            for bar in self._past(symbol).bars(wanted):
                head = {"symbol": symbol, "type": kind_of(symbol), "interval": interval}
                found.append({**head, **_written(bar)})
        return {"klines": found}

    def _past(self, symbol: str) -> Past:
        if symbol not in self._pasts:
            sessions = kind_of(symbol) == "stock"
            self._pasts[symbol] = self._stock.past(symbol, sessions=sessions)
        return self._pasts[symbol]

    # Quotes and trades

    def _ticker(self, call: Call, now: datetime) -> list[dict[str, Any]]:
        return [self._quoted(symbol, now) for symbol in self._symbols(call)]

    def _quoted(self, symbol: str, now: datetime) -> dict[str, Any]:
        tick = self._quote(symbol)
        found: dict[str, Any] = {"symbol": symbol, "type": kind_of(symbol)}
        found["last_price"] = f"{tick.bid}"
        if is_pair(symbol):
            found |= {"bid_price": f"{tick.bid}", "ask_price": f"{tick.ask}"}
        if tick.volume is not msgspec.UNSET:
            found["volume_24h"] = f"{tick.volume}"
        return {**found, "timestamp": _time_of(tick, now)}

    def _depth(self, call: Call, now: datetime) -> dict[str, Any]:
        symbol = self._symbol(call)
        if is_pair(symbol):
            raise _wrong("2001", "no depth for this symbol")
        tick = self._quote(symbol)
        asked = _whole(call, "limit") or 0
        levels = range(min(asked, 50) if asked > 0 else 10)
        sizes = [0 if size is msgspec.UNSET else size for size in (tick.bid_size, tick.ask_size)]
        bids = [[f"{tick.bid - n / 100:.2f}", "100" if n else f"{sizes[0]}"] for n in levels]
        asks = [[f"{tick.ask + n / 100:.2f}", "100" if n else f"{sizes[1]}"] for n in levels]
        return {"symbol": symbol, "bids": bids, "asks": asks, "timestamp": _time_of(tick, now)}

    def _trades(self, call: Call, now: datetime) -> dict[str, Any]:
        symbol = self._symbol(call)
        asked = _whole(call, "limit") or 0
        found = [
            {
                "id": f"{tick.volume}",
                "price": f"{tick.ask}",
                "quantity": "100",
                "side": "buy",
                "timestamp": _time_of(tick, now),
            }
            for tick in self._stock.trades(symbol, min(asked, 1000) if asked > 0 else 100)
        ]
        return {"symbol": symbol, "type": kind_of(symbol), "trades": found}

    def _quote(self, symbol: str) -> FlatTick:
        tick = self._stock.quote(symbol)
        if tick is None:
            raise _wrong("5003", "no data for this symbol now", 503)
        return tick

    def _available(self, call: Call, _now: datetime) -> dict[str, Any]:
        asked = _whole(call, "limit") or 0
        symbols = self._stock.symbols[: asked if asked > 0 else None]
        return {"symbols": [{"symbol": each, "type": kind_of(each)} for each in symbols]}

    # Parameters

    def _interval(self, call: Call) -> str:
        interval = call.parameters.get("interval", "")
        if interval not in _INTERVALS:
            raise _wrong("2001", "interval is not supported")
        assert interval in LENGTHS
        return interval

    def _symbol(self, call: Call) -> str:
        symbol = call.parameters.get("symbol")
        if not symbol:
            raise _wrong("2001", "symbol parameter is required")
        self._check(symbol, call)
        return symbol

    def _symbols(self, call: Call) -> list[str]:
        symbols = [each for each in call.parameters.get("symbols", "").split(",") if each]
        if not symbols:
            raise _wrong("2001", "symbols parameter is required")
        if len(symbols) > _MOST_SYMBOLS:
            raise _wrong("2004", f"more than {_MOST_SYMBOLS} symbols")
        for symbol in symbols:
            self._check(symbol, call)
        return symbols

    def _check(self, symbol: str, call: Call) -> None:
        if symbol not in self._stock.symbols:
            raise _wrong("2002", f"symbol {symbol[:32]} is unknown")
        if "ambiguous" in self._stock.faults and "type" not in call.parameters:
            types = [kind_of(symbol), "futures"]
            body = {
                "code": "AMBIGUOUS_SYMBOL",
                "message": "several instruments have this symbol",
                "data": {"available_types": types},
            }
            raise _Refused(json_answer(400, body))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _time_of(tick: FlatTick, now: datetime) -> int:
    return _ms(datetime.fromisoformat(tick.timestamp) if tick.timestamp else now)


def _whole(call: Call, name: str) -> int | None:
    """Return a parameter that is a whole number; ``None``: it was not given."""
    text = call.parameters.get(name)
    if text is None:
        return None
    if not text.removeprefix("-").isdecimal() or len(text) > 15:
        raise _wrong("2001", f"{name} must be an integer")
    return int(text)


def _written(bar: PastBar) -> dict[str, Any]:
    return {
        "time": bar.open_ms,
        "open": f"{bar.open}",
        "high": f"{bar.high}",
        "low": f"{bar.low}",
        "close": f"{bar.close}",
        "volume": f"{bar.volume}",
        "quote_volume": f"{bar.volume * bar.close:.2f}",
    }
