"""Which files a replay plays, in which language, and which of them goes on where.

Rules: everything here blocks on the disk. Of several files, one without market data is
left out and logged; a file that was asked for alone must have some. Two files of one
recorder differ in the digits of their names: the later one goes on where the earlier
one ends, so that their codec need not begin anew.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from ..logs import log_event
from .captures import read_head, recognise
from .venues import Codec, Language

__all__ = ["RecordingFile", "Where", "check_paths", "files_at", "find_recordings"]

logger = logging.getLogger("trio_ticks.feeds")

Where = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A recording: its path, that of a folder of recordings, or several paths."""

MOST_FILES: Final = 10_000
_SUBSCRIBED_ITEMS: Final = 1000
"""The codec is made to subscribe to the symbols of so many first items.

It finds gaps in the numbers of these symbols only.
"""
_OTHER_KINDS: Final = frozenset({".parquet", ".csv", ".columns", ".md", ".py", ".html"})
"""Names of files in a folder that are never recordings."""


@final
@attrs.frozen
class RecordingFile:
    """One file of a recording, as its beginning shows it."""

    path: Path
    language: Language
    symbols: tuple[str, ...]
    """The symbols of its first items."""
    first_ns: int
    """The time of its first item, in ns since 1970."""

    @property
    def line(self) -> tuple[Path, str, str]:
        """What it has in common with the files that the same recorder wrote."""
        name = re.sub(r"\d+", "0", self.path.name)
        return self.path.parent, name, self.language.name


def check_paths(where: Where) -> tuple[Path, ...]:
    """Return the paths in *where*.

    Raises:
        ConfigError: there is none, or nothing lies at one of them.
    """
    given: Any = where if isinstance(where, list | tuple) else (where,)
    try:
        paths = tuple(Path(each) for each in given)
    except TypeError as error:
        raise ConfigError(
            "a recording is given by its path, the path of a folder, or a list of paths, got "
            f"{where!r}"
        ) from error
    if not paths:
        raise ConfigError("the list of recordings is empty: give at least one path")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"there is no recording {str(path)!r}")
        if not path.is_dir() and not path.is_file():
            raise ConfigError(f"cannot play {str(path)!r}: it is not a regular file")
    return paths


def find_recordings(
    paths: Iterable[Path],
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
) -> list[RecordingFile]:
    """Return the files at *paths* that can be played, the earliest first.

    Blocks on the disk.

    Args:
        paths: of files, and of folders with files in them, at any depth.
        venue: whose messages they hold; ``None``: each file's first lines tell.
        channels: as for :class:`~trio_ticks.WebSocketFeed`.

    Raises:
        ConfigError: no file can be played, or there are more than 10,000.
    """
    candidates = list(files_at(paths))
    found: list[RecordingFile] = []
    failed: list[tuple[Path, ConfigError]] = []
    for path in candidates:
        try:
            language = recognise(path, venue, channels)
            head = read_head(path, language, most=_SUBSCRIBED_ITEMS)
        except ConfigError as error:
            failed.append((path, error))
            continue
        found.append(RecordingFile(path, language, head.symbols, head.first_ns))
    if not found:
        if not failed:
            shown = ", ".join(repr(str(path)) for path in paths)
            raise ConfigError(f"there is no file in {shown}: a recording is a file of messages")
        raise failed[0][1]
    for path, reason in failed:
        text = "%s is left out: %s"
        facts = {"path": str(path), "reason": str(reason)}
        log_event(logger, logging.WARNING, "replay.left_out", text, path, reason, **facts)
    return sorted(found, key=lambda file: (file.first_ns, str(file.path)))


def files_at(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files at *paths*, and those in the folders among them, at any depth.

    Hidden files in a folder, and those that are never recordings, are left out.

    Raises:
        ConfigError: there are more than 10,000.
    """
    seen: set[Path] = set()
    for given in paths:
        inside = sorted(given.rglob("*")) if given.is_dir() else [given]
        for path in inside:
            other = path is not given and (
                path.name.startswith(".") or path.suffix.lower() in _OTHER_KINDS
            )
            if other or path in seen or not path.is_file():
                continue
            seen.add(path)
            if len(seen) > MOST_FILES:
                raise ConfigError(
                    f"there are more than {MOST_FILES:,} files in {str(given)!r}: give a folder "
                    "with fewer, or the paths of those to play"
                )
            yield path
