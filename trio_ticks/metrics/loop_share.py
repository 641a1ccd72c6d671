"""Lets other threads run beside an event loop that is never idle.

A thread that wants the interpreter asks for it only after 5 ms in which nobody has let
go of it. A busy loop lets go at each look at its sockets, and has taken it back before
the thread is awake; so the thread's 5 ms begin again each time. Handlers in threads,
a recorder, the client of a broker and a thread that asks for metrics then wait for
seconds. So a loop that is never idle sleeps for a moment, which is long enough for a
thread to take its turn: from then on both have theirs.

Rules: a loop that waits for its sockets at times does not sleep here, and one beside
which nobody runs does so twenty times a second. On Windows none does: there a moment is
a millisecond or more.

Source: CPython's Python/ceval_gil.c, ``take_gil`` (3.11 to 3.13): the request to drop
the lock is made where the wait for it has timed out, not where it was in vain.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, final

import trio

from ..clock import monotonic, thread_cpu
from ..uninterrupted import uninterrupted

__all__ = ["InterpreterShare", "is_wanted", "share_interpreter"]

_LOOK_S: Final = 0.1
"""Seconds between two looks at a loop that is idle at times."""
_OFTEN_S: Final = 0.005
"""Seconds between two sleeps if somebody has run during the last one: as much as Python
leaves a thread that others wait for."""
_SELDOM_S: Final = 0.05
"""The same if nobody has."""
_SLEEP_S: Final = 20e-6
"""Seconds to sleep. The system's timer makes some 80e-6 of it."""
_BUSY: Final = 0.75
"""A loop is never idle that uses a processor for such a part of the time. The rest is
that of other programs."""
_OTHERS_S: Final = 20e-6
"""Somebody has run if the other threads have used a processor for so long."""
_OURS: Final = 2
"""How many threads there are at least: that of the loop, and the one that watches."""


async def share_interpreter() -> None:
    """Let other threads have their turn while this loop is never idle.

    Cancellation: ends it. A checkpoint.
    """
    if not is_wanted():
        await trio.sleep_forever()
    share = InterpreterShare()
    while True:
        await trio.sleep(share.every_s)
        share.look()


def is_wanted() -> bool:
    """Tell whether threads take turns here, and the system's timer is fine enough."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)()) and sys.platform != "win32"


@uninterrupted
@final
class InterpreterShare:
    """How busy this thread is, and how often the others have their turn."""

    def __init__(self) -> None:
        self.every_s = _LOOK_S
        """When to look again, in seconds from the last look on."""
        self._began = self._used = self._all = 0.0
        self._begin()

    def _begin(self) -> None:
        self._began, self._used, self._all = monotonic(), thread_cpu(), time.process_time()

    def look(self) -> None:
        """Sleep for a moment if this thread was never idle since the last look."""
        much = _BUSY * (monotonic() - self._began)
        if thread_cpu() - self._used >= much:
            self.every_s = self._sleep()
        elif time.process_time() - self._all >= much:
            # The others had their turn, and may soon want another.
            self.every_s = self._seldomer()
        else:
            self.every_s = _LOOK_S
        self._begin()

    def _sleep(self) -> float:
        others_s = time.process_time() - thread_cpu()
        time.sleep(_SLEEP_S)
        others_s = time.process_time() - thread_cpu() - others_s
        # Threads without Python, such as a broker's client has, want no interpreter.
        if others_s >= _OTHERS_S and threading.active_count() > _OURS:
            return _OFTEN_S
        return self._seldomer()

    def _seldomer(self) -> float:
        return min(2 * self.every_s, _SELDOM_S)
