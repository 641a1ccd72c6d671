"""How far a worker process has come with its batch, in memory shared with its parent.

Goal: the parent can read it although the process was killed, in the middle of anything.

Rules:

- Only the process writes, one number at a time, in the order in which things happen.
  The parent clears the numbers only while there is no process.
- The numbers belong to a batch from the moment when its number is written.
- The memory is allocated before anything is written to it. On Linux it is a file in
  /dev/shm: a process that writes to a page without room there is killed by SIGBUS.
"""

from __future__ import annotations

import functools
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from ...errors import ConfigError

__all__ = ["Progress", "check_room"]

_NUMBER = struct.Struct("q")
_JOB, _BEGUN, _DONE, _TRIES = (place * _NUMBER.size for place in range(4))

_SIZE = 4 * _NUMBER.size
_FILES = Path("/dev/shm")  # noqa: S108  # no temporary file: where the system has them
"""Where Linux keeps shared memory, as files; other systems do not have it."""


def check_room(count: int) -> None:
    """Check that *count* processes can be watched, by allocating their memory briefly.

    Raises:
        ConfigError: there is no shared memory, or not enough.
    """
    memory = _allocated(count * mmap.PAGESIZE)
    memory.close()
    memory.unlink()


def _start_tracker() -> None:
    """Start Python's resource tracker, unless it runs, with SIGHUP blocked.

    The tracker is a process that removes shared memory which nobody has removed. A
    closed terminal ends it, as it ignores only SIGINT and SIGTERM; another one would be
    started, which knows nothing of the memory and writes a traceback for each piece.
    """
    if sys.platform == "win32":
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allocated(size: int) -> SharedMemory:
    try:
        _start_tracker()
        memory = SharedMemory(create=True, size=size)
        try:
            file = _FILES / memory.name
            if file.exists():
                _allocate(file, size)
        except OSError:
            memory.close()
            memory.unlink()
            raise
    except OSError as error:
        raise ConfigError(
            f'executor="process" needs shared memory, {size} bytes of it, and the system gives '
            f"none: {error.strerror}. Make room in {_FILES}, or make it writable (Docker: "
            '--shm-size=64m), or use executor="thread"'
        ) from error
    return memory


def _allocate(file: Path, size: int) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


class Progress:
    """Four numbers: batch, items begun, items done, tries begun and ended.

    Args:
        name: of memory to open, in the process. The parent gives none: it makes the
            memory, and removes it in :meth:`close`.
    """

    def __init__(self, name: str | None = None) -> None:
        self._memory = _allocated(_SIZE) if name is None else SharedMemory(name)
        self._ours = name is None
        self.name = self._memory.name
        write: Callable[..., None] = _NUMBER.pack_into
        assert self._memory.buf is not None
        self._numbers = self._memory.buf
        # Called twice a tick, so these are partials of C functions, not methods.
        self.begin: Callable[[int], None] = functools.partial(write, self._numbers, _BEGUN)
        """Write how many items of the batch have been begun."""
        self.end: Callable[[int], None] = functools.partial(write, self._numbers, _DONE)
        """Write how many items of the batch have been handled without a failure."""
        self._tries = 0

    def _write(self, place: int, value: int) -> None:
        _NUMBER.pack_into(self._numbers, place, value)

    def _read(self, place: int) -> int:
        value: int = _NUMBER.unpack_from(self._numbers, place)[0]
        return value

    def begin_job(self, number: int) -> None:
        """Begin the batch *number*, with nothing begun or done."""
        self.end(0)
        self.begin(0)
        self._write(_JOB, number)

    def turn(self) -> None:
        """Count that a try to handle an item begins, or has ended."""
        self._tries += 1
        self._write(_TRIES, self._tries)

    def of(self, number: int) -> tuple[int, int]:
        """Return how many items of batch *number* were handled, and how many begun."""
        return (self._read(_DONE), self._read(_BEGUN)) if self._read(_JOB) == number else (0, 0)

    @property
    def trying(self) -> int | None:
        """The number of the try that is going on; ``None`` between two tries."""
        tries = self._read(_TRIES)
        return tries if tries % 2 else None

    def clear(self) -> None:
        """Set the numbers to 0, after their process has ended."""
        for place in (_JOB, _BEGUN, _DONE, _TRIES):
            self._write(place, 0)

    def close(self) -> None:
        """Close the memory; the side that made it removes it, too."""
        self._memory.close()
        if self._ours:
            self._memory.unlink()
