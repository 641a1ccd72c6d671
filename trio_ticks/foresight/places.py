"""Where else a handler could run than where it does, and why not."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

from ..handlers.kinds import Place, is_async

__all__ = ["other_places"]


def other_places(handler: Any, place: Place) -> Iterator[tuple[Place, str | None]]:
    """Yield the other places for *handler*, each with why it cannot run there.

    ``None``: it can. A plain function is not tried in the event loop: if it blocks, it
    stops the feed, and whether it does cannot be seen from outside.
    """
    if place != "thread" and not is_async(handler):
        yield "thread", None
    if place != "process":
        yield "process", _why_not_in_process(handler)


def _why_not_in_process(handler: Any) -> str | None:
    if importlib.util.find_spec("trio_parallel") is None:
        return "processes need an extra: pip install 'trio-ticks[process]'"
    function = handler if inspect.isroutine(handler) or inspect.isclass(handler) else type(handler)
    if getattr(function, "__module__", None) == "__main__":
        return "a handler for processes has to be in a module, not in the main program"
    try:
        pickle.dumps(handler)
    except Exception as error:
        return f"the handler cannot be sent to a process: {type(error).__name__}"
    return None
