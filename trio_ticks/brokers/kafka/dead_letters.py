"""The dead letters of a worker: records that cannot be read, and ticks that kill.

They go to the topic ``<topic>.dead``, as they came, with headers that say why and where
they were. The offset after a dead letter is committed only when the letter has been
written.

Rules: nothing here is fatal. A letter that the broker refuses is logged, counted and
given up. The client is made when there is a first letter.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final, final

import attrs
import trio

from ...logs import log_event
from ...uninterrupted import uninterrupted
from ..packing import Record
from .health import Health
from .library import confluent
from .producing import Producing, Sending
from .settings import KafkaSettings
from .topics import Admin

__all__ = ["DeadLetters", "Letter"]

_logger = logging.getLogger("trio_ticks.brokers")
_LISTEN_S: Final = 0.1
_PAUSE_S: Final = 1.0


@attrs.frozen(eq=False)
class Letter:
    """One dead letter."""

    body: bytes
    key: str
    reason: str
    """``junk`` or ``deliveries``."""
    why: str
    partition: int
    offset: int
    token: Any
    """What is unfinished until the letter is written."""

    def headers(self, topic: str) -> list[tuple[str, bytes]]:
        """Return the headers of the record."""
        return [
            ("reason", self.reason.encode()),
            ("why", self.why.encode("utf-8", "backslashreplace")[:1000]),
            ("topic", topic.encode()),
            ("partition", str(self.partition).encode()),
            ("offset", str(self.offset).encode()),
        ]


@uninterrupted
@final
class DeadLetters:
    """Writes dead letters, one after another."""

    def __init__(self, kafka: KafkaSettings, health: Health) -> None:
        self._kafka = kafka
        self._health = health
        self._letters: deque[Letter] = deque()
        self._changed = trio.Event()

    def put(self, letter: Letter) -> None:
        """Have *letter* written."""
        self._letters.append(letter)
        self._changed.set()

    @property
    def tokens(self) -> list[Any]:
        """The tokens of the letters that are not written yet."""
        return [letter.token for letter in self._letters]

    async def run(self) -> None:
        """Write what is put, for ever.

        Cancellation: a letter may have been written. Its record comes again.
        """
        producing: Producing | None = None
        try:
            while True:
                while not self._letters:
                    self._changed = trio.Event()
                    await self._changed.wait()
                if producing is None:
                    await self._prepare()
                    producing = await trio.to_thread.run_sync(
                        Producing, self._kafka, self._health, self._kafka.dead_topic
                    )
                error = await self._write(producing, self._letters[0])
                letter = self._letters.popleft()
                if error is not None:
                    text = "the record at %d of partition %d cannot be written to %s: %s"
                    shown = (letter.offset, letter.partition, self._kafka.dead_topic, error.str())
                    log_event(
                        _logger,
                        logging.ERROR,
                        "broker.dead_letter_lost",
                        text,
                        *shown,
                        topic=self._kafka.dead_topic,
                        offset=letter.offset,
                    )
        finally:
            if producing is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(producing.close)

    async def _write(self, producing: Producing, letter: Letter) -> Any:
        # Partition -1: any.
        sending = Sending(0, Record(-1, 0, letter.body), letter.key)
        while True:
            headers = letter.headers(self._kafka.topic)
            count, error = await trio.to_thread.run_sync(producing.put, [sending], headers)
            if error is not None:
                return error
            while count:
                for report in await trio.to_thread.run_sync(producing.listen, _LISTEN_S):
                    return report.error
            await trio.sleep(_LISTEN_S)

    async def _prepare(self) -> None:
        """Make the topic, unless it is there or must not be made."""
        admin = Admin(self._kafka, self._health)
        try:
            while True:
                try:
                    if (
                        await admin.partitions(self._kafka.dead_topic) is None
                        and self._kafka.create
                    ):
                        await admin.create(self._kafka.dead_topic, 1)
                except confluent().KafkaException as error:
                    if not self._health.is_refusal(error.args[0]):
                        await trio.sleep(_PAUSE_S)
                        continue
                return
        finally:
            await admin.aclose()
