"""Recordings of Binance, played by the exchange in the venue's own words.

A recording of books has the snapshot of each that was asked for over REST, as a line
without a stream. It is what the first request for it here gets, so that a feed makes
the same of the recording over a socket as from the file. Later requests get the book as
it is by then.

Rules: sans-I/O. What the recording has of a stream is sent to who subscribes to that
stream, whatever speed is named. Requests are answered as in a made-up market.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, final

import msgspec

from . import binance_words as words
from .binance import DEPTH_PATHS, MOST_LEVELS, BinanceSession
from .binance_market import NumberedPair
from .http import RestAnswer, json_answer
from .recorded_messages import Said
from .venues import Faults

__all__ = ["RecordedBinance", "read_binance"]

_SNAPSHOT: Final = frozenset({("", "snapshot")})
_STREAMS: Final = {"trade": "trade", "aggTrade": "aggTrade", "depthUpdate": "depth"}
"""By the kinds of raw events, their streams."""


class _Wrapped(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Fields(msgspec.Struct):
    e: str = ""
    s: str = ""
    u: int = 0
    b: Any = None
    a: Any = None
    k: dict[str, Any] = {}
    lastUpdateId: int = 0
    bids: list[tuple[str, str]] = []
    asks: list[tuple[str, str]] = []


_wrapped: Final = msgspec.json.Decoder(_Wrapped).decode
_fields: Final = msgspec.json.Decoder(_Fields).decode
_levels: Final = msgspec.json.Decoder(list[tuple[str, str]]).decode


def read_binance(payload: bytes) -> Said | None:
    """Return what a message of Binance says to clients; ``None``: nothing.

    Its key is the symbol and the kind of the stream; its payload is the event, without
    the combined frame around it.
    """
    try:
        wrapped = _wrapped(payload)
        event = bytes(wrapped.data) or payload
        fields = _fields(event)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    name, _, channel = wrapped.stream.partition("@")
    if fields.lastUpdateId and not wrapped.stream:
        return Said("", _SNAPSHOT, payload)
    symbol = name.upper() or fields.s
    kind = channel.partition("@")[0] or _kind_of(fields)
    return Said(symbol, frozenset({(symbol, kind)}), event) if symbol and kind else None


def _kind_of(fields: _Fields) -> str:
    """Return the kind of the stream of a raw event; empty if it is none."""
    if fields.e == "kline":
        return f"kline_{fields.k.get('i', '')}"
    if not fields.e:
        return "bookTicker" if fields.u and fields.b is not None else ""
    return _STREAMS.get(fields.e, fields.e if fields.e == "bookTicker" else "")


@final
class RecordedBinance:
    """The symbols of a recording, and a session for each client.

    Args:
        symbols: of the recording.
        beginning: its first messages: the snapshot of a book is among them.
        futures: whether it is USD-M.
    """

    path: Final = "/stream"

    def __init__(
        self, symbols: Collection[str], beginning: Sequence[Said] = (), *, futures: bool = False
    ) -> None:
        self._pairs = {symbol: NumberedPair(symbol, 0, futures=futures) for symbol in symbols}
        self._futures = futures
        self._books: dict[str, _RecordedBook] = {}
        snapshot = next((said.payload for said in beginning if said.keys == _SNAPSHOT), None)
        owner = _owner_of(beginning)
        self._first = {} if snapshot is None or not owner else {owner: snapshot}
        """The recorded snapshots, until each was asked for."""
        self._owner = owner

    def take(self, tick: Any, now: datetime) -> Said:
        """Return a recorded message, once it has changed its book here."""
        said: Said = tick
        # A damaged message is played as it is; the book here goes on without it.
        with suppress(ValueError, TypeError):
            if said.keys == _SNAPSHOT:
                if self._owner:
                    self._books[self._owner] = _RecordedBook(_fields(said.payload))
            elif said.symbol in self._books and (said.symbol, "depth") in said.keys:
                self._books[said.symbol].apply(_fields(said.payload))
        return said

    def new_session(self, target: str = "/stream") -> RecordedBinanceSession:
        """Return the session of a client that has just connected."""
        return RecordedBinanceSession(self._pairs, target)

    def answer(self, path: str, parameters: Mapping[str, str], _now: datetime) -> RestAnswer | None:
        """Return the snapshot of a book."""
        if path != DEPTH_PATHS[self._futures]:
            return None
        symbol, limit = parameters.get("symbol", ""), parameters.get("limit", "100")
        if symbol not in self._pairs:
            return json_answer(400, {"code": -1121, "msg": "Invalid symbol."})
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= MOST_LEVELS):
            return json_answer(400, {"code": -1130, "msg": "'limit' is not valid."})
        if (first := self._first.pop(symbol, None)) is not None:
            return RestAnswer(first)
        book = self._books.get(symbol)
        if book is None:
            return json_answer(503, {"code": -1000, "msg": "the recording has no snapshot yet"})
        return RestAnswer(words.encode(book.snapshot(int(limit))))


def _owner_of(beginning: Sequence[Said]) -> str:
    """Return the symbol of the snapshot, which does not name it: the only book's."""
    found = {said.symbol for said in beginning if (said.symbol, "depth") in said.keys}
    return found.pop() if len(found) == 1 else ""


