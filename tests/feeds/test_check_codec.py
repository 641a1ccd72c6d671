"""check_codec finds each fault that is put into a codec, and names it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from trio_ticks.feeds.venues import Codec
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import Tick, Trade, unchecked_tick, unchecked_trade

NEW_YORK = timezone(timedelta(hours=-5))
MESSAGES = [
    *(
        json.dumps({"symbol": symbol, "time": n, "price": n + 0.5, "size": 1})
        for n in range(20)
        for symbol in ("SPY", "QQQ")
    ),
    '{"type":"heartbeat"}',
    '{"symbol":"SPY"}',
]


class GoodCodec(Codec):
    """Reads trades without a fault; the others derive from it."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return [json.dumps({"subscribe": list(symbols)})]

    def decode_one(self, payload: bytes, /) -> Any:
        fields = json.loads(payload)
        if fields.get("type") == "heartbeat":
            return None
        price = float(fields["price"])
        return Trade(fields["symbol"], self.time_of(fields), price, float(fields["size"]))

    def time_of(self, fields: dict[str, Any]) -> datetime:
        return datetime.fromtimestamp(fields["time"], UTC)


def check(codec: type[Codec], messages: Sequence[bytes | str] = MESSAGES) -> None:
    check_codec(codec, messages, ["SPY", "QQQ"])


def test_no_fault() -> None:
    check(GoodCodec)


