"""What became of each tick, by the log in which all workers write what they handled.

Rules: sync; the log is read on from where it was read last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import attrs

__all__ = ["Found", "Judge"]


@attrs.frozen(kw_only=True)
class Found:
    """How a run has gone, for one group of workers."""

    sent: int
    handled: int
    """Handlings, repeats included."""
    lost: int
    """Ticks that were never handled."""
    skipped: int
    """Ticks of which a later one of their symbol was handled before they ever were."""
    repeats: int
    most_repeats: int
    """Repeated handlings of the symbol that has most of them."""
    most_back: int
    """How often the symbol went back that did so most often: an earlier tick, or the
    same, was handled after a later one."""


@attrs.define
class _Line:
    """One symbol."""

    highest: int = 0
    last: int = 0
    back: int = 0
    repeats: int = 0
    skipped: int = 0
    missing: set[int] = attrs.Factory(set)
    """Numbers below the highest that were not handled yet."""

    def write(self, number: int) -> None:
        """Take note of a handling."""
        self.back += number <= self.last
        self.last = number
        if number > self.highest:
            self.skipped += number - self.highest - 1
            self.missing.update(range(self.highest + 1, number))
            self.highest = number
        elif number in self.missing:
            self.missing.discard(number)
        else:
            self.repeats += 1

    def distinct(self) -> int:
        """Return how many ticks were handled."""
        return self.highest - len(self.missing)


class Judge:
    """Reads the log of a group of workers.

    Args:
        log: its path; it need not be there yet.
        sent: how many ticks each symbol has.
    """

    def __init__(self, log: Path, sent: Mapping[str, int]) -> None:
        self.log = log
        self.sent = Counter(sent)
        self.handled = 0
        self._lines = {symbol: _Line() for symbol in sent}
        self._at = 0
        self._rest = b""

    def read(self) -> None:
        """Read what was written meanwhile."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            symbol, _, number = line.decode().partition(" ")
            self._lines[symbol].write(int(number))
        self.handled += len(lines)

    @property
    def distinct(self) -> int:
        """How many ticks were handled at least once."""
        return sum(line.distinct() for line in self._lines.values())

    @property
    def is_complete(self) -> bool:
        """Whether every tick was handled."""
        return self.distinct == self.sent.total()

    def found(self) -> Found:
        """Return the verdict on what was read."""
        lines = self._lines.values()
        return Found(
            sent=self.sent.total(),
            handled=self.handled,
            lost=self.sent.total() - self.distinct,
            skipped=sum(line.skipped for line in lines),
            repeats=sum(line.repeats for line in lines),
            most_repeats=max(line.repeats for line in lines),
            most_back=max(line.back for line in lines),
        )
