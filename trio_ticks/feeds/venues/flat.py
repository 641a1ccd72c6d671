"""The flat JSON dialect: each message is one object with a tick's seven keys.

The keys are ``symbol timestamp bid ask bid_size ask_size volume``. The last three may
be left out, and are then NaN.

Plan: ``decode`` parses a whole batch in one call of msgspec, and then proves that each
payload was exactly one valid tick. If that fails for any payload, ``_decode_each``
decodes the batch message by message.

Rules: a batch that the fast path accepts, the slow path would decode to the same ticks
(a property test compares them). The fast path gives up on a whole batch rather than
treat one message apart. Each statement that runs for every message was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Final

import attrs
import msgspec

from ...ticks import Tick, to_utc, unchecked_tick
from .base import Codec, CodecContext
from .extra_keys import ExtraKeys

__all__ = ["FlatCodec"]

_Size = Annotated[float, msgspec.Meta(ge=0)]
_STRICT: Final = msgspec.json.Decoder(Tick)


class _AnyTick(msgspec.Struct, gc=False):
    """A tick whose quantities may be absent."""

    symbol: Annotated[str, msgspec.Meta(min_length=1)]
    timestamp: datetime
    bid: float
    ask: float
    bid_size: _Size = math.nan
    ask_size: _Size = math.nan
    volume: _Size = math.nan


_LENIENT: Final = msgspec.json.Decoder(_AnyTick, strict=False)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_PLAIN_OBJECT: Final = msgspec.json.Decoder(dict[str, str | float | bool | None])
_BAD_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BAD_MESSAGE: Final = (*_BAD_JSON, ValueError, TypeError)
_TICK_QUOTES: Final = 18
"""The quotation marks of a tick: seven keys and two strings, with two marks each.

