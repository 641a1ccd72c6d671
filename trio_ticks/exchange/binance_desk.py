"""Binance over REST: candles, trades and books, with weights and limits.

Facts: Binance's ``rest-api.md`` and ``errors.md``: 6,000 of weight a minute; 429 with
``Retry-After`` beyond that, and 418 for who goes on.

Rules: sans-I/O. Snapshots of books come from the venue that streams their changes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, final

from .desk import REST_FAULTS, RestFaults, Stock, Window
from .http import Call, RestAnswer, json_answer
from .kraken_market import BASE, FIRST_TRADE, UNITS
from .past import LENGTHS, Past, Range

__all__ = ["BINANCE_REST_FAULTS", "BinanceDesk"]

BINANCE_REST_FAULTS: Final = MappingProxyType(
    {
        **REST_FAULTS,
        "rest-418": "every third REST request is answered with 418, Retry-After 2",
    }
)
_WEIGHT: Final = 6000
_DEPTH_WEIGHTS: Final = ((100, 5), (500, 25), (1000, 50))
"""By how many levels are asked for at most; more weigh 250."""
_STUBBORN: Final = 10
"""Who sends so many requests in spite of 429 is banned."""
_BANNED_S: Final = 120


class _Refused(Exception):
    """The request is answered with an error of Binance."""

    def __init__(self, code: int, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.code = code
        self.status = status


Endpoint = tuple[Callable[[Call, datetime], Any], Callable[[Call], int]]
"""What makes an answer, and what tells the weight of the request."""


@final
class BinanceDesk:
    """Answers as ``https://data-api.binance.vision`` does."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        venue = stock.venue
        assert venue is not None
        self._venue = venue
        busy = {"code": -1003, "msg": "Too many requests."}
        failed = {"code": -1000, "msg": "An unknown error occurred."}
        self._faults = RestFaults(stock.faults, busy, failed)
        self._asked = 0
        self._window = Window(_WEIGHT)
        self._stubborn = 0
        self._banned_until = 0.0
        self._pasts: dict[str, Past] = {}
        self._paths: dict[str, Endpoint] = {
            "/api/v3/klines": (self._klines, lambda _call: 2),
            "/api/v3/trades": (self._trades, lambda _call: 25),
            "/api/v3/ping": (lambda _call, _now: {}, lambda _call: 1),
            "/api/v3/time": (lambda _call, now: {"serverTime": _ms(now)}, lambda _call: 1),
        }

    def answer(self, call: Call, now: datetime, clock: float) -> RestAnswer:
        """Return the answer to a request."""
        struck = self._strike(clock)
        if struck is not None:
            return struck
        endpoint = self._paths.get(call.path)
        if endpoint is None:
            return self._of_venue(call, now, clock)
        make, weigh = endpoint
        try:
            limited = self._limited(clock, weigh(call))
            if limited is not None:
                return limited
            content = make(call, now)
        except _Refused as refused:
            return json_answer(refused.status, {"code": refused.code, "msg": str(refused)})
        used = str(self._window.used(clock))
        headers = [("X-MBX-USED-WEIGHT-1M", used)]
        return json_answer(200, content, headers, delay_s=self._faults.delay_s)

    def _of_venue(self, call: Call, now: datetime, clock: float) -> RestAnswer:
        """Answer what the streaming venue knows: snapshots of its books."""
        answer = self._venue.answer(call.path, call.parameters, now)
        if answer is None:
            return json_answer(404, {"code": -1000, "msg": "no such path"})
        limited = self._limited(clock, _depth_weight(call.parameters.get("limit", "100")))
        return answer if limited is None else limited

    def _strike(self, clock: float) -> RestAnswer | None:
        self._asked += 1
        if "rest-418" in self._faults.names and self._asked % 3 == 0:
            return self._ban(2)
        return self._faults.strike(clock)

    def _limited(self, clock: float, weight: int) -> RestAnswer | None:
        if clock < self._banned_until:
            return self._ban(int(self._banned_until - clock) + 1)
        wait_s = self._window.take(clock, weight)
        if wait_s is None:
            self._stubborn = 0
            return None
        self._stubborn += 1
        if self._stubborn > _STUBBORN:
            self._banned_until = clock + _BANNED_S
            return self._ban(_BANNED_S)
        return self._faults.busy(wait_s)

    def _ban(self, wait_s: int) -> RestAnswer:
        body = {"code": -1003, "msg": "Way too many requests; IP banned."}
        return json_answer(418, body, [("Retry-After", str(wait_s))])

    def _symbol(self, call: Call) -> str:
        """Return the symbol that a request is about.

        Raises:
            _Refused: there is none, or it is unknown.
        """
        symbol = call.parameters.get("symbol")
        if not symbol:
            raise _Refused(-1102, "Mandatory parameter 'symbol' was not sent.")
        if symbol not in self._stock.symbols:
            raise _Refused(-1121, "Invalid symbol.")
        return symbol

    def _klines(self, call: Call, now: datetime) -> list[list[Any]]:
        symbol = self._symbol(call)
        interval = call.parameters.get("interval", "")
        if interval not in LENGTHS:
            raise _Refused(-1120, "Invalid interval.")
        chosen = self._stock.faults
        away = 1 if "exclusive-bounds" in chosen else 0
        first, last = _whole(call, "startTime"), _whole(call, "endTime")
        wanted = Range(
            interval=interval,
            first_ms=None if first is None else first + away,
            last_ms=None if last is None else last - away,
            limit=_limit(call, 500, 1000),
            newest="keeps-newest" in chosen,
            now_ms=_ms(now),
            forming=True,
        )
        if symbol not in self._pasts:
            # The books of this venue are so much dearer than the market's quotes.
            dearer = BASE / 100
            self._pasts[symbol] = self._stock.past(symbol, sessions=False, dearer=dearer)
        return [
            [
                bar.open_ms,
                *(f"{price:.8f}" for price in (bar.open, bar.high, bar.low, bar.close)),
                f"{bar.volume:.8f}",
                bar.end_ms - 1,
                f"{bar.volume * bar.close:.8f}",
                bar.trades,
                f"{bar.volume / 2:.8f}",
                f"{bar.volume * bar.close / 2:.8f}",
                "0",
            ]
            for bar in self._pasts[symbol].bars(wanted)
        ]

    def _trades(self, call: Call, _now: datetime) -> list[dict[str, Any]]:
        symbol = self._symbol(call)
        limit = _limit(call, 500, 1000)
        ticks = self._stock.trades(symbol, limit + 1)
        last_id = FIRST_TRADE + self._stock.counts[symbol]
        found = []
        for number, (before, tick) in enumerate(pairwise(ticks), last_id - len(ticks) + 2):
            price = BASE / 100 + (tick.bid if number % 2 else tick.ask)
            quantity = (_number(tick.volume) - _number(before.volume)) * UNITS / 1e8
            found.append(
                {
                    "id": number,
                    "price": f"{price:.8f}",
                    "qty": f"{quantity:.8f}",
                    "quoteQty": f"{price * quantity:.8f}",
                    "time": _ms(datetime.fromisoformat(tick.timestamp)),
                    "isBuyerMaker": number % 2 == 1,
                    "isBestMatch": True,
                }
            )
        return found


def _number(quantity: object) -> float:
    return quantity if isinstance(quantity, int | float) else 0.0


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _depth_weight(limit: str) -> int:
    levels = int(limit) if limit.isdecimal() else 100
    return next((weight for most, weight in _DEPTH_WEIGHTS if levels <= most), 250)


def _limit(call: Call, usual: int, most: int) -> int:
    asked = _whole(call, "limit")
    return usual if asked is None else max(1, min(asked, most))


def _whole(call: Call, name: str) -> int | None:
    """Return a parameter that is a whole number; ``None``: it was not given.

    Raises:
        _Refused: it is none.
    """
    text = call.parameters.get(name)
    if text is None:
        return None
    if not text.removeprefix("-").isdecimal() or len(text) > 15:
        raise _Refused(-1100, f"Illegal characters found in parameter '{name}'.")
    return int(text)
