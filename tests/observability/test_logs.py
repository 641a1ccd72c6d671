"""Log set-up: one line a record, whatever the record holds."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest

from trio_ticks.errors import ConfigError
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
