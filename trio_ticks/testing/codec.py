"""A conformance test for codecs: give it yours, and some messages of the venue.

Rules: nothing here knows a venue. What a codec must keep to stands in
:class:`~trio_ticks.Codec`; each check here is one sentence of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, Literal, final

from ..errors import ConfigError
from ..feeds.venues import Codec, find_language, requests_of
from ..ticks import is_quantity

__all__ = ["CodecProbe", "check_codec"]

_JUNK: Final = (
    b"",
    b" ",
    b"{",
    b"}",
    b"junk",
    b"null",
    b"true",
    b"0",
    b"-1e999",
    b'"text"',
    b"[]",
    b"[null]",
    b"[[[]]]",
    b"{}",
    b'{"":""}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 5_000,
)
_SPLITS: Final = 20
_BROKEN: Final = 200


@final
class CodecProbe:
    """A :class:`~trio_ticks.CodecContext` that writes down what a codec reports.

    Args:
        channels: the channels to subscribe to.
        arrived: when all messages arrive; 2 March 2026, 14:30 UTC, unless given.
    """

    def __init__(self, channels: tuple[str, ...] = (), arrived: datetime | None = None) -> None:
        self.channels = channels
        self.arrived = datetime(2026, 3, 2, 14, 30, tzinfo=UTC) if arrived is None else arrived
        self.ignored_count = 0
        self.malformed_messages: list[tuple[bytes, str, str | None]] = []
        """Payload, reason and symbol of each."""
        self.events: list[tuple[Any, ...]] = []
        """What else was reported: the method's name and its arguments."""

    def ignored(self, count: int = 1) -> None:
        """Count messages that are no market data."""
        self.ignored_count += count

    def malformed(self, payload: bytes, reason: str, symbol: str | None = None) -> None:
        """Write down a malformed message."""
        self.malformed_messages.append((payload, reason, symbol))

    def refused(self, symbol: str | None, reason: str, *, final: bool = False) -> None:
        """Write down a refusal."""
        self.events.append(("refused", symbol, reason, final))

    def reply(self, message: str | bytes) -> None:
        """Write down a message to the venue."""
        self.events.append(("reply", message))

    def pong(self) -> None:
        """Write down an answer to the keep-alive message."""
        self.events.append(("pong",))

    def gap(self, symbol: str, missed: int = 0) -> None:
        """Write down a gap in the venue's sequence."""
        self.events.append(("gap", symbol, missed))

    def need_snapshot(self, symbol: str) -> None:
        """Write down that a book is wrong."""
        self.events.append(("need_snapshot", symbol))

    def reconnect(self, reason: str) -> None:
        """Write down a wish for another connection."""
        self.events.append(("reconnect", reason))

    def replace(self, reason: str) -> None:
        """Write down a wish for a replacement of the connection."""
        self.events.append(("replace", reason))

    def answered(self, request: Literal["throttle", "unsubscribe"], accepted: bool) -> None:
        """Write down an answer to a request."""
        self.events.append(("answered", request, accepted))

    @property
    def outcomes(self) -> tuple[Any, ...]:
        """All that was reported, to compare with another probe's."""
        return self.ignored_count, self.malformed_messages, self.events


def check_codec(
    venue: str | type[Codec],
    messages: Iterable[bytes | str],
    symbols: Sequence[str],
    *,
    channels: Iterable[str] | str | None = None,
    seed: int = 0,
) -> None:
    """Check that a codec keeps what :class:`~trio_ticks.Codec` promises.

    Its requests are text or bytes. Each message becomes market data, malformed or
    ignored, and nothing raises: neither real messages nor junk nor broken ones. In
    whatever batches the messages come, and whatever junk comes between, the market data
    is the same and in the same order. Items have a symbol, and a time in UTC.

    Args:
        venue: the codec class, or the name of a venue.
        messages: real messages of the venue, in their order, as many kinds of them as
            there are; at least one makes market data.
        symbols: symbols to subscribe to before.
        channels: as for :class:`~trio_ticks.WebSocketFeed`.
        seed: of the splits and of the broken messages.

    Raises:
        AssertionError: the codec breaks a rule; the message says which, and shows the
            message of the venue.
    """
    language = find_language(venue, channels)
    payloads = [m.encode() if isinstance(m, str) else bytes(m) for m in messages]
    checker = _Checker(language.codec_for, language.channels, list(symbols))
    one_by_one = checker.decode([[payload] for payload in payloads])
    assert one_by_one.items, "no message makes market data: give messages of the venue"
    random = Random(seed)
    for batches in ([payloads], *(_split(payloads, random) for _ in range(_SPLITS))):
        checker.same(one_by_one, checker.decode(batches), "in other batches")
    between = [part for payload in payloads for part in (payload, random.choice(_JUNK))]
    for batches in ([[payload] for payload in between], [between], _split(between, random)):
        with_junk = checker.decode(batches)
        assert with_junk.items == one_by_one.items, (
            "junk between the messages changes what they become: "
            + _difference(one_by_one.items, with_junk.items)
        )
    for _ in range(_BROKEN):
        checker.decode([[_broken(random.choice(payloads), random)]])


@final
class _Decoded:
    def __init__(self, items: list[Any], probe: CodecProbe) -> None:
        self.items = items
        self.probe = probe


