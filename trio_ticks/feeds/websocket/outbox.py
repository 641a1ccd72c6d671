"""The messages that a connection has still to send."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, final

import trio

__all__ = ["Outbox"]


@final
class Outbox:
    """Messages for the venue, in order, until the connection has sent them.

    A venue that asks for an answer to each of its messages, and then does not read
    them, cannot make it grow: beyond *most* messages :attr:`overfull` is true.
    """

    most: Final = 4096

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._arrived = trio.Event()
        self.overfull = False
        """Whether messages were left out because too many wait."""
        self.is_idle = False
        """Whether who takes the messages waits for another one: all were sent."""

    def put(self, messages: Iterable[str | bytes]) -> None:
        """Add *messages*."""
        for message in messages:
            if len(self._messages) >= self.most:
                self.overfull = True
                break
            self._messages.append(message)
        if self._messages:
            self._arrived.set()

    def put_first(self, messages: Sequence[str | bytes]) -> None:
        """Add *messages* before all others, as many as they are: the subscription."""
        self._messages.extendleft(reversed(messages))
        if self._messages:
            self._arrived.set()

    async def take(self) -> str | bytes:
        """Return the next message; wait for one if there is none.

        Cancellation: no message is taken.
        """
        while not self._messages:
            self._arrived = trio.Event()
            self.is_idle = True
            await self._arrived.wait()
        self.is_idle = False
        return self._messages.popleft()
