"""What a link is while connections are replaced: the old one, the new one, or neither.

Rules: a link that stands by tells nothing and delivers nothing; one that is retired
closes its connection, and nobody hears of that.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import final

import trio

from ..venues import Codec
from .overlap import Overlap

__all__ = ["Role"]


@final
class Role:
    """The part of one link in replacements."""

    def __init__(self) -> None:
        self._overlap: Overlap | None = None
        """The replacement that is under way."""
        self._past: Overlap | None = None
        """The one by which it took the place of another link, until all is compared."""
        self.stands_by = False
        """Whether the link is to replace another one, and has not done so yet."""
        self.is_retired = False
        """Whether another link has taken its place, or it was not to take one."""
        self.has_ended = False
        """Whether the link runs no more."""
        self._change: Callable[[], Awaitable[None] | None] | None = None
        self._opened_at: float | None = None
        self._wish: str | None = None
        self._changed = trio.Event()

    @property
    def compares(self) -> bool:
        """Whether messages are to be given to :meth:`compare`."""
        return self.is_retired or self._overlap is not None or self._past is not None

    def _notice(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def opened(self, now: float) -> None:
        """Notice that a connection of the link is open since *now*."""
        self._opened_at, self._wish = now, None
        self._notice()

    def closed(self) -> None:
        """Notice that the connection is no longer open."""
        self._opened_at = None
        self._notice()

    def ended(self) -> None:
        """Notice that the link runs no more."""
        self.has_ended = True
        self._notice()

    def wish(self, reason: str) -> None:
        """Have the link replaced, because of *reason*."""
        self._wish = reason
        self._notice()

    async def wait_due(self, age_s: float) -> str | None:
        """Wait until the link is to be replaced, and return why.

        It is due when its connection is *age_s* seconds old, or at a wish. ``None``: it
        runs no more.

        Cancellation: nothing has changed.
        """
        while not (self.has_ended or self.is_retired):
            opened_at = None if self.stands_by else self._opened_at
            if opened_at is not None and self._wish is not None:
                return self._wish
            due = math.inf if opened_at is None else opened_at + age_s
            if due <= trio.current_time():
                return f"it is {age_s:.3g} s old"
            changed = self._changed
            with trio.move_on_at(due):
                await changed.wait()
        return None

    def lead(
        self, overlap: Overlap | None, change: Callable[[], Awaitable[None] | None] | None
    ) -> None:
        """Be the old one in *overlap*, or neither again.

        *change* lets the new one take over.
        """
        self._overlap, self._change = overlap, change

    def follow(self, overlap: Overlap) -> None:
        """Be the new one in *overlap*."""
        self._overlap, self.stands_by = overlap, True

    def take_over(self) -> None:
        """Be the link that delivers."""
        self._past, self._overlap = self._overlap, None
        self.stands_by = False
        self._notice()

    def compare(self, codec: Codec, messages: list[bytes], now: float) -> list[bytes]:
        """Return those of *messages* that are to be decoded now."""
        if self.is_retired:
            # What still comes while the connection closes, the new one has too.
            return []
        past, overlap = self._past, self._overlap
        if past is not None:
            messages = past.newer(codec, messages, now)
            if past.is_over:
                self._past = None
        if overlap is not None and self.stands_by:
            return overlap.keep_new(codec, messages)
        if overlap is not None:
            overlap.note_old(codec, messages)
        return messages

    async def rescue(self) -> None:
        """Let the new link take over from this one, which was lost, if it can.

        Cancellation: it has taken over, or nothing has changed.
        """
        overlap, change = self._overlap, self._change
        if overlap is None or change is None or self.is_retired:
            return
        if overlap.may_change(trio.current_time(), is_lost=True):
            rest = change()
            if rest is not None:
                await rest
