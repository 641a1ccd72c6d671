"""What is written to a terminal that has been closed goes nowhere.

Otherwise each write to it raises an error: a strategy that prints would fail, though
its ticks are to be handled before the end.

Rules: only the command line does this. It is called in a signal handler: it takes no
lock, logs nothing and raises nothing.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any

__all__ = ["let_go_of_closed_terminal"]

termios: Any
try:
    import termios
except ImportError:  # on Windows, which sends no SIGHUP either
    termios = None

_STDOUT, _STDERR = 1, 2
_let_go: set[int] = set()
"""Which of them have been redirected: that is for good."""


def let_go_of_closed_terminal() -> bool:
    """Redirect standard output and standard error, where they go to a closed terminal.

    Returns:
        Whether standard output does, or did at an earlier call: a signal handler may
            have been here first.
    """
    gone = [number for number in (_STDOUT, _STDERR) if _is_closed_terminal(number)]
    with suppress(OSError):  # no file can be opened: the writes fail, as they would
        for number in gone:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
    _let_go.update(gone)
    return _STDOUT in _let_go


def _is_closed_terminal(number: int) -> bool:
    if termios is None:
        return False
    try:
        termios.tcgetattr(number)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False
