"""Which symbols a feed is to have: what its user asks for, in any thread.

Plan: the wishes are kept here, under a lock, and never changed in place. While the feed
runs, its event loop is told to bring the connections into line with them, whichever
thread has changed them; calls that wait for the loop become one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import final

from ...errors import ConfigError
from ...loop import LoopHandle
from ..symbols import check_symbols

__all__ = ["SymbolWishes"]


@final
class SymbolWishes:
    """The symbols that are wanted, by the venue's spelling with the user's names.

    Args:
        names: the symbols to begin with.
        act: called in the event loop of the feed, or in any thread before it runs, when
            the wishes have changed.
    """

    def __init__(self, names: Mapping[str, str], act: Callable[[], None]) -> None:
        self.names: Mapping[str, str] = dict(names)
        self._act_once = act
        self._lock = threading.RLock()
        self._loop: LoopHandle | None = None
        self._suspended = False
        self._acting = self._again = False
        """Whether we act on the wishes, and whether they have changed meanwhile."""

    @property
    def now(self) -> Mapping[str, str]:
        """What is to be subscribed to now."""
        return {} if self._suspended else self.names

    def begin(self, on_error: Callable[[Exception], object]) -> None:
        """Act in this event loop from now on: the feed runs.

        Args:
            on_error: told, in the loop, why what was asked for could not be done, if
                whoever asked does not wait for it.
        """
        with self._lock:
            self._act()
            self._loop = LoopHandle(on_error)

    def end(self) -> None:
        """Act in the caller's thread from now on: the feed has ended."""
        with self._lock:
            self._loop = None
            self._act()

    def add(self, symbols: Iterable[str] | Mapping[str, str]) -> None:
        """Want *symbols* too, if they are not wanted already.

        Raises:
            ConfigError: they are no symbols, or a name is taken by another symbol.
        """
        wanted = check_symbols(symbols)

        def added(names: Mapping[str, str]) -> Mapping[str, str]:
            new = {symbol: name for symbol, name in wanted.items() if symbol not in names}
            taken = set(names.values()).intersection(new.values())
            if taken:
                raise ConfigError(f"the name {min(taken)!r} belongs to another symbol of this feed")
            return {**names, **new}

        self._replace(added)

    def remove(self, names: Iterable[str]) -> None:
        """Want the symbols of *names*, the user's, no more.

        Raises:
            ConfigError: they are no symbols.
        """
        gone = set(check_symbols(names).values())
        self._replace(
            lambda names: {symbol: name for symbol, name in names.items() if name not in gone}
        )

    def suspend(self) -> None:
        """Want none at all until :meth:`resume`."""
        self._set_suspended(True)

    def resume(self) -> None:
        """Want again what is wanted."""
        self._set_suspended(False)

    def _replace(self, changed: Callable[[Mapping[str, str]], Mapping[str, str]]) -> None:
        with self._lock:
            done = False
            while not done:
                before = self.names
                after = changed(before)
                # The lock keeps other threads out, but a signal handler may have
                # changed them in this one. Python calls none between the look and the
                # replacement: it does so after calls and before jumps back.
                self.names, done = (after, True) if self.names is before else (self.names, False)
            self._changed()

    def _set_suspended(self, suspended: bool) -> None:
        with self._lock:
            self._suspended = suspended
            self._changed()

    def _act(self) -> None:
        """Act, once more if a signal handler has changed the wishes in its midst."""
        self._again = True
        while self._again and not self._acting:
            self._acting, self._again = True, False
            try:
                self._act_once()
            finally:
                self._acting = False

    def _changed(self) -> None:
        if self._loop is None:
            self._act()
        else:
            self._loop.call(self._act)
