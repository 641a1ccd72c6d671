"""A trio run that a seed repeats to the last step, on a clock that jumps.

trio runs the tasks that are ready in a random order, takes cancel scopes with the same
deadline in the order of their addresses, and cancels tasks in the order of a set. There
is no public switch for any of that, so private names are replaced for the run: the dice
are seeded, the addresses are numbers that count up, and the sets go by those.

Rules: everything is put back at the end of the run.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Final, TypeVar, final
from unittest import mock

import trio

__all__ = ["NOON_S", "JumpClock", "run_seeded"]

T = TypeVar("T")

NOON_S: Final = 1_795_953_600.0
"""The wall time at which every run begins, in seconds since 1970."""
_RUN: Final[Any] = getattr(trio, "_core")._run  # noqa: B009  # private, on purpose


@final
class JumpClock(trio.abc.Clock):
    """A clock that stands still while tasks run, and jumps to what they wait for."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        """Do nothing; called by trio."""

    def current_time(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to *deadline*; called by trio where no task can run."""
        if deadline < math.inf:
            self.now = max(self.now, deadline)
        # Where nothing has a deadline the run would hang: the caller sets one for all.
        return 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass in which no task has run."""
        self.now += seconds


class _Shaken(random.Random):
    """Dice whose shuffle is quick: a turned and perhaps reversed batch.

    Each task may come before or after any other, which is what shuffling is for.
    """

    def shuffle(self, x: Any) -> None:
        if len(x) > 1:
            at = self.randrange(2 * len(x))
            x[:] = x[at // 2 :] + x[: at // 2]
            if at % 2:
                x.reverse()


@contextmanager
def _put_in_order(seed: int) -> Iterator[None]:
    """Have every decision of trio's made by *seed*."""
    addresses = itertools.count(1)
    chances = itertools.count(1)

    def new_random() -> random.Random:
        return random.Random(f"{seed} {next(chances)}")

    ours = [
        module
        for name, module in sys.modules.items()
        if name.startswith("trio_ticks") and "new_random" in vars(module)
    ]
    before = random.getstate()
    with ExitStack() as stack:

        def put(target: Any, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(target, name, value, create=True))

        put(_RUN, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        put(_RUN, "_r", _Shaken(seed))
        put(_RUN, "id", lambda _scope: next(addresses))
        # Sets of objects with the same hash go by the order in which they were added.
        put(_RUN.CancelStatus, "__hash__", lambda _self: 1)
        put(trio.lowlevel.Task, "__hash__", attrgetter("_counter"))
        for module in ours:
            put(module, "new_random", new_random)
        try:
            random.seed(seed)
            yield
        finally:
            random.setstate(before)


def run_seeded(
    seed: int, main: Callable[[JumpClock], Awaitable[T]], *, limit_s: float = 86_400.0
) -> T:
    """Run *main* by *seed* in an event loop of its own.

    Args:
        seed: decides everything.
        main: is given the clock.
        limit_s: virtual seconds after which it is stuck.

    Raises:
        trio.TooSlowError: it is stuck.
        BaseException: what *main* raises.
    """
    clock = JumpClock()

    async def limited() -> T:
        with trio.fail_after(limit_s):
            return await main(clock)

    def wall() -> float:
        return NOON_S + clock.now

    with _put_in_order(seed), mock.patch("time.time", wall):
        result: T = trio.run(limited, clock=clock)
        return result
