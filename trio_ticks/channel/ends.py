"""How a channel for ticks is opened.

It is bounded, has an answer to a full queue, and obeys the ledger's law. Its ends are
trio's :class:`~trio.abc.SendChannel` and :class:`~trio.abc.ReceiveChannel`, and under
``Block()`` they behave as the ends of :func:`trio.open_memory_channel` do. What lies
between them is :class:`~trio_ticks.channel.state.ChannelState`.
"""

from __future__ import annotations

from random import Random
from typing import TypeVar

from ..checks import check_count
from ..clock import Clock
from ..overflow import DropNewest, Overflow, OverflowStrategy, check_policy
from ..ticks import MarketData
from .freshness import MaxAge, check_max_age
from .receiving import TickReceiveChannel
from .sending import TickSendChannel
from .state import ChannelState

__all__ = ["TickReceiveChannel", "TickSendChannel", "open_tick_channel"]

T = TypeVar("T", bound=MarketData)


def open_tick_channel(
    maxsize: int = 1000,
    overflow: Overflow | None = None,
    max_age: MaxAge | float | None = None,
    *,
    default: OverflowStrategy = DropNewest(),  # noqa: B008  # frozen
    clock: Clock | None = None,
    random: Random | None = None,
) -> tuple[TickSendChannel[T], TickReceiveChannel[T]]:
    """Open a bounded channel for ticks, or anything with ``symbol`` and ``timestamp``.

    Each tick goes to one receiver. With several receivers the order of a symbol's ticks
    is not kept, for they may be handled at once: the leases that keep it in a pipeline
    are its workers', not the channel's.

    Args:
        maxsize: how many ticks it holds at most. Size it as
            ``burst seconds x ticks a second x safety factor``.
        overflow: what to do when it is full: a strategy, or a mapping from kinds of
            items to strategies; *default* unless given.
        max_age: a tick that has waited longer (in seconds) when its turn comes is
            counted as ``stale`` and not delivered; a :class:`MaxAge` measures by the
            tick's own timestamp instead.
        default: the strategy for kinds of items that a mapping does not list.
        clock: the time to go by; trio's, and the wall time that belongs to it, unless
            given.
        random: the source of chance; one with a seed of the system's unless given.

    Raises:
        ConfigError: a setting cannot work.
    """
    check_count("maxsize", maxsize, of="ticks")
    policy = default if overflow is None else check_policy(overflow)
    state: ChannelState[T] = ChannelState(
        maxsize, policy, default, check_max_age(max_age), clock, random
    )
    receive = TickReceiveChannel(state, state.sleepers.item_gate, state.sleepers.wake_gate)
    return TickSendChannel(state), receive
