"""What the operating system cannot do, told in the log once a program, with what to do instead.

Rules: what works as everywhere is not mentioned; what is lacking refuses nothing that works without it.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["tell_limits"]

logger = logging.getLogger(__name__)

_told: set[str] = set()


def tell_limits(executor: str) -> None:
    """Tell what a pipeline with *executor* must do without on this system."""
    if sys.platform != "win32":
        return
    if "signals" not in _told:
        _told.add("signals")
        logger.warning(
            "windows.signals: SIGTERM, or whatever else ends a program from outside, ends it at once here: nothing is drained, there is no "
            "report. To stop it gracefully press Ctrl-C, or have the program call pipeline.shutdown()",
        )
    if executor == "process" and "processes" not in _told:
        _told.add("processes")
        logger.warning(
            "windows.processes: a worker process whose handler hangs in C code is not ended with its parent here, but by its "
            'own id only; processes are not tested on Windows. With executor="thread" there are none',
        )
