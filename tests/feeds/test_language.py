"""What a codec class declares, and the errors of classes that declare it wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trio_ticks.errors import ConfigError
from trio_ticks.feeds.venues import (
    VENUES,
    Codec,
    KeepAlive,
    Language,
    Limits,
    MalformedMessage,
    find_language,
)
from trio_ticks.feeds.venues.binance import BinanceCodec
from trio_ticks.feeds.venues.flat import FlatCodec
from trio_ticks.feeds.websocket.feed import WebSocketFeed
from trio_ticks.testing import CodecProbe


class PlainCodec(Codec):
    """Has what a codec must have, and nothing else."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return list(symbols)

    def decode_one(self, payload: bytes, /) -> Any:
        return payload


class RichCodec(PlainCodec):
    """Declares all there is."""

    url = "wss://venue.test/ws"
    channels = ("quotes", "trades", "book")
    default_channels = ("quotes",)
    notices = {"quotes": "slow", "trades": "fast"}  # noqa: RUF012  # as a user writes it
    wildcard = "*"
    keep_alive = KeepAlive("ping", every_s=20)
    limits = Limits(subscriptions=10, messages_per_s=5, connects_per_min=30, subscribe_within_s=9)
    packing = "gzip"
    compression = "permessage-deflate"
    final_close_codes = frozenset({4001})

    def unsubscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return []

    def throttle(self, max_rate: float | None) -> list[str]:
        return []


# Names and classes


@pytest.mark.parametrize(("name", "codec"), [("flat", FlatCodec), ("binance", BinanceCodec)])
def test_venues_by_name(name: str, codec: type[Codec]) -> None:
    language = find_language(name)
    assert VENUES[name] is codec
    assert language.name == name
    assert language.new_codec is codec


@pytest.mark.parametrize("name", sorted(VENUES))
def test_every_venue_says_what_it_is(name: str) -> None:
    assert (VENUES[name].__doc__ or "").splitlines()[0].endswith((".", "tutorial."))
    assert find_language(name) == find_language(VENUES[name])


@pytest.mark.parametrize(
    ("codec", "name"), [(PlainCodec, "plain"), (type("Codec", (PlainCodec,), {}), "Codec")]
)
def test_a_class_of_ones_own_is_named_after_itself(codec: type[Codec], name: str) -> None:
    assert find_language(codec).name == name


@pytest.mark.parametrize("venue", ["nyse", "Flat", ""])
def test_unknown_venues(venue: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown venue '{venue}': choose one of binance, .*"):
        find_language(venue)


@pytest.mark.parametrize("venue", [None, 5, ["flat"], PlainCodec(CodecProbe())])
def test_neither_a_name_nor_a_class(venue: Any) -> None:
    with pytest.raises(ConfigError, match=f"not an object of type {type(venue).__name__}"):
        find_language(venue)


# Declarations


def test_what_is_declared_by_default() -> None:
    assert find_language(PlainCodec) == Language(
        name="plain",
        new_codec=PlainCodec,
        url=None,
        channels=(),
        all_channels=(),
        wildcard=None,
        keep_alive=None,
        limits=Limits(),
        packing=None,
        compression=None,
        final_close_codes=frozenset(),
        asks_for_rate=False,
        unsubscribes=False,
    )


def test_all_that_is_declared() -> None:
    assert find_language(RichCodec) == Language(
        name="rich",
        new_codec=RichCodec,
        url="wss://venue.test/ws",
        channels=("quotes",),
        all_channels=("quotes", "trades", "book"),
        notices=("slow",),
        wildcard="*",
        keep_alive=KeepAlive("ping", every_s=20),
        limits=RichCodec.limits,
        packing="gzip",
        compression="permessage-deflate",
        final_close_codes=frozenset({4001}),
        asks_for_rate=True,
        unsubscribes=True,
    )


def test_what_the_venues_of_the_library_can_do() -> None:
    flat, binance = find_language("flat"), find_language("binance")
    assert (flat.asks_for_rate, flat.unsubscribes, flat.url) == (True, True, None)
    assert (binance.asks_for_rate, binance.unsubscribes) == (False, True)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("url", 5, "a str or None"),
        ("channels", "quotes", "a tuple of names"),
        ("channels", ["quotes"], "a tuple of names"),
        ("default_channels", "quotes", "a tuple of names"),
        ("wildcard", True, "a str or None"),
        ("keep_alive", "ping", "a KeepAlive or None"),
        ("limits", None, "a Limits"),
        ("limits", {"subscriptions": 5}, "a Limits"),
        ("packing", "zip", "None, 'gzip' or 'deflate'"),
        ("packing", 5, "None, 'gzip' or 'deflate'"),
        ("compression", "gzip", "None or 'permessage-deflate'"),
        ("compression", 5, "None or 'permessage-deflate'"),
        ("final_close_codes", 4001, "a set of close codes"),
        ("final_close_codes", [4001], "a set of close codes"),
    ],
)
def test_wrong_declarations(field: str, value: Any, shown: str) -> None:
    codec = type("WrongCodec", (PlainCodec,), {field: value})
    with pytest.raises(ConfigError, match=rf"the codec WrongCodec: {field} must be {shown}"):
        find_language(codec)


