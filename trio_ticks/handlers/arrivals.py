"""When the tick in hand arrived, for a handler that asks.

Plan: each worker leaves a function in its context, once, that finds the arrival by what
the worker holds when it is called. So nothing is written down for each tick. Threads
have a copy of the context.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Final

from ..errors import ConfigError

__all__ = ["answer_by", "arrival"]

_find: Final[ContextVar[Callable[[], datetime | None] | None]] = ContextVar(
    "trio_ticks arrival", default=None
)


def answer_by(find: Callable[[], datetime | None]) -> None:
    """Let :func:`arrival` ask *find*, in this context and those copied from it.

    Args:
        find: returns when the tick in hand arrived, in UTC; ``None``: there is none. It
            may be called in any thread that handles a tick.
    """
    _find.set(find)


def arrival() -> datetime:
    """Return when the tick in hand arrived: the wall time, in UTC.

    For a handler and what it calls, in the event loop, in a thread or in a process, and
    for ``on_error``. It is the time at which the feed handed the tick to the pipeline;
    behind a broker, the time at which it came to the ingest. A batch handler is told of
    the first tick of its batch, which has waited longest; ``on_error`` of the tick that
    failed; a handler of a :class:`Gap` of the tick behind the gap.

    It is on the pipeline's clock: its difference to another tick's arrival is exact,
    whatever happens to the system's clock. That to a tick's own ``timestamp`` is the
    tick's way here, plus the difference of the venue's clock and ours.

    A tick costs nothing more because this exists; a call costs about a microsecond.

    Raises:
        ConfigError: no tick is being handled here.
    """
    find = _find.get()
    found = None if find is None else find()
    if found is None:
        raise ConfigError(
            "arrival() knows the tick in hand only: call it in a handler or in on_error, not"
            " before or after it, nor in a task or thread that the handler did not start"
        )
    return found
