"""Ticks whose handler failed, in a bounded file: a line of JSON each.

Rules: no caller waits for the disk. Lines are written by a thread of the file's own,
and lines that it cannot write are counted as lost. No error of the disk is raised. The
file holds whole lines, except for one that a crash may have cut short.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from ..checks import check_count, checked
from ..clock import Clock, monotonic, system_utc
from ..errors import ConfigError
from ..gaps import Gap
from ..logs import LogLimit, log_event
from ..ticks import QUANTITIES, Bar, BookUpdate, Tick, Trade
from ..tracebacks import (
    STACKS,
    StackTexts,
    bound,
    has_company,
    is_ours,
    message_of,
    writable,
)

__all__ = ["DeadLetter", "DeadLetterFile", "read_dead_letters"]

logger = logging.getLogger("trio_ticks.dead_letters")

_KINDS: Final[tuple[type, ...]] = (Tick, Trade, BookUpdate, Bar, Gap)
PENDING_BYTES = 4 * 2**20
"""How many bytes may wait for the disk; further letters are lost."""
_GATHER_S = 0.1
"""How long the writer waits for more letters before it writes, in seconds."""
_IDLE_S = 1.0
"""How long the writer's thread stays when there is nothing to write, in seconds."""
_FLUSH_S = 4.0
"""How long the end of a block waits for the disk, in seconds."""
_TEXT = 20_000
"""The greatest length of a message, and of a traceback, in characters."""
_CHAIN = 8
"""How many exceptions of a chain, and of a group, are written at most."""
_MOST: Final = 64
"""How many exceptions of a chain with groups are written with their tracebacks."""


@attrs.frozen(slots=True)
class DeadLetter:
    """A tick whose handler failed; from :func:`read_dead_letters`."""

    item: Any
    """The tick (or another item), as it was; plain values where its kind is unknown."""
    error: str
    """The exception's type."""
    message: str
    traceback: str
    """Where it was raised, causes included.

    Empty where it was not raised by Python code of this process.
    """
    failed_at: datetime
    """When the handling failed, in UTC."""


class _Line(msgspec.Struct, gc=False):
    """A letter as it is written; the fields have the names of :class:`DeadLetter`."""

    failed_at: datetime
    kind: str
    item: Any
    error: str
    message: str
    traceback: msgspec.Raw


_ENCODER: Final = msgspec.json.Encoder(enc_hook=repr)


def _check_path(_instance: object, _field: object, value: Path) -> None:
    if value.is_dir() or not value.parent.is_dir():
        raise ConfigError(f"path must be a file in a directory that exists, got {str(value)!r}")


