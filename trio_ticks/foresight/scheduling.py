"""Lets trio's scheduler take the same decisions for the same seed.

trio runs the tasks that are ready in a random order, and has no public switch for that
(python-trio issues 2022 and 3089). It has two private ones, which its tests and
pytest-trio use: a flag that has the tasks sorted by age before they are shuffled, and
the dice that shuffle them. Both belong to the process, not to a run.

Rules: only this module touches them. Other event loops of the process keep their own
dice. :func:`check_scheduling` proves that the switches do what they should; where they
do not, nothing is replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import Any, Final, final

import trio

from ..clock import seeded_random
from ..errors import ConfigError
from .virtual_clock import VirtualClock

__all__ = ["check_scheduling", "order_of_tasks", "seeded"]

_RUN: Final[Any] = getattr(getattr(trio, "_core", None), "_run", None)
FLAG: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
_DICE: Final = "_r"
_TASKS: Final = 12


@final
class Dice:
    """The dice of trio's scheduler: seeded ones in some threads, its own in others."""

    def __init__(self, own: Any) -> None:
        self.own: Final = own
        self.seeded: Final[dict[int, Random]] = {}
        """By the identity of the thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.seeded.get(threading.get_ident(), self.own), name)


_lock: Final = threading.Lock()
_dice: Dice | None = None
_flag_before = False


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the scheduler of the event loop that this thread runs in the block.

    Also the module ``random``, which the handlers may use; it is put back afterwards.

    Args:
        seed: of all decisions.
    """
    try:
        enter(seed)  # within the try: Ctrl-C may come as soon as the dice are given
        with seeded_random(seed):
            yield
    finally:
        leave()


def enter(seed: int) -> None:
    """Give the event loop of this thread dice with *seed*."""
    global _dice, _flag_before
    with _lock:
        if _dice is None:
            _dice = Dice(getattr(_RUN, _DICE))
            _flag_before = getattr(_RUN, FLAG)
            setattr(_RUN, _DICE, _dice)
            setattr(_RUN, FLAG, True)
        _dice.seeded[threading.get_ident()] = Random(seed)


def leave() -> None:
    """Take the dice of this thread back."""
    global _dice
    with _lock:
        if _dice is None:
            return  # it was interrupted before they were given
        _dice.seeded.pop(threading.get_ident(), None)
        if not _dice.seeded:
            setattr(_RUN, _DICE, _dice.own)
            setattr(_RUN, FLAG, _flag_before)
            _dice = None


@cache
def check_scheduling() -> None:
    """Check that a seed decides in which order trio's tasks run; some milliseconds.

    Raises:
        ConfigError: it does not, with the trio that is installed.
    """
    problem = _problem()
    if problem is not None:
        raise ConfigError(
            f"a replay on a virtual clock would not be the same again: trio {trio.__version__} "
            f"{problem}. Install a release of trio that this one was tested with (0.30 to 0.35), "
            "or play the recording in real time with ReplayFeed"
        )


def _problem() -> str | None:
    if not (hasattr(_RUN, FLAG) and hasattr(_RUN, _DICE)):
        return "has no switch for the order of its tasks any more"
    orders = [order_of_tasks(seed) for seed in (1, 1, 1, 2)]
    if orders[0] != orders[1] or orders[0] != orders[2]:
        return "runs tasks in another order each time, although its dice are seeded"
    if orders[0] == orders[3]:
        return "does not use the dice that it is given"
    return None


def order_of_tasks(seed: int) -> list[int]:
    """Return the order in which tasks ran whose deadlines are all the same.

    A small event loop of its own is run for that.

    Their cancel scopes lie elsewhere in memory each time, and trio's heap of deadlines
    breaks ties by that.
    """
    ran: list[int] = []
    ballast: list[Callable[[], object]] = []

    async def wait(number: int) -> None:
        for _ in range(3):
            ballast.extend(trio.CancelScope().cancel for _ in range(seed + number % 3))
            await trio.sleep(1.0)
            ran.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(_TASKS):
                nursery.start_soon(wait, number)

    with seeded(seed):
        trio.run(main, clock=VirtualClock())
    return ran