class _RecordedBook:
    """A book as the recording has left it: price and quantity as they were written."""

    def __init__(self, snapshot: _Fields) -> None:
        self._last = snapshot.lastUpdateId
        # By the number, since a price may be written in several ways.
        self._bids = {float(level[0]): level for level in snapshot.bids}
        self._asks = {float(level[0]): level for level in snapshot.asks}

    def apply(self, update: _Fields) -> None:
        if update.u <= self._last:
            return
        self._last = update.u
        for side, levels in ((self._bids, update.b), (self._asks, update.a)):
            for price, quantity in levels or ():
                if float(quantity):
                    side[float(price)] = (price, quantity)
                else:
                    side.pop(float(price), None)

    def snapshot(self, limit: int) -> dict[str, Any]:
        bids, asks = sorted(self._bids, reverse=True), sorted(self._asks)
        return {
            "lastUpdateId": self._last,
            "bids": [self._bids[price] for price in bids[:limit]],
            "asks": [self._asks[price] for price in asks[:limit]],
        }


@final
class RecordedBinanceSession:
    """What one client gets of a recording.

    Args:
        pairs: by their symbols.
        target: path and query string of its request.
    """

    def __init__(self, pairs: Mapping[str, NumberedPair], target: str) -> None:
        self.refusals = 0
        """Requests that made no sense, or were refused."""
        self._usual = BinanceSession(pairs, Faults(frozenset(), 1), target)

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols of which it has subscribed to anything."""
        return self._usual.symbols

    def greet(self, now: datetime) -> list[bytes]:
        """Return nothing: the venue waits for a request."""
        return self._usual.greet(now)

    def beat(self, now: datetime) -> list[bytes]:
        """Return nothing: there are no heartbeats."""
        return self._usual.beat(now)

    def receive(self, message: str | bytes, now: datetime, clock: float) -> list[bytes]:
        """Return the answer to a message of the client.

        Raises:
            Ended: it has sent more than five messages in a second.
        """
        answers = self._usual.receive(message, now, clock)
        self.refusals = self._usual.refusals
        return answers

    def offer(self, step: Any) -> list[bytes]:
        """Return what the client gets of a recorded message."""
        said: Said = step
        found = []
        for stream in self._usual.streams:
            name, _, channel = stream.partition("@")
            if (name.upper(), channel.partition("@")[0]) in said.keys:
                raw = msgspec.Raw(said.payload)
                wrapped = words.encode({"stream": stream, "data": raw})
                found.append(wrapped if self._usual.is_combined else said.payload)
        return found
