"""What the channel's tests share: checks of its counters, calls in the background."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec

import trio
from trio.testing import wait_all_tasks_blocked

from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel
from trio_ticks.errors import QueueFullError
from trio_ticks.ticks import Tick

__all__ = ["Ends", "dropped", "in_background", "within"]

Ends = tuple[TickSendChannel[Tick], TickReceiveChannel[Tick]]


def dropped(end: TickSendChannel[Tick] | TickReceiveChannel[Tick]) -> dict[str, int]:
    """Return the reasons that occurred, and see that the law holds."""
    end.ledger.check()
    return {reason: count for reason, count in end.ledger.dropped_by_reason.items() if count}


@asynccontextmanager
async def in_background(call: Callable[[], Awaitable[object]]) -> AsyncIterator[list[object]]:
    """Start *call* and see it blocked.

    Gives a list that gets the call's result or its exception when it ends.
    """
    ended: list[object] = []

    async def run() -> None:
        try:
            ended.append(await call())
        except (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.EndOfChannel,
            QueueFullError,
        ) as error:
            ended.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        assert not ended, "the call did not wait"
        yield ended
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


P = ParamSpec("P")


def within(
    seconds: float,
) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Awaitable[None]]]:
    """Fail a test, instead of letting it hang, after *seconds* of its clock.

    Also fails a test that yields for ever while no time passes.
    """

    def decorate(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        @functools.wraps(test)
        async def run(*args: P.args, **kwargs: P.kwargs) -> None:
            with trio.fail_after(seconds) as scope:
                guard = _StepLimit(scope)
                trio.lowlevel.add_instrument(guard)
                try:
                    await test(*args, **kwargs)
                finally:
                    trio.lowlevel.remove_instrument(guard)

        return run

    return decorate


class _StepLimit(trio.abc.Instrument):
    """Cancels a test that keeps running at one moment of a virtual clock.

    A deadline cannot end such a test, because the clock does not advance.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._left = 100_000

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left < 0:
            self._scope.cancel()
