"""Ends a program whose event loop stands still, some time after a signal.

A loop that is blocked cannot shut down: the tasks that would do it do not run. A
supervisor would kill the program without a word after its grace period. So the thread
that watches the loop ends the process, and says where the loop was and what the ledger
was.

Rules: only the command line does this. The library never ends its user's process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import click

from ..clock import monotonic
from ..metrics.loop_watch import LoopWatch

__all__ = ["LastResort"]

_STILL_S: Final = 2.0
"""A loop that has answered in the last 2 s still moves, and shuts down by itself: it is
merely late."""


@final
class LastResort:
    """Ends the process if the loop still stands still *timeout_s* after a signal.

    Args:
        watch: the watch of the loop; ``None``: nothing is ended.
        timeout_s: how long a shutdown may take, in seconds.
        write_report: writes what there is to report; called in the watch's thread.
    """

    def __init__(
        self, watch: LoopWatch | None, timeout_s: float, write_report: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._timeout_s = timeout_s
        self._write_report = write_report
        self._signal: tuple[float, signal.Signals] | None = None

    def __enter__(self) -> LastResort:
        if self._watch is not None:
            self._watch.guards += (self._check,)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.guards = tuple(
                guard for guard in self._watch.guards if guard != self._check
            )

    def on_signal(self, number: signal.Signals) -> None:
        """Note the first signal; called in the signal handler."""
        if self._signal is None:
            self._signal = monotonic(), number

    def _check(self, still_s: float) -> None:
        """Called in the watch's thread while the loop has stood still for *still_s*."""
        if self._signal is None or self._watch is None:
            return
        came_at, number = self._signal
        if still_s < _STILL_S or monotonic() - came_at < self._timeout_s:
            return
        try:
            # A closed terminal takes none of it, but the report may go to a file.
            with suppress(OSError):
                click.echo(
                    f"{number.name} came {monotonic() - came_at:.1f} s ago, and the event loop has "
                    f"stood still for {still_s:.1f} s: ended without a shutdown. The loop is "
                    f"here:\n{self._watch.stack()}",
                    err=True,
                )
            self._write_report()
        finally:
            for stream in (sys.stdout, sys.__stdout__, sys.stderr):
                if stream is not None:
                    with suppress(OSError, ValueError):
                        stream.flush()
            os._exit(128 + number)
