"""Who sleeps at the receiving end, and how sleepers are woken.

Rules: two trio memory channels of capacity 0 do the waiting, and with them trio's own
semantics of order, closing, cloning and cancelling hold. One carries items: a task in
``receive()`` owns what is handed to it. The other carries wake-ups: a worker that is
woken looks for ticks itself, and may find none. A stand-in is a worker that sleeps in
the place of a socket's reader, and is called off instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, final

import trio

__all__ = ["Lingerer", "Sleepers", "Watch"]


class Watch(Protocol):
    """A source whose reader an idle worker may stand in for."""

    @property
    def free(self) -> bool:
        """Whether a stand-in is welcome now."""
        ...

    async def stand_in(self, scope: trio.CancelScope) -> bool:
        """Wait in the reader's place; False where there is nothing to read any more."""
        ...

    def call_off(self) -> None:
        """End the stand-in's wait."""
        ...

    def pump(self) -> None:
        """Read what is there, and have it dealt with."""
        ...


class Lingerer(Protocol):
    """A worker's thread that has ended its work, and has not told the loop of it."""

    def recall(self) -> bool:
        """Let its worker run, which then counts as coming; False if there is none."""
        ...


@final
class Sleepers:
    """The receivers and workers of one channel that wait for ticks."""

    __slots__ = (
        "_items",
        "_wakes",
        "coming",
        "ended",
        "item_gate",
        "lingering",
        "receiving",
        "sleeping",
        "standing_in",
        "wake_gate",
        "watches",
    )

    def __init__(self) -> None:
        self._items, self.item_gate = trio.open_memory_channel[Any](0)
        self._wakes, self.wake_gate = trio.open_memory_channel[None](0)
        self.ended = False
        """Whether no more ticks can come."""
        self.receiving = 0
        """Tasks that wait in ``receive()``."""
        self.sleeping = 0
        """Workers that wait to be woken."""
        self.coming = 0
        """Workers that were woken and have not run since."""
        self.watches: list[Watch] = []
        """Sources whose readers a worker may stand in for while it waits."""
        self.lingering: dict[Lingerer, None] = {}
        """Threads that wait for their workers to bring more; threads write here too."""
        self.standing_in: list[Watch] = []
        """Those that a sleeping worker waits for."""

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait for an item or to be woken."""
        return (
            self._items.statistics().tasks_waiting_receive
            + self._wakes.statistics().tasks_waiting_receive
            + len(self.standing_in)
        )

    def hand_over(self, take: Callable[[], list[Any]]) -> None:
        """Give an item each to the tasks in ``receive()``, while *take* has one."""
        # The count is compared first: a task that was cancelled has left the gate,
        # though it has not run since to lower the count.
        while self._items.statistics().tasks_waiting_receive:
            items = take()
            if not items:
                return
            self._items.send_nowait(items[0])

    def wake(self, count: int) -> None:
        """Let up to *count* sleeping workers look for ticks.

        Once the channel has ended, all were woken already.
        """
        if self.ended:
            return
        for _ in range(min(count, self.sleeping)):
            try:
                self._wakes.send_nowait(None)
            except trio.WouldBlock:
                if not self.standing_in:
                    return  # The rest were cancelled or closed, and have not run since.
                self.standing_in.pop().call_off()
            self.sleeping -= 1
            self.coming += 1

    def recall(self) -> bool:
        """Let a worker come whose thread lingers, the last one first, if there is one.

        Its thread is the one that is still warm, and it may have leased the symbol of
        the tick that has just come.
        """
        while self.lingering:
            try:
                lingerer, _ = self.lingering.popitem()
            except KeyError:
                break  # It has told the loop meanwhile.
            if lingerer.recall():
                self.coming += 1
                return True
        return False

    def end(self) -> None:
        """Say that no more ticks can come: all that sleep or linger are woken."""
        if self.ended:
            return
        self.ended = True
        while self.recall():
            pass
        self._items.close()
        self._wakes.close()
        while self.standing_in:
            self.standing_in.pop().call_off()
            self.sleeping -= 1
            self.coming += 1
