"""Binance spot: best quotes (``bookTicker``) and trades.

Messages come as combined frames, ``{"stream": ..., "data": ...}``, or raw, as the
address says. Facts: github.com/binance/binance-spot-api-docs, web-socket-streams.md at
a5e0bc3.

Rules: a bookTicker has no time of its own, so its timestamp is its arrival. It says no
volume either: a tick has the sum of the trades that have come since the connection was
opened, and NaN before the first of them and where trades are not subscribed to. Each
statement that runs for every message was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, final

import msgspec

from ...ticks import Tick, Trade, unchecked_tick, unchecked_trade
from ..sequence import SequenceTracker
from .base import BAD_MESSAGE, Codec, CodecContext, Limits

__all__ = ["BinanceCodec"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS: Final = 10**14
"""Times from here on are in microseconds: in milliseconds it is the year 5138."""
_STREAMS_A_REQUEST: Final = 200
"""Keeps a request small, and 1,024 streams within six requests."""
_MAX_VOLUMES: Final = 16_384
"""Symbols whose volume is summed; more than Binance trades."""
_SUBSCRIBE, _UNSUBSCRIBE = 1, 2

_Size = Annotated[float, msgspec.Meta(ge=0)]


class _Event(msgspec.Struct, gc=False):
    """The fields of all events that are decoded; NaN and 0 where one is absent."""

    s: str = ""
    b: float = math.nan
    B: _Size = math.nan
    a: float = math.nan
    A: _Size = math.nan
    e: str = ""
    p: float = math.nan
    q: _Size = math.nan
    T: int = 0
    E: int = 0
    t: int = 0
    m: bool = False


class _Frame(msgspec.Struct, gc=False):
    stream: str = ""
    data: _Event | None = None


class _AnyFrame(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


# Not strict, because Binance sends numbers as text.
_frame: Final = msgspec.json.Decoder(_Frame, strict=False).decode
_any_frame: Final = msgspec.json.Decoder(_AnyFrame).decode
_event: Final = msgspec.json.Decoder(_Event, strict=False).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _moment(time: int) -> datetime:
    """Return the moment that *time*, in milliseconds or microseconds, stands for."""
    return _EPOCH + timedelta(microseconds=time if time >= _MICROSECONDS else time * 1000)


@final
class BinanceCodec(Codec):
    """Binance spot: best quotes (bookTicker) and trades."""

    url = "wss://stream.binance.com:9443/stream"
    channels = ("bookTicker", "trade")
    default_channels = ("bookTicker",)
    # The venue allows five messages a second, our pongs among them, and 300 connections
    # in five minutes.
    limits = Limits(subscriptions=1024, messages_per_s=4, connects_per_min=60)

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        self._quotes = "bookTicker" in context.channels
        self._trades = "trade" in context.channels
        self._asked: dict[str, str] = {}
        """By the venue's spelling, the spelling in which a symbol was asked for."""
        self._volume: dict[str, float] = {}
        self._numbers = SequenceTracker()

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that subscribe to *symbols*; upper or lower case."""
        for symbol in symbols:
            self._asked[symbol.upper()] = symbol
            self._numbers.reset(symbol.upper())
        return self._request("SUBSCRIBE", symbols, _SUBSCRIBE)

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the messages that unsubscribe from *symbols*."""
        return self._request("UNSUBSCRIBE", symbols, _UNSUBSCRIBE)

    def _request(self, method: str, symbols: Sequence[str], number: int) -> list[str | bytes]:
        streams = [
            f"{symbol.lower()}@{channel}" for symbol in symbols for channel in self.context.channels
        ]
        return [
            msgspec.json.encode(
                {
                    "method": method,
                    "params": streams[first : first + _STREAMS_A_REQUEST],
                    "id": number,
                }
            ).decode()
            for first in range(0, len(streams), _STREAMS_A_REQUEST)
        ]

    def decode(self, payloads: Sequence[bytes], /) -> list[Tick | Trade]:
        """Return the quotes and trades in *payloads*; count all other messages."""
        items: list[Tick | Trade] = []
        arrived = self.context.arrived
        asked, volume, quotes = self._asked, self._volume, self._quotes
        for payload in payloads:
            try:
                frame = _frame(payload)
                event = frame.data
                if event is None:
                    raise ValueError("no combined frame")
                symbol, bid, ask = event.s, event.b, event.a
                bid_size, ask_size = event.B, event.A
                # A sum is finite only if each of its parts is. Those of a quote are
                # absent in most other events, and thus NaN. An event that names its
                # kind (24hrTicker has all of them) is looked at below.
                if (
                    quotes
                    and -math.inf < bid_size + ask_size + bid + ask < math.inf
                    and symbol
                    and not event.e
                ):
                    items.append(
                        unchecked_tick(
                            asked.get(symbol, symbol),
                            arrived if not event.T else _moment(event.T),
                            bid,
                            ask,
                            bid_size,
                            ask_size,
                            volume.get(symbol, math.nan),
                        )
                    )
                    continue
            except BAD_MESSAGE:
                pass
            try:
                item = self._decode_rare(payload, arrived)
            except BAD_MESSAGE as error:
                about = _symbol_in(payload)
                self.context.malformed(payload, str(error), about and asked.get(about, about))
                continue
            if item is None:
                self.context.ignored()
            else:
                items.append(item)
        return items

    def _decode_rare(self, payload: bytes, arrived: datetime) -> Tick | Trade | None:
        """Return the item in a message that is no quote in a combined frame."""
        frame = _any_frame(payload)
        raw = payload if not frame.data else bytes(frame.data)
        stream = frame.stream
        kind = stream.rpartition("@")[2] if "@" in stream else ""
        if kind not in ("", "bookTicker", "trade") or stream.startswith("!"):
            self._take_control(_object(raw))
            return None
        try:
            event = _event(raw)
        except msgspec.ValidationError:
            # A field with a known name and another type: an event of another kind, or a
            # message that is broken.
            fields = _object(raw)
            if kind or fields.get("e") in ("trade", "bookTicker") or _is_quote(fields):
                raise
            self._take_control(fields)
            return None
        if event.e == "trade" or kind == "trade":
            return self._decode_trade(event)
        if event.e in ("", "bookTicker") and (kind or _is_quote(_object(raw))):
            return self._decode_quote(event, arrived)
        self._take_control(_object(raw))
        return None

    def _decode_quote(self, event: _Event, arrived: datetime) -> Tick | None:
        numbers = (event.b, event.a, event.B, event.A)
        if not event.s or not all(map(math.isfinite, numbers)):
            raise ValueError("an empty symbol, or a number that is missing or not finite")
        if not self._quotes:
            return None
        symbol = self._asked.get(event.s, event.s)
        moment = _moment(event.T) if event.T else arrived
        return unchecked_tick(symbol, moment, *numbers, self._volume.get(event.s, math.nan))

    def _decode_trade(self, event: _Event) -> Trade | None:
        symbol = event.s
        if not symbol or not math.isfinite(event.p) or not math.isfinite(event.q):
            raise ValueError("an empty symbol, or a number that is missing or not finite")
        if event.T <= 0:
            raise ValueError("a trade without its time")
        moment = _moment(event.T)
        if symbol in self._volume or len(self._volume) < _MAX_VOLUMES:
            self._volume[symbol] = self._volume.get(symbol, 0.0) + event.q
        if not self._trades:
            return None
        asked = self._asked.get(symbol)
        # Of symbols that were not asked for nothing is kept.
        if asked is not None and (missed := self._numbers.check(symbol, event.t)) > 0:
            self.context.gap(asked, missed)
        # The buyer was the maker, so the seller took the liquidity.
        side: Literal["buy", "sell"] = "sell" if event.m else "buy"
        return unchecked_trade(asked or symbol, moment, event.p, event.q, side, str(event.t))

    def _take_control(self, fields: dict[str, Any]) -> None:
        """Take a message that is no quote and no trade; all of these are ignored."""
        number, error = fields.get("id"), fields.get("error")
        if error is None and "code" in fields and "msg" in fields:
            error = fields
        if error is not None:
            words = str(error.get("msg") if isinstance(error, dict) else error)
            if number == _UNSUBSCRIBE:
                self.context.answered("unsubscribe", False)
            else:
                self.context.refused(None, words)
        elif number == _UNSUBSCRIBE and "result" in fields:
            self.context.answered("unsubscribe", True)
        elif fields.get("e") == "serverShutdown":
            self.context.reconnect("the venue announces its shutdown")


def _is_quote(fields: dict[str, Any]) -> bool:
    """Return whether a raw event, which names no stream, is meant to be a quote."""
    if fields.get("e", "bookTicker") != "bookTicker":
        return False
    return "s" in fields and not {"b", "a", "B", "A"}.isdisjoint(fields)


def _symbol_in(payload: bytes) -> str | None:
    """Return the symbol in a malformed *payload*, where that can be read."""
    try:
        fields = _object(payload)
        symbol = fields.get("data", fields).get("s")
    except BAD_MESSAGE:
        return None
    return symbol if isinstance(symbol, str) and symbol else None
