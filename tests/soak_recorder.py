"""``kill -9`` of a recorder under load, again and again, in the same folder.

``python -m tests.soak_recorder [--kills 20]`` takes its time, so it is no test. Half of
the kills hit ``trio-ticks record`` at a local exchange, the others a pipeline that
records numbered ticks. It exits with 1 if a kill cost more than a second, if there is a
hole in what is left, if a file does not play, or if a restart has changed an old file.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import msgspec
import trio

import trio_ticks as tt
from tests.worlds.command_line import command, environment
from tests.worlds.recorded import messages_of, the_files

RATE = 20_000
MOST_S = 1.0
"""The most that a kill may cost."""
SYMBOLS = "SPY,QQQ"


@attrs.define
class Seen:
    """What the kills have left."""

    cost_s: list[float] = attrs.field(factory=list)
    """From the last message in the file to the kill."""
    messages: int = 0
    holes: int = 0
    """Files with numbers missing, or times that go back."""
    changed: int = 0
    """Old files that a restart has changed."""
    unplayed: int = 0
    """Files of which a replay made other items than the messages in them."""


def start(number: int, folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Start the recorder of kill *number*."""
    if number % 2:
        program = command("record", "--url", url, "--symbols", SYMBOLS, "--out", str(folder))
    else:
        program = [sys.executable, "-m", "tests.worlds.recorder_child", str(folder), str(RATE)]
    return subprocess.Popen(
        program, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def sums(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in the_files(folder)}


def kill_once(number: int, folder: Path, url: str, lives_s: float) -> tuple[Path, int]:
    """Return the file of the recorder that was killed, and when, in ns since 1970."""
    before = set(the_files(folder))
    with start(number, folder, url) as process:
        until = time.monotonic() + 60
        while not (new := [path for path in the_files(folder) if path not in before]):
            assert time.monotonic() < until, "the recorder does not begin"
            time.sleep(0.01)
        time.sleep(lives_s)
        killed_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
    return new[0], killed_ns


async def play(path: Path) -> tuple[int, int]:
    """Return how many ticks a replay makes of the file, and how many lines are bad."""
    count = 0

    async def handle(_tick: Any) -> None:
        nonlocal count
        count += 1

    feed = tt.ReplayFeed(path, math.inf)
    report = await tt.run_pipeline(feed, handle, workers=1, signals=False)
    return count, report.malformed


def check(path: Path, killed_ns: int, seen: Seen) -> None:
    """Look at what is left of one recorder."""
    messages = messages_of(path)
    ticks = [message for _, message in messages if b'"bid"' in message]
    seen.messages += len(messages)
    seen.cost_s.append((killed_ns - messages[-1][0]) / 1e9 if messages else math.inf)
    goes_back = any(one > other for (one, _), (other, _) in pairwise(messages))
    missing = False
    if b'"symbol":"A"' in messages[-1][1]:
        numbers = [int(msgspec.json.decode(tick)["volume"]) for tick in ticks]
        missing = numbers != list(range(len(numbers)))
    seen.holes += goes_back or missing
    seen.unplayed += trio.run(play, path) != (len(ticks), 0)


def soak(kills: int, folder: Path, url: str) -> Seen:
    """Kill so many recorders, and look at what is left."""
    rng, seen = random.Random(1), Seen()
    for number in range(kills):
        before = sums(folder)
        path, killed_ns = kill_once(number, folder, url, rng.uniform(1.0, 4.0))
        after = sums(folder)
        seen.changed += sum(after.get(old) != digest for old, digest in before.items())
        check(path, killed_ns, seen)
        what = "trio-ticks record" if number % 2 else "numbered ticks"
        print(
            f"{number + 1:3}  {what:17}  {path.stat().st_size:>9,} bytes  "
            f"cost {seen.cost_s[-1]:.2f} s",
            flush=True,
        )
    return seen


def verdicts(seen: Seen) -> dict[str, bool]:
    """Return what there is to say, and whether it is as it should be."""
    most = max(seen.cost_s)
    return {
        f"{len(seen.cost_s)} kills cost {most:.2f} s at most ({MOST_S:g})": most <= MOST_S,
        f"{seen.holes} files with a hole, or with times that go back": not seen.holes,
        f"{seen.unplayed} files that do not play, of {seen.messages:,} messages": not seen.unplayed,
        f"{seen.changed} old files changed by a restart": not seen.changed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    logging.getLogger("trio_ticks").setLevel(logging.ERROR)  # A replay fills its queue.
    exchange = command("exchange", "--rate", str(RATE), "--symbols", "2", "--port", "0")
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            exchange,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        ) as process,
    ):
        assert process.stdout is not None
        found = re.search(r"ws://\S+", process.stdout.readline())
        assert found is not None
        try:
            seen = soak(kills, Path(folder), found[0])
        finally:
            process.kill()
    told = verdicts(seen)
    for what, good in told.items():
        print(f"{'ok' if good else 'NOT AS IT SHOULD BE':20} {what}")
    return 0 if all(told.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
