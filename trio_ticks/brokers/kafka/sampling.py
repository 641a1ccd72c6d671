"""Learns how many ticks others' records hold, by reading some of them now and then.

Rules: nothing is read while the topic holds no record but our own. Nothing is read for
each record that is sent: what is known is as old as 1 s.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, final

from .backlog import Backlog
from .topics import Admin

__all__ = ["Sampling", "learn"]

_EVERY_S: Final = 1.0
_RECORDS: Final = 32
"""So many records are read: all of them, if there are fewer."""


@final
class Sampling:
    """Keeps what *backlog* knows of others' records up to date.

    Args:
        backlog: is told.
        now: seconds that only go forward.
        random: where among the records those are that are read.
    """

    def __init__(self, backlog: Backlog, now: Callable[[], float], random: Random) -> None:
        self._backlog = backlog
        self._now = now
        self._random = random
        self._due = now()

    async def refresh(self, admin: Admin) -> None:
        """Read some records, if there are any of others and it is time.

        To be called before the broker is asked where the topic ends, not after: by then
        the reports of our own records have come, and what is left is others'.

        Cancellation: nothing is changed.
        """
        if not self._backlog.others:
            self._backlog.learn(None)
        elif self._now() >= self._due:
            await learn(self._backlog, admin, self._random.random())
            self._due = self._now() + _EVERY_S


async def learn(backlog: Backlog, admin: Admin, start: float = 0.5) -> None:
    """Read some of the records in *backlog* that are others', and tell it their mean.

    What cannot be read leaves the mean as it was.

    Args:
        backlog: says which records there are.
        admin: reads them.
        start: see :meth:`~.backlog.Backlog.spread`.

    Cancellation: nothing is changed.
    """
    counts = await admin.ticks_at(backlog.spread(_RECORDS, start))
    if counts:
        backlog.learn(sum(counts) / len(counts))
