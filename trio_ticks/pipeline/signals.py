"""Brings SIGINT, SIGTERM and SIGHUP to all pipelines, whatever their thread.

The command line's programs that run no pipeline hear of them in the same way, or are
interrupted by them, if they compute and no loop could pass a signal on.

Plan: Python lets only the main thread install signal handlers, and runs them there. So
the first pipeline of the main thread installs ours. They pass each signal on to every
pipeline, through the token of its own trio loop. They stay until the last pipeline has
ended; then the application's handlers are put back, unless the application has
installed others meanwhile.

Rules:

- SIGHUP, which a terminal sends that is closed, is heard only if it would end the
  process: ``nohup`` and services that read their settings anew at it go before.
- SIGHUP is never the second signal, which ends at once. A closed terminal sends it more
  than once (the system does, and so does the shell), and systemd right after SIGTERM.
- Only this module installs signal handlers; it has one ``_owner`` for the process.
- The signal handler takes no lock, logs nothing and raises nothing. It reads a tuple
  that is replaced as a whole.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import attrs
import trio

from ..logs import log_event

__all__ = ["hear_signals", "interrupted_by_signals"]

logger = logging.getLogger("trio_ticks.pipeline")

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""``None`` on Windows, which has none."""

OnSignal = Callable[[signal.Signals, bool], None]


@contextmanager
def hear_signals(
    on_signal: OnSignal, *, at_once: Callable[[signal.Signals], object] | None = None
) -> Iterator[None]:
    """Call *on_signal* for each SIGINT, SIGTERM and SIGHUP while the block lasts.

    If signals cannot be heard, it logs a warning.

    Args:
        on_signal: called in this trio loop, outside of any task: it must not raise. Its
            second argument is False for the first signal, and True if a pipeline that
            got an earlier signal is still running. A SIGHUP that is not the first
            signal is not passed on.
        at_once: called for each signal in the signal handler itself, also while the
            loop stands still. It must take no lock, log nothing and raise nothing.
    """
    listener = _Listener(trio.lowlevel.current_trio_token(), on_signal, at_once)
    try:
        # Within the try, since a signal may come as soon as the handlers are installed.
        _owner.add(listener)
        yield
    finally:
        _owner.remove(listener)


@contextmanager
def interrupted_by_signals(on_signal: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does.

    They raise ``KeyboardInterrupt``, where they would end the program otherwise. In a
    trio loop it comes out of the main task at its next checkpoint.

    Args:
        on_signal: called in the signal handler for each SIGTERM and SIGHUP. It must
            take no lock, log nothing and raise nothing. A SIGHUP that is not the first
            signal is ignored.
    """
    heard = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if number == _HANGUP and heard:
            return
        heard = True
        on_signal(signal.Signals(number))
        on_interrupt = signal.getsignal(signal.SIGINT)
        assert callable(on_interrupt)
        on_interrupt(signal.SIGINT, frame)

    before: dict[signal.Signals, Any] = {}
    if _in_main_thread():
        ending = [number for number in (signal.SIGTERM, _HANGUP) if number is not None]
        before = {
            each: signal.SIG_DFL for each in ending if signal.getsignal(each) is signal.SIG_DFL
        }
        # A program in the background of a script ignores SIGINT, and then trio does not
        # hear of it: an interrupt would come out anywhere in its loop.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            before[signal.SIGINT] = signal.SIG_IGN
    try:
        for each in before:
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else interrupt)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@attrs.define(eq=False)
class _Listener:
    """A pipeline that gets signals."""

    token: trio.lowlevel.TrioToken
    on_signal: OnSignal
    at_once: Callable[[signal.Signals], object] | None = None
    got_one: bool = False
    """Whether a signal was passed on to it. Only the signal handler sets it."""
    gone: bool = False
    """Whether its block was left: a signal that is still on its way is ignored."""

    def pass_on(self, number: signal.Signals, again: bool) -> None:
        """Pass a signal on to the pipeline's loop. Called by the signal handler."""
        if self.at_once is not None and not self.gone:
            self.at_once(number)
        if number is _HANGUP:
            if self.got_one:
                return
            again = False
        self.got_one = True
        with suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self._hear, number, again)

    def _hear(self, number: signal.Signals, again: bool) -> None:
        if not self.gone:
            self.on_signal(number, again)


