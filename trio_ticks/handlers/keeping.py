"""Handlers that keep state by symbol, and are told which symbols are theirs.

With a buffer between processes a symbol moves: from a worker that ends to one that
lives. A handler with ``gained(symbols)`` and ``lost(symbols)`` is told before its first
and after its last tick of a symbol, so that it can load and save what it keeps.

Rules: each of them is called with a set of symbols, one call at a time, and awaited if
need be, within a bound. What ``gained`` raises ends the pipeline, since a strategy
without its state would trade on nothing; what ``lost`` raises is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection
from typing import Any, Final, final

import trio

from ..logs import log_event
from ..uninterrupted import await_theirs

__all__ = ["Keeper", "keeps_state"]

logger = logging.getLogger("trio_ticks.workers")

_TIMEOUT_S: Final = 10.0
"""How long ``gained`` and ``lost`` may take for one set of symbols, in seconds."""


def keeps_state(handler: Any) -> bool:
    """Tell whether *handler*, or what its class makes, wants to know its symbols."""
    kind = handler if inspect.isclass(handler) else type(handler)
    return any(callable(getattr(kind, name, None)) for name in ("gained", "lost"))


@final
class Keeper:
    """Tells one handler which symbols it has gained and lost.

    Args:
        in_thread: whether methods that are not async run in a thread.
    """

    def __init__(self, *, in_thread: bool) -> None:
        self._handler: Any = None
        self._opened = trio.Event()
        self._in_thread = in_thread
        self._turn = trio.Lock()

    def opened(self, handler: Any) -> None:
        """Say that *handler* was entered: now it may be told."""
        self._handler = handler
        self._opened.set()

    async def gained(self, symbols: Collection[str]) -> None:
        """Tell the handler of *symbols*, before their first tick.

        Raises:
            Exception: what the handler raised; ``trio.TooSlowError``: it took too long.

        Cancellation: passed on to the handler; a thread is abandoned.
        """
        async with self._turn:
            await self._opened.wait()
            with trio.fail_after(_TIMEOUT_S):
                await self._call("gained", symbols)

    async def lost(self, symbols: Collection[str]) -> None:
        """Tell the handler that *symbols* are another's; what it raises is logged.

        Cancellation: passed on to the handler; a thread is abandoned.
        """
        async with self._turn:
            try:
                with trio.fail_after(_TIMEOUT_S):
                    await self._call("lost", symbols)
            except Exception as error:
                text = "lost() raised for %d symbols; what it was to save may be gone"
                facts = {"symbols": len(symbols)}
                log_event(
                    logger,
                    logging.ERROR,
                    "handler.lost_failed",
                    text,
                    len(symbols),
                    exc_info=error,
                    **facts,
                )

    async def _call(self, name: str, symbols: Collection[str]) -> None:
        method = getattr(self._handler, name, None)
        if method is None:
            return
        if self._in_thread and not inspect.iscoroutinefunction(method):
            await trio.to_thread.run_sync(method, frozenset(symbols), abandon_on_cancel=True)
            return
        await await_theirs(method, frozenset(symbols))
