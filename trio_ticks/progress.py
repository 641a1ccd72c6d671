"""How far a worker process came with its batch, in memory that it shares with its parent: readable whatever became of the process.

Rules: only the process writes, one number at a time, in the order in which things happen; a batch is the current one from the moment when
its number is there.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

__all__ = ["Progress"]

_NUMBER = struct.Struct("q")
_JOB, _BEGUN, _DONE, _TRIES = (place * _NUMBER.size for place in range(4))


class Progress:
    """Four numbers. The parent makes them and removes them, the process opens them by their name."""

    def __init__(self, name: str | None = None) -> None:
        self._memory = SharedMemory(name, create=name is None, size=4 * _NUMBER.size)
        self._ours = name is None
        self.name = self._memory.name
        write: Callable[..., None] = _NUMBER.pack_into
        assert self._memory.buf is not None
        self._numbers = self._memory.buf
        # Written twice a tick: no Python frame.
        self.begin: Callable[[int], None] = functools.partial(write, self._numbers, _BEGUN)
        """Note that so many items of the batch have been begun."""
        self.end: Callable[[int], None] = functools.partial(write, self._numbers, _DONE)
        """Note that so many items of the batch have been handled, and none has failed."""
        self._tries = 0

    def _write(self, place: int, value: int) -> None:
        _NUMBER.pack_into(self._numbers, place, value)

    def _read(self, place: int) -> int:
        value: int = _NUMBER.unpack_from(self._numbers, place)[0]
        return value

    def begin_job(self, number: int) -> None:
        """Note that the batch *number* has come."""
        self.end(0)
        self.begin(0)
        self._write(_JOB, number)

    def turn(self) -> None:
        """Note that a try to handle an item begins, or has ended."""
        self._tries += 1
        self._write(_TRIES, self._tries)

    def of(self, number: int) -> tuple[int, int]:
        """Return how many items of the batch *number* were handled, and how many were begun."""
        return (self._read(_DONE), self._read(_BEGUN)) if self._read(_JOB) == number else (0, 0)

    @property
    def trying(self) -> int | None:
        """A number that stands for the try that is going on, or ``None`` between two."""
        tries = self._read(_TRIES)
        return tries if tries % 2 else None

    def clear(self) -> None:
        """Forget what a process that has ended left there."""
        for place in (_JOB, _BEGUN, _DONE, _TRIES):
            self._write(place, 0)

    def close(self) -> None:
        """Let go of the memory; whoever made it removes it."""
        self._memory.close()
        if self._ours:
            self._memory.unlink()
