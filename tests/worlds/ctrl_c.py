"""Signals that come at any line, Ctrl-C first, and users' code that never returns."""

from __future__ import annotations

import functools
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "handled_by", "raising", "stand"]

_PATIENCE_S = 10.0
"""After so long what never returns does so after all: nothing has interrupted it."""
_stood: list[float] = []
"""How long what never returns has run without being interrupted."""


@contextmanager
def raising() -> Iterator[None]:
    """Have Ctrl-C raise, whoever runs the tests, and check that it ended each stand."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    _stood.clear()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    assert not _stood


@contextmanager
def handled_by(function: Callable[[], object]) -> Iterator[None]:
    """Have SIGINT call *function*, as an application's own signal handler may."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: function())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stand() -> None:
    """Get Ctrl-C from another thread, and return only if it does not come out.

    It is given to no pipeline itself, so that nothing sees that it is a user's.
    """
    main = threading.main_thread().ident
    assert main is not None
    threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT)).start()
    began = time.monotonic()
    while time.monotonic() - began < _PATIENCE_S:
        pass
    _stood.append(_PATIENCE_S)


class Interrupt:
    """Sends SIGINT at the *at*-th line that runs of files whose path *is_meant*.

    If *every* is given, it sends one at each *every*-th line from there on as well.
    """

    def __init__(self, at: int, is_meant: re.Pattern[str], every: int = 0) -> None:
        self._left = at
        self._every = every
        self._is_meant = functools.cache(
            lambda path: is_meant.search(Path(path).as_posix()) is not None
        )
        self.where = ""
        """The line of the last one."""
        self.count = 0
        """How many were sent."""

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_reason: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, _event: str, _arg: object) -> Any:
        return self._line if self._is_meant(frame.f_code.co_filename) else None

    def _line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line" and self._left:
            self._left -= 1
            if not self._left:
                self._left = self._every
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.count += 1
                signal.raise_signal(signal.SIGINT)
        return self._line
