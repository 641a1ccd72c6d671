"""A trio run that a seed repeats to the last step, on a clock that jumps.

It is what ``replay_virtual`` runs on, and more: trio takes cancel scopes with the same
deadline in the order of their addresses, and cancels tasks in the order of a set. No
order of ticks depends on that in a replay; but here anything is cancelled at any
moment. So for a run addresses are numbers that count up, and the sets go by those.

Rules: everything is put back at the end of the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Final, TypeVar
from unittest import mock

import trio

from tests.worlds.chance import seeded_chance
from trio_ticks.foresight.scheduling import seeded
from trio_ticks.foresight.virtual_clock import VirtualClock

__all__ = ["NOON_S", "run_seeded"]

T = TypeVar("T")

NOON_S: Final = 1_795_953_600.0
"""The wall time at which every run begins, in seconds since 1970."""
_RUN: Final[Any] = getattr(trio, "_core")._run  # noqa: B009  # private, on purpose


@contextmanager
def _in_order(seed: int) -> Iterator[None]:
    """Have what :func:`seeded` leaves to addresses and the system go by *seed*."""
    addresses = itertools.count(1)
    with seeded_chance(seed), ExitStack() as stack:

        def put(target: Any, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(target, name, value, create=True))

        put(_RUN, "id", lambda _scope: next(addresses))
        # Sets of objects with the same hash go by the order in which they were added.
        put(_RUN.CancelStatus, "__hash__", lambda _self: 1)
        number = attrgetter("_counter")
        put(trio.lowlevel.Task, "__hash__", lambda task: number(task))
        yield


def run_seeded(
    seed: int, main: Callable[[VirtualClock], Awaitable[T]], *, limit_s: float = 86_400.0
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
    clock = VirtualClock()

    async def limited() -> T:
        with trio.fail_after(limit_s):
            return await main(clock)

    def wall() -> float:
        return NOON_S + clock.current_time()

    with seeded(seed), _in_order(seed), mock.patch("time.time", wall):
        result: T = trio.run(limited, clock=clock)
        return result
