"""Set up logging for programs: one line a record, as text or as JSON.

Rules: only the command line calls this; the library itself never configures logging.
Whatever a message holds, a record stays one line and carries no control codes; the
lines of a traceback are indented, so that none of them can pose as a record. Secrets
are taken out of what a record says, and not out of our own words around it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from ..checks import check_word
from ..logs import Lines, Redactor, one_line

__all__ = [
    "LEVELS",
    "JsonFormatter",
    "LogTail",
    "TextFormatter",
    "configure_logging",
    "extra_fields",
]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+(?=[: ]|$)")
"""The beginning of the library's messages: a subject, and what happened to it."""
LEVELS = ("debug", "info", "warning", "error", "critical")


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _when(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _message(record: logging.LogRecord, redactor: Redactor) -> str:
    """Return the message without the secrets; the event that it begins with stays.

    The event is ours, and a short secret may be a part of it.
    """
    message, event = record.getMessage(), vars(record).get("event")
    if isinstance(event, str) and message.startswith(event):
        return event + redactor.text(message[len(event) :])
    return redactor.text(message)


def _indented(traceback: str) -> str:
    return "".join("\n  " + one_line(line) for line in traceback.split("\n"))


class TextFormatter(logging.Formatter):
    """``12:00:01.123 WARNING trio_ticks.channel channel.dropped: ...``, in UTC.

    A traceback follows on lines of its own, indented.

    The ``extra`` fields are not repeated: messages say their facts.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redactor = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        when = f"{_when(record):%H:%M:%S}.{int(record.msecs):03d}"
        head, *lines = _lines(record, self._redactor)
        line = "\n".join([f"{when} {record.levelname} {one_line(record.name)} {head}", *lines])
        if record.exc_info and record.exc_info[1] is not None:
            line += _indented(self._redactor.text(self.formatException(record.exc_info)))
        return line


def _lines(record: logging.LogRecord, redactor: Redactor) -> list[str]:
    """Return the message line by line: one, but for a stack of the library's."""
    message, args = _message(record, redactor), record.args
    if isinstance(args, tuple) and any(isinstance(each, Lines) for each in args):
        return [one_line(line) for line in message.split("\n")]
    return [one_line(message)]


def _short_line(record: logging.LogRecord, redactor: Redactor) -> str:
    """Return level, logger and message on one line."""
    return one_line(f"{record.levelname} {record.name} {_message(record, redactor)}")


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    Its fields are ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, the
    ``extra`` fields, and ``exception``.

    A message that begins like ``ticks.dropped: ...`` gives the object an ``event``,
    too.

    An extra field that has the name of one of these is kept under its name with a
    trailing underscore.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redactor = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _when(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record, self._redactor),
        }
        if "event" not in vars(record) and (event := _EVENT.match(line["message"])):
            line["event"] = event[0]
        if record.exc_info and record.exc_info[1] is not None:
            told = "".join(traceback.format_exception(record.exc_info[1]))
            line["exception"] = self._redactor.text(told)
        for key, value in extra_fields(record).items():
            name = f"{key}_" if key in line else key
            # The event is one of our own words.
            line[name] = value if key == "event" else self._without_secrets(value)
        try:
            text = json.dumps(line, default=self._as_text, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # A key that is no text, or a NaN deep inside: writing the record matters
            # more than keeping the types of its fields.
            text = json.dumps({key: self._as_text(value) for key, value in line.items()})
        # The one control character that JSON does not escape.
        return text.replace("\x7f", "\\u007f")

    def _as_text(self, value: object) -> str:
        return self._redactor.text(str(value))

    def _without_secrets(self, value: object, depth: int = 8) -> object:
        """Return *value* as JSON can say it, its texts without the secrets."""
        if isinstance(value, str):
            return self._redactor.text(value)
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if depth and isinstance(value, dict):
            return {
                self._redactor.text(key) if isinstance(key, str) else key: self._without_secrets(
                    each, depth - 1
                )
                for key, each in value.items()
            }
        if depth and isinstance(value, list | tuple):
            return [self._without_secrets(each, depth - 1) for each in value]
        if isinstance(value, int | float | None):
            return value
        return self._as_text(value)


class LogTail(logging.Handler):
    """Keeps the last few records as short lines, for a view that owns the terminal.

    Lines that were written to the terminal directly would destroy the view.
    """

    def __init__(self, size: int = 3, redactor: Redactor | None = None) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=size)
        self._redactor = redactor or Redactor()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = _short_line(record, self._redactor)
            self.lines.append(f"{_when(record):%H:%M:%S} {line}")
        except Exception:  # a rule of logging: a bad record must not end the program
            self.handleError(record)


def configure_logging(
    format: Literal["text", "json"] = "text",
    level: str = "warning",
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> logging.Handler:
    """Send the records of every logger from *level* up to *stream*, a line each.


    Args:
        format: ``"text"``, or ``"json"`` for one object a line.
        level: ``"debug"``, ``"info"``, ``"warning"``, ``"error"`` or ``"critical"``.
        stream: where the lines go; standard error unless given.
        secrets: texts that are never written, whichever logger has them in a record.

    Returns:
        The handler that was set, in place of those that the root logger had.

    Raises:
        ConfigError: an unknown format or level.
    """
    check_word("log format", format, ("text", "json"))
    check_word("log level", level.lower(), LEVELS)
    handler = logging.StreamHandler(stream)
    redactor = Redactor(secrets)
    handler.setFormatter(JsonFormatter(redactor) if format == "json" else TextFormatter(redactor))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    return handler