The strict decoder refuses a message with fewer. A tick with exactly this number has no
room for an eighth key or a duplicate one (msgspec accepts duplicates, and takes the
last one).
"""
_MOST_NAMED: Final = 3
"""How many of the symbols that a venue refuses together are named in the log."""
_OPENING_BRACE: Final = ord("{")
_TICK_KEYS: Final = tuple(field.name for field in attrs.fields(Tick))
_QUOTE_KEYS: Final = frozenset({"symbol", "bid", "ask", "bid_size", "ask_size"})
_QUANTITY_KEYS: Final = frozenset({"bid_size", "ask_size", "volume"})
_CONTROL_KEYS: Final = frozenset(
    {
        "id",
        "method",
        "result",
        "error",
        "type",
        "event",
        "cmd",
        "op",
        "channel",
        "status",
        "code",
        "message",
        "msg",
        "success",
    }
)


_IDS: Final = {"subscribe": 1, "unsubscribe": 2, "throttle": 3}


def _encode(method: str, **params: object) -> list[str | bytes]:
    return [msgspec.json.encode({"method": method, "params": params, "id": _IDS[method]}).decode()]


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


_UNIQUE: Final = json.JSONDecoder(object_pairs_hook=_unique_object)


def _refuse_duplicate_keys(payload: bytes, fields: dict[str, Any]) -> None:
    """Raise ``ValueError`` if an object in *payload* has a key twice.

    Counting quotation marks is enough for most payloads. Each string in the text has
    two; the keys and strings in *fields*, to which *payload* decodes, account for all
    of them only if no key was overwritten. Escaped quotation marks and nested objects
    make the numbers differ too, and only such a payload is parsed again, with a check
    of each key.
    """
    if payload.count(b'"') != 2 * _count_strings(fields):
        _UNIQUE.decode(payload.decode())


def _all_have_unique_keys(
    payloads: Sequence[bytes], blob: bytes, quotes: int, extra: ExtraKeys
) -> bool:
    """Return whether each payload is one object without duplicate keys.

    It is for venues that send more keys than a tick needs.

    Args:
        payloads: the batch.
        blob: all of them, as lines.
        quotes: how many quotation marks are in there.
        extra: learns these keys.
    """
    try:
        # As for one payload. None can have too few marks, so if the sum is right, each
        # is. Nothing is inside of these objects, so each payload is one of them.
        messages = _PLAIN_OBJECT.decode_lines(blob)
        if quotes == 2 * sum(map(_count_strings, messages)):
            extra.learn(messages[0])
            return True
    except _BAD_JSON:
        pass
    try:
        for payload in payloads:
            _refuse_duplicate_keys(payload, _OBJECT.decode(payload))
    except _BAD_MESSAGE:
        return False
    return True


def _count_strings(fields: dict[str, Any]) -> int:
    """Return how many of the keys and values of *fields* are strings."""
    return len(fields) + [*map(type, fields.values())].count(str)


def _all_begin_objects(payloads: Sequence[bytes]) -> bool:
    try:
        for payload in payloads:
            if payload[0] != _OPENING_BRACE:
                return False
    except IndexError:
        return False
    return True


class FlatCodec(Codec):
    """A tick's seven keys in one JSON object; see the tutorial.

    Numbers may be sent as text (``"572.31"``, not ``"nan"``). Timestamps are ISO 8601
    with ``Z``, an offset, or neither, which means UTC; digits beyond microseconds are
    rounded. Sizes and ``volume`` may be left out, and are NaN then; a batch with such a
    message is decoded message by message. Everything else is strict: all other fields,
    of their types, finite, sizes and volume not negative, no key twice. A JSON object
    without a symbol or quote but with a key such as ``id``, ``method`` or ``type`` is
    no market data and counts as ``ignored``, as does an ``error`` that names its
    symbol; any other message that is not a tick counts as ``malformed``.
    """

    def __init__(self, context: CodecContext) -> None:
        self.context = context
        self._throttling = False
        self._extra = ExtraKeys(_TICK_KEYS, _TICK_QUOTES)

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the message that subscribes to *symbols*."""
        return _encode("subscribe", symbols=list(symbols))

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        """Return the message that unsubscribes from *symbols*."""
        return _encode("unsubscribe", symbols=list(symbols))

    def throttle(self, max_rate: float | None) -> list[str | bytes]:
        """Return the message that asks for at most *max_rate* ticks a second.

        ``None`` lifts the limit.
        """
        self._throttling = True
        return _encode("throttle", max_rate=max_rate)

    def decode(self, payloads: Sequence[bytes], /) -> list[Tick]:
        """Return the ticks in *payloads*, in their order; count all other messages."""
        number = len(payloads)
        blob = b"\n".join(payloads)
        try:
            ticks = _STRICT.decode_lines(blob)
        except _BAD_JSON:
            return self._decode_each(payloads)
        if len(ticks) != number or not _all_begin_objects(payloads):
            return self._decode_each(payloads)
        quotes = blob.count(b'"')
        if (
            quotes != _TICK_QUOTES * number
            and not self._extra.has_each_once(blob, number, quotes)
            and not _all_have_unique_keys(payloads, blob, quotes, self._extra)
        ):
            return self._decode_each(payloads)
        # Now every payload is proven to be one tick. The number of quotation marks
        # leaves no room for unknown keys, so no tick has an object inside, and there
        # are as many objects as payloads. A newline cannot stand inside a JSON string,
        # so the brace at the beginning of a payload begins an object: each tick begins
        # where a payload does, and ends before the next one. (The number of ticks alone
        # proves nothing: two payloads with a half of a message each would parse as one,
        # and another payload may hold two.) If there are unknown keys, there is no
        # object inside either, or each payload has been parsed by itself.
        for tick in ticks:
            if tick.timestamp.tzinfo is not UTC:
                return self._decode_each(payloads)
        return ticks

    def _decode_each(self, payloads: Sequence[bytes]) -> list[Tick]:
        """Decode message by message, for a batch that the fast path did not accept."""
        ticks = []
        for payload in payloads:
            try:
                tick = self._decode_one(payload)
            except _BAD_MESSAGE as error:
                self.context.malformed(payload, str(error), _symbol_in(payload))
                continue
            if tick is None:
                self.context.ignored()
            else:
                ticks.append(tick)
        return ticks

    def _decode_one(self, payload: bytes) -> Tick | None:
        """Return the tick in *payload*; ``None`` if it is no market data.

        Raises:
            ValueError, RecursionError, TypeError: it is malformed.
        """
        try:
            tick = _STRICT.decode(payload)
            if payload.count(b'"') != _TICK_QUOTES:
                _refuse_duplicate_keys(payload, _OBJECT.decode(payload))
        except msgspec.ValidationError:
            fields = _OBJECT.decode(payload)
            _refuse_duplicate_keys(payload, fields)
            if self._is_control(fields):
                return None
            tick = _decode_lenient(payload, fields)
        if tick.timestamp.tzinfo is not UTC:
            return attrs.evolve(tick, timestamp=to_utc(tick.timestamp))
        return tick

    def _is_control(self, fields: dict[str, Any]) -> bool:
        if _CONTROL_KEYS.isdisjoint(fields):
            return False
        quoted = _QUOTE_KEYS & fields.keys()
        # An error may name the symbol that it is about.
        if quoted and not (quoted == {"symbol"} and fields.get("error")):
            return False
        if self._is_reported(fields):
            return True
        if fields.get("error"):
            symbol = fields.get("symbol")
            self.context.refused(
                symbol if isinstance(symbol, str) and symbol else None, _words(fields["error"])
            )
        return True

    def _is_reported(self, fields: dict[str, Any]) -> bool:
        """Report an answer to one of our requests; return False if it is none."""
        number = fields.get("id")
        refused = bool(fields.get("error"))
        # A venue that cannot parse a request may answer with an error without its id.
        if not (refused or "result" in fields):
            return False
        if number == _IDS["throttle"] or (number is None and refused and self._throttling):
            self._throttling = False
            self.context.answered("throttle", not refused)
            return True
        if number == _IDS["unsubscribe"]:
            self.context.answered("unsubscribe", not refused)
            return True
        return False


