"""A feed out of anything that can be iterated over: a list, a generator, an async generator, a receive channel.

Rules: what has been taken from the iterable is handed to the channel before anything else happens, errors of the iterable's own included.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, final

import trio

from ..errors import ConfigError
from .base import FeedStats

__all__ = ["IterableFeed"]

_CHUNK: Final = 256
_CHUNK_S: Final = 0.01


@final
class IterableFeed:
    """Sends what *ticks* yields, then ends.

    An ordinary iterable is read in chunks of up to 256 ticks, or of what it yields in 10 ms if that is less; it runs in the event loop,
    so one that takes its time to yield stops everything else meanwhile: make it async. An async iterable is sent tick by tick.

    A generator is closed when the feed ends, however it ends. An iterator can be run once; a list as often as you like.

    Args:
        ticks: an iterable or async iterable of ticks, or of anything else with ``symbol`` and ``timestamp``.

    Raises:
        ConfigError: *ticks* cannot be iterated over.
    """

    def __init__(self, ticks: Iterable[Any] | AsyncIterable[Any]) -> None:
        if not isinstance(ticks, Iterable | AsyncIterable):
            raise ConfigError(f"ticks must be an iterable or async iterable of ticks, not {type(ticks).__name__}")
        self._ticks = ticks
        self.stats: Final = FeedStats()
        """What this feed has counted, over all its runs."""

    def __repr__(self) -> str:
        return f"<IterableFeed of {type(self._ticks).__name__}>"

    async def run(self, send: Any, /) -> None:
        """Push all the ticks into *send*.

        Raises:
            Exception: what the iterable raised, after all that it had yielded was sent; and what *send* raises.

        Cancellation: what was taken from the iterable has been handed to *send*, and is accounted for by it.
        """
        self.stats.connected = True
        try:
            if isinstance(self._ticks, AsyncIterable):
                await self._send_async(self._ticks, send)
            else:
                await self._send_chunks(iter(self._ticks), send)
            await trio.lowlevel.checkpoint()
        finally:
            self.stats.connected = False

    async def _send_async(self, ticks: AsyncIterable[Any], send: Any) -> None:
        iterator = aiter(ticks)
        try:
            async for tick in iterator:
                self.stats.messages += 1
                await send.send_many((tick,))
        finally:
            # Not left to the garbage collector: the generator may hold a nursery or a socket.
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()  # noqa: ASYNC102  # it is the generator's own clean-up

    async def _send_chunks(self, iterator: Iterator[Any], send: Any) -> None:
        instant = isinstance(self._ticks, list | tuple)
        error: Exception | None = None
        chunk: list[Any] = []
        try:
            while error is None:
                chunk, error = (list(islice(iterator, _CHUNK)), None) if instant else _take(iterator)
                if not chunk:
                    break
                self.stats.messages += len(chunk)
                await send.send_many(chunk)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        if error is not None:
            raise error


def _take(iterator: Iterator[Any]) -> tuple[list[Any], Exception | None]:
    """Return the next chunk, and what the iterator raised in the midst of it."""
    chunk: list[Any] = []
    until = trio.current_time() + _CHUNK_S
    try:
        for tick in iterator:
            chunk.append(tick)
            if len(chunk) >= _CHUNK or trio.current_time() >= until:
                break
    except Exception as error:
        return chunk, error
    return chunk, None
