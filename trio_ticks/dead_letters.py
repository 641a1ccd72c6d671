"""Ticks whose handler failed, kept in a bounded file: one JSON line each, with the exception, to look into and to replay.

Rules: nobody waits for the disk: lines go through a thread of the file's own, and what it cannot take is counted as lost. No error of
the disk comes out; what is on it is whole lines, but for one that a crash may have cut short.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

import attrs
import msgspec

from .errors import ConfigError
from .gaps import Gap
from .log_limit import LogLimit
from .ticks import Bar, BookUpdate, Tick, Trade

__all__ = ["DeadLetter", "DeadLetterFile", "read_dead_letters"]

logger = logging.getLogger(__name__)

_KINDS: Final[tuple[type, ...]] = (Tick, Trade, BookUpdate, Bar, Gap)
_PENDING_BYTES = 4 * 2**20
"""How much may wait for the disk, in bytes."""
_GATHER_S = 0.1
"""How long the writer waits for company once there is something to write, in seconds."""
_IDLE_S = 1.0
"""How long the writer's thread stays where there is nothing to do, in seconds."""
_FLUSH_S = 4.0
"""How long the end of a block waits for the disk, in seconds."""
_TRACEBACKS = 256
"""Stacks whose text is kept: to write one out costs a hundred times what a look at its line numbers does."""
_TEXT = 20_000
"""How long a message, or a traceback, may be, in characters."""
_CHAIN = 8
"""Causes of an exception that are written out, at most."""


@attrs.frozen(slots=True)
class DeadLetter:
    """A tick whose handler failed; from :func:`read_dead_letters`."""

    item: Any
    """The tick (or another item), as it was; plain values where its kind is unknown."""
    error: str
    """The exception's type."""
    message: str
    traceback: str
    """Where it was raised, causes included. Empty where it was not raised by Python code of this process."""
    failed_at: datetime
    """When, in UTC."""


def _check_path(_instance: object, _field: object, value: Path) -> None:
    if value.is_dir() or not value.parent.is_dir():
        raise ConfigError(f"path must be a file in a directory that exists, got {str(value)!r}")


