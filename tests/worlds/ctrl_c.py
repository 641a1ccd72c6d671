"""Ctrl-C as in a program of its own, and users' code that never returns."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["raising", "stand"]

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
