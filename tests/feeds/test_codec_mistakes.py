"""Mistakes in a codec class are found before anything connects, or clearly named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.feed_venues import Collector, memory_feed, quote, says, websocket
from trio_ticks.feeds.venues import find_language
from trio_ticks.testing import check_codec


class Words(tt.Codec):
    """Has all that a codec needs."""

    def subscribe(self, symbols: Sequence[str], /) -> Any:
        return ["all of it"]

    def decode_one(self, payload: bytes, /) -> Any:
        return None


def test_methods_must_be_plain() -> None:
    class Waits(Words):
        async def decode_one(self, payload: bytes, /) -> Any:
            return None

    with pytest.raises(tt.ConfigError, match="the codec Waits: decode_one must be a plain def"):
        find_language(Waits)


def test_a_codec_is_made_with_a_context() -> None:
    class Alone(Words):
        def __init__(self) -> None:
            pass

    with pytest.raises(tt.ConfigError, match=r"Alone must be made with a context"):
        find_language(Alone)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("keepalive", "keep_alive"), ("limit", "limits"), ("unsubscribed", "unsubscribe")],
)
def test_a_name_that_looks_misspelt_is_told(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    find_language(type("Misspelt", (Words,), {name: None}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"the codec Misspelt has {name}; is it meant to be {meant}?" in record.getMessage()


def test_names_of_its_own_are_no_misspelling(caplog: pytest.LogCaptureFixture) -> None:
    find_language(type("Fine", (Words,), {"parse_book": None, "stream_of": None, "_limit": 3}))
    assert caplog.records == []


@pytest.mark.parametrize("wrong", ["one text", b"bytes", [{"op": "subscribe"}], None, 3])
async def test_requests_are_a_list_of_texts(wrong: Any, autojump_clock: MockClock) -> None:
    class Wrong(Words):
        def subscribe(self, symbols: Sequence[str], /) -> Any:
            return wrong

    with pytest.raises(AssertionError, match="subscribe must return a list of str or bytes"):
        check_codec(Wrong, [quote()], ["SPY"])
    async with memory_feed(websocket(says()), venue=Wrong) as (feed, _):
        with pytest.raises(tt.ConfigError, match="the codec Wrong: subscribe must return a list"):
            await feed.run(Collector())
