"""Venues that send more than a tick: what was learnt hides no broken message."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feeds.test_flat import TICK, message, new_codec
from trio_ticks.feeds.venues.extra_keys import ExtraKeys

EXTRA: dict[str, Any] = {"venue": "ARCA", "seq": 17, "halted": False, "note": None}


def more(extra: dict[str, Any]) -> bytes:
    return message(**extra)


def learnt() -> ExtraKeys:
    keys = ExtraKeys(["symbol", "bid"], 6)
    keys.learn({"symbol": "A", "bid": 1.0, **EXTRA})
    return keys


def proves(keys: ExtraKeys, *texts: str) -> bool:
    blob = "\n".join(texts).encode()
    return keys.has_each_once(blob, len(texts), blob.count(b'"'))


START = '{"symbol":"A","bid":1,'
REST = '"venue":"X","seq":1,"halted":true,"note":null}'


@pytest.mark.parametrize(
    ("text", "proven"),
    [
        (REST, True),
        ('"note":2.5,"halted":null,"seq":1e9,"venue":""}', True),
        ('"v\\u0065nue":"X","seq":1,"halted":true,"note":null}', True),
        (REST.replace('"venue":"X",', ""), False),
        (REST.replace('"note"', '"bid"'), False),
        (REST.replace('"note"', '"other"'), False),
        (REST.replace("null", "[]"), False),
        (REST.replace("null", '{"a":1}'), False),
        (REST.replace("null", '"text"'), False),
        (REST.replace('"X"', "17"), False),
        (REST.replace('"X"', '"\\""'), False),
        (REST.replace("}", ',"bid":2}'), False),
        (REST.replace("}", ',"seq":2}'), False),
        (REST[:-1], False),
    ],
)
def test_what_is_proven(text: str, proven: bool) -> None:
    keys = learnt()
    assert proves(keys, START + text) is proven
    # Not among others, either.
    assert proves(keys, START + REST, START + text, START + REST) is proven


def test_nothing_is_proven_before_something_is_learnt() -> None:
    assert not proves(ExtraKeys(["symbol", "bid"], 6), START + REST)


def test_the_last_lesson_counts() -> None:
    keys = learnt()
    keys.learn({"symbol": "A", "bid": 1.0, "other": "text"})
    assert proves(keys, START + '"other":"x"}')
    assert not proves(keys, START + REST)


def test_a_venue_that_always_sends_others_is_not_learnt_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    defstruct = msgspec.defstruct

    def spy(*args: Any, **more: Any) -> Any:
        made.append("shape")
        return defstruct(*args, **more)

    monkeypatch.setattr(msgspec, "defstruct", spy)
    codec, probe = new_codec()
    for number in range(100):
        assert codec.decode([more({f"key{number}": number})] * 3) == [TICK] * 3
    codec.decode([more({f"key{number}": number for number in range(100)})])
    assert 1 <= len(made) <= 16
    assert not probe.malformed_messages


def test_keys_that_are_no_names() -> None:
    codec, probe = new_codec()
    odd = {"": 1, "a b": "x", "class": 2, "key0": 3, "日": "本", '"': 4, "-": None}
    for _ in range(3):
        assert codec.decode([more(odd)] * 2) == [TICK] * 2
    assert not probe.malformed_messages


@pytest.mark.parametrize("key", ["a\\b", "\\", "a\nb", "\0", "\x1f", '"', "\x7f", "\u2028"])
def test_keys_of_any_characters(key: str) -> None:
    """msgspec raises at a field that has some of them in its name."""
    codec, probe = new_codec()
    # A quotation mark that is escaped by its number has no mark in the text.
    payload = more({key: 1}).replace(b'"\\""', b'"\\u0022"')
    for _ in range(3):
        assert codec.decode([payload] * 2) == [TICK] * 2
    # What is learnt next is proven all the same.
    assert codec.decode([more(EXTRA)] * 2) == [TICK] * 2
    assert not probe.malformed_messages


KEYS = st.one_of(
    st.sampled_from(["bid", "symbol", "seq", "venue", "x", "Bid"]),
    st.text('b\\"\n\0/é', max_size=2),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(["", "A", '"', "{", "\\"]),
    st.sampled_from([[], ["a"], {"bid": 1}, {"x": "y"}]),
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """A tick with more keys behind it, some of them perhaps twice."""
    pairs = draw(st.lists(st.tuples(KEYS, VALUES), max_size=3))
    more = "".join(f",{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    if draw(st.booleans()):
        # The same text, without some of its quotation marks and letters.
        more = more.replace('\\"', "\\u0022").replace("bi", "b\\u0069")
    return message()[:-1] + more.encode() + b"}"


@given(st.lists(st.lists(payloads(), min_size=1, max_size=4), min_size=2, max_size=5))
def test_what_was_learnt_changes_no_outcome(batches: list[list[bytes]]) -> None:
    codec, probe = new_codec()
    ticks = [tick for batch in batches for tick in codec.decode(batch)]
    alone, expected = new_codec()[1], list[Any]()
    for batch in batches:
        for payload in batch:
            fresh, told = new_codec()
            expected += fresh.decode([payload])
            alone.malformed_messages += told.malformed_messages
    assert ticks == expected
    assert [bad[0] for bad in probe.malformed_messages] == [
        bad[0] for bad in alone.malformed_messages
    ]