@pytest.mark.parametrize(
    ("methods", "missing"),
    [
        ({}, "subscribe"),
        ({"decode_one": PlainCodec.decode_one}, "subscribe"),
        ({"decode": FlatCodec.decode}, "subscribe"),
        ({"subscribe": None, "decode_one": PlainCodec.decode_one}, "subscribe"),
        ({"subscribe": PlainCodec.subscribe}, "decode or decode_one"),
        ({"subscribe": PlainCodec.subscribe, "decode": 5}, "decode or decode_one"),
        (
            {
                "subscribe": PlainCodec.subscribe,
                "decode_one": PlainCodec.decode_one,
                "unsubscribe": None,
            },
            "unsubscribe",
        ),
    ],
)
def test_missing_methods(methods: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"the codec HalfCodec has no method {missing}$"):
        find_language(type("HalfCodec", (Codec,), methods))


def test_no_codec_at_all() -> None:
    with pytest.raises(ConfigError, match="the codec int has no method subscribe"):
        find_language(int)


@pytest.mark.parametrize(
    "limits",
    [
        {"subscriptions": 0},
        {"subscriptions": 1.5},
        {"messages_per_s": -1},
        {"connects_per_min": True},
        {"subscribe_within_s": 0},
        {"subscribe_within_s": float("inf")},
    ],
)
def test_wrong_limits(limits: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize(
    ("message", "times", "field"),
    [
        (5, {"every_s": 1}, "message"),
        ("ping", {"every_s": 0}, "every_s"),
        ("ping", {"every_s": 1, "within_s": 0}, "within_s"),
        ("ping", {"every_s": "1"}, "every_s"),
    ],
)
def test_wrong_keep_alives(message: Any, times: Any, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        KeepAlive(message, **times)


# Channels


@pytest.mark.parametrize(
    ("chosen", "channels"),
    [
        (None, ("quotes",)),
        ("all", ("quotes", "trades", "book")),
        ("trades", ("trades",)),
        (["trades"], ("trades",)),
        (iter(["book", "quotes", "book"]), ("book", "quotes")),
    ],
)
def test_channels(chosen: Any, channels: tuple[str, ...]) -> None:
    assert find_language(RichCodec, chosen).channels == channels


def test_without_default_channels_all_are_subscribed_to() -> None:
    codec = type("AllCodec", (PlainCodec,), {"channels": ("a", "b")})
    assert find_language(codec).channels == ("a", "b")


@pytest.mark.parametrize("chosen", ["candles", ["quotes", "candles"]])
def test_unknown_channels(chosen: Any) -> None:
    with pytest.raises(ConfigError, match="no channel 'candles': it has quotes, trades, book"):
        find_language(RichCodec, chosen)


def test_no_channels_to_choose_from() -> None:
    with pytest.raises(ConfigError, match="it has no channels to choose from"):
        find_language(PlainCodec, "quotes")
    assert find_language(PlainCodec, "all").channels == ()


@pytest.mark.parametrize("chosen", [[], ()])
def test_no_channel_chosen(chosen: Any) -> None:
    with pytest.raises(ConfigError, match="at least one channel"):
        find_language(RichCodec, chosen)


@pytest.mark.parametrize("chosen", [5, [5], [["quotes"]], b"quotes"])
def test_channels_that_are_no_names(chosen: Any) -> None:
    with pytest.raises(ConfigError, match="channel"):
        find_language(RichCodec, chosen)


@pytest.mark.parametrize(
    ("subscriptions", "channels", "symbols"),
    [
        (None, None, None),
        (10, None, 10),
        (10, "all", 3),
        (2, "all", 1),
        (10, ["book", "trades"], 5),
    ],
)
def test_how_many_symbols_a_connection_takes(
    subscriptions: int | None, channels: Any, symbols: int | None
) -> None:
    codec = type("NarrowCodec", (RichCodec,), {"limits": Limits(subscriptions=subscriptions)})
    assert find_language(codec, channels).max_symbols == symbols


# What a codec inherits


class OneByOne(PlainCodec):
    def decode_one(self, payload: bytes, /) -> Any:
        kind, _, rest = payload.decode().partition(":")
        if kind == "many":
            return rest.split(",") if rest else []
        if kind == "tuple":
            return tuple(rest.split(","))
        if kind == "raise":
            raise {"key": KeyError("price"), "type": TypeError(), "zero": ZeroDivisionError("x")}[
                rest
            ]
        if kind == "malformed":
            raise MalformedMessage("no price", rest or None)
        return rest or None


def test_decode_by_default() -> None:
    probe = CodecProbe()
    texts = ["one:a", "none:", "many:b,c", "many:", "tuple:d,e", "raise:key", "raise:type"]
    texts += ["raise:zero", "malformed:SPY", "malformed:", "one:f"]
    payloads = [text.encode() for text in texts]
    assert OneByOne(probe).decode([*payloads, b"\xff"]) == ["a", "b", "c", "d", "e", "f"]
    assert probe.ignored_count == 2
    assert [(reason, symbol) for _, reason, symbol in probe.malformed_messages[:-1]] == [
        ("no 'price'", None),
        ("TypeError", None),
        ("x", None),
        ("no price", "SPY"),
        ("no price", None),
    ]
    assert probe.malformed_messages[-1][0] == b"\xff"


def test_a_bug_in_a_codec_comes_out() -> None:
    class BuggyCodec(PlainCodec):
        def decode_one(self, payload: bytes, /) -> Any:
            raise AssertionError

    with pytest.raises(AssertionError):
        BuggyCodec(CodecProbe()).decode([b"x"])


def test_what_was_not_written() -> None:
    codec: Any = Codec.__new__(type("EmptyCodec", (Codec,), {}))
    with pytest.raises(NotImplementedError, match="EmptyCodec has no method subscribe"):
        codec.subscribe(["A"])
    with pytest.raises(NotImplementedError, match="EmptyCodec has neither decode nor decode_one"):
        codec.decode_one(b"")
    assert codec.unsubscribe(["A"]) == ()


# The feed


def test_a_feed_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="the venue 'plain' has no address of its own"):
        WebSocketFeed(symbols=["A"], venue=PlainCodec)
    assert WebSocketFeed(symbols=["A"], venue=RichCodec).url == "wss://venue.test/ws"


def test_a_feed_needs_symbols_or_a_wildcard() -> None:
    with pytest.raises(ConfigError, match="at least one symbol"):
        WebSocketFeed("ws://x", venue=PlainCodec)
    assert WebSocketFeed(venue=RichCodec).symbols == ("*",)


def test_a_feed_is_named_after_its_venue() -> None:
    assert WebSocketFeed(venue=RichCodec).name == "rich"
    assert WebSocketFeed(venue=RichCodec, name="mine").name == "mine"
    with pytest.raises(ConfigError, match="no channel 'candles'"):
        WebSocketFeed(venue=RichCodec, channels="candles")


@pytest.mark.parametrize(
    ("codec", "way"), [(PlainCodec, "read"), (RichCodec, "request"), (BinanceCodec, "pause")]
)
def test_only_a_codec_that_can_unsubscribe_pauses_symbols(codec: type[Codec], way: str) -> None:
    assert WebSocketFeed("ws://x", ["A", "B"], venue=codec).throttle_way == way
