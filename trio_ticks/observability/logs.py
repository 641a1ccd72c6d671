"""Set up logging for programs: one line a record, as text or as JSON.

Rules: only the command line calls this; the library itself never configures logging.
Whatever a message holds, a record stays one line and carries no control codes.
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
from ..logs import Redactor

__all__ = [
    "LEVELS",
    "JsonFormatter",
    "LogTail",
    "TextFormatter",
    "configure_logging",
    "extra_fields",
    "one_line",
]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+(?=[: ]|$)")
"""The beginning of the library's messages: a subject, and what happened to it."""
LEVELS = ("debug", "info", "warning", "error", "critical")


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def one_line(text: str) -> str:
    """Return *text* with line ends and control characters escaped.

    So a message can neither fake a second record nor send a command to a terminal.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _when(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


class TextFormatter(logging.Formatter):
    """``12:00:01.123 WARNING trio_ticks.channel channel.dropped: ...``, in UTC.

    A traceback follows on lines of its own.

    The ``extra`` fields are not repeated: messages say their facts.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redactor = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_when(record):%H:%M:%S}.{int(record.msecs):03d} {short_line(record)}"
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return self._redactor.text(line)


def short_line(record: logging.LogRecord) -> str:
    """Return level, logger and message on one line."""
    return f"{record.levelname} {record.name} {one_line(record.getMessage())}"


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
            "message": record.getMessage(),
        }
        if "event" not in vars(record) and (event := _EVENT.match(line["message"])):
            line["event"] = event[0]
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        for key, value in extra_fields(record).items():
            line[f"{key}_" if key in line else key] = _finite(value)
        try:
            text = json.dumps(line, default=str, allow_nan=False)
        except (TypeError, ValueError):
            # A key that is no text, or a NaN deep inside: writing the record matters
            # more than keeping the types of its fields.
            text = json.dumps({key: str(value) for key, value in line.items()})
        return self._redactor.text(text)


def _finite(value: object) -> object:
    """Return *value*, or its text if it is a number that JSON does not know."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
            self.lines.append(self._redactor.text(f"{_when(record):%H:%M:%S} {short_line(record)}"))
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
