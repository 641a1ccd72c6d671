"""The flat JSON dialect: one object a message, ``{"symbol", "timestamp", "bid", "ask", "bid_size", "ask_size", "volume"}``.

Rules: what the fast path accepts, the slow path would have decoded to the same ticks (a property test holds them together); the fast path
gives up on a whole batch rather than being clever about one message. Hot path: each statement that runs per message was measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC
from math import isfinite
from typing import Any, Final, final

import attrs
import msgspec

from ...ticks import Tick, to_utc
from ..reports import log_event
from .base import CodecContext

__all__ = ["FlatCodec"]

logger = logging.getLogger(__name__)

_STRICT: Final = msgspec.json.Decoder(Tick)
_LENIENT: Final = msgspec.json.Decoder(Tick, strict=False)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_BAD_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BAD_MESSAGE: Final = (*_BAD_JSON, ValueError, TypeError)
_TICK_QUOTES: Final = 18
"""A tick's seven keys and two strings, with two quotation marks each: no message with fewer is a tick, and none with exactly
these has room for an eighth key, or for the same one twice (msgspec alone takes duplicates, the last one winning)."""
_OPENING_BRACE: Final = ord("{")
_QUOTE_KEYS: Final = frozenset({"symbol", "bid", "ask", "bid_size", "ask_size"})
_CONTROL_KEYS: Final = frozenset(
    {"id", "method", "result", "error", "type", "event", "cmd", "op", "channel", "status", "code", "message", "msg", "success"}
)


_IDS: Final = {"subscribe": 1, "unsubscribe": 2, "throttle": 3}
_REPORTED: Final = {number: method for method, number in _IDS.items() if method != "subscribe"}


def _encode(method: str, **params: object) -> list[str | bytes]:
    return [msgspec.json.encode({"method": method, "params": params, "id": _IDS[method]}).decode()]


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


_UNIQUE: Final = json.JSONDecoder(object_pairs_hook=_unique_object)


def _refuse_duplicate_keys(payload: bytes, fields: dict[str, Any]) -> None:
    """Raise ``ValueError`` where an object in *payload*, which decodes to *fields*, has a key twice.

    Counting is enough as a rule: each string in the text has two quotation marks, and the keys and text values that are left
    account for all of them only if nothing was overwritten. Escaped quotation marks and nested objects spoil the sum, and
    only they cost a second look.
    """
    strings = len(fields)
    for value in fields.values():
        if type(value) is str:
            strings += 1
    if payload.count(b'"') != 2 * strings:
        _UNIQUE.decode(payload.decode())


def _all_have_unique_keys(payloads: list[bytes]) -> bool:
    """Tell whether each payload is one object, and has no key twice: for venues that send more keys than we want."""
    try:
        for payload in payloads:
            _refuse_duplicate_keys(payload, _OBJECT.decode(payload))
    except _BAD_MESSAGE:
        return False
    return True


def _all_begin_objects(payloads: list[bytes]) -> bool:
    try:
        for payload in payloads:
            if payload[0] != _OPENING_BRACE:
                return False
    except IndexError:
        return False
    return True


@final
class FlatCodec:
    """Decodes the flat dialect to :class:`~trio_ticks.Tick`.

    Numbers may come as text (``"572.31"``, not ``"nan"``); timestamps are ISO 8601 with ``Z``, an offset, or nothing, which means
    UTC; digits beyond microseconds are rounded. Everything else is strict: all seven fields, of their types, finite, sizes and volume
    not negative, no key twice. A JSON object without a symbol or quote but with something like an ``id``, ``method`` or ``type`` is
    no market data and counted as ``ignored``; anything else that is not a tick is ``malformed``.
    """

    __slots__ = ("_bad", "_error_logged", "_on_answer", "_redactor", "_stats", "_throttling")

    def __init__(self, context: CodecContext) -> None:
        self._stats = context.stats
        self._bad = context.bad
        self._redactor = context.redactor
        self._on_answer = context.on_answer
        self._error_logged = False
        self._throttling = False

    def subscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        """Return the message that asks for *symbols*."""
        self._error_logged = False
        return _encode("subscribe", symbols=list(symbols))

    def unsubscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        """Return the message that stops *symbols*."""
        return _encode("unsubscribe", symbols=list(symbols))

    def throttle(self, max_rate: float | None) -> list[str | bytes]:
        """Return the message that asks for at most *max_rate* ticks a second; ``None``: for all there are."""
        self._throttling = True
        return _encode("throttle", max_rate=max_rate)

    def decode(self, payloads: list[bytes]) -> list[Tick]:
        """Return the ticks in *payloads*, in their order; count all the other messages."""
        number = len(payloads)
        blob = b"\n".join(payloads)
        try:
            ticks = _STRICT.decode_lines(blob)
        except _BAD_JSON:
            return self._decode_each(payloads)
        if len(ticks) != number or not _all_begin_objects(payloads):
            return self._decode_each(payloads)
        if blob.count(b'"') != _TICK_QUOTES * number and not _all_have_unique_keys(payloads):
            return self._decode_each(payloads)
        # Now every payload is proven to be one tick. The quotation marks leave no room for unknown keys, so no tick has an object
        # inside, and there are as many objects as payloads. A newline cannot stand inside a JSON string, so the brace that a
        # payload begins with begins an object: each tick begins where a payload does, and ends before the next one. (The number
        # alone proves nothing: two halves of a message in two payloads would parse as one, and another payload may hold two.)
        # Where there are unknown keys, each payload has been parsed by itself.
        for tick in ticks:
            if tick.timestamp.tzinfo is not UTC:
                return self._decode_each(payloads)
        return ticks

    def _decode_each(self, payloads: list[bytes]) -> list[Tick]:
        """Decode message by message: what the fast path could not prove, and what is not a tick."""
        ticks = []
        for payload in payloads:
            try:
                tick = self._decode_one(payload)
            except _BAD_MESSAGE as error:
                self._stats.malformed += 1
                self._bad.note(payload, str(error))
                continue
            if tick is None:
                self._stats.ignored += 1
            else:
                ticks.append(tick)
        return ticks

    def _decode_one(self, payload: bytes) -> Tick | None:
        """Return the tick in *payload*, or ``None`` where it is a message of another kind.

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
        if not _QUOTE_KEYS.isdisjoint(fields) or _CONTROL_KEYS.isdisjoint(fields):
            return False
        if self._is_reported(fields):
            return True
        if fields.get("error") and not self._error_logged:
            self._error_logged = True
            answer = self._redactor.excerpt(msgspec.json.encode(fields))
            log_event(logger, logging.WARNING, "feed.refused", answer=answer)
        return True

    def _is_reported(self, fields: dict[str, Any]) -> bool:
        """Report the answer to a request that somebody waits for; False where it is none."""
        number = fields.get("id")
        refused = bool(fields.get("error"))
        # Who does not understand a request may not even find its id.
        method = "throttle" if number is None and refused and self._throttling else _REPORTED.get(number) if type(number) is int else None
        if method is None or not (refused or "result" in fields):
            return False
        if method == "throttle":
            self._throttling = False
        self._on_answer(method, not refused)
        return True


def _decode_lenient(payload: bytes, fields: dict[str, Any]) -> Tick:
    """Decode a tick whose numbers may come as text, and refuse what else a lenient decoder takes."""
    moment = fields.get("timestamp")
    if type(moment) is str and ":" not in moment:
        raise ValueError("a number of seconds in place of an ISO 8601 timestamp")
    if type(moment) in (int, float):
        raise TypeError("a number in place of an ISO 8601 timestamp")
    tick = _LENIENT.decode(payload)
    if not (isfinite(tick.bid) and isfinite(tick.ask) and isfinite(tick.bid_size) and isfinite(tick.ask_size) and isfinite(tick.volume)):
        raise ValueError("a number that is not finite")
    return tick
