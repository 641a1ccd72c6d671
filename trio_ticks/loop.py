"""One event loop, for use from any thread: it can be called, or asked for a result.

Rules: a call from the loop's own tasks runs at once, unless it interrupts another, or a
step of ours: a signal handler may call in the middle of anything. A call that comes
when the loop has ended changes nothing and raises nothing. A thread waits for the loop
for a bounded time only: the loop may itself be waiting for a lock that the thread
holds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, Generic, TypeVar, final

import trio

from .failures import log_second

__all__ = ["PATIENCE_S", "LoopHandle"]

R = TypeVar("R")

PATIENCE_S: Final = 1.0
"""How long another thread waits for the event loop to answer."""
_OURS: Final = f"{__package__}."
_SESSIONS: Final = f"{_OURS}feeds.websocket."
"""How the names of our modules begin, and of those that keep a WebSocket."""
_TRIES: Final = 100
"""How often a reading is repeated that the loop's own changes have disturbed."""


@final
class LoopHandle:
    """The event loop in which this object is made.

    Args:
        on_error: told what a call raised that had to wait; whoever called is gone.

    Raises:
        RuntimeError: no event loop runs in this thread.
    """

    def __init__(self, on_error: Callable[[Exception], object] = log_second) -> None:
        self._on_error = on_error
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self._calling = False
        """Whether a call is being run, which a signal handler may have interrupted."""

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.get_ident() == self._thread

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop: at once if the caller is in it, else soon.

        A call within another, or within a step of ours, has to wait, too. Several calls
        that wait for their turn with the same *function* become one.

        Raises:
            Exception: what *function* raised, if it was called at once.
        """
        if not self._calling and self._is_current() and not _is_within_step():
            self._run(function)
            return
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._run_late, function, idempotent=True)

    def ask(self, function: Callable[[], R]) -> R:
        """Return the result of *function*, called by the loop between two of its steps.

        Blocks the calling thread, which must not be the loop's own.

        Raises:
            trio.RunFinishedError: the loop has ended.
            trio.TooSlowError: the loop did not answer within ``PATIENCE_S`` seconds.
            Exception: what *function* raised.
        """
        question = _Question(function)
        self._token.run_sync_soon(question.answer)
        return question.wait(PATIENCE_S)

    def read(self, function: Callable[[], R]) -> R:
        """Return what *function* reads, from any thread.

        Another thread asks the loop, so that sums that are read together agree. The
        thread of another event loop must not wait: it reads what is there, and so does
        a thread whose loop has ended or does not answer. Their sums may disagree if the
        loop runs meanwhile.

        Raises:
            Exception: what *function* raised.
        """
        if self.is_here:
            return function()
        if not trio.lowlevel.in_trio_run():
            with suppress(trio.RunFinishedError, trio.TooSlowError):
                return self.ask(function)
        return _read_undisturbed(function)

    def _run(self, function: Callable[[], object]) -> None:
        self._calling = True
        try:
            function()
        finally:
            self._calling = False

    def _run_late(self, function: Callable[[], object]) -> None:
        try:
            self._run(function)
        except Exception as error:  # trio would end the whole loop by it
            self._on_error(error)

    def _is_current(self) -> bool:
        try:
            # Between two tasks there is none: a signal has interrupted trio itself.
            trio.lowlevel.current_task()
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False


def _is_within_step() -> bool:
    """Tell whether the caller was called by a step of ours, or has interrupted one.

    What Ctrl-C does not interrupt is a step (:mod:`trio_ticks.uninterrupted`), and what
    a step calls belongs to it. So do a user's functions that are called in its midst,
    such as the ``merge`` of ``Conflate``; a handler does not. A WebSocket feed may be
    interrupted by Ctrl-C, which ends it; but whatever else comes waits there, too.
    """
    if trio.lowlevel.currently_ki_protected():
        return True
    task = trio.lowlevel.current_task().coro.cr_frame
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not task and _is_in(_OURS, frame):
        frame = frame.f_back  # from here to what the user has called
    while frame is not None and frame is not task:
        frame = frame.f_back
        if _is_in(_SESSIONS, frame):
            return True
    return False


def _is_in(package: str, frame: FrameType | None) -> bool:
    """Tell whether the code of *frame* is a module's of *package*."""
    return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(package)


class _Question(Generic[R]):
    """A thread's question to the loop, answered by it, or given up by the thread."""

    def __init__(self, function: Callable[[], R]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._given_up = False
        self._results: list[R] = []
        self._error: Exception | None = None

    def answer(self) -> None:
        """Call the function, in the loop, unless the thread has given up."""
        with self._lock:
            if self._given_up:
                return
            try:
                self._results.append(self._function())
            except Exception as error:  # It is the thread's; here it would end the loop.
                self._error = error
            self._done.set()

    def wait(self, patience_s: float) -> R:
        """Return the answer, in the thread that asked."""
        if not self._done.wait(patience_s):
            with self._lock:
                self._given_up = True
        if self._error is not None:
            raise self._error
        if not self._results:
            raise trio.TooSlowError("the event loop did not answer")
        return self._results[0]


def _read_undisturbed(function: Callable[[], R]) -> R:
    """Call *function* again if the loop changed a container that it was reading."""
    for _ in range(_TRIES):
        with suppress(RuntimeError, LookupError, ValueError):
            return function()
    return function()
