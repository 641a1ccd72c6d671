"""How full the channel is: ``ok``, ``warn`` or ``shed``, with hysteresis.

A crossing is logged once, and so is the recovery from a crossing that was logged. Where
a queue crosses more often than once a second, the crossings between are only counted.

Rules: sync; the code that changes the queue's length calls :meth:`Pressure.update`.
"""

from __future__ import annotations

import logging
from typing import Literal, get_args

import trio

from ..errors import ConfigError
from ..logs import LogLimit, log_event

__all__ = ["Pressure", "PressureState"]

logger = logging.getLogger("trio_ticks.pressure")

PressureState = Literal["ok", "warn", "shed"]
_STATES: tuple[PressureState, ...] = get_args(PressureState)


class Pressure:
    """The pressure on one pipeline.

    ``warn`` begins at *lag_threshold* queued ticks and ends at half of it. ``shed``
    begins when the channel is full, so that its overflow strategy is at work, and ends
    at three quarters of *maxsize*.

    Args:
        lag_threshold: in ticks.
        maxsize: of the channel, in ticks.
        sheds: whether the channel discards ticks when it is full. Under ``Block()`` it
            does not: the state is the same, but people are told that it is full, and
            not that it sheds.
    """

    def __init__(self, lag_threshold: int, maxsize: int, *, sheds: bool = True) -> None:
        self.sheds = sheds
        self._warn_at = min(lag_threshold, maxsize)
        self._calm_at = self._warn_at // 2
        self._full_at = maxsize
        self._state: PressureState = "ok"
        self._events: dict[PressureState, trio.Event] = {state: trio.Event() for state in _STATES}
        self._log_limit = LogLimit(trio.current_time)
        self._crossing_logged = False
        self.changes = 0
        """How often the state has changed."""

    @property
    def state(self) -> PressureState:
        """``"ok"``, ``"warn"`` or ``"shed"``."""
        return self._state

    async def wait_for(self, state: PressureState) -> None:
        """Return when the pressure is, or has been since the call, in *state*.

        Raises:
            ConfigError: there is no such state.

        Cancellation: nothing is lost; call it again. Always a checkpoint.
        """
        if state not in _STATES:
            raise ConfigError(f'pressure is "ok", "warn" or "shed", got {state!r}')
        if self._state == state:
            await trio.lowlevel.checkpoint()
            return
        await self._events[state].wait()

    def update(self, queued: int, behind: tuple[int, int] | None = None) -> None:
        """Find the state anew, with *queued* ticks in the queue.

        Args:
            queued: in ticks.
            behind: where a buffer behind the queue is the fuller one, how many ticks
                wait there, and how many may. *queued* is the same share of the queue
                then, and the log tells of the buffer: more room in the queue would be
                of no use.
        """
        if self._state == "ok" and queued < self._warn_at:
            return  # The usual case, since this is called for every change of the queue.
        new = self._next(queued)
        if new == self._state:
            return
        old, self._state = self._state, new
        self.changes += 1
        event, self._events[new] = self._events[new], trio.Event()
        event.set()
        self._log(new, old, queued, behind)

    def _log(
        self, new: PressureState, old: PressureState, queued: int, behind: tuple[int, int] | None
    ) -> None:
        if new == "ok":
            wanted, self._crossing_logged = self._crossing_logged, False
        else:
            rises = _STATES.index(new) > _STATES.index(old)
            wanted = rises and self._log_limit.due(new) > 0
            self._crossing_logged = self._crossing_logged or wanted
        if not wanted:
            return
        full = new == "shed" and not self.sheds
        waiting, room = (queued, self._full_at) if behind is None else behind
        text = "%d of %d ticks queued (was %s)"
        if behind is not None:
            text = "%d of %d ticks wait in the buffer (was %s)"
            if new == "shed":
                text += "; its workers do not keep up, or there are none"
        log_event(
            logger,
            logging.INFO if new == "ok" else logging.WARNING,
            f"pressure.{'full' if full else new}",
            text + ("; the feed waits for room" if full else ""),
            waiting,
            room,
            old,
            pressure=new,
            was=old,
            queued=waiting,
            maxsize=room,
            where="queue" if behind is None else "buffer",
        )

    def _next(self, queued: int) -> PressureState:
        if queued >= self._full_at:
            return "shed"
        if self._state == "shed" and queued > self._full_at * 3 // 4:
            return "shed"
        if queued >= self._warn_at:
            return "warn"
        if self._state != "ok" and queued > self._calm_at:
            return "warn"
        return "ok"
