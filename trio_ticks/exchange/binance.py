"""The local Binance, spot or USD-M: streams, their answers, REST, and its faults.

Rules: sans-I/O. A stream of a symbol that there is not is acknowledged and stays
silent, as at the venue. At ``/ws`` events come raw, anywhere else in combined frames.
What the venue's documentation does not say is made up: what becomes of a client with
too many streams (an error), and how the connection ends at a shutdown (without a
Close).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Final, final
from urllib.parse import parse_qs, urlsplit

import msgspec

from . import binance_words as words
from .binance_market import INTERVALS, Event, NumberedPair
from .http import RestAnswer
from .venues import Ended, Faults
from .wire import FlatTick

__all__ = [
    "DEPTH_PATHS",
    "FAULTS",
    "MOST_LEVELS",
    "SYMBOLS",
    "BinanceSession",
    "BinanceVenue",
    "new_futures_venue",
    "new_spot_venue",
]

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT")
"""The symbols that there are unless others are named."""

FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "broken-update": "Now and then a level of a book has a price that is no number.",
        "clock-ahead": "The venue's clock is 1.27 s ahead.",
        "cut": "Now and then the connection ends without a Close.",
        "data-before-ack": "The first data come before the acknowledgement.",
        "missed-update": "Now and then an update of a book is left out.",
        "no-pong": "Pings of WebSocket are not answered.",
        "repeated-update": "Now and then an update of a book comes twice.",
        "server-shutdown": "After some data the venue announces its shutdown, and ends the"
        " connection three seconds later.",
        "silence": "After some data nothing more comes; the socket stays open.",
        "slow-snapshot": "The snapshot of a book takes half a second.",
        "snapshot-too-old": "The first snapshot of each book is from before all updates.",
        "unknown-message": "Now and then comes a message of a kind that nobody knows.",
    }
)
"""The faults that the local Binance can have, and what each of them does."""

_MESSAGES_PER_S: Final = 5
_MOST_STREAMS: Final = 1024
MOST_LEVELS: Final = 5000
_SLOW_S: Final = 0.5
_AHEAD: Final = timedelta(seconds=1.27)
_SHUTDOWN_AFTER: Final = timedelta(seconds=3)
_LEVELS: Final = {"depth5": 5, "depth10": 10, "depth20": 20}
_SPEEDS: Final = ("", "100ms", "500ms", "1000ms")
DEPTH_PATHS: Final = {False: "/api/v3/depth", True: "/fapi/v1/depth"}
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _error(code: int, text: str, status: int = 400) -> RestAnswer:
    return RestAnswer(words.encode({"code": code, "msg": text}), status)


@final
class BinanceVenue:
    """The symbols, a session for each client, and the REST interface.

    Args:
        symbols: that there are.
        seed: the same seed makes the same books.
        faults: names of :data:`FAULTS`.
        every: after how many messages a fault happens again.
        futures: whether it is USD-M.
    """

    path: Final = "/stream"

    def __init__(
        self,
        symbols: Collection[str],
        seed: object = 0,
        faults: frozenset[str] = frozenset(),
        every: int = 50,
        *,
        futures: bool = False,
    ) -> None:
        self.pairs: Final = {
            symbol: NumberedPair(symbol.upper(), seed, futures=futures) for symbol in symbols
        }
        self._by_name = {pair.symbol: pair for pair in self.pairs.values()}
        self._futures = futures
        self._faults = faults
        self._every = every
        self._first: dict[str, bytes] = {}
        """The snapshots of the beginning, until each was asked for."""

    def take(self, tick: FlatTick, now: datetime) -> Event:
        """Return what happened to a symbol with this tick of the market."""
        pair = self.pairs[tick.symbol]
        was_open = pair.is_open
        event = pair.take(tick, self._time(now))
        if not was_open and "snapshot-too-old" in self._faults:
            old = words.snapshot(pair, MOST_LEVELS, now) | {"lastUpdateId": event.previous}
            self._first[pair.symbol] = words.encode(old)
        return event

    def _time(self, now: datetime) -> datetime:
        return now + _AHEAD if "clock-ahead" in self._faults else now

    def new_session(self, target: str = "/stream") -> BinanceSession:
        """Return the session of a client that has just connected."""
        return BinanceSession(self._by_name, Faults(self._faults, self._every), target)

    def answer(self, path: str, parameters: Mapping[str, str], now: datetime) -> RestAnswer | None:
        """Return the snapshot of a book."""
        if path != DEPTH_PATHS[self._futures]:
            return None
        limit, symbol = parameters.get("limit", "100"), parameters.get("symbol", "")
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= MOST_LEVELS):
            return _error(-1130, "Data sent for parameter 'limit' is not valid.")
        pair = self._by_name.get(symbol)
        if pair is None:
            return _error(-1121, "Invalid symbol.")
        delay_s = _SLOW_S if "slow-snapshot" in self._faults else 0.0
        body = self._first.pop(symbol, None)
        if body is None:
            body = words.encode(words.snapshot(pair, int(limit), self._time(now)))
        return RestAnswer(body, delay_s=delay_s)


new_spot_venue: Final = BinanceVenue
"""Makes the spot venue."""
new_futures_venue: Final = partial(BinanceVenue, futures=True)
"""Makes the venue for USD-M futures."""


@final
class BinanceSession:
    """What one client gets.

    Args:
        pairs: by their symbols, in upper case.
        faults: of its connection.
        target: path and query string of its request: some streams may be named there.
    """

    def __init__(self, pairs: Mapping[str, NumberedPair], faults: Faults, target: str) -> None:
        self.refusals = 0
        """Requests that made no sense, or were refused."""
        self._pairs = pairs
        self._faults = faults
        parts = urlsplit(target)
        self._combined = not parts.path.startswith("/ws")
        named = parse_qs(parts.query).get("streams", [""])[0] if self._combined else ""
        if parts.path.startswith("/ws/"):
            named = parts.path[4:]
        self._streams: dict[str, None] = dict.fromkeys(filter(None, named.split("/")))
        self._requests: deque[float] = deque(maxlen=_MESSAGES_PER_S)
        self._late_answers: list[bytes] = []
        self._silent = False
        self._ends_at: datetime | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that it has subscribed to, by the names that it gave."""
        return tuple(self._streams)

    @property
    def is_combined(self) -> bool:
        """Whether events come with the name of their stream around them."""
        return self._combined

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols of which it has subscribed to anything."""
        names = (stream.partition("@")[0].upper() for stream in self._streams)
        return frozenset(name for name in names if name in self._pairs)

    def greet(self, now: datetime) -> list[bytes]:
        """Return nothing: the venue waits for a request."""
        return []

    def beat(self, now: datetime) -> list[bytes]:
        """Return nothing: there are no heartbeats."""
        return []

    # Requests

    def receive(self, message: str | bytes, now: datetime, clock: float) -> list[bytes]:
        """Return the answer to a message of the client.

        Raises:
            Ended: it has sent more than five messages in a second.
        """
        if len(self._requests) == self._requests.maxlen and clock - self._requests[0] < 1:
            raise Ended("message_rate")
        self._requests.append(clock)
        try:
            request = _decode(message)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return [self._refuse(3, "Invalid JSON", None)]
        method, number = request.get("method"), request.get("id")
        params = request.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            return [self._reply(list(self._streams), number)]
        if method == "SET_PROPERTY" and isinstance(params, list) and len(params) == 2:
            self._combined = bool(params[1])
            return [self._reply(None, number)]
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return [self._refuse(2, "Invalid request: unknown variant", number)]
        if not isinstance(params, list) or not all(isinstance(each, str) for each in params):
            return [self._refuse(2, "Invalid request: request params must be text", number)]
        if method == "UNSUBSCRIBE":
            for stream in params:
                self._streams.pop(stream, None)
        elif len(self._streams.keys() | set(params)) > _MOST_STREAMS:
            return [self._refuse(2, "Invalid request: too many streams", number)]
        else:
            self._streams.update(dict.fromkeys(params))
        answer = self._reply(None, number)
        if "data-before-ack" in self._faults.names and method == "SUBSCRIBE":
            self._late_answers.append(answer)
            return []
        return [answer]

    def _reply(self, result: Any, number: Any) -> bytes:
        return words.encode({"result": result, "id": number})

    def _refuse(self, code: int, text: str, number: Any) -> bytes:
        self.refusals += 1
        return words.encode({"error": {"code": code, "msg": text}, "id": number})

    # Market data

    def offer(self, event: Event) -> list[bytes]:
        """Return what the client gets of *event*.

        Raises:
            Ended: the connection is cut, or the venue shuts down.
        """
        if self._ends_at is not None and event.now >= self._ends_at:
            raise Ended("server_shutdown")
        found: list[bytes] = []
        name = event.pair.symbol.lower()
        for stream in self._streams:
            symbol, _, channel = stream.partition("@")
            if symbol != name:
                continue
            self._silent = self._silent or self._faults.due("silence")
            if self._silent:
                continue
            if self._faults.due("cut"):
                raise Ended("cut")
            found += [self._wrap(stream, fields) for fields in self._say(channel, event)]
            if self._faults.due("unknown-message"):
                found.append(self._wrap("!news@arr", {"e": "somethingNew", "E": 1}))
        if found and self._ends_at is None and self._faults.due("server-shutdown"):
            self._ends_at = event.now + _SHUTDOWN_AFTER
            told = {"e": "serverShutdown", "E": 1_770_123_456_789}
            found.append(self._wrap("!serverShutdown", told))
        if found:
            found += self._late_answers
            self._late_answers = []
        return found

    def _wrap(self, stream: str, fields: dict[str, Any]) -> bytes:
        return words.encode({"stream": stream, "data": fields} if self._combined else fields)

    def _say(self, channel: str, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the data of the messages of one stream."""
        kind, _, speed = channel.partition("@")
        if speed not in _SPEEDS:
            return
        if kind == "bookTicker":
            yield words.book_ticker(event)
        elif kind == "trade":
            yield words.trade(event)
        elif kind == "aggTrade":
            yield words.agg_trade(event)
        elif kind in _LEVELS:
            yield words.best(event, _LEVELS[kind])
        elif kind == "depth":
            yield from self._changes(event)
        elif (interval := kind.removeprefix("kline_")) in INTERVALS and interval != kind:
            if interval in event.ended:
                yield words.kline(event, interval, event.ended[interval], closed=True)
            yield words.kline(event, interval, event.pair.candles[interval], closed=False)

    def _changes(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the changes of a book, with the faults that are due."""
        faults = self._faults
        if faults.due("missed-update"):
            return
        fields = words.depth(event, event.bids, event.asks)
        if faults.due("broken-update"):
            fields["b"] = [["x", "1"]]
        yield fields
        if faults.due("repeated-update"):
            yield fields