# NO_OP, since else each change of a count would run attrs' validation: 1 µs a letter.
@attrs.define(slots=False, eq=False, on_setattr=attrs.setters.NO_OP)
class DeadLetterFile:
    """Writes every tick whose handler failed to a file.

    Use it as ``on_error=DeadLetterFile("failed.jsonl")``. A full file is renamed to
    ``failed.jsonl.1``, ``.1`` to ``.2`` and so on, and the oldest is deleted, so that
    all of them together never take more than ``max_bytes * (backups + 1)`` bytes.

    The pipeline flushes it at its end; if an ``on_error`` of your own calls it, put it
    into a ``with`` block. It never waits for the disk and never raises. Letters that
    cannot be written (a full disk, a disk that is too slow) are counted in ``lost``,
    and logged.

    Args:
        path: the file; letters are added at its end. Not shared between processes.
        max_bytes: how large the file may grow, in bytes.
        backups: how many full files are kept besides.

    Raises:
        ConfigError: a setting cannot work.
    """

    path: Path = attrs.field(converter=Path, validator=_check_path)
    max_bytes: int = attrs.field(
        default=10_000_000, validator=checked(check_count, least=4096), kw_only=True
    )
    backups: int = attrs.field(default=3, validator=checked(check_count, least=0), kw_only=True)
    written: int = attrs.field(default=0, init=False)
    """Letters that were written to the file, including those in files deleted since."""
    lost: int = attrs.field(default=0, init=False)
    """Letters that could not be written."""

    def __attrs_post_init__(self) -> None:
        # In JSON a character takes up to six bytes, so a message and a traceback, each
        # of max_bytes / 32 characters, fit into the file together.
        self._text_limit = min(_TEXT, self.max_bytes // 32)
        self._tracebacks = _Tracebacks()
        self._utc: Callable[[], datetime] = system_utc
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._writing = False
        self._flushing = 0
        self._writer: threading.Thread | None = None
        self._failing = False
        self._log_limit = LogLimit(monotonic)

    def use_clock(self, clock: Clock) -> None:
        """Take the times of letters from *clock*.

        A pipeline hands over its own clock when it opens. Without one the times are the
        system's.
        """
        self._utc = clock.utc

    def __call__(self, item: Any, error: Exception, /) -> None:
        """Write down that handling *item* raised *error*.

        Callable from any thread; returns at once.
        """
        bound(error)  # it may come from elsewhere than a pipeline
        line = self._encode(item, error)
        size = len(line)
        with self._lock:  # which is taken sooner than by its condition
            if size > self.max_bytes or self._pending_bytes + size > PENDING_BYTES:
                self._lose(
                    1,
                    "a letter is larger than the file may be"
                    if size > self.max_bytes
                    else "the disk is too slow",
                )
                return
            if self._writer is None and not self._start_writer():
                return
            self._pending.append(line)
            self._pending_bytes += size
            if len(self._pending) == 1:
                self._changed.notify_all()

    def _start_writer(self) -> bool:
        """Start the writer's thread; if there is none to be had, lose a letter."""
        writer = threading.Thread(
            target=self._write_pending, name=f"dead letters {self.path.name}", daemon=True
        )
        try:
            writer.start()
        except (RuntimeError, MemoryError) as error:
            # The system has no thread left to give, or Python is about to end.
            self._lose(1, str(error))
            return False
        self._writer = writer
        return True

    def flush(self, timeout_s: float = _FLUSH_S) -> bool:
        """Wait until each letter is in the file or lost.

        False: that takes longer than *timeout_s* seconds.
        """
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(
                    lambda: not (self._pending or self._writing), timeout_s
                )
            finally:
                self._flushing -= 1

    def __enter__(self) -> DeadLetterFile:
        try:
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise ConfigError(
                f"path must be a file that can be written, got {str(self.path)!r}: {error}"
            ) from error
        return self

    def __exit__(self, *_reason: object) -> None:
        if not self.flush():
            text = "%s takes too long; what waits for it may be lost"
            path = str(self.path)
            log_event(logger, logging.ERROR, "dead_letters.left", text, path, path=path)

    def _encode(self, item: Any, error: Exception) -> bytes:
        kind = (
            type(item).__name__
            if type(item) in _KINDS
            else f"{type(item).__module__}.{type(item).__qualname__}"
        )
        letter = _Line(
            self._utc(),
            kind,
            item,
            _name(error),
            message_of(error)[: self._text_limit],
            self._tracebacks.encoded(error, self._text_limit),
        )
        try:
            line = _ENCODER.encode(letter)
        except Exception:
            # msgspec cannot write the item (an integer of a thousand bits), or a repr
            # raised.
            letter.item = object.__repr__(item)
            line = _ENCODER.encode(letter)
        return line + b"\n"

    # In the writer's thread

    def _write_pending(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._pending, _IDLE_S):
                    self._writer = None
                    return
                self._changed.wait_for(lambda: self._flushing, _GATHER_S)
                lines = list(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                self._writing = True
            written, error = self._write(lines)
            with self._changed:
                self.written += written
                if error is not None:
                    self._lose(len(lines) - written, str(error))
                elif self._failing:
                    self._failing = False
                    log_event(
                        logger,
                        logging.WARNING,
                        "dead_letters.well",
                        "%s can be written again; %d were lost",
                        self.path,
                        self.lost,
                        path=str(self.path),
                        lost=self.lost,
                    )
                self._writing = False
                self._changed.notify_all()

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        # A letter that fits is written between two that do not: limit the lines about
        # that.
        if not self._failing and self._log_limit.due("lost"):
            self._failing = True
            log_event(
                logger,
                logging.ERROR,
                "dead_letters.lost",
                "%s cannot be written: %s",
                self.path,
                why,
                path=str(self.path),
                reason=why,
            )

    def _write(self, lines: Sequence[bytes]) -> tuple[int, Exception | None]:
        """Add *lines* to the file; rotate it before it would grow too large.

        Returns:
            How many lines are in the file, and the error that kept out the others.
        """
        written = 0
        try:
            while written < len(lines):
                with self.path.open("a+b", buffering=0) as file:
                    size = file.seek(0, os.SEEK_END)
                    if 0 < size < self.max_bytes and _last_byte(file) != b"\n":
                        # A crash has cut the last line short; begin a new one after it.
                        size += file.write(b"\n")
                    count = 0
                    for line in lines[written:]:
                        if size + len(line) > self.max_bytes:
                            break
                        size += len(line)
                        count += 1
                    self._append(file, b"".join(lines[written : written + count]))
                    written += count
                if written < len(lines):
                    self._rotate()
        except (OSError, MemoryError) as error:
            return written, error
        return written, None

    def _append(self, file: Any, data: bytes) -> None:
        begin = file.seek(0, os.SEEK_END)
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(begin)
            raise

    def _rotate(self) -> None:
        if not self.backups:
            self.path.unlink()
            return
        for number in range(self.backups - 1, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                _backup(self.path, number).replace(_backup(self.path, number + 1))


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    byte: bytes = file.read(1)
    return byte


def _name(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    return writable(name)


def _ends(text: str, most: int) -> str:
    """Return *text*, or its beginning and its end if it is longer than *most*."""
    if len(text) <= most:
        return text
    half = (most - 2) // 2
    return f"{text[:half]}…\n{text[len(text) - half :]}"


class _Tracebacks:
    """Makes the texts of tracebacks, without this package's frames on top of them."""

    def __init__(self) -> None:
        self._stacks = StackTexts(is_ours)
        self._encoded: dict[str, bytes] = {}

    def encoded(self, error: BaseException, most: int) -> msgspec.Raw:
        """Return the traceback of *error* as JSON, of at most *most* characters.

        A stack that comes again is not escaped again: with a bug in every tick that
        would be most of a letter's price.
        """
        if not has_company(error):
            stack = self._stacks.text(error.__traceback__)
            last = f"{_name(error)}: {message_of(error)}\n"
            if len(stack) + len(last) <= most:
                return msgspec.Raw(self._opened(stack) + msgspec.json.encode(last)[1:])
        return msgspec.Raw(msgspec.json.encode(_ends(self.text(error), most)))

    def _opened(self, stack: str) -> bytes:
        """Return *stack* as a string of JSON that is not closed yet."""
        known = self._encoded.get(stack)
        if known is None:
            if len(self._encoded) >= STACKS:
                self._encoded.clear()
            known = self._encoded[stack] = msgspec.json.encode(stack)[:-1]
        return known

    def text(self, error: BaseException) -> str:
        """Return the traceback of *error* and of its causes, the first cause first.

        Of one that has grown long, the first and the last frames. An error that is met
        again is only named: one that was taken out of a group and raised has that group
        for its context.
        """
        return self._whole(error, set())

    def _whole(self, error: BaseException, told: set[int]) -> str:
        pieces: list[str] = []
        link: BaseException | None = error
        while link is not None and len(pieces) < _CHAIN:
            name = f"{_name(link)}: {message_of(link)}\n"
            if id(link) in told or len(told) >= _MOST:
                pieces.append(name)
                break
            told.add(id(link))
            own = self._stacks.text(link.__traceback__) + name
            if isinstance(link, BaseExceptionGroup):
                own += "".join(
                    f"it holds: {self._whole(inner, told)}" for inner in link.exceptions[:_CHAIN]
                )
            pieces.append(own)
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        return "then\n".join(reversed(pieces))


def read_dead_letters(path: str | Path, *, kinds: Sequence[type] = ()) -> Iterator[DeadLetter]:
    """Read the letters of a :class:`DeadLetterFile`, oldest first, with full files.

    A line that cannot be read is skipped and logged.

    To try the ticks again: ``IterableFeed([letter.item for letter in
    read_dead_letters(path)])``.

    Args:
        path: the file.
        kinds: item classes of your own that it may hold.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(path)
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    backups = sorted(
        (
            int(match[1])
            for entry in path.parent.glob("*")
            if (match := pattern.fullmatch(entry.name))
        ),
        reverse=True,
    )
    files = [_backup(path, number) for number in (*backups, 0) if _backup(path, number).is_file()]
    if not files:
        raise ConfigError(f"there are no dead letters at {str(path)!r}")
    types = {kind.__name__: kind for kind in _KINDS} | {
        f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds
    }
    return _read(files, types)


def _item(fields: Any, kind: type[Any]) -> Any:
    """Return the item of *kind* that was written as *fields*: null stands for NaN."""
    names = [name for base, of in QUANTITIES.items() if issubclass(kind, base) for name in of]
    absent = {name: math.nan for name in names if fields[name] is None}
    item = msgspec.convert({**fields, **dict.fromkeys(absent, 0.0)} if absent else fields, kind)
    return attrs.evolve(item, **absent) if absent else item


def _read(files: Sequence[Path], types: dict[str, type]) -> Iterator[DeadLetter]:
    limit = LogLimit(monotonic)
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    letter = msgspec.json.decode(line)
                    kind = types.get(letter["kind"])
                    item = letter["item"] if kind is None else _item(letter["item"], kind)
                    failed_at = datetime.fromisoformat(letter["failed_at"])
                    yield DeadLetter(
                        item, letter["error"], letter["message"], letter["traceback"], failed_at
                    )
                except (ValueError, KeyError, TypeError) as error:
                    if times := limit.due("unreadable"):
                        log_event(
                            logger,
                            logging.WARNING,
                            "dead_letters.unreadable",
                            "%d times, the last %s, line %d: %s",
                            times,
                            path,
                            number,
                            error,
                            path=str(path),
                            line=number,
                            times=times,
                        )
