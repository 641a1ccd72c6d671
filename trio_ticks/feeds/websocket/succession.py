"""Replaces connections before the venue closes them: no gap, and nothing twice.

Plan: :meth:`Successions.attend` waits until a connection is old, or the venue wishes
another one. It opens a second link for the same symbols, which delivers nothing yet,
and lets it take over when an :class:`Overlap` shows that nothing is missing. Then the
old link closes, and the new one stands in its place.

Rules: while it is not proven that nothing is missing, the old connection stays. If it
is lost meanwhile, and the new one cannot take over, it is made anew as after any loss.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, final

import trio

from .core import WebSocketCore
from .link import Link
from .overlap import Overlap
from .switchboard import Switchboard

__all__ = ["Successions"]

_OF_VENUES: Final = 0.98
"""The share of the age that a venue allows after which a connection is replaced."""
_JITTER: Final = 0.05
_LOOK_S: Final = 0.05
_WITHIN_S: Final = 30.0
"""How long a new connection may take until it can take over, in seconds."""
_AGAIN_S: Final = (1.0, 60.0)
"""The first and the longest wait after an attempt that failed, in seconds."""


@final
class Successions:
    """The replacements of the connections of one run.

    Args:
        core: of the feed.
        board: has the links; the new one takes the place of the old one in it.
        uniform: returns a random number in [0, 1).
        new_link: makes the link that is to replace another one.
        start: runs a link in a task of its own.
    """

    def __init__(
        self,
        core: WebSocketCore,
        board: Switchboard,
        uniform: Callable[[], float],
        new_link: Callable[[Link], Link],
        start: Callable[[Link], None],
    ) -> None:
        self._core = core
        self._board = board
        self._uniform = uniform
        self._new_link = new_link
        self._start = start
        self._disturbances = 0

    def disturb(self) -> None:
        """Notice that other symbols are to be subscribed to.

        A connection that is to take over has been asked for those of before: it is
        given up, and another one is opened.
        """
        self._disturbances += 1

    def _age_s(self) -> float:
        """Return the age at which the next connection is replaced, in seconds."""
        chosen, allowed = self._core.options.max_connection_age, self._core.language.limits
        if chosen is None and allowed.connection_s is not None:
            chosen = _OF_VENUES * allowed.connection_s
        return math.inf if chosen is None else chosen * (1 - _JITTER * self._uniform())

    async def attend(self, link: Link) -> None:
        """Replace *link* when it is due; return when it has ended.

        Cancellation: a connection that has not taken over yet is given up.
        """
        if not self._core.language.hands_over:
            return
        wait_s = _AGAIN_S[0]
        age_s = self._age_s()
        while True:
            reason = await link.role.wait_due(age_s)
            if reason is None:
                return
            if await self._replace(link, reason):
                return
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, _AGAIN_S[1])

    async def _replace(self, old: Link, reason: str) -> bool:
        """Open another connection for the symbols of *old*; return if it took over."""
        overlap, new = Overlap(self._core.stats), self._new_link(old)
        disturbances, began = self._disturbances, trio.current_time()

        def change() -> Awaitable[None] | None:
            if not new.is_open:
                return None
            self._board.links[self._board.links.index(old)] = new
            old.log(logging.INFO, "feed.replaced", reason=reason)
            return new.take_over(old, overlap)

        old.role.lead(overlap, change)
        new.role.follow(overlap)
        self._start(new)
        try:
            while overlap.changed_at == math.inf:
                await trio.sleep(_LOOK_S)
                now = trio.current_time()
                if overlap.changed_at < math.inf:
                    break
                if new.role.has_ended or not old.is_open or self._disturbances != disturbances:
                    break
                if new.has_asked:
                    overlap.asked(now)
                if overlap.may_change(now):
                    rest = change()
                    if rest is not None:
                        await rest
                elif now >= began + _WITHIN_S:
                    break
        finally:
            if overlap.changed_at == math.inf:
                old.role.lead(None, None)
                new.retire("it could not take over")
        is_done = overlap.changed_at < math.inf
        if not is_done and old.is_open:
            old.log(logging.WARNING, "feed.not_replaced", reason=reason)
        return is_done
