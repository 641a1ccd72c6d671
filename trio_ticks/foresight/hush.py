"""Keeps what a pipeline logs of its load out of the log while a plan overloads it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["hushed"]

_LOGGERS: Final = ("trio_ticks.pressure", "trio_ticks.channel", "trio_ticks.workers")
"""They tell of a full queue, of drops and of what handing over costs: as planned."""


@contextmanager
def hushed() -> Iterator[None]:
    """Let nothing below an error of these loggers through, of this thread alone.

    Other pipelines of the program run in other threads meanwhile.
    """
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.thread != thread

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(passes)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(passes)
