"""A replay on a virtual clock in a process of its own, told by what came of each tick.

``python -m tests.worlds.virtual_runs RECORDING SEED [variants]`` prints a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

import trio_ticks as tt

__all__ = ["VARIANTS", "Told", "play", "settings"]


class Told:
    """A strategy that awaits, fails at times, and tells of every tick."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def __call__(self, tick: tt.Tick) -> None:
        self.note("begun", tick)
        await trio.sleep(0.005)
        if random.random() < 0.05:
            raise ValueError("at random")
        if random.random() < 0.02:
            await trio.sleep(1.0)  # the time limit
        self.note("done", tick)

    def note(self, what: str, tick: Any) -> None:
        at = trio.current_time()
        self.lines.append(f"{at!r} {what} {tick.symbol} {tick.timestamp.isoformat()} {tick.bid}")

    def on_items(self, items: Sequence[Any], reason: str | None) -> None:
        for item in items:
            self.note(reason or "came", item)


def settings() -> dict[str, Any]:
    """Return settings with as much chance in them as there is."""
    return {
        "workers": 4,
        "maxsize": 50,
        "overflow": tt.DropNewest(0.05),
        "handler_timeout": 0.1,
        "retry": tt.Retry(ValueError, attempts=2, initial_s=0.001),
        "max_age": 0.5,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "auto": {"workers": "auto", "maxsize": 200},
    "unordered": {"ordering": "none", "overflow": tt.DropOldest()},
    "conflated": {"overflow": tt.Conflate(), "max_age": tt.MaxAge(0.02, since="timestamp")},
    "throttled": {"overflow": tt.Throttle(tt.DropNewest(0.01)), "maxsize": 40},
    "broken": {"breaker": tt.Breaker(failures=1, pause_s=0.05), "retry": None},
    "blocked": {"overflow": tt.Block(), "maxsize": 5},
    "computing": {"service": 0.001, "workers": 2},
}
"""Settings beside those of :func:`settings`, one kind of decision each."""


def play(recording: Path, seed: int, **more: Any) -> tuple[tt.PipelineReport, Told]:
    """Play *recording*, and return what came of it."""
    told = Told()
    report = tt.replay_virtual(
        recording,
        told,
        seed=seed,
        observe=lambda pipeline: pipeline.item_listeners.add(told.on_items),
        **{**settings(), **more},
    )
    return report, told


def main(recording: str, seed: str, variants: str = "") -> None:
    logging.disable(logging.CRITICAL)
    # Objects lie elsewhere in the memory of each process.
    ballast = [object() for _ in range(random.SystemRandom().randrange(10_000))]
    report, told = play(Path(recording), int(seed))
    del ballast
    text = "\n".join(told.lines)
    print(
        json.dumps(
            {
                "ledger": report.ledger.to_dict(),
                "fingerprint": report.fingerprint,
                "lines": len(told.lines),
                "hash": hashlib.sha256(text.encode()).hexdigest(),
                "variants": {
                    name: play(Path(recording), int(seed), **more)[0].fingerprint
                    for name, more in VARIANTS.items()
                    if variants
                },
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
