"""Handlers for runs with faults of the network, in every place, and what they did."""

from __future__ import annotations

import threading
import time
from collections import Counter

import trio

import trio_ticks as tt

__all__ = ["Book", "Handlers"]


class Book:
    """Writes down what is handled, from any thread."""

    def __init__(self) -> None:
        self.lines: dict[str, list[float]] = {}
        self.busy: set[str] = set()
        self.wrongs: list[str] = []
        self._lock = threading.Lock()

    def begin(self, tick: tt.Tick) -> None:
        with self._lock:
            if tick.symbol in self.busy:
                self.wrongs.append(f"two of {tick.symbol} at once")
            self.busy.add(tick.symbol)
            self.lines.setdefault(tick.symbol, []).append(tick.volume)

    def end(self, tick: tt.Tick) -> None:
        with self._lock:
            self.busy.discard(tick.symbol)

    @property
    def handled(self) -> int:
        return sum(map(len, self.lines.values()))

    def check(self, *, corrupted: bool) -> None:
        assert self.wrongs == []
        for symbol, line in self.lines.items():
            twice = [volume for volume, count in Counter(line).items() if count > 1]
            # A wrong byte may stand in a volume.
            assert corrupted or (twice == [] and line == sorted(line)), symbol


class Handlers:
    """One handler for each place, which takes a while for every tenth tick."""

    def __init__(self, place: str, book: Book) -> None:
        self._book = book
        self.of = {"loop": self.in_loop, "thread": self.in_thread, "process": in_process}[place]

    async def in_loop(self, tick: tt.Tick) -> None:
        self._book.begin(tick)
        if tick.volume % 10 < 1:
            await trio.sleep(0.002)
        self._book.end(tick)

    def in_thread(self, tick: tt.Tick) -> None:
        self._book.begin(tick)
        if tick.volume % 10 < 1:
            time.sleep(0.002)
        self._book.end(tick)


def in_process(tick: tt.Tick) -> None:
    if tick.volume % 10 < 1:
        time.sleep(0.002)
