"""Runs a pipeline's :class:`~trio_ticks.throttle.RateController`: looks at the queue, and tells the feed.

Rules: level-triggered: the state is looked at again every interval and at every change, and the feed is told again what it was told before,
so that nothing that got lost on the way leaves it slow for ever. Each step is counted, and logged at most once a second.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any, Final, final

import trio

from .channel_state import ChannelState
from .overflow import Throttle
from .throttle import RateController

__all__ = ["ThrottleTask"]

logger = logging.getLogger("trio_ticks.throttle")

_TELL_AGAIN_S: Final = 1.0
_LOG_EVERY_S: Final = 1.0


@final
class ThrottleTask:
    """The throttling of one pipeline: counters to read, and the task that does it.

    Args:
        settings: how to go about it.
        feed: whom to tell; without a method ``throttle`` nothing is done.
        state: the channel.
        consumed: returns how many ticks the workers have finished.
    """

    def __init__(self, settings: Throttle, feed: object, state: ChannelState[Any], consumed: Callable[[], int]) -> None:
        self._settings = settings
        self._tell_feed: Callable[..., Any] | None = getattr(feed, "throttle", None)
        self._name = type(feed).__name__
        self._state = state
        self._consumed = consumed
        self._controller = RateController(settings)
        self._changed = trio.Event()
        self._told: float | None = None
        self._tell_at = -math.inf
        self._log_at = -math.inf
        self._unlogged = 0

    @property
    def rate(self) -> float | None:
        """What the feed was told, in ticks a second; ``None``: no limit."""
        return self._told

    @property
    def service_rate(self) -> float:
        """What the workers can take, in ticks a second, as far as it has shown."""
        return self._controller.service_rate

    @property
    def steps_up(self) -> int:
        """How often the rate was raised, or the limit lifted."""
        return self._controller.steps_up

    @property
    def steps_down(self) -> int:
        """How often the rate was lowered."""
        return self._controller.steps_down

    def look(self) -> None:
        """Look whether something must be done before the next regular step. Called whenever the queue has changed."""
        if self._controller.is_urgent(self._state.queued, self._state.maxsize):
            self._changed.set()

    async def run(self) -> None:
        """Throttle the feed until the channel has no senders any more.

        Raises:
            Exception: what the feed's ``throttle`` raised.

        Cancellation: the feed keeps to what it was told last.
        """
        if self._tell_feed is None:
            text = "throttle.unable: %s has no method throttle(max_rate); what finds no room is dropped"
            logger.warning(text, self._name, extra={"feed": self._name})
            return
        # Steps of a quarter at least: numbers over less time say little.
        shortest = self._settings.interval / 4
        while self._state.open_senders:
            self._changed = trio.Event()
            await self._step()
            await trio.sleep(shortest)
            with trio.move_on_after(self._settings.interval - shortest):
                await self._changed.wait()

    async def _step(self) -> None:
        state, now = self._state, trio.current_time()
        lag = now - state.buffer.oldest_arrival() if state.buffer else 0.0
        rate = self._controller.update(now, state.queued, state.maxsize, lag, self._consumed())
        if rate != self._told:
            self._log(rate, now)
        elif now < self._tell_at:
            return
        self._told = rate
        self._tell_at = now + _TELL_AGAIN_S
        await self._tell(rate)

    async def _tell(self, rate: float | None) -> None:
        assert self._tell_feed is not None
        priorities = self._settings.priorities
        result = self._tell_feed(rate) if priorities is None else self._tell_feed(rate, priorities=priorities)
        if inspect.isawaitable(result):
            await result

    def _log(self, rate: float | None, now: float) -> None:
        self._unlogged += 1
        # A limit that begins or ends is always worth a line: that is seconds apart.
        if rate is not None and self._told is not None and now < self._log_at:
            return
        self._log_at = now + _LOG_EVERY_S
        steps, self._unlogged = self._unlogged, 0
        facts = {"rate": rate, "was": self._told, "steps": steps, "queued": self._state.queued, "service_rate": self.service_rate}
        if rate is None:
            logger.info("throttle.lifted: the workers keep up (%d queued)", self._state.queued, extra=facts)
            return
        logger.info(
            "throttle.rate: %.4g ticks/s (%d steps; the workers take %.4g/s, %d of %d queued)",
            rate,
            steps,
            self.service_rate,
            self._state.queued,
            self._state.maxsize,
            extra=facts,
        )
