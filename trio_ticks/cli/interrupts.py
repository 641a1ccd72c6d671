"""Commands that compute, and that a signal ends as Ctrl-C does.

Rules: what they were writing is gone, and nothing is written that is not complete. The
exit code says which signal it was.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import click

from ..errors import TickError
from ..pipeline.signals import interrupted_by_signals
from .closed_terminal import let_go_of_closed_terminal

__all__ = ["ended_by_signals"]


@final
class _Ended(click.ClickException):
    """A signal has ended the command."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        # click declares it for a class, and reads it of the instance.
        self.exit_code = 128 + number  # type: ignore[misc]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block in order by SIGTERM, and by SIGHUP, which a closed terminal sends.

    Raises:
        click.ClickException: a signal came; its exit code is 128 and the signal's
            number.
        KeyboardInterrupt: Ctrl-C came.
    """
    heard: list[signal.Signals] = []

    def note(number: signal.Signals) -> None:
        heard.append(number)
        if number.name == "SIGHUP":
            let_go_of_closed_terminal()

    try:
        with interrupted_by_signals(note):
            yield
    except BaseExceptionGroup as errors:
        # A nursery has put the interrupt into a group.
        if errors.subgroup(KeyboardInterrupt) is None:
            raise
        raise _Ended(heard[0] if heard else signal.SIGINT) from None
    except (KeyboardInterrupt, TickError):
        # Processes of the command may have ended by the same signal, before it did.
        if not heard:
            raise
        raise _Ended(heard[0]) from None
