"""Tells a worker that waits which of its shards have a new tick.

Plan: a blocking read over the streams of the shards, on a connection of its own. It
takes nothing: a turn fetches what it has found. The turn need not wait for that to
deliver the first new entry of a shard, which the read has brought along.

Rules: a shard that is being watched needs no fetch, until the watch tells otherwise. It
is armed only while the turns wait: under load ticks are found without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import attrs
import trio

from .connection import Command, LostError
from .keys import Keys
from .link import Link
from .shards import Shard

__all__ = ["Found", "Watch"]

_BLOCK_MS: Final = 250


@final
@attrs.frozen(slots=True, eq=False)
class Found:
    """The first new entry of a shard."""

    shard: Shard
    after: bytes
    """The id of the last entry that had come when it was looked for."""
    written: list[Any]
    """As the server gives it: its id and its fields."""


@final
class Watch:
    """Watches the streams of one worker's shards.

    Args:
        keys: of the buffer.
        wake: is called when a shard has a new tick.
    """

    def __init__(self, keys: Keys, wake: Callable[[], object]) -> None:
        self._streams = keys.streams
        self._wake = wake
        self._armed = trio.Event()
        self._shards: Sequence[Shard] = ()
        self._keys: dict[bytes, Shard] = {}
        """The streams that are watched, and their shards."""
        self._quiet: frozenset[int] = frozenset()
        self._reading = False
        self._found: list[Found] = []

    def arm(self, shards: Sequence[Shard]) -> None:
        """Watch *shards* from now on, if nothing is watched already."""
        # The task may be about to begin with those before: a read needs a stream.
        if not shards:
            return
        if shards != self._shards:
            self._shards = shards
            self._keys = {self._streams[shard.number]: shard for shard in shards}
        self._armed.set()

    def disarm(self) -> None:
        """Watch nothing more once the read that is under way has ended."""
        # Never replaced while the task may wait for it.
        if self._armed.is_set():
            self._armed = trio.Event()

    def quiet(self) -> frozenset[int]:
        """Return the shards that have no new tick, or else we shall be woken.

        Once the watch has ended that is true for the next turn only.
        """
        quiet = self._quiet
        if not self._reading:
            self._quiet = frozenset()
        return quiet

    def take_found(self) -> list[Found]:
        """Return what was found since the last call: the watch has rung for it."""
        found, self._found = self._found, []
        return found

    async def run(self, link: Link) -> None:
        """Watch whenever armed, on *link*.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: the connection is closed.
        """
        try:
            while True:
                await self._armed.wait()
                keys = self._keys
                after = {key: shard.last for key, shard in keys.items()}
                ids = [last or b"0-0" for last in after.values()]
                command: Command = ("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", *keys, *ids)
                self._quiet = frozenset(shard.number for shard in keys.values())
                self._reading = True
                try:
                    (found,) = await link.call_all([command], patience_s=_BLOCK_MS / 1000)
                except LostError:
                    self._quiet, self._reading = frozenset(), False
                    await link.connect()
                    continue
                self._reading = False
                if found:
                    self.disarm()
                    self._found = [
                        Found(keys[stream], after[stream], entries[0]) for stream, entries in found
                    ]
                    self._quiet -= {each.shard.number for each in self._found}
                    self._wake()
                else:
                    self._quiet = frozenset()
        finally:
            await link.aclose()
