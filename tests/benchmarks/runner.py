"""Starts the processes of a run: a load generator, and one fresh process a contender, each on a core of its own where there are two.

Processes are ended by their own handles, whatever happens.
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
"""Where ``tests`` can be imported from."""


class ContenderError(Exception):
    """A contender ended without an account."""


def cores() -> tuple[int | None, int | None]:
    """Return the contender's core and the generator's; None where the system cannot pin, or there is only one."""
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
def open_generator(ticks: int, *, symbols: int = 5, size: int | None = None, tls: bool = False) -> Iterator[Generator]:
    """Run a load generator; it encodes its ticks first, and is ended with the block."""
    command = [sys.executable, "-m", "tests.benchmarks.loadgen", f"--ticks={ticks}", f"--symbols={symbols}"]
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


def run_job(generator: Generator, contender: str, ticks: int, **settings: Any) -> tuple[Account, list[int]]:
    """Run one contender against *generator* in a fresh process; return its account, and when it handled each tick.

    Raises:
        ContenderError: it failed, with what it wrote to its standard error.
    """
    job = Job(contender=contender, url=generator.url, ca=generator.ca, ticks=ticks, core=cores()[0], **settings)
    command = [sys.executable, "-m", "tests.benchmarks.child", json.dumps(attrs.asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=_TIMEOUT_S, check=False)
    if done.returncode or not done.stdout:
        raise ContenderError(f"contender {contender} failed:\n{done.stderr[-4000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    handled_ns = answer.pop("handled_ns", [])
    return Account(**answer), handled_ns
