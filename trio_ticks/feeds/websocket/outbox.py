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
    them, cannot make it grow: beyond *most* messages, or *most_size* characters and
    bytes of several, :attr:`overfull` is true.
    """

    most: Final = 4096
    most_size: Final = 2**24

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._arrived = trio.Event()
        self._sent = trio.Event()
        self._is_waited_for = False
        self._size = 0
        self.overfull = False
        """Whether messages were left out because too many wait."""

    @property
    def is_idle(self) -> bool:
        """Whether who takes the messages waits for another one: all were sent."""
        return self._is_waited_for and not self._messages

    def put(self, messages: Iterable[str | bytes]) -> None:
        """Add *messages*."""
        for message in messages:
            size = self._size + len(message)
            if len(self._messages) >= self.most or (self._messages and size > self.most_size):
                self.overfull = True
                break
            self._size = size
            self._messages.append(message)
        if self._messages:
            self._arrived.set()

    def put_first(self, messages: Sequence[str | bytes]) -> None:
        """Add *messages* before all others, as many as they are: the subscription."""
        self._messages.extendleft(reversed(messages))
        self._size += sum(map(len, messages))
        if self._messages:
            self._arrived.set()

    async def take(self) -> str | bytes:
        """Return the next message; wait for one if there is none.

        Cancellation: no message is taken.
        """
        while not self._messages:
            self._arrived = trio.Event()
            self._is_waited_for = True
            self._sent.set()
            await self._arrived.wait()
        self._is_waited_for = False
        message = self._messages.popleft()
        self._size -= len(message)
        return message

    async def wait_sent(self, most_s: float) -> None:
        """Wait until all messages were sent, but no longer than *most_s* seconds.

        Cancellation: changes nothing.
        """
        with trio.move_on_after(most_s):
            while not self.is_idle:
                if self._sent.is_set():
                    self._sent = trio.Event()
                await self._sent.wait()