class RaisesOnJunk(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        for payload in payloads:
            payload.decode()
        return list(super().decode(payloads))


class RaisesOnItsOwnMessages(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        items = [self.decode_one(payload) for payload in payloads]
        self.context.ignored(items.count(None))
        return [item for item in items if item is not None]


class LosesOrder(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        return sorted(super().decode(payloads), key=lambda item: str(item.symbol))


class CountsTwice(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        if b"heartbeat" in payload:
            self.context.ignored()
        return super().decode_one(payload)


class CountsWhatItDecodes(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        item = super().decode_one(payload)
        self.context.ignored()
        return item


class DropsSilently(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        return list(super().decode([p for p in payloads if b"heartbeat" not in p]))


class DropsTheRestOfABadBatch(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        items = []
        for number, payload in enumerate(payloads):
            try:
                items.append(self.decode_one(payload))
            except Exception as error:
                for bad in payloads[number:]:
                    self.context.malformed(bad, str(error))
                break
        self.context.ignored(items.count(None))
        return [item for item in items if item is not None]


class NaiveTimes(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        trade = super().decode_one(payload)
        moment = trade and trade.timestamp.replace(tzinfo=None)
        return trade and unchecked_trade(trade.symbol, moment, trade.price, 1.0, "neutral", None)


class LocalTimes(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        trade = super().decode_one(payload)
        moment = trade and trade.timestamp.astimezone(NEW_YORK)
        return trade and unchecked_trade(trade.symbol, moment, trade.price, 1.0, "neutral", None)


class NoSymbols(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        trade = super().decode_one(payload)
        return trade and unchecked_trade("", trade.timestamp, trade.price, 1.0, "neutral", None)


class NotFinite(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        trade = super().decode_one(payload)
        if trade is None:
            return None
        return unchecked_tick(trade.symbol, trade.timestamp, float("nan"), 1.0, 1.0, 1.0, 1.0)


class NegativeSizes(GoodCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        trade = super().decode_one(payload)
        if trade is None:
            return None
        return unchecked_tick(trade.symbol, trade.timestamp, 1.0, 2.0, -1.0, math.nan, math.nan)


class StateOfABatch(GoodCodec):
    """Numbers the items of each batch, from 1."""

    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        return [
            Trade(item.symbol, item.timestamp, item.price, float(number))
            for number, item in enumerate(super().decode(payloads), 1)
        ]


class StateOfJunk(GoodCodec):
    """Each bad message changes what comes after it."""

    junk = 0

    def decode_one(self, payload: bytes, /) -> Any:
        try:
            item = super().decode_one(payload)
        except Exception:
            self.junk += b"symbol" not in payload
            raise
        if item is None:
            return None
        return Trade(item.symbol, item.timestamp, item.price, item.size + self.junk)


class ReportsABatchOnce(GoodCodec):
    def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
        self.context.pong()
        return list(super().decode(payloads))


class BadRequests(GoodCodec):
    def subscribe(self, symbols: Sequence[str], /) -> Any:
        return [{"subscribe": list(symbols)}]


@pytest.mark.parametrize(
    ("codec", "fault"),
    [
        (RaisesOnJunk, r"decode raised UnicodeDecodeError\(.*\) on "),
        (RaisesOnItsOwnMessages, r"decode raised KeyError\('price'\) on b'\{\"symbol\":\"SPY\"\}'"),
        (LosesOrder, r"in other batches the market data differs: item \d+ is Trade\("),
        (CountsTwice, r"became 0 items, and was counted 2 times .*: b'\{\"type\":\"heartbeat\"\}'"),
        (CountsWhatItDecodes, r"became 1 items, and was counted 1 times as malformed or ignored"),
        (DropsSilently, r"became 0 items, and was counted 0 times .*heartbeat"),
        (DropsTheRestOfABadBatch, r"junk between the messages changes what they become: "),
        (NaiveTimes, r"has no time in UTC: b'\{\"symbol\": \"SPY\""),
        (LocalTimes, r"has no time in UTC: "),
        (NoSymbols, r"Trade\(symbol=''.*has no symbol: "),
        (NotFinite, r"has a bid that is not finite: "),
        (NegativeSizes, r"has a bid_size that is neither .* nor NaN for absent: "),
        (StateOfABatch, r"in other batches the market data differs: item 1 is .*size=2.0"),
        (StateOfJunk, r"junk between the messages changes what they become: item"),
        (ReportsABatchOnce, r"in other batches the reports to the context differ: "),
        (BadRequests, "BadRequests: subscribe must return a list of str or bytes"),
    ],
)
def test_each_fault_is_named(codec: type[Codec], fault: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check(codec)
    assert re.search(fault, str(caught.value)), str(caught.value)


def test_a_fault_in_a_broken_message_is_found() -> None:
    class BelievesInSizes(GoodCodec):
        def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
            for payload in payloads:
                if payload.endswith(b"1}"):
                    json.loads(payload)
            return list(super().decode(payloads))

    with pytest.raises(AssertionError, match="decode raised"):
        check(BelievesInSizes)


def test_it_wants_messages_of_the_venue() -> None:
    for messages in ([], ['{"type":"heartbeat"}']):
        with pytest.raises(AssertionError, match="give messages of the venue"):
            check(GoodCodec, messages)


def test_the_seed_decides_what_is_tried() -> None:
    tried: list[list[bytes]] = []

    class Witness(GoodCodec):
        def decode(self, payloads: Sequence[bytes], /) -> list[Any]:
            tried[-1] += payloads
            return list(super().decode(payloads))

    for seed in (1, 1, 2):
        tried.append([])
        check_codec(Witness, MESSAGES, ["SPY"], seed=seed)
    assert tried[0] == tried[1] != tried[2]


def test_a_probe_writes_down_all_that_is_reported() -> None:
    arrived = datetime(2026, 1, 1, tzinfo=UTC)
    probe = CodecProbe(("trades",), arrived)
    assert (probe.channels, probe.arrived) == (("trades",), arrived)
    probe.ignored()
    probe.ignored(3)
    probe.malformed(b"x", "why", "SPY")
    probe.refused("SPY", "no", final=True)
    probe.reply("pong")
    probe.pong()
    probe.gap("SPY", 3)
    probe.need_snapshot("SPY")
    probe.reconnect("bye")
    probe.answered("throttle", True)
    assert probe.outcomes == (
        4,
        [(b"x", "why", "SPY")],
        [
            ("refused", "SPY", "no", True),
            ("reply", "pong"),
            ("pong",),
            ("gap", "SPY", 3),
            ("need_snapshot", "SPY"),
            ("reconnect", "bye"),
            ("answered", "throttle", True),
        ],
    )
    assert CodecProbe().arrived.tzinfo is UTC


def test_unchecked_items_are_like_any_others() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert unchecked_tick("A", moment, 1.0, 2.0, 3.0, 4.0, 5.0) == Tick("A", moment, 1, 2, 3, 4, 5)
    assert unchecked_trade("A", moment, 1.0, 2.0, "buy", "7") == Trade(
        "A", moment, 1, 2, "buy", "7"
    )
