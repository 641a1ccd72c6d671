"""Log set-up: one line a record, whatever the record holds."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worlds.hostile import HOSTILE, MARK, is_clean
from trio_ticks.errors import ConfigError
from trio_ticks.logs import Lines, Redactor, log_event
from trio_ticks.observability.logs import LogTail, configure_logging

logger = logging.getLogger("trio_ticks.of.a.test")


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def records(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_lines_carry_the_extra_fields() -> None:
    out = io.StringIO()
    configure_logging("json", "info", stream=out)
    logger.info(
        "dropped %d",
        3,
        extra={"count": 3, "strategy": object, "nested": {"a": [1.5]}, "rate": math.inf},
    )
    logger.debug("not this one")
    (record,) = records(out)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "info",
        "logger": logger.name,
        "message": "dropped 3",
        "count": 3,
        "strategy": "<class 'object'>",
        "nested": {"a": [1.5]},
        "rate": "inf",
    }


def test_an_extra_field_cannot_pose_as_another() -> None:
    out = io.StringIO()
    configure_logging("json", stream=out)
    logger.warning("true", extra={"level": "forged", "time": 0})
    (record,) = records(out)
    assert (record["level"], record["level_"], record["time_"]) == ("warning", "forged", 0)


@pytest.mark.parametrize("value", [{object(): 1}, "\ud800", {(1, 2): {3}}, [math.nan]])
def test_what_json_cannot_say_is_said_as_text(value: object) -> None:
    out = io.StringIO()
    configure_logging("json", stream=out)
    logger.warning("odd", extra={"value": value})
    assert records(out)[0]["message"] == "odd"


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_record_is_one_line_without_control_codes(format: Any) -> None:
    out = io.StringIO()
    configure_logging(format, stream=out)
    logger.warning("first\nsecond \x1b[31m\r\x00 %s", "\u2028\x85")
    assert out.getvalue().count("\n") == 1
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


def test_text_says_when_what_and_who() -> None:
    out = io.StringIO()
    configure_logging("text", stream=out)
    logger.warning("channel.full: %d", 7, extra={"count": 7})
    time, rest = out.getvalue().split(" ", 1)
    assert len(time) == len("12:00:01.123")
    assert rest == "WARNING trio_ticks.of.a.test channel.full: 7\n"


@pytest.mark.parametrize("format", ["text", "json"])
def test_exceptions_are_told_and_secrets_are_not(format: Any) -> None:
    out = io.StringIO()
    configure_logging(format, stream=out, secrets=["sesame"])
    try:
        raise ValueError("the key is sesame")
    except ValueError:
        logger.exception("sesame!", extra={"key": "sesame"})
    assert "ValueError: the key is ***" in out.getvalue()
    assert "sesame" not in out.getvalue()


def test_the_tail_keeps_the_last_few() -> None:
    tail = LogTail(2)
    logging.getLogger().handlers[:] = [tail]
    for number in range(5):
        logger.error("line %d\n", number)
    assert [line.split(" ", 1)[1] for line in tail.lines] == [
        rf"ERROR trio_ticks.of.a.test line {number}\n" for number in (3, 4)
    ]


def test_what_cannot_be_configured() -> None:
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError, match="xml"):
        configure_logging("xml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="loud"):
        configure_logging(level="loud")
    assert logging.getLogger().handlers == before


# Text from outside


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("format", ["text", "json"])
def test_no_log_line_shows_a_control_character(format: Any, text: str) -> None:
    out = io.StringIO()
    configure_logging(format, stream=out)
    log_event(logger, logging.WARNING, "tick.seen", symbol=text)
    log_event(logger, logging.WARNING, "tick.lost", "%s of %r: %s", text, text, ValueError(text))
    logger.warning("an application's: %s", text)
    assert is_clean(out.getvalue())
    assert out.getvalue().count("\n") == 3
    assert out.getvalue().count(MARK) >= 5
    if format == "json":
        assert all(MARK in record["message"] for record in records(out))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_line_of_an_exceptions_text_poses_as_a_record(text: str) -> None:
    out = io.StringIO()
    configure_logging("text", stream=out)
    try:
        raise ValueError(text)
    except ValueError:
        log_event(logger, logging.ERROR, "tick.failed", exc_info=True)
    first, *traceback = out.getvalue().removesuffix("\n").split("\n")
    assert first.endswith(" tick.failed")
    assert all(line.startswith("  ") for line in traceback)
    assert is_clean(out.getvalue())
    assert MARK in "".join(traceback)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_users_own_formatter_gets_no_control_character_of_ours(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_event(
        logger, logging.WARNING, "tick.seen", "of %s and %s", text, KeyError(text), symbol=text
    )
    (record,) = caplog.records
    assert is_clean(record.getMessage(), lines=False)
    assert is_clean(vars(record)["symbol"], lines=False)


# Keys


def in_json(text: str) -> set[str]:
    """Some of the ways in which JSON may write *text*."""
    every = "".join(f"\\u{ord(char):04X}" for char in text)
    return {
        text,
        every,
        every.lower().replace("\\u0061", "a"),
        text.replace("/", r"\/"),
        json.dumps(text)[1:-1],
        json.dumps(json.dumps(f"{text}/")).replace("/", r"\/"),
        json.dumps(every),
    }


@pytest.mark.parametrize(
    "key", ["a/key+with/slashes", 'quo"te\\back', "schlüssel", "k\U0001f511y9"]
)
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_key_is_masked_however_json_writes_it(format: Any, key: str) -> None:
    for spelt in in_json(key) if ord(max(key)) < 0x10000 else {key, json.dumps(key)[1:-1]}:
        out = io.StringIO()
        configure_logging(format, stream=out, secrets=[key])
        log_event(logger, logging.WARNING, "feed.refused", reason=f'{{"key": "{spelt}"}}')
        assert "***" in out.getvalue(), spelt
        for part in (key, spelt, "slashes", "chl", "u00", "d83d"):
            assert part not in out.getvalue().lower(), spelt


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("key", ["x", "a", "e", "in", "0", "feed", "info", "lost"])
def test_a_short_key_leaves_the_log_readable(format: Any, key: str) -> None:
    out = io.StringIO()
    configure_logging(format, "info", stream=out, secrets=[key])
    log_event(logger, logging.INFO, "feed.lost", "a text, in 0x10 words and an example", text=3)
    log_event(logger, logging.INFO, "feed.lost", reason=f"?key={key}&x=1", echo=f'"{key}"')
    text = out.getvalue()
    assert text.count("feed.lost: a text, in 0x10 words and an example") == 1
    assert "?key=***&" in text
    assert f"={key}&" not in text
    if format == "json":
        assert [record["level"] for record in records(out)] == ["info", "info"]
        assert records(out)[1]["echo"] == '"***"'
        assert records(out)[0]["text"] == 3


def test_the_tail_masks_and_escapes_as_the_lines_do() -> None:
    tail = LogTail(redactor=Redactor(["sesame"]))
    logging.getLogger().handlers[:] = [tail]
    logger.error("the key is \x1b[31msesame")
    assert tail.lines[0].endswith(r"the key is \x1b[31m***")


def test_a_large_payload_is_searched_only_as_far_as_it_is_shown() -> None:
    redactor = Redactor(["k3y-k3y-k3y"])
    began = b"k3y-k3y-k3y" * 100_000
    excerpt = redactor.excerpt(began)
    assert "k3y" not in excerpt.replace("***", "")
    assert redactor.excerpt("\\" * 1_000_000).count("\\") == 117


def test_a_stack_of_ours_keeps_its_lines_and_poses_as_no_record() -> None:
    out = io.StringIO()
    configure_logging("text", stream=out)
    stack = Lines('  File "a.py", line 3\n    await x\nERROR forged \x1b[31m\n')
    log_event(logger, logging.WARNING, "loop.blocked", "of %s, here:\n%s", "a\nb", stack, n=1)
    logger.warning("an application's\n%s", "text")
    first, *lines, last = out.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("loop.blocked: of a\\nb, here:")
    assert lines == ['  File "a.py", line 3', "    await x", r"  ERROR forged \x1b[31m"]
    assert last.endswith(r"an application's\ntext")
