"""Whether a feed rests: it asks nothing, and expects nothing.

Rules: called in the event loop. A rest that begins cancels what it interrupts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import trio

__all__ = ["Rests"]


@final
class Rests:
    """The rests of one feed, over all its runs."""

    def __init__(self) -> None:
        self._end: trio.Event | None = None
        self._scope: trio.CancelScope | None = None

    @property
    def is_on(self) -> bool:
        """Whether the feed rests now."""
        return self._end is not None

    def begin(self) -> None:
        """Rest, and cancel what runs in :meth:`interrupting`. Idempotent."""
        if self._end is None:
            self._end = trio.Event()
            if self._scope is not None:
                self._scope.cancel()

    def end(self) -> None:
        """Rest no more. Idempotent."""
        if self._end is not None:
            self._end.set()
            self._end = None

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Cancel the block as soon as a rest begins."""
        with trio.CancelScope() as self._scope:
            if self.is_on:
                self._scope.cancel()
            try:
                yield
            finally:
                self._scope = None

    async def wait(self) -> None:
        """Wait until the rest is over, if there is one.

        Cancellation: the rest goes on.
        """
        while self._end is not None:
            await self._end.wait()
