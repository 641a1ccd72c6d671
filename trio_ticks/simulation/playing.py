"""Plays a load through a pipeline with given settings, without trio."""

from __future__ import annotations

from .batches import BatchLoop
from .events import Begins, EventLoop, Setting
from .loads import Load, Services
from .outcomes import Outcome

__all__ = ["event_loop", "simulate"]


def event_loop(
    load: Load, services: Services, setting: Setting, begins: Begins | None = None
) -> EventLoop:
    """Return what plays *load*: see :class:`EventLoop`, and *services* for where."""
    kind = EventLoop if services.executor == "loop" else BatchLoop
    return kind(load, services, setting, begins)


def simulate(load: Load, services: Services, setting: Setting) -> Outcome:
    """Return what becomes of *load* in a pipeline with *setting*.

    The handling of each tick takes what *services* say, and there is one for each tick.
    All decisions are those of the real channel, and which ticks a worker takes at a
    time is decided by the code that does it live.
    """
    return event_loop(load, services, setting).run()
