"""Many simulations of one load, on all cores: in processes of their own.

Plan: a process gets the load and the services once, and then job after job; it answers
each. It is started as a program of its own, so neither the user's main module is run
again in it, nor a thread of this process forked with it.

Rules: a process ends when its input ends; all are ended when the sweep ends, however it
does. Few or small jobs are run here, since starting a process takes a third of a
second. Plain threads and pipes: nothing here knows trio.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, final

from ..control.cores import usable_cores
from ..errors import TickError
from .jobs import Job, Summary, check_services, packed, run, unpacked
from .loads import Load, Services

__all__ = ["main", "sweep"]

Progress = Callable[[int, int], None]
"""Called in the caller's thread with how many jobs are done, and how many there are."""

FEW_TICKS: Final = 300_000
"""Jobs with fewer ticks than this in all are run in this process."""
_LENGTH: Final = struct.Struct("<Q")
_ROOT: Final = str(Path(__file__).parents[2])


def sweep(
    jobs: Sequence[Job],
    load: Load,
    services: Mapping[str, Services],
    *,
    processes: int | None = None,
    progress: Progress | None = None,
    few_ticks: int = FEW_TICKS,
) -> list[Summary]:
    """Return what comes of each of *jobs*, in their order. Blocks.

    Args:
        jobs: what to simulate.
        load: what comes, as it was recorded.
        services: by their names.
        processes: how many to use; ``None``: as many as cores may be used. 1: none.
        progress: is told after each job.
        few_ticks: jobs with fewer ticks than this in all are run in this process.

    Raises:
        ConfigError: a job names no services, or they do not fit to the load.
        TickError: a process has ended before its time.
    """
    for job in jobs:
        check_services(job, load, services)
    count = max(1, int(usable_cores())) if processes is None else processes
    count = min(count, len(jobs))
    if count < 2 or len(jobs) * len(load) < few_ticks:
        found = []
        for number, job in enumerate(jobs, 1):
            found.append(run(job, load, services))
            if progress is not None:
                progress(number, len(jobs))
        return found
    return _Sweep(jobs, load, services).run(count, progress)


@final
class _Sweep:
    """The processes of one sweep, each with a thread here that gives it its jobs."""

    def __init__(self, jobs: Sequence[Job], load: Load, services: Mapping[str, Services]) -> None:
        self._jobs = jobs
        self._load = packed(load)
        self._services = {name: packed(each) for name, each in services.items()}
        self._todo = iter(range(len(jobs)))
        self._found: list[Summary | None] = [None] * len(jobs)
        self._changed = threading.Condition()
        self._done = 0
        self._error: Exception | None = None

    def run(self, count: int, progress: Progress | None) -> list[Summary]:
        environment = {**os.environ}
        paths = [_ROOT, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        command = [sys.executable, "-m", __name__]
        children = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            for _ in range(count)
        ]
        threads = [threading.Thread(target=self._serve, args=(child,)) for child in children]
        try:
            for thread in threads:
                thread.start()
            self._wait(progress)
        finally:
            for child in children:
                child.kill()
            for child, thread in zip(children, threads, strict=True):
                # Its pipes are closed by its end, so no thread waits for them any more.
                thread.join()
                child.communicate()
        return [summary for summary in self._found if summary is not None]

    def _wait(self, progress: Progress | None) -> None:
        told = 0
        while told < len(self._jobs):
            with self._changed:
                while self._done == told and self._error is None:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                told = self._done
            if progress is not None:
                progress(told, len(self._jobs))

    def _next(self) -> int | None:
        with self._changed:
            return next(self._todo, None)

    def _serve(self, child: subprocess.Popen[bytes]) -> None:
        """Give *child* job after job, and keep its answers. Runs in a thread."""
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _write(child.stdin, self._load)
            _write(child.stdin, _LENGTH.pack(len(self._services)))
            for name, each in self._services.items():
                _write(child.stdin, name.encode())
                _write(child.stdin, each)
            while (number := self._next()) is not None:
                _write(child.stdin, packed(self._jobs[number]))
                answer = _read(child.stdout)
                if answer is None:
                    raise TickError("a process that simulates has ended before its time")
                with self._changed:
                    self._found[number] = unpacked(answer)
                    self._done += 1
                    self._changed.notify_all()
        except (TickError, OSError, ValueError) as error:
            with self._changed:
                if self._error is None:
                    wrong = TickError(f"a process that simulates has ended: {error}")
                    self._error = error if isinstance(error, TickError) else wrong
                self._changed.notify_all()


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(_LENGTH.pack(len(content)))
    file.write(content)
    file.flush()


def _read(file: IO[bytes]) -> bytes | None:
    """Return the next piece; ``None`` at the end."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = file.read(length)
    return content if len(content) == length else None


def main() -> None:
    """Answer the jobs on standard input, until that ends: the program of a process."""
    # Ctrl-C reaches every process of a terminal, and so does the end of the terminal.
    # The one that started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    # Whatever prints must not write into the answers.
    sys.stdout = sys.stderr
    load = _read(source)
    count = _read(source)
    if load is None or count is None:
        return
    services: dict[str, Services] = {}
    for _ in range(_LENGTH.unpack(count)[0]):
        name, content = _read(source), _read(source)
        if name is None or content is None:
            return
        services[name.decode()] = unpacked(content)
    whole: Load = unpacked(load)
    while (job := _read(source)) is not None:
        _write(target, packed(run(unpacked(job), whole, services)))


if __name__ == "__main__":
    main()
