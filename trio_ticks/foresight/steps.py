"""How long tasks run: the time in which an event loop can do nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

import trio

__all__ = ["Steps"]

_STEPS: Final = 4096
"""Steps of a task that are kept between two of its handlings."""


@final
class Steps(trio.abc.Instrument):
    """Writes down when tasks run.

    Args:
        now: the time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._steps: dict[trio.lowlevel.Task, deque[tuple[float, float]]] = {}
        self._began = 0.0
        self.total_s = 0.0
        """How long all tasks have run."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note when *task* begins to run."""
        self._began = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note for how long *task* ran."""
        now = self._now()
        self.total_s += now - self._began
        steps = self._steps.get(task)
        if steps is None:
            steps = self._steps[task] = deque(maxlen=_STEPS)
        steps.append((self._began, now))

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget *task*."""
        self._steps.pop(task, None)

    def ran_s(self, began: float, ended: float) -> float:
        """Return how long the current task ran from *began* to *ended*; then forget."""
        found = max(0.0, ended - max(began, self._began))
        steps = self._steps.get(trio.lowlevel.current_task())
        if steps is not None:
            for step_began, step_ended in steps:
                if step_ended > began:
                    found += step_ended - max(step_began, began)
            steps.clear()
        return found
