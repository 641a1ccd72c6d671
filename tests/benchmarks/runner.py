"""Starts a run's processes: a load generator, and a fresh process for each contender.

Each is pinned to a core of its own if there are two. Processes are ended by their own
handles, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from .job import Job
from .recorder import Account

__all__ = ["ROOT", "ContenderError", "Generator", "cores", "open_generator", "run_job"]

_TIMEOUT_S = 300.0
ROOT = Path(__file__).parents[2]
"""The directory from which ``tests`` can be imported."""


class ContenderError(Exception):
    """A contender ended without an account."""


def cores() -> tuple[int | None, int | None]:
    """Return the contender's core and the generator's.

    Both are None if the system cannot pin processes, or has only one core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


@attrs.frozen
class Generator:
    """A load generator that listens."""

    url: str
    ca: str | None
    frame_bytes: float
    process: subprocess.Popen[str]

    def served(self) -> dict[str, Any]:
        """Return what the last client got."""
        assert self.process.stdout is not None
        result: dict[str, Any] = json.loads(self.process.stdout.readline())
        return result


@contextlib.contextmanager
def open_generator(
    ticks: int,
    *,
    symbols: int = 5,
    size: int | None = None,
    tls: bool = False,
    venue: str = "flat",
) -> Iterator[Generator]:
    """Run a load generator; it encodes its ticks first, and is ended with the block."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.loadgen",
        f"--ticks={ticks}",
        f"--symbols={symbols}",
        f"--venue={venue}",
    ]
    command += [f"--size={size}"] * (size is not None) + ["--tls"] * tls
    if (core := cores()[1]) is not None:
        command.append(f"--core={core}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise ContenderError("the load generator did not start")
            yield Generator(**json.loads(line), process=process)
        finally:
            process.terminate()


def run_job(
    generator: Generator, contender: str, ticks: int, *, root: Path = ROOT, **settings: Any
) -> tuple[Account, list[int]]:
    """Run one contender against *generator* in a fresh process.

    Returns its account, and when it handled each tick.

    Raises:
        ContenderError: it failed, with what it wrote to its standard error.
    """
    settings.setdefault("core", cores()[0])
    job = Job(contender=contender, url=generator.url, ca=generator.ca, ticks=ticks, **settings)
    # Another checkout, to compare with, may not know all settings: leave out the usual.
    told = attrs.asdict(job, filter=lambda field, value: value != field.default)
    command = [sys.executable, "-m", "tests.benchmarks.child", json.dumps(told)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode or not done.stdout:
        raise ContenderError(f"contender {contender} failed:\n{done.stderr[-4000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    handled_ns = answer.pop("handled_ns", [])
    return Account(**answer), handled_ns
