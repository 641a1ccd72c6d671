"""A codec that is wrong, or is made wrong by a venue, while the feed runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.feed_venues import Collector, memory_feed, quote, running, says, tick, websocket
from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.venues.kraken import KrakenCodec
from trio_ticks.testing import check_codec


class Quotes(tt.Codec):
    """Reads quotes of the flat form."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str]:
        return [json.dumps(list(symbols))]

    def decode_one(self, payload: bytes, /) -> Any:
        fields = json.loads(payload)
        return tick(fields["symbol"], fields["volume"])


def codec(**methods: Any) -> type[tt.Codec]:
    return type("Wrong", (Quotes,), methods)


def _lazily(_self: object, payloads: Sequence[bytes]) -> Iterator[Any]:
    return (tick() for _ in payloads)


JUNK = [
    (codec(decode=_lazily), "decode must return a list of items, not <generator"),
    (codec(decode=lambda _self, _payloads: {tick()}), "must return a list of items, not {Tick"),
    (codec(decode=lambda _self, _payloads: None), "must return a list of items, not None"),
    (codec(decode_one=lambda _self, _payload: {"a": 1}), "returned {'a': 1}, which is no market"),
    (codec(decode_one=lambda _self, _payload: [tick(), None]), "returned None, which is no market"),
    (
        codec(decode_one=lambda _self, _payload: SimpleNamespace(symbol=5)),
        r"returned namespace\(symbol=5\), which is no market",
    ),
    (codec(decode_one=lambda _self, _payload: SimpleNamespace(symbol=[])), "is no market data"),
]


@pytest.mark.parametrize(("wrong", "message"), JUNK)
async def test_what_is_no_item_ends_the_feed_by_name(
    wrong: type[tt.Codec], message: str, autojump_clock: MockClock
) -> None:
    async with memory_feed(websocket(says(quote())), venue=wrong) as (feed, _):
        with pytest.raises(tt.ConfigError, match=f"^the codec Wrong.*{message}"):
            await feed.run(Collector())


@pytest.mark.parametrize(("wrong", "message"), JUNK[:5])
async def test_so_it_does_in_a_recording(
    wrong: type[tt.Codec], message: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_text(f"1772461800000000000 {quote()}\n")
    with pytest.raises(tt.ConfigError, match=f"^the codec Wrong.*{message}"):
        await tt.ReplayFeed(path, venue=wrong).run(Collector())


async def test_a_constructor_that_leaves_out_the_context(autojump_clock: MockClock) -> None:
    class Alone(Quotes):
        def __init__(self, context: tt.CodecContext) -> None:
            self.seen = 0

    message = r"the codec Alone has no context: .* must call super\(\).__init__\(context\)"
    with pytest.raises(tt.ConfigError, match=message):
        check_codec(Alone, [quote()], ["SPY"])
    async with memory_feed(websocket(says(quote())), venue=Alone) as (feed, _):
        with pytest.raises(tt.ConfigError, match=message):
            await feed.run(Collector())


def test_check_codec_finds_what_can_be_read_once() -> None:
    with pytest.raises(AssertionError, match="decode must return a list, not generator"):
        check_codec(codec(decode=_lazily), [quote()], ["SPY"])


def test_check_codec_finds_replies_that_cannot_be_sent() -> None:
    def decode_one(self: tt.Codec, payload: bytes, /) -> Any:
        self.context.reply(json.loads(payload)["volume"])
        return Quotes.decode_one(self, payload)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="reply got 0"):
        check_codec(codec(decode_one=decode_one), [quote()], ["SPY"])


async def test_a_reply_that_is_no_text_ends_the_feed(autojump_clock: MockClock) -> None:
    def decode_one(self: tt.Codec, payload: bytes, /) -> None:
        self.context.reply({"op": "pong"})  # type: ignore[arg-type]

    async with memory_feed(websocket(says("{}")), venue=codec(decode_one=decode_one)) as (feed, _):
        with pytest.raises(tt.ConfigError, match=r"reply takes a str or bytes, not \{'op'"):
            await feed.run(Collector())
    assert feed.malformed == 0


async def test_a_venue_cannot_make_a_reply_that_ends_the_feed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Echo(Quotes):
        def decode_one(self, payload: bytes, /) -> Any:
            fields = json.loads(payload)
            if "ping" in fields:
                self.context.reply("pong " + fields["ping"])
                return None
            return super().decode_one(payload)

    messages = '{"ping": "\\ud800"}', quote()
    collector = Collector()
    async with (
        memory_feed(websocket(says(*messages)), venue=Echo) as (feed, _),
        running(feed, collector),
    ):
        await collector.wait_for(1)
    assert feed.malformed == 1
    assert "the reply to it would have no UTF-8 form" in caplog.text