class _Installed:
    """Our handler of one signal, and the handler that was installed before it.

    Each installation makes a new one. An application may install its own handler
    between two of them, and call the older one from it.
    """

    def __init__(self, owner: _Owner, number: signal.Signals) -> None:
        self._owner = owner
        self._number = number
        self._pid = os.getpid()
        self._run = trio.lowlevel.current_trio_token()
        # A bound method is a new object each time: keep one, to compare it by identity.
        self.handle = self._handle
        self._before: Any = signal.getsignal(number)
        signal.signal(number, self.handle)

    @property
    def is_in_place(self) -> bool:
        """Whether no other handler was installed since."""
        return signal.getsignal(self._number) is self.handle

    def put_back(self) -> None:
        """Put back the handler from before, if ours is in place. Main thread only."""
        if self.is_in_place:
            signal.signal(self._number, self._earlier())

    def _earlier(self) -> Any:
        before = self._before
        if (
            self._number is signal.SIGINT
            and getattr(before, "__module__", None) == "trio._core._ki"
            and not (
                trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._run
            )
        ):
            # It belongs to a trio.run that has ended. At its end trio would have put
            # back Python's own handler, if ours had not been in place.
            return signal.default_int_handler
        return before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        listeners = self._owner.listeners
        # A forked child has a copy of the listeners, but their loops do not run there.
        if listeners and os.getpid() == self._pid:
            again = any(listener.got_one for listener in listeners)
            for listener in listeners:
                listener.pass_on(self._number, again)
            return
        # All pipelines have ended. The last one ran in a thread, which could not put
        # the application's handler back: do it now, and let it handle this signal.
        self._hand_on(number, frame)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        before = self._earlier()
        self.put_back()
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class _Owner:
    """All listeners of the process, and the handlers that are installed for them."""

    def __init__(self) -> None:
        self.listeners: tuple[_Listener, ...] = ()
        self._installed: dict[signal.Signals, _Installed] = {}
        self._main: trio.lowlevel.TrioToken | None = None
        """The main thread's loop, which puts handlers back for other threads."""
        # Taken when a pipeline begins or ends, never by a signal handler. Reentrant,
        # since trio's own handler of SIGINT may raise in the main thread while it holds
        # the lock.
        self._lock = threading.RLock()

    def add(self, listener: _Listener) -> None:
        """Pass signals on to *listener* from now on."""
        with self._lock:
            self.listeners += (listener,)
            if _in_main_thread():
                self._main = listener.token
                for number in _NUMBERS:
                    self._install(number)
                if _HANGUP is not None and signal.getsignal(_HANGUP) is signal.SIG_DFL:
                    self._install(_HANGUP)
            missing = [number.name for number in _NUMBERS if not self._is_in_place(number)]
        _warn_of_missing(missing)

    def remove(self, listener: _Listener) -> None:
        """Pass no more signals on to *listener*; after the last, put handlers back."""
        listener.gone = True
        with self._lock:
            self.listeners = tuple(each for each in self.listeners if each is not listener)
            if self.listeners:
                return
            if _in_main_thread():
                self._put_back()
            elif self._main is not None:
                # If the main thread's loop has ended, the next signal puts them back,
                # or the next pipeline of the main thread.
                with suppress(trio.RunFinishedError):
                    self._main.run_sync_soon(self._put_back_if_unused)

    def _install(self, number: signal.Signals) -> None:
        if self._is_in_place(number) or signal.getsignal(number) is None:
            # None means that it was not installed from Python: it could not be put
            # back.
            return
        with suppress(ValueError):  # raised in an interpreter that is not the main one
            self._installed[number] = _Installed(self, number)

    def _is_in_place(self, number: signal.Signals) -> bool:
        return number in self._installed and self._installed[number].is_in_place

    def _put_back(self) -> None:
        for number in list(self._installed):
            self._installed.pop(number).put_back()
        self._main = None

    def _put_back_if_unused(self) -> None:
        with self._lock:
            if not self.listeners:
                self._put_back()


_owner = _Owner()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _warn_of_missing(missing: list[str]) -> None:
    if missing:
        log_event(
            logger,
            logging.WARNING,
            "pipeline.no_signals",
            "%s will not be heard: Python lets only the main thread handle signals, and no "
            "pipeline runs there. Call pipeline.shutdown() to stop this one gracefully; "
            "signals=False says that it is meant so",
            " and ".join(missing),
            signals=missing,
        )
    if sys.platform == "win32":
        log_event(
            logger,
            logging.WARNING,
            "windows.signals",
            "SIGTERM, or whatever else ends a program from outside, ends it at once here: "
            "nothing is drained, there is no report. To stop it gracefully press Ctrl-C, or "
            "have the program call pipeline.shutdown()",
        )
