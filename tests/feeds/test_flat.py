"""The flat codec: which messages are ticks.

Batching, neighbours and shortcuts do not change what a message is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.venues.flat import FlatCodec
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import Tick

GOOD: dict[str, Any] = {
    "symbol": "SPY",
    "timestamp": "2026-03-02T14:30:00.123Z",
    "bid": 572.31,
    "ask": 572.32,
    "bid_size": 400,
    "ask_size": 300,
    "volume": 1201345,
}
QUANTITIES = ("bid_size", "ask_size", "volume")
WHEN = datetime(2026, 3, 2, 14, 30, 0, 123000, UTC)
TICK = Tick("SPY", WHEN, 572.31, 572.32, 400, 300, 1201345)


def new_codec() -> tuple[FlatCodec, CodecProbe]:
    probe = CodecProbe()
    return FlatCodec(probe), probe


def message(without: str = "", **changes: Any) -> bytes:
    return json.dumps(
        {key: value for key, value in {**GOOD, **changes}.items() if key != without}
    ).encode()


def raw(**changes: str) -> bytes:
    """Return a message with some values given as JSON text, valid or not."""
    texts = {key: json.dumps(value) for key, value in GOOD.items()} | changes
    return ("{" + ",".join(f'"{key}":{text}' for key, text in texts.items()) + "}").encode()


def outcome(payload: bytes) -> Tick | str:
    """Return what one message by itself becomes."""
    codec, probe = new_codec()
    ticks = codec.decode([payload])
    malformed = len(probe.malformed_messages)
    assert len(ticks) + malformed + probe.ignored_count == 1
    return ticks[0] if ticks else "malformed" if malformed else "ignored"


def test_a_tick() -> None:
    assert outcome(message()) == TICK


def test_no_payloads() -> None:
    codec, probe = new_codec()
    assert codec.decode([]) == []
    assert probe.outcomes == CodecProbe().outcomes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T14:30:00Z", WHEN.replace(microsecond=0)),
        ("2026-03-02T14:30:00.1Z", WHEN.replace(microsecond=100000)),
        ("2026-03-02T14:30:00.12345Z", WHEN.replace(microsecond=123450)),
        ("2026-03-02T14:30:00.123456Z", WHEN.replace(microsecond=123456)),
        ("2026-03-02T14:30:00.12345678Z", WHEN.replace(microsecond=123457)),
        ("2026-03-02T14:30:00.123456789Z", WHEN.replace(microsecond=123457)),
        ("2026-03-02T14:30:00.123+00:00", WHEN),
        ("2026-03-02T14:30:00.123-00:00", WHEN),
        ("2026-03-02T16:30:00.123+02:00", WHEN),
        ("2026-03-02T09:00:00.123-05:30", WHEN),
        ("2026-03-02T14:30:00.123", WHEN),
        ("2026-03-02 14:30:00.123Z", WHEN),
    ],
)
def test_timestamps(text: str, expected: datetime) -> None:
    tick = outcome(message(timestamp=text))
    assert isinstance(tick, Tick)
    assert tick.timestamp == expected
    assert tick.timestamp.tzinfo is UTC


@pytest.mark.parametrize("field", ["bid", "ask", "bid_size", "ask_size", "volume"])
@pytest.mark.parametrize("text", ['"42.5"', "42.5", '"4.25e1"', "4.25e+1"])
def test_numbers_may_come_as_text(field: str, text: str) -> None:
    assert getattr(outcome(raw(**{field: text})), field) == 42.5


@pytest.mark.parametrize("field", QUANTITIES)
def test_a_quantity_that_is_left_out_is_nan(field: str) -> None:
    whole = message()
    for payload in (message(without=field), message(without=field, bid="572.31")):
        expected = attrs.evolve(TICK, **{field: math.nan})  # type: ignore[arg-type]  # a quantity
        assert outcome(payload) == expected
        codec, _ = new_codec()
        found = codec.decode([whole, payload, whole])
        assert [math.isnan(getattr(tick, field)) for tick in found] == [False, True, False]


@pytest.mark.parametrize("field", QUANTITIES)
@pytest.mark.parametrize("other", QUANTITIES)
def test_an_absent_quantity_excuses_no_other(field: str, other: str) -> None:
    if field != other:
        for text in ("-1", '"nan"', '"inf"', "null", "1e999"):
            assert outcome(raw(**{other: text}).replace(f'"{field}"'.encode(), b'"x"')) == (
                "malformed"
            )


def test_a_message_without_a_size_hides_no_duplicate_key_in_another() -> None:
    # Together they have as many quotation marks as two whole ticks.
    twice = message().replace(b'"bid"', b'"bid":1,"bid"')
    codec, probe = new_codec()
    (tick,) = codec.decode([message(without="volume"), twice])
    assert math.isnan(tick.volume)
    assert [bad[0] for bad in probe.malformed_messages] == [twice]


def test_all_numbers_as_text() -> None:
    numbers = {key: str(value) for key, value in GOOD.items() if key not in ("symbol", "timestamp")}
    assert outcome(message(**numbers)) == TICK


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(message(bid=-37.63, ask=-37.60), id="negative prices"),
        pytest.param(message(bid=573.0), id="crossed quote"),
        pytest.param(message(bid_size=0, ask_size=0, volume=0), id="zero sizes"),
        pytest.param(message(symbol='A"B'), id="quotation mark in the symbol"),
        pytest.param(message(symbol="{A}\n"), id="braces and a newline in the symbol"),
        pytest.param(message(symbol="日経"), id="escaped symbol"),
        pytest.param(raw(symbol='"日経"'), id="symbol beyond ASCII"),
        pytest.param(b" \r\n\t" + message() + b"\n", id="white space around"),
        pytest.param(json.dumps(GOOD, indent=2).encode(), id="white space inside"),
        pytest.param(message().replace(b'"bid"', b'"\\u0062id"'), id="escaped key"),
        pytest.param(message(seq=17), id="unknown key"),
        pytest.param(message(seq=17, venue="ARCA"), id="unknown keys"),
        pytest.param(
            message(id=17, type="quote"), id="unknown keys that acknowledgements have too"
        ),
        pytest.param(message(extra={"a": [1, {"b": "c"}]}), id="unknown key with an object"),
        pytest.param(message(extra='"'), id="unknown key with a quotation mark"),
        pytest.param(raw(bid="1" + "0" * 22), id="an integer beyond 64 bits"),
    ],
)
def test_also_a_tick(payload: bytes) -> None:
    expected = json.loads(payload)
    tick = outcome(payload)
    assert isinstance(tick, Tick)
    for field in GOOD:
        if field != "timestamp":
            assert getattr(tick, field) == expected[field]


MALFORMED = [
    *(pytest.param(message(without=key), id=f"no {key}") for key in GOOD if key not in QUANTITIES),
    *(pytest.param(raw(**{field: "null"}), id=f"{field} null") for field in GOOD),
    *(pytest.param(raw(**{field: "true"}), id=f"{field} true") for field in GOOD),
    *(pytest.param(raw(**{field: "[1]"}), id=f"{field} a list") for field in GOOD),
    *(
        pytest.param(raw(**{field: text}), id=f"{field} {text[:12]}")
        for field in ("bid", "ask", "bid_size", "volume")
        for text in (
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1e999",
            "9" * 400,
            "01",
            "+1",
            ".5",
            "1_000",
            "0x10",
        )
    ),
    *(
        pytest.param(raw(**{field: f'"{text}"'}), id=f"{field} {text!r}")
        for field in ("bid", "ask", "ask_size", "volume")
        for text in (
            "nan",
            "NaN",
            "inf",
            "Infinity",
            "-Infinity",
            "1e999",
            "",
            " ",
            " 1",
            "1_000",
            "+1",
            "0x10",
            "one",
            "null",
            "true",
            "\u0661",
        )
    ),
    *(
        pytest.param(raw(**{field: "-1"}), id=f"{field} negative")
        for field in ("bid_size", "ask_size", "volume")
    ),
    *(
        pytest.param(raw(**{field: '"-1"'}), id=f"{field} negative, as text")
        for field in ("bid_size", "ask_size", "volume")
    ),
    *(
        pytest.param(raw(timestamp=text), id=f"timestamp {text}")
        for text in (
            "1772461800",
            "1772461800.5",
            '"1772461800"',
            '"1e9"',
            '""',
            '"yesterday"',
            '"2026-03-02"',
            '"2026-02-30T00:00:00Z"',
            '"2026-03-02T24:00:00Z"',
            '"2026-03-02T14:30:60Z"',
            '"0000-01-01T00:00:00Z"',
            '"0001-01-01T00:00:00+05:00"',
            '"9999-12-31T23:59:59-05:00"',
            '"9999-12-31T23:59:59.9999999Z"',
            '"10000-01-01T00:00:00Z"',
            '"2026-03-02T14:30:00+24:00"',
        )
    ),
    pytest.param(raw(symbol='""'), id="empty symbol"),
    pytest.param(raw(symbol="7"), id="symbol a number"),
    pytest.param(raw(symbol='"\\ud800"'), id="lone surrogate, high"),
    pytest.param(raw(symbol='"\\udc00x"'), id="lone surrogate, low"),
    pytest.param(message().replace(b"SPY", b"\xff\xfe"), id="invalid UTF-8"),
    pytest.param(message().replace(b"SPY", b"\xc0\xaf"), id="overlong UTF-8"),
    pytest.param(message().replace(b"SPY", b"\xed\xa0\x80"), id="surrogate in UTF-8"),
    pytest.param(message(seq=1).replace(b"seq", b"s\xffq"), id="invalid UTF-8 in an unknown key"),
    pytest.param(
        message(seq="x").replace(b'"x"', b'"\xff"'), id="invalid UTF-8 in an unknown value"
    ),
    pytest.param(message().replace(b"SPY", b"S\nY"), id="control character in a string"),
    pytest.param(raw(seq="1e999"), id="1e999 in an unknown value"),
    pytest.param(raw(seq="NaN"), id="NaN in an unknown value"),
    pytest.param(b"[" * 100_000, id="deep nesting, open"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep nesting"),
    pytest.param(raw(x="[" * 100_000 + "]" * 100_000), id="deep nesting inside a tick"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="deep nesting of objects"),
    pytest.param(b"[" + message() + b"]", id="array at the top"),
    pytest.param(b"", id="empty"),
    pytest.param(b" \n ", id="white space alone"),
    pytest.param(b"{}", id="empty object"),
    pytest.param(b"1", id="number"),
    pytest.param(b'"SPY"', id="string"),
    pytest.param(b"null", id="null"),
    pytest.param(b'{"foo":1}', id="an object of no known kind"),
    pytest.param(bytes(range(256)), id="binary junk"),
    pytest.param(b"\x00" * 1000, id="zeros"),
    pytest.param(b"\xef\xbb\xbf" + message(), id="byte order mark"),
    pytest.param(message() + message(), id="two in one"),
    pytest.param(message() + b"\n" + message(), id="two in one, on two lines"),
    pytest.param(message() + b"\x00", id="trailing zero"),
    pytest.param(message()[:-1], id="cut off at the end"),
    pytest.param(message()[1:], id="cut off at the beginning"),
    pytest.param(message().replace(b'"bid"', b'"bid": 1, "bid"'), id="duplicate key"),
    pytest.param(message().replace(b'"bid"', b'"bid":"1","bid"'), id="duplicate key with text"),
    pytest.param(
        message().replace(b'"bid"', b'"\\u0062id": 1, "bid"'), id="duplicate key, escaped"
    ),
    pytest.param(message().replace(b'"symbol"', b'"symbol":"QQQ","symbol"'), id="duplicate symbol"),
    pytest.param(message(seq=1)[:-1] + b',"seq":2}', id="duplicate unknown key"),
    pytest.param(message()[:-1] + b',"x":{"a":1,"a":2}}', id="duplicate key further in"),
    pytest.param(b'{"id":1,"id":2}', id="duplicate key in an acknowledgement"),
    pytest.param(b'{"id":1,"bid":2}', id="quote without a symbol"),
]


@pytest.mark.parametrize("payload", MALFORMED)
def test_malformed(payload: bytes) -> None:
    assert outcome(payload) == "malformed"


@pytest.mark.parametrize("payload", MALFORMED)
def test_a_malformed_message_costs_no_other(payload: bytes) -> None:
    codec, probe = new_codec()
    first, last = message(symbol="first"), message(symbol="last")
    assert [tick.symbol for tick in codec.decode([first, payload, last])] == ["first", "last"]
    assert [bad[0] for bad in probe.malformed_messages] == [payload]
    assert probe.ignored_count == 0


IGNORED = [
    b'{"id":1,"result":null}',
    b'{"id":1,"result":{"symbols":["SPY"]}}',
    b'{"id":1,"error":{"code":-32602,"message":"unknown symbol"}}',
    b'{"method":"subscribe","success":true,"params":{"symbols":["SPY"]}}',
    b'{"type":"heartbeat","timestamp":"2026-03-02T14:30:00Z"}',
    b' {"event" : "info"}\n',
]


@pytest.mark.parametrize("payload", IGNORED)
def test_ignored(payload: bytes) -> None:
    assert outcome(payload) == "ignored"


def test_each_error_is_a_refusal() -> None:
    codec, probe = new_codec()
    refused = [
        b'{"id":1,"error":"no such symbol"}',
        b'{"id":1,"error":{"code":-1,"message":"no more"},"symbol":"QQQ"}',
        b'{"id":1,"error":{"msg":"enough"},"symbol":7}',
        b'{"error":{"code":-1}}',
        b'{"id":1,"error":null}',
    ]
    assert codec.decode(refused) == []
    assert probe.ignored_count == 5
    assert probe.events == [
        ("refused", None, "no such symbol", False),
        ("refused", "QQQ", "no more", False),
        ("refused", None, "enough", False),
        ("refused", None, '{"code":-1}', False),
    ]


@pytest.mark.parametrize(
    ("payload", "symbol"),
    [
        (message(bid="nan"), "SPY"),
        (message(without="bid"), "SPY"),
        (message(symbol=7), None),
        (message(symbol=""), None),
        (b'{"symbol":"SPY"', None),
        (b'["symbol"]', None),
        (b"[" * 100_000, None),
    ],
)
def test_a_malformed_message_may_tell_its_symbol(payload: bytes, symbol: str | None) -> None:
    codec, probe = new_codec()
    codec.decode([payload])
    ((_payload, reason, told),) = probe.malformed_messages
    assert told == symbol
    assert reason


def test_requests() -> None:
    codec, _ = new_codec()
    (subscribe,) = codec.subscribe(["SPY", 'A"B'])
    assert subscribe == '{"method":"subscribe","params":{"symbols":["SPY","A\\"B"]},"id":1}'
    (unsubscribe,) = codec.unsubscribe(("SPY",))
    assert json.loads(unsubscribe)["method"] == "unsubscribe"
    assert json.loads(unsubscribe)["params"] == {"symbols": ["SPY"]}


def test_no_split_of_a_message_makes_ticks_of_its_parts() -> None:
    good = message()
    for cut in range(1, len(good)):
        codec, probe = new_codec()
        # As many ticks as payloads if they were read as one text: two share a payload,
        # and one was cut.
        assert codec.decode([good[:cut], good[cut:], good + good]) == []
        assert len(probe.malformed_messages) == 3


def test_nested_unknown_keys_cannot_bridge_two_payloads() -> None:
    halves = [message()[:-1] + b',"x":', b'{"y":1}}']
    codec, probe = new_codec()
    assert codec.decode([*halves, message() + message()]) == []
    assert len(probe.malformed_messages) == 3


def test_nor_where_the_quotation_marks_add_up() -> None:
    halves = [message()[:-1] + b',"a":"b","c":"d","e":', b'{"f":"g","h":"i"}}']
    assert b"".join(halves).count(b'"') == 2 * message().count(b'"')
    codec, probe = new_codec()
    assert codec.decode(halves) == []
    assert len(probe.malformed_messages) == 2


@pytest.mark.parametrize("inside", [b"{}", b"[]", b"[{}]", b"{ }"])
def test_nor_by_something_inside_without_a_mark(inside: bytes) -> None:
    """Two ticks, each in an object of its own, but not where the payloads are."""
    halves = [message()[:-1] + b',"x":', inside + b"}\n" + message()]
    codec, probe = new_codec()
    assert codec.decode(halves) == []
    assert len(probe.malformed_messages) == 2
    for number in range(3):
        nested = message()[:-1] + b',"x":' + inside + b',"y":"z"' * number + b"}"
        codec, probe = new_codec()
        twice = number > 1
        assert len(codec.decode([nested, nested])) == (0 if twice else 2)
        assert len(probe.malformed_messages) == (2 if twice else 0)


def test_a_key_that_comes_twice_is_found_in_any_company() -> None:
    """Whatever the other messages of the batch have more, or less."""
    more = message()[:-1]
    others = [
        message(),
        more + b',"a":"b"}',
        more + b',"a":1,"c":null,"d":true}',
        more + b',"a":"\\"","b":"c"}',
        more + b',"a":12345678901234567890123456789}',
    ]
    for twice in (more + b',"a":1,"a":"b"}', more + b',"bid":1}', more + b',"n":2,"n":2}'):
        for other in others:
            codec, probe = new_codec()
            assert len(codec.decode([other, twice, other])) == 2
            ((payload, _reason, _symbol),) = probe.malformed_messages
            assert payload == twice


def test_check_codec_finds_no_fault() -> None:
    messages = [
        *(param.values[0] for param in MALFORMED),
        *IGNORED,
        *(message(symbol=symbol, volume=n) for n in range(20) for symbol in ("SPY", "QQQ")),
        message(bid="572.31"),
        message(seq=17),
    ]
    short = [m for m in messages if isinstance(m, bytes) and len(m) < 1000]
    check_codec("flat", short, ["SPY", "QQQ"])


# Messages whose outcome is known by how they were made.

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
symbols = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
# Away from the edges of the calendar, where an offset leads out of it.
moments = st.datetimes(
    min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)
)
offsets = st.integers(min_value=-23 * 60, max_value=23 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


def write_time(moment: datetime, zone: timezone | None, zulu: bool) -> str:
    if zone is not None:
        return moment.astimezone(zone).isoformat()
    text = moment.replace(tzinfo=None).isoformat()
    return text + "Z" if zulu else text


@st.composite
def tick_messages(draw: st.DrawFn) -> tuple[bytes, Tick]:
    tick = Tick(
        draw(symbols),
        draw(moments),
        draw(finite),
        draw(finite),
        draw(positive),
        draw(positive),
        draw(positive),
    )
    fields: dict[str, Any] = {name: getattr(tick, name) for name in GOOD}
    fields["timestamp"] = write_time(tick.timestamp, draw(st.none() | offsets), draw(st.booleans()))
    for name in (
        draw(st.sets(st.sampled_from(["bid", "ask", "bid_size", "ask_size", "volume"])))
        if draw(st.booleans())
        else ()
    ):
        fields[name] = json.dumps(fields[name])
    if draw(st.integers(0, 3)) == 0:
        fields |= draw(
            st.dictionaries(
                symbols.filter(lambda key: key not in GOOD),
                st.integers(-5, 5) | symbols | st.lists(symbols),
                max_size=3,
            )
        )
    items = draw(st.permutations(list(fields.items())))
    ensure_ascii = draw(st.booleans())
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
    space = draw(st.sampled_from(["", "", "", " ", "\n", "\r\n"]))
    text = json.dumps(dict(items), ensure_ascii=ensure_ascii, separators=separators)
    return (text + space if draw(st.booleans()) else space + text).encode(), tick


plain_ticks = st.builds(
    lambda symbol, bid: (
        message(symbol=symbol, bid=bid),
        Tick(symbol, WHEN, bid, 572.32, 400, 300, 1201345),
    ),
    symbols,
    finite,
)
bad_messages = st.sampled_from(
    [
        (payload, "malformed")
        for (payload, *_) in (param.values for param in MALFORMED)
        if isinstance(payload, str | bytes) and len(payload) < 1000
    ]
)
other_messages = st.sampled_from([(payload, "ignored") for payload in IGNORED])
known_messages = plain_ticks | tick_messages() | bad_messages | other_messages


def in_batches(payloads: list[bytes], cuts: list[int]) -> list[list[bytes]]:
    edges = [0, *sorted({cut % (len(payloads) + 1) for cut in cuts}), len(payloads)]
    return [payloads[low:high] for low, high in pairwise(edges)]


def decode_in(batches: list[list[bytes]]) -> tuple[list[Tick], int, int]:
    codec, probe = new_codec()
    return (
        [tick for batch in batches for tick in codec.decode(batch)],
        len(probe.malformed_messages),
        probe.ignored_count,
    )


@given(
    st.lists(known_messages, max_size=12) | st.lists(plain_ticks, max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
)
def test_any_mix_in_any_batches(messages: list[tuple[bytes, Tick | str]], cuts: list[int]) -> None:
    ticks, malformed, ignored = decode_in(in_batches([payload for payload, _ in messages], cuts))
    outcomes = [expected for _, expected in messages]
    assert ticks == [expected for expected in outcomes if isinstance(expected, Tick)]
    assert all(tick.timestamp.tzinfo is UTC for tick in ticks)
    assert (malformed, ignored) == (outcomes.count("malformed"), outcomes.count("ignored"))


def mutate(payload: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for position, insert, remove in edits:
        at = position % (len(payload) + 1)
        payload = payload[:at] + insert + payload[at + remove :]
    return payload


pieces = st.sampled_from(
    [
        b'"',
        b"{",
        b"}",
        b",",
        b":",
        b"\n",
        b"\\",
        b'"bid":1,',
        b"[",
        b"]",
        b"0",
        b"-",
        b"\xff",
        b" ",
        b"e999",
    ]
)
edited = st.builds(
    mutate,
    plain_ticks.map(lambda pair: pair[0]),
    st.lists(st.tuples(st.integers(0, 300), pieces, st.integers(0, 4)), max_size=4),
)
cut_up = plain_ticks.flatmap(
    lambda pair: st.integers(0, len(pair[0])).map(lambda at: [pair[0][:at], pair[0][at:]])
)
doubled = plain_ticks.map(lambda pair: [pair[0] + pair[0]])
anything: st.SearchStrategy[list[list[bytes]]] = st.lists(
    edited.map(lambda payload: [payload]) | cut_up | doubled, max_size=8
)


@given(anything, st.lists(st.integers(0, 16), max_size=3))
def test_fast_and_slow_path_agree(groups: list[list[bytes]], cuts: list[int]) -> None:
    payloads = [payload for group in groups for payload in group]
    assert decode_in(in_batches(payloads, cuts)) == decode_in([[payload] for payload in payloads])


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_nothing_raises(payloads: list[bytes]) -> None:
    ticks, malformed, ignored = decode_in([payloads])
    assert len(ticks) + malformed + ignored == len(payloads)


@pytest.mark.parametrize(
    "spoil", [lambda batch: batch, lambda batch: [*batch, b"?"]], ids=["all good", "one bad"]
)
def test_a_large_batch_keeps_its_order(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    codec, _ = new_codec()
    batch = [message(volume=number) for number in range(5000)]
    assert [tick.volume for tick in codec.decode(spoil(batch))] == list(range(5000))