async def test_a_request_without_an_utf_8_form(autojump_clock: MockClock) -> None:
    wrong = codec(subscribe=lambda _self, _symbols: ["\ud800"])
    async with memory_feed(websocket(says()), venue=wrong) as (feed, _):
        with pytest.raises(tt.ConfigError, match="subscribe made a text that is not Unicode"):
            await feed.run(Collector())


async def test_next_finds_nothing_in_a_message(autojump_clock: MockClock) -> None:
    def decode_one(_self: object, payload: bytes, /) -> Any:
        return next(tick(word) for word in payload.decode().split() if word == "SPY")

    collector = Collector()
    script = websocket(says("none", "SPY"))
    async with (
        memory_feed(script, venue=codec(decode_one=decode_one)) as (feed, _),
        running(feed, collector),
    ):
        await collector.wait_for(1)
    assert (len(collector.ticks), feed.malformed) == (1, 1)


@pytest.mark.parametrize("fault", ["throttle", "unsubscribe"])
async def test_an_error_in_a_request_of_the_throttle_is_not_buried(
    fault: str, autojump_clock: MockClock
) -> None:
    class Oops(Exception):
        pass

    def raises(_self: object, _argument: object) -> None:
        raise Oops

    methods = {"unsubscribe": lambda _self, _symbols: ["-"], fault: raises}
    messages = [quote("SPY", n) for n in range(50)] + [quote("QQQ", n) for n in range(50)]

    async def talk(ws: Any) -> None:
        while True:
            await says(*messages, then=_nothing)(ws)
            await trio.sleep(0.1)

    async with memory_feed(websocket(talk), venue=codec(**methods)) as (feed, _):
        feed.throttle(1)
        with pytest.raises(Oops):
            await feed.run(Collector())


async def _nothing(_ws: Any) -> None:
    pass


def test_default_channels_are_channels() -> None:
    wrong = codec(channels=("quotes",), default_channels=("quote",))
    with pytest.raises(tt.ConfigError, match="default_channels has 'quote', and channels has not"):
        find_language(wrong)


def test_a_method_can_be_called() -> None:
    with pytest.raises(tt.ConfigError, match="the codec Wrong: throttle must be a method, not 5"):
        find_language(codec(throttle=5))


async def test_a_codec_may_keep_what_it_has_returned(autojump_clock: MockClock) -> None:
    """Under another name too: the feed does not write it into the codec's own item."""

    class Keeps(Quotes):
        last: Any = None

        def decode_one(self, payload: bytes, /) -> Any:
            volume = json.loads(payload)["volume"]
            self.last = attrs.evolve(self.last or tick(), volume=volume)
            return self.last

    collector = Collector()
    script = websocket(says(*(quote(volume=n) for n in range(5))))
    async with (
        memory_feed(script, venue=Keeps, symbols={"SPY": "SPY.x"}) as (feed, _),
        running(feed, collector),
    ):
        await collector.wait_for(5)
    assert [(t.symbol, t.volume) for t in collector.ticks] == [("SPY.x", n) for n in range(5)]
    assert feed.stats.unasked == 0


async def test_kraken_closes_candles_under_other_names(autojump_clock: MockClock) -> None:
    def candle(minute: int) -> str:
        entry = {
            "symbol": "BTC/USD",
            "interval": 1,
            "interval_begin": f"2026-08-26T11:{minute}:00Z",
            "open": 1.0,
            "high": 2.0,
            "low": 1.0,
            "close": 2.0,
            "volume": 3.0,
        }
        return json.dumps({"channel": "ohlc", "type": "update", "data": [entry]})

    collector = Collector()
    async with (
        memory_feed(
            websocket(says(candle(55), candle(56), candle(57))),
            venue=KrakenCodec,
            channels=["ohlc"],
            symbols={"BTC/USD": "BTC"},
        ) as (feed, _),
        running(feed, collector),
    ):
        await collector.wait_for(5)
    found: list[Any] = collector.ticks
    shown = [(bar.symbol, bar.timestamp.minute, bar.closed) for bar in found]
    assert shown == [
        ("BTC", 55, False),
        ("BTC", 55, True),
        ("BTC", 56, False),
        ("BTC", 56, True),
        ("BTC", 57, False),
    ]
    assert feed.stats.unasked == 0


async def test_symbols_of_a_wildcard_are_text_to_be_shown(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = ["A", "B\x1b[2J", "C\nD", "\ud800", "E" * 256, "F" * 257]
    everything = codec(wildcard="*")
    collector = Collector()
    script = websocket(says(*map(quote, names), quote("Z")))
    async with (
        memory_feed(script, venue=everything, symbols=["*"]) as (feed, _),
        running(feed, collector),
    ):
        await collector.wait_for(3)
    assert [t.symbol for t in collector.ticks] == ["A", "E" * 256, "Z"]
    assert feed.malformed == 4
    assert "\x1b" not in caplog.text
