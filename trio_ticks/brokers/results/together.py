"""Writers that come at the same time have their results written in one turn.

Each worker waits for its own result. Without this, eight workers would make eight round
trips one after the other.

Rules: no task runs beside the callers; the first of them writes for all that came
meanwhile. If it is cancelled, the next one writes what it had begun, again. An error is
raised in each caller whose results were among those written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, final

import attrs
import msgspec
import trio

from ...results import Result

__all__ = ["Encode", "Together", "pack_value", "place_of"]

Encode = Callable[[Any], bytes]
"""Turns the value of a result into bytes."""

pack_value: Encode = msgspec.msgpack.Encoder().encode
"""The default: MessagePack."""

_MOST: Final = 500
"""Results that are written in one turn, at most."""


def place_of(result: Result) -> str:
    """Return the place as text, ``shard:position:index``; ``""`` without one."""
    place = result.place
    return "" if place is None else f"{place.shard}:{place.position or ''}:{place.index}"


@attrs.define(slots=True, eq=False)
class _Waiting:
    results: Sequence[Result]
    done: bool = False
    error: Exception | None = None


@final
class Together:
    """Gathers results, and writes them by *write*, which raises if it could not."""

    def __init__(self, write: Callable[[list[Result]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._turn = trio.Lock()

    async def put(self, results: Sequence[Result]) -> None:
        """Write *results*, with those of others; return when they are written.

        Raises:
            Exception: what *write* raised.

        Cancellation: they may have been written.
        """
        mine = _Waiting(results)
        self._waiting.append(mine)
        try:
            async with self._turn:
                while not mine.done:
                    await self._write_some()
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error

    async def _try(self, results: Sequence[Result]) -> Exception | None:
        try:
            await self._write(list(results))
        except Exception as error:
            return error
        return None

    async def _write_some(self) -> None:
        some: list[_Waiting] = []
        count = 0
        for each in self._waiting:
            if some and count + len(each.results) > _MOST:
                break
            some.append(each)
            count += len(each.results)
        error = await self._try([result for each in some for result in each.results])
        for each in some:
            each.error = error
            if len(some) > 1 and error is not None and not isinstance(error, ConnectionError):
                each.error = await self._try(each.results)  # only the wrong ones fail
            each.done = True
            if each in self._waiting:  # its caller may have been cancelled meanwhile
                self._waiting.remove(each)
