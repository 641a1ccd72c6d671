"""What feeds log: events with facts, and no secrets.

At most one warning a second is about bad messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.reports import BadMessages
from trio_ticks.logs import Redactor, log_event

logger = logging.getLogger("test.reports")


def test_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_event(logger, logging.INFO, "feed.connected", attempt=3, url="ws://x")
    log_event(logger, logging.DEBUG, "feed.detail")
    (record,) = caplog.records
    assert record.getMessage() == "feed.connected attempt=3 url=ws://x"
    assert (record.event, record.attempt, record.url) == ("feed.connected", 3, "ws://x")  # type: ignore[attr-defined]


def test_per_cent_signs_are_harmless(caplog: pytest.LogCaptureFixture) -> None:
    log_event(logger, logging.WARNING, "x", text="100 %s %d")
    assert caplog.messages == ["x text=100 %s %d"]


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"plain", "plain"),
        ("text", "text"),
        (b"two\nlines\r\x00\x1b[31m", "two\\nlines\\r\\x00\\x1b[31m"),
        ("é".encode(), "\\xe9"),
        (b"\xff\xfe", "\\\\xff\\\\xfe"),
        (b"x" * 120, "x" * 120),
        (b"x" * 121, "x" * 117 + "..."),
    ],
)
def test_excerpt(payload: bytes | str, shown: str) -> None:
    assert Redactor().excerpt(payload) == shown


KEY = 'k/3"y +é'


@pytest.mark.parametrize(
    "text",
    [KEY, 'k/3\\"y +\\u00e9', 'k/3\\"y +é', "k%2F3%22y%20%2B%C3%A9", "k%2F3%22y+%2B%C3%A9"],
    ids=["plain", "json", "json utf-8", "url", "form"],
)
@pytest.mark.parametrize("encode", [str, str.encode], ids=["str", "bytes"])
def test_each_way_to_write_a_secret(text: str, encode: Callable[[str], bytes | str]) -> None:
    assert Redactor([KEY]).excerpt(encode(f"<{text}>")) == "<***>"


@pytest.mark.parametrize(
    "written",
    [r"ab\/cd<+&>==", r"ab/cd\u003c+\u0026\u003e==", "ab%2fcd%3c%2b%26%3e%3d%3d"],
    ids=["PHP", "Go", "small digits"],
)
def test_a_secret_that_is_escaped_more_than_it_must(written: str) -> None:
    assert Redactor(["ab/cd<+&>=="]).text(f"<{written}>") == "<***>"


def test_secret_at_the_cut() -> None:
    for start in range(90, 125):
        excerpt = Redactor(["secret-key"]).excerpt(b"." * start + b"secret-key and more")
        assert len(excerpt) <= 120
        assert "s" not in excerpt.replace("secret", "")[:start] or "***" in excerpt
        assert "secret" not in excerpt


def test_longest_secret_first() -> None:
    assert Redactor(["abc", "abcdef", ""]).text("abcdef abc") == "*** ***"


def test_no_secret_in_the_repr() -> None:
    assert "abc" not in repr(Redactor(["abc"]))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_never_in_an_excerpt(noise: bytes, at: int) -> None:
    excerpt = Redactor(["K3Y-0123456789"]).excerpt(noise[:at] + b"K3Y-0123456789" + noise[at:])
    assert len(excerpt) <= 120
    assert excerpt.isascii()
    assert excerpt.isprintable()
    assert "K3Y-0123456789" not in excerpt


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_at_most_one_warning_a_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    bad = BadMessages(logger, Redactor(["k3y"]), clock)
    for number in range(100):
        bad.record(b"first %d k3y" % number, "no k3y")
    assert caplog.messages == ["feed.malformed count=1 reason=no *** excerpt=first 0 ***"]
    clock.now += 0.999
    bad.record(b"second", "bad")
    assert len(caplog.records) == 1
    clock.now += 0.001
    bad.record(b"third", "bad")
    assert caplog.messages[1:] == ["feed.malformed count=101 reason=bad excerpt=third"]
    assert caplog.records[1].levelno == logging.WARNING


def test_flush_reports_the_rest_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadMessages(logger, clock=Clock())
    bad.flush()
    bad.record(b"a", "why")
    bad.record(b"b", "why not")
    bad.record(b"c", "?")
    bad.flush()
    bad.flush()
    assert caplog.messages == [
        "feed.malformed count=1 reason=why excerpt=a",
        "feed.malformed count=2 reason=why not excerpt=b",
    ]