@final
class _Checker:
    def __init__(self, new_codec: Any, channels: tuple[str, ...], symbols: list[str]) -> None:
        self._new_codec = new_codec
        self._channels = channels
        self._symbols = symbols

    def decode(self, batches: list[list[bytes]]) -> _Decoded:
        """Decode *batches* by a new codec, and check each payload that comes alone."""
        probe = CodecProbe(self._channels)
        codec = self._new_codec(probe)
        for method in ("subscribe", "unsubscribe", "subscribe"):
            try:
                requests_of(codec, method, self._symbols)
            except ConfigError as error:
                raise AssertionError(str(error)) from error
        items: list[Any] = []
        for batch in batches:
            before = probe.ignored_count + len(probe.malformed_messages)
            try:
                found = codec.decode(batch)
            except Exception as error:
                raise AssertionError(f"decode raised {error!r} on {_shown(batch)}") from error
            assert isinstance(found, list | tuple), (
                f"decode must return a list, not {type(found).__name__}: {_shown(batch)}"
            )
            rest = probe.ignored_count + len(probe.malformed_messages) - before
            if len(batch) == 1:
                assert bool(found) + rest == 1, (
                    f"a message became {len(found)} items, and was counted {rest} times as"
                    f" malformed or ignored: {_shown(batch)}"
                )
            for item in found:
                _check_item(item, batch)
            items += found
            _check_reports(probe, batch)
        return _Decoded(items, probe)

    def same(self, expected: _Decoded, actual: _Decoded, how: str) -> None:
        """Check that both decoded the same."""
        assert expected.items == actual.items, f"{how} the market data differs: " + _difference(
            expected.items, actual.items
        )
        assert _comparable(expected.probe) == _comparable(actual.probe), (
            f"{how} the reports to the context differ: {expected.probe.outcomes!r:.500} and"
            f" {actual.probe.outcomes!r:.500}"
        )


def _comparable(probe: CodecProbe) -> tuple[Any, ...]:
    events = Counter(map(repr, probe.events))
    return probe.ignored_count, [m[0] for m in probe.malformed_messages], events


def _check_item(item: Any, batch: list[bytes]) -> None:
    symbol, moment = getattr(item, "symbol", None), getattr(item, "timestamp", None)
    if not (isinstance(symbol, str) and symbol):
        raise AssertionError(f"{item!r} has no symbol: {_shown(batch)}")
    if not (isinstance(moment, datetime) and moment.utcoffset() == timedelta()):
        raise AssertionError(f"{item!r} has no time in UTC: {_shown(batch)}")
    for name in ("bid", "ask", "price"):
        value = getattr(item, name, 0.0)
        if not (isinstance(value, int | float) and math.isfinite(value)):
            raise AssertionError(f"{item!r} has a {name} that is not finite: {_shown(batch)}")
    for name in ("size", "bid_size", "ask_size", "volume"):
        value = getattr(item, name, 0.0)
        if not (isinstance(value, int | float) and is_quantity(value)):
            raise AssertionError(
                f"{item!r} has a {name} that is neither finite and not negative, nor NaN for"
                f" absent: {_shown(batch)}"
            )


def _check_reports(probe: CodecProbe, batch: list[bytes]) -> None:
    """Check that symbols and reasons in the reports are text: the feed needs that."""
    for _payload, reason, symbol in probe.malformed_messages:
        ok = isinstance(reason, str) and isinstance(symbol, str | None)
        assert ok, f"malformed got {reason!r} and {symbol!r}: {_shown(batch)}"
    for name, *values in probe.events:
        if name == "refused":
            ok = isinstance(values[0], str | None) and isinstance(values[1], str)
            assert ok, f"refused got {values[0]!r} and {values[1]!r}: {_shown(batch)}"
        elif name == "reply":
            assert isinstance(values[0], str | bytes), f"reply got {values[0]!r}: {_shown(batch)}"
        elif name in ("gap", "need_snapshot", "reconnect"):
            assert isinstance(values[0], str), f"{name} got {values[0]!r}: {_shown(batch)}"


def _split(payloads: list[bytes], random: Random) -> list[list[bytes]]:
    """Return *payloads* in batches of random lengths."""
    batches = []
    first = 0
    while first < len(payloads):
        length = random.choice((1, 2, 3, 7, 50))
        batches.append(payloads[first : first + length])
        first += length
    return batches


def _broken(payload: bytes, random: Random) -> bytes:
    """Return *payload* cut off, or with some bytes changed, left out or doubled."""
    where = random.randrange(len(payload) + 1)
    how = random.randrange(4)
    if how == 0:
        return payload[:where]
    if how == 1:
        return payload[:where] + bytes([random.randrange(256)]) + payload[where + 1 :]
    if how == 2:
        return payload[:where] + payload[where + random.randrange(1, 9) :]
    return payload[:where] + payload[max(0, where - random.randrange(1, 9)) :]


def _shown(batch: list[bytes]) -> str:
    return f"{batch[0]!r:.300}" if len(batch) == 1 else f"a batch of {len(batch)} messages"


def _difference(expected: list[Any], actual: list[Any]) -> str:
    for number, (one, other) in enumerate(zip(expected, actual, strict=False)):
        if one != other:
            return f"item {number} is {other!r}, not {one!r}"
    return f"{len(actual)} items, not {len(expected)}"
