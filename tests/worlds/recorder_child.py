"""A program that records numbered ticks until it is killed.

``python -m tests.worlds.recorder_child FOLDER RATE``. The number of a tick is its
volume; the next one is one more.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import trio

import trio_ticks as tt

__all__ = ["BATCH"]

BATCH = 100
"""Ticks that are sent at once."""


class Numbered:
    """A feed of so many ticks a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    async def run(self, send: Any) -> None:
        now, start = datetime.now(UTC), trio.current_time()
        first = 0
        while True:
            numbers = range(first, first + BATCH)
            await send.send_many([tt.Tick("A", now, 1.5, 2.5, 1.0, 1.0, n) for n in numbers])
            first += BATCH
            await trio.sleep_until(start + first / self._rate)


async def main(folder: str, rate: float) -> None:
    async def handle(_tick: Any) -> None: ...

    print("ready", flush=True)
    await tt.run_pipeline(Numbered(rate), handle, workers=1, record=tt.Recorder(folder))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]))
