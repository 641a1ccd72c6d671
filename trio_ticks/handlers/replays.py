"""Whether the ticks that a handler gets are of the past.

A strategy that is played a recording must not send its orders to a market. It asks
:func:`replaying`; nobody else can know what it would do.

Rules: a context variable, so that it holds in everything that a pipeline starts (tasks,
threads, callbacks), and nowhere else in the program.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["begin_replaying", "replaying"]

_replaying: Final[ContextVar[bool]] = ContextVar("trio_ticks.replaying", default=False)


def replaying() -> bool:
    """Return whether the ticks that this handler gets are of the past.

    True in the handlers and callbacks of a pipeline with a
    :class:`~trio_ticks.ReplayFeed`, of :func:`~trio_ticks.replay_virtual` and of a plan
    that measures them: ask it before you send an order. Also in worker threads and
    worker processes. False everywhere else, and where nobody can know it: at a worker
    in another program, which takes the ticks of a replay out of a broker.
    """
    return _replaying.get()


def begin_replaying() -> None:
    """Let :func:`replaying` be true in this context, and in all that it starts."""
    _replaying.set(True)
