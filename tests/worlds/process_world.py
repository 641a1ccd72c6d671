"""What the tests of worker processes share.

A main module that is quick to import, and checks of processes from outside.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_tick
from tests.worlds.process_handlers import Line, read

__all__ = [
    "PATIENCE_S",
    "all_gone",
    "guarded",
    "path",
    "quick_main",
    "tick",
    "until",
    "workers_now",
]

PATIENCE_S = 30.0
"""How long anything may take before a test gives up; none takes nearly as long."""


@pytest.fixture(autouse=True)
def quick_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give child processes an empty main module: they import it; pytest's is slow."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))


@pytest.fixture(autouse=True)
async def guarded() -> AsyncIterator[None]:
    """End what hangs, and see to it that no process outlives its test."""
    with trio.fail_after(2 * PATIENCE_S):
        yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the handlers' record."""
    return tmp_path / "told"


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until *condition* holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in processes, which set no trio.Event
            await trio.sleep(0.005)


def tick(symbol: str, n: int = 0, *, bid: float = 100.0, seconds: float = 1.0) -> tt.Tick:
    """Return a tick whose *bid* says what the handler does."""
    return attrs.evolve(make_tick(symbol, n), bid=bid, ask_size=seconds)


def workers_now() -> set[int]:
    """Return the numbers of the worker processes that there are."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def by_symbol(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return *lines* by symbol, in order."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.symbol:
            found[line.symbol].append(line)
    return found


def numbers_of(path: Path) -> dict[str, list[int]]:
    """Return the numbers told into *path*, by symbol, in order."""
    return {
        symbol: [line.number for line in lines] for symbol, lines in by_symbol(read(path)).items()
    }


def is_alive(pid: int) -> bool:
    """Tell whether the process *pid* still runs.

    An ended process that its parent has not yet waited for does not run.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def all_gone(pids: Iterable[int]) -> Iterator[int]:
    """Return those of *pids* that run still."""
    return (pid for pid in pids if is_alive(pid))