def _words(error: object) -> str:
    """Return the venue's words in an error that is text or an object with a text."""
    named = ""
    if isinstance(error, dict):
        symbols = error.get("symbols")
        error = error.get("message") or error.get("msg") or error
        if isinstance(error, str) and isinstance(symbols, list):
            shown = [symbol for symbol in symbols if isinstance(symbol, str)][:_MOST_NAMED]
            more = ", ..." if len(symbols) > len(shown) else ""
            named = f": {', '.join(shown)}{more}" if shown else ""
    return error + named if isinstance(error, str) else msgspec.json.encode(error).decode()


def _symbol_in(payload: bytes) -> str | None:
    """Return the symbol in a malformed *payload*, where that can be read."""
    try:
        symbol = _OBJECT.decode(payload).get("symbol")
    except _BAD_MESSAGE:
        return None
    return symbol if isinstance(symbol, str) and symbol else None


def _decode_lenient(payload: bytes, fields: dict[str, Any]) -> Tick:
    """Decode a tick whose numbers may be text.

    msgspec's lenient decoder accepts more than that, which is refused here: numbers in
    place of timestamps, and text such as ``"nan"``.
    """
    moment = fields.get("timestamp")
    if type(moment) is str and ":" not in moment:
        raise ValueError("a number of seconds in place of an ISO 8601 timestamp")
    if type(moment) in (int, float):
        raise TypeError("a number in place of an ISO 8601 timestamp")
    read = _LENIENT.decode(payload)
    numbers = (read.bid, read.ask, read.bid_size, read.ask_size, read.volume)
    # Those of an absent quantity are NaN, and nothing else may be.
    absent = len(_QUANTITY_KEYS - fields.keys())
    if sum(map(isfinite, numbers)) != len(numbers) - absent:
        raise ValueError("a number that is not finite")
    return unchecked_tick(read.symbol, read.timestamp, *numbers)
