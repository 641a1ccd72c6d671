"""The local Kraken, WebSocket v2: subscriptions, refusals, books, and its faults.

Rules: sans-I/O. One acknowledgement a symbol, as the venue does it; a refused symbol
leaves the connection open. What the venue's own documentation does not say, the words
of some errors, is made up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, final

import msgspec

from . import kraken_words as words
from .kraken_market import DEPTHS, MINUTES, Pair, Step
from .recorded_messages import Said
from .venues import Ended, Faults

__all__ = ["FAULTS", "SYMBOLS", "KrakenSession", "KrakenVenue"]

SYMBOLS: Final = ("BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD", "DOGE/USD", "ADA/USD")
"""The pairs that there are unless others are named."""

FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "broken-update": "Now and then a level of a book has a price that is no number.",
        "clock-ahead": "The venue's clock is 1.27 s ahead.",
        "cut": "Now and then the connection ends without a Close.",
        "data-before-ack": "The first data come before the acknowledgement.",
        "late-snapshot": "The snapshot of a book comes after five of its updates.",
        "missed-update": "Now and then an update of a book is left out.",
        "no-heartbeat": "There are no heartbeats.",
        "no-pong": "Pings of WebSocket are not answered.",
        "repeated-update": "Now and then an update of a book comes twice.",
        "silence": "After some data only heartbeats come; the socket stays open.",
        "snapshot-in-mid-stream": "Now and then the snapshot of a book comes again.",
        "unknown-message": "Now and then comes a message of a channel that nobody knows.",
        "withdrawn-quote": "Now and then a quote is without its bid.",
        "wrong-checksum": "Now and then an update of a book has a wrong checksum.",
    }
)
"""The faults that the local Kraken can have, and what each of them does."""

_MESSAGES_PER_S: Final = 20
_LATE_BY: Final = 5
_AHEAD: Final = timedelta(seconds=1.27)
_CHANNELS: Final = ("ticker", "book", "trade", "ohlc", "instrument")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode

_Key = tuple[str, str, int]
"""A channel, a symbol, and the depth of a book or the minutes of a candle."""


@final
class KrakenVenue:
    """The pairs, and a session for each client.

    Args:
        symbols: of the pairs.
        seed: the same seed makes the same books.
        faults: names of :data:`FAULTS`.
        every: after how many messages a fault happens again.
        recorded: whether a recording is played.
    """

    path: Final = ""

    def __init__(
        self,
        symbols: Collection[str],
        seed: object = 0,
        faults: frozenset[str] = frozenset(),
        every: int = 50,
        *,
        recorded: bool = False,
    ) -> None:
        self._recorded = recorded
        self.pairs: Final = {symbol: Pair(symbol, seed) for symbol in symbols}
        self._faults = faults
        self._every = every

    def take(self, tick: Any, now: datetime) -> Step | Said:
        """Return what happened to a pair with this tick of the market."""
        if self._recorded:
            return tick  # type: ignore[no-any-return]
        return self.pairs[tick.symbol].take(tick, self._time(now))

    def _time(self, now: datetime) -> datetime:
        return now + _AHEAD if "clock-ahead" in self._faults else now

    def answer(self, path: str, parameters: Mapping[str, str], now: datetime) -> None:
        """Return ``None``: there is no REST."""

    def new_session(self, _target: str = "/") -> KrakenSession:
        """Return the session of a client that has just connected."""
        return KrakenSession(self.pairs, Faults(self._faults, self._every), recorded=self._recorded)


@final
class KrakenSession:
    """What one client gets.

    Args:
        pairs: by their symbols.
        faults: of its connection.
        recorded: whether a recording is played, which brings its own snapshots.
    """

    def __init__(
        self, pairs: Mapping[str, Pair], faults: Faults, *, recorded: bool = False
    ) -> None:
        self._recorded = recorded
        self.refusals = 0
        """Requests that made no sense, or were refused."""
        self._pairs = pairs
        self._faults = faults
        self._keys: dict[_Key, None] = {}
        self._has_asked = False
        self._silent = False
        self._late: dict[_Key, int] = {}
        """Books whose snapshot comes after so many more updates."""
        self._requests: deque[float] = deque(maxlen=_MESSAGES_PER_S)

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols of which it has subscribed to anything."""
        return frozenset(symbol for channel, symbol, _ in self._keys if channel != "instrument")

    def greet(self, now: datetime) -> list[bytes]:
        """Return the status of the venue, which is the first message."""
        return [words.status(now)]

    def beat(self, now: datetime) -> list[bytes]:
        """Return a heartbeat, if the client has subscribed to anything."""
        if not self._has_asked or "no-heartbeat" in self._faults.names:
            return []
        return [words.HEARTBEAT]

    # Requests

    def receive(self, message: str | bytes, now: datetime, clock: float) -> list[bytes]:
        """Return the answers to a message of the client, and the snapshots."""
        if len(self._requests) == self._requests.maxlen and clock - self._requests[0] < 1:
            self.refusals += 1
            return [words.refuse(None, None, now, "Exceeded msg rate")]
        self._requests.append(clock)
        try:
            request = _decode(message)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.refusals += 1
            return [words.refuse(None, None, now, "Malformed request")]
        method, number = request.get("method"), request.get("req_id")
        if method == "ping":
            return [words.pong(number, now)]
        if method not in ("subscribe", "unsubscribe"):
            self.refusals += 1
            return [words.refuse(None, number, now, "Unsupported method")]
        params = request.get("params")
        if not isinstance(params, dict) or params.get("channel") not in _CHANNELS:
            self.refusals += 1
            return [words.refuse(method, number, now, "Channel not found")]
        return list(self._answer(method, number, params, now))

    def _answer(
        self, method: str, number: Any, params: dict[str, Any], now: datetime
    ) -> Iterator[bytes]:
        symbols = params.get("symbol", [None])
        for symbol in symbols if isinstance(symbols, list) else [symbols]:
            try:
                key, result = self._read(params, symbol)
                if method == "unsubscribe" and key not in self._keys:
                    raise _RefusedError("Subscription Not Found")
                if method == "subscribe" and key in self._keys:
                    raise _RefusedError("Already subscribed")
            except _RefusedError as error:
                self.refusals += 1
                yield words.refuse(method, number, now, str(error), symbol)
                continue
            answer = words.acknowledge(method, number, now, **result)
            first: list[bytes] = []
            if method == "unsubscribe":
                del self._keys[key]
                self._late.pop(key, None)
            else:
                self._has_asked = True
                self._keys[key] = None
                if params.get("snapshot", key[0] != "trade") is True:
                    first = self._snapshot(key, now)
            before = "data-before-ack" in self._faults.names
            yield from (*first, answer) if before else (answer, *first)

    def _read(self, params: dict[str, Any], symbol: Any) -> tuple[_Key, dict[str, Any]]:
        """Return what is asked for, and what the acknowledgement says of it."""
        channel = params["channel"]
        result: dict[str, Any] = {"channel": channel, "snapshot": params.get("snapshot", True)}
        if channel == "instrument":
            return (channel, "", 0), result
        if not isinstance(symbol, str) or symbol not in self._pairs:
            raise _RefusedError(f"Currency pair not supported {str(symbol)[:32]}")
        result["symbol"] = symbol
        size = 0
        if channel == "ticker":
            result["event_trigger"] = trigger = params.get("event_trigger", "trades")
            if trigger not in ("bbo", "trades"):
                raise _RefusedError("Event trigger not supported")
        elif channel == "book":
            result["depth"] = size = params.get("depth", 10)
            if size not in DEPTHS:
                raise _RefusedError("Book depth not supported")
        elif channel == "ohlc":
            result["interval"] = size = params.get("interval", 1)
            if size not in MINUTES:
                raise _RefusedError("Interval not supported")
        return (channel, symbol, size), result

    def _snapshot(self, key: _Key, now: datetime) -> list[bytes]:
        channel, symbol, size = key
        if self._recorded:
            return []
        if channel == "instrument":
            return [words.instruments(list(self._pairs))]
        pair = self._pairs[symbol]
        # Before the first tick of a pair there is nothing to show.
        if channel == "book" and (pair.bids is None or "late-snapshot" in self._faults.names):
            self._late[key] = _LATE_BY if "late-snapshot" in self._faults.names else 1
            return []
        if pair.bids is None or pair.asks is None:
            return []
        if channel == "book":
            bids, asks = pair.bids.top(size), pair.asks.top(size)
            return [words.book(pair, "snapshot", bids, asks, now)]
        if channel == "ticker":
            return [words.ticker(pair, "snapshot", now)]
        bar = pair.candles.get(size)
        return [words.candle(pair, size, bar)] if channel == "ohlc" and bar else []

    # Market data

    def offer(self, step: Step | Said) -> list[bytes]:
        """Return what the client gets of *step*.

        Raises:
            Ended: the connection is cut.
        """
        if isinstance(step, Said):
            # A message does not say of which depth a book is: any will do.
            keys = {key if key[0] == "ohlc" else (*key[:2], 0) for key in self._keys}
            return [] if keys.isdisjoint(step.keys) else [step.payload]
        found: list[bytes] = []
        pair = step.pair
        for key in self._keys:
            channel, symbol, size = key
            if symbol != pair.symbol:
                continue
            self._silent = self._silent or self._faults.due("silence")
            if self._silent:
                continue
            if self._faults.due("cut"):
                raise Ended("cut")
            if self._faults.due("unknown-message"):
                found.append(b'{"channel":"executions","type":"update","data":[{"x":1}]}')
            if channel == "ticker":
                withdrawn = self._faults.due("withdrawn-quote")
                found.append(words.ticker(pair, "update", step.now, withdrawn=withdrawn))
            elif channel == "trade":
                found.append(words.trade(step))
            elif channel == "ohlc":
                found.append(words.candle(pair, size, pair.candles[size]))
            else:
                found += self._book(key, step)
        return found

    def _book(self, key: _Key, step: Step) -> list[bytes]:
        """Return what the client gets of the book, with the faults that are due."""
        faults, pair, size = self._faults, step.pair, key[2]
        assert pair.bids is not None
        assert pair.asks is not None
        left = self._late.get(key)
        whole = (pair, "snapshot", pair.bids.top(size), pair.asks.top(size), step.now)
        if left == 1:
            del self._late[key]
            return [words.book(*whole)]
        if left is not None:
            self._late[key] = left - 1
        bids, asks = step.changes(size)
        if not bids and not asks:
            return []
        if faults.due("missed-update"):
            return []
        wrong = faults.due("wrong-checksum")
        found = [words.book(pair, "update", bids, asks, step.now, wrong=wrong)]
        if faults.due("broken-update"):
            text = found[0].replace(b'"price":', b'"price":"x', 1)
            found = [text.replace(b',"qty"', b'","qty"', 1)]
        if faults.due("repeated-update"):
            found.append(found[0])
        if faults.due("snapshot-in-mid-stream"):
            found.append(words.book(*whole))
        return found


class _RefusedError(Exception):
    """A request for one symbol is refused, for this reason."""
