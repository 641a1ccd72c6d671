"""Warnings about what this operating system cannot do, each logged once a program.

Rules: a warning says what to do instead. Nothing is refused that works without what the
system lacks.
"""

from __future__ import annotations

import logging
import sys

from .logs import log_event

__all__ = ["warn_of_limits"]

logger = logging.getLogger(__name__)

reported: set[str] = set()
"""The limits that were logged already in this program; each is logged once."""


def warn_of_limits(executor: str) -> None:
    """Log what a pipeline with *executor* must do without on this system."""
    if sys.platform != "win32":
        return
    if executor == "process" and "processes" not in reported:
        reported.add("processes")
        log_event(
            logger,
            logging.WARNING,
            "windows.processes",
            "a worker process whose handler hangs in C code is not ended with its parent here, "
            "but by its own id only; processes are not tested on Windows. "
            'With executor="thread" there are none',
        )