def _check_count(least: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    def check(_instance: object, field: attrs.Attribute[int], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{field.name} must be a whole number, {least} or more, got {value!r}")

    return check


@attrs.define(slots=False, eq=False)
class DeadLetterFile:
    """Writes every tick whose handler failed to a file: ``on_error=DeadLetterFile("failed.jsonl")``.

    A full file is renamed to ``failed.jsonl.1``, that one to ``.2`` and so on; the oldest is deleted, so all of them together never take
    more than ``max_bytes * (backups + 1)``. The pipeline flushes it at its end; used from an ``on_error`` of your own, put it into a
    ``with`` block. It never waits for the disk and never raises: what could not be written (a full disk, a disk that is too slow) is
    counted in ``lost``, and logged.

    Args:
        path: the file; letters are added to what is there. Not shared between processes.
        max_bytes: how large it grows.
        backups: how many full ones are kept besides.

    Raises:
        ConfigError: a setting cannot work.
    """

    path: Path = attrs.field(converter=Path, validator=_check_path)
    max_bytes: int = attrs.field(default=10_000_000, validator=_check_count(4096), kw_only=True)
    backups: int = attrs.field(default=3, validator=_check_count(0), kw_only=True)
    written: int = attrs.field(default=0, init=False)
    """Letters that are in the file, or were and have been rotated away since."""
    lost: int = attrs.field(default=0, init=False)
    """Letters that could not be written."""

    def __attrs_post_init__(self) -> None:
        # In JSON a character takes up to six bytes: message and traceback fit in together.
        self._text_limit = min(_TEXT, self.max_bytes // 32)
        self._tracebacks = _Tracebacks()
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._writing = False
        self._flushing = 0
        self._writer: threading.Thread | None = None
        self._failing = False
        self._log_limit = LogLimit()

    def __call__(self, item: Any, error: Exception, /) -> None:
        """Note that *error* came of *item*. From any thread; returns at once."""
        line = self._encode(item, error)
        with self._changed:
            if len(line) > self.max_bytes or self._pending_bytes + len(line) > _PENDING_BYTES:
                self._lose(1, "a letter is larger than the file may be" if len(line) > self.max_bytes else "the disk is too slow")
                return
            self._pending.append(line)
            self._pending_bytes += len(line)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_pending, name=f"dead letters {self.path.name}", daemon=True)
                self._writer.start()
            elif len(self._pending) == 1:
                self._changed.notify_all()

    def flush(self, timeout_s: float = _FLUSH_S) -> bool:
        """Wait until all that was noted is in the file, or lost; False where that takes longer than *timeout_s*."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not (self._pending or self._writing), timeout_s)
            finally:
                self._flushing -= 1

    def __enter__(self) -> DeadLetterFile:
        try:
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise ConfigError(f"path must be a file that can be written, got {str(self.path)!r}: {error}") from error
        return self

    def __exit__(self, *_reason: object) -> None:
        if not self.flush():
            text = "dead_letters.left: %s takes too long; what waits for it may be lost"
            logger.error(text, self.path, extra={"path": str(self.path)})

    def _encode(self, item: Any, error: Exception) -> bytes:
        kind = type(item).__name__ if type(item) in _KINDS else f"{type(item).__module__}.{type(item).__qualname__}"
        letter = {
            "failed_at": datetime.now(UTC),
            "kind": kind,
            "item": item,
            "error": _name(error),
            "message": _message(error)[: self._text_limit],
            "traceback": self._tracebacks.text(error)[-self._text_limit :],
        }
        try:
            line = msgspec.json.encode(letter, enc_hook=repr)
        except Exception:
            # What msgspec cannot write down (an integer of a thousand bits), or a repr that raises.
            letter["item"] = object.__repr__(item)
            line = msgspec.json.encode(letter)
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
                    facts = {"path": str(self.path), "lost": self.lost}
                    logger.warning("dead_letters.well: %s can be written again; %d were lost", self.path, self.lost, extra=facts)
                self._writing = False
                self._changed.notify_all()

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        # Letters that fit and letters that do not may come in turns.
        if not self._failing and self._log_limit.due("lost"):
            self._failing = True
            logger.error("dead_letters.lost: %s cannot be written: %s", self.path, why, extra={"path": str(self.path)})

    def _write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Add *lines* to the file, and rotate it where it would grow too large; return how many are in it, and what went wrong."""
        written = 0
        try:
            while written < len(lines):
                with self.path.open("a+b", buffering=0) as file:
                    size = file.seek(0, os.SEEK_END)
                    if 0 < size < self.max_bytes and _last_byte(file) != b"\n":
                        # A crash has cut the last line short: ours must not become its end.
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
        except OSError as error:
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
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except Exception:
        return "its message cannot be made"


class _Tracebacks:
    """Makes the texts of tracebacks, and keeps those of stacks that come again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[str, list[CodeType]]] = {}

    def text(self, error: BaseException) -> str:
        """Return the traceback of *error* and of what caused it, the first cause first; frames of this package on top are left out."""
        pieces: list[str] = []
        link: BaseException | None = error
        while link is not None and len(pieces) < _CHAIN:
            own = f"{self._frames(link.__traceback__)}{_name(link)}: {_message(link)}\n"
            if isinstance(link, BaseExceptionGroup):
                own += "".join(f"it holds: {self.text(inner)}" for inner in link.exceptions[:_CHAIN])
            pieces.append(own)
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        return "then\n".join(reversed(pieces))

    def _frames(self, trace: TracebackType | None) -> str:
        while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code):
            trace = trace.tb_next
        key: list[int] = []
        codes: list[CodeType] = []
        link = trace
        while link is not None:
            code = link.tb_frame.f_code
            key += (id(code), link.tb_lineno)
            codes.append(code)
            link = link.tb_next
        known = self._known.get(tuple(key))
        if known is None:
            if len(self._known) >= _TRACEBACKS:
                self._known.clear()
            # The code objects are kept, so that no other comes to have the same id.
            known = self._known[tuple(key)] = "".join(traceback.format_tb(trace)), codes
        return known[0]


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


_PACKAGE = str(Path(__file__).parent) + os.sep


def read_dead_letters(path: str | Path, *, kinds: Sequence[type] = ()) -> Iterator[DeadLetter]:
    """Read what a :class:`DeadLetterFile` wrote, the oldest first, full files included; a line that makes no sense is skipped and logged.

    To try the ticks again: ``IterableFeed([letter.item for letter in read_dead_letters(path)])``.

    Args:
        path: the file.
        kinds: item classes of your own that it may hold.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(path)
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    backups = sorted((int(match[1]) for entry in path.parent.glob("*") if (match := pattern.fullmatch(entry.name))), reverse=True)
    files = [_backup(path, number) for number in (*backups, 0) if _backup(path, number).is_file()]
    if not files:
        raise ConfigError(f"there are no dead letters at {str(path)!r}")
    types = {kind.__name__: kind for kind in _KINDS} | {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
    return _read(files, types)


def _read(files: Sequence[Path], types: dict[str, type]) -> Iterator[DeadLetter]:
    limit = LogLimit()
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    letter = msgspec.json.decode(line)
                    kind = types.get(letter["kind"])
                    item = letter["item"] if kind is None else msgspec.convert(letter["item"], kind)
                    failed_at = datetime.fromisoformat(letter["failed_at"])
                    yield DeadLetter(item, letter["error"], letter["message"], letter["traceback"], failed_at)
                except (ValueError, KeyError, TypeError) as error:
                    if times := limit.due("unreadable"):
                        facts = {"path": str(path), "line": number, "times": times}
                        logger.warning(
                            "dead_letters.unreadable: %d times, the last %s, line %d: %s", times, path, number, error, extra=facts
                        )
