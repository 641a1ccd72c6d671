"""Runs a pipeline's :class:`~trio_ticks.control.throttle.RateController`.

It samples the queue, and asks the feed to keep to the rate that the controller finds.

Rules: level-triggered. The queue is sampled at every interval, and early when it fills
up. The feed is asked for the same rate again once a second, so that a request that got
lost does not leave it slow for ever. Each step is counted, and logged at most once a
second.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, Protocol, final

import trio

from ..logs import LogLimit, log_event
from ..overflow import Throttle
from ..uninterrupted import await_theirs
from .throttle import RateController

__all__ = ["ThrottleTask"]

logger = logging.getLogger("trio_ticks.throttle")

_REPEAT_S: Final = 1.0
"""After how long the feed is asked for the same rate again, in seconds."""


class _Statistics(Protocol):
    @property
    def waiting_for_room(self) -> int: ...
    @property
    def oldest_age_s(self) -> float: ...
    @property
    def oldest_unparked_age_s(self) -> float: ...


class _Channel(Protocol):
    """The channel's numbers that are read here."""

    @property
    def maxsize(self) -> int: ...
    @property
    def senders(self) -> Collection[object]: ...
    @property
    def used(self) -> int: ...

    def statistics(self) -> _Statistics: ...


@final
class ThrottleTask:
    """The throttling of one pipeline: the counters, and the task that does it.

    Args:
        settings: target, bounds and steps.
        ask_feed: the feed's method ``throttle``; ``None``: the feed has none, and
            nothing is done.
        channel: the channel whose queue is sampled.
        consumed: returns how many ticks the workers have finished so far.
        feed_name: what the log calls the feed.
    """

    def __init__(
        self,
        settings: Throttle,
        ask_feed: Callable[..., Any] | None,
        channel: _Channel,
        consumed: Callable[[], int],
        *,
        feed_name: str,
    ) -> None:
        self._settings = settings
        self._ask_feed = ask_feed
        self._name = feed_name
        self._channel = channel
        self._consumed = consumed
        self._controller = RateController(settings)
        self._changed = trio.Event()
        self._asked: float | None = None
        self._repeat_at = -math.inf
        self._log_limit = LogLimit(trio.current_time)

    @property
    def rate(self) -> float | None:
        """The rate asked for last, in ticks a second; ``None``: no limit."""
        return self._asked

    @property
    def service_rate(self) -> float:
        """What the workers can take, in ticks a second, as far as it was measured."""
        return self._controller.service_rate

    @property
    def steps_up(self) -> int:
        """How often the rate was raised, or the limit lifted."""
        return self._controller.steps_up

    @property
    def steps_down(self) -> int:
        """How often the rate was lowered."""
        return self._controller.steps_down

    def check(self) -> None:
        """Begin the next step early if need be; called when the queue changes."""
        if self._controller.is_urgent(self._channel.used, self._channel.maxsize):
            self._changed.set()

    async def run(self) -> None:
        """Throttle the feed until the channel has no senders any more.

        Raises:
            Exception: what the feed's ``throttle`` raised.

        Cancellation: the feed keeps to the rate that it was asked for last.
        """
        if self._ask_feed is None:
            text = "%s has no method throttle(max_rate); what finds no room is dropped"
            log_event(logger, logging.WARNING, "throttle.unable", text, self._name, feed=self._name)
            return
        # A step spans a quarter of the interval at least: over less time the measured
        # rates are mostly noise.
        shortest = self._settings.interval / 4
        while self._channel.senders:
            self._changed = trio.Event()
            await self._step()
            await trio.sleep(shortest)
            with trio.move_on_after(self._settings.interval - shortest):
                await self._changed.wait()

    async def _step(self) -> None:
        channel, now = self._channel, trio.current_time()
        # The oldest tick may be parked behind one of its symbol that is being handled,
        # or wait for room that is reserved for ticks of batches, beside an empty queue.
        numbers = channel.statistics()
        lag, queued = numbers.oldest_age_s, channel.used + numbers.waiting_for_room
        rate = self._controller.update(
            now,
            min(queued, channel.maxsize),
            channel.maxsize,
            lag,
            self._consumed(),
            parked_s=lag - numbers.oldest_unparked_age_s,
        )
        if rate != self._asked:
            self._log(rate)
        elif now < self._repeat_at:
            return
        self._asked = rate
        self._repeat_at = now + _REPEAT_S
        await self._ask(rate)

    async def _ask(self, rate: float | None) -> None:
        assert self._ask_feed is not None
        priorities = self._settings.priorities
        options = {} if priorities is None else {"priorities": priorities}
        await await_theirs(partial(self._ask_feed, rate, **options))

    def _log(self, rate: float | None) -> None:
        steps = self._log_limit.due("step")
        if rate is None or self._asked is None:
            # A limit that begins or ends always has a line; these are seconds apart.
            steps = steps or self._log_limit.flush("step")
        if not steps:
            return
        facts = {
            "rate": rate,
            "was": self._asked,
            "steps": steps,
            "queued": self._channel.used,
            "service_rate": self.service_rate,
        }
        if rate is None:
            text = "the workers keep up (%d queued)"
            log_event(logger, logging.INFO, "throttle.lifted", text, self._channel.used, **facts)
            return
        log_event(
            logger,
            logging.INFO,
            "throttle.rate",
            "%.4g ticks/s (%d steps; the workers take %.4g/s, %d of %d queued)",
            rate,
            steps,
            self.service_rate,
            self._channel.used,
            self._channel.maxsize,
            **facts,
        )
