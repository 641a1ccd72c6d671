"""The workers' end of a Kafka buffer, as a pipeline sees it.

Rules: what runs is in :mod:`.working`; here are the face and the statistics.
"""

from __future__ import annotations

from typing import final

import trio

from ...buffer import BufferStatistics, Outcomes, Send
from .health import Health
from .settings import KafkaSettings
from .topics import Admin, prepare
from .working import Working

__all__ = ["KafkaSource"]


@final
class KafkaSource:
    """Delivers the ticks in the topic of *kafka* to workers."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._draining = trio.Event()
        self._working: Working | None = None

    def drain(self) -> None:
        """Have :meth:`run` fetch no more, and end when nothing is unfinished."""
        self._draining.set()

    def give_back(self) -> int:
        """Withdraw what no worker has begun, and acknowledge none of it.

        A drain does it by itself once nothing is busy any more.

        Returns:
            How many ticks were withdrawn.
        """
        return 0 if self._working is None else self._working.give_back()

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end.

        The lag is that of the partitions held here. Records that were not fetched are
        counted with the mean number of ticks of those that were.
        """
        working = self._working
        if working is None:
            return BufferStatistics(maxsize=self._kafka.maxsize)
        return working.statistics()

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        """Fetch and deliver into *send*, and commit what has an outcome.

        Returns once :meth:`drain` was called and all that was delivered is finished.

        Raises:
            BrokerError: the broker refuses us, or the topic is not as it must be.
            ConfigError: librdkafka does not take the settings.

        Cancellation: what was delivered and not committed comes again. It takes at most
        0.1 s until the thread has ended.
        """
        health = Health(self._kafka, send.clock.now)
        working = self._working = Working(self._kafka, health, send, outcomes, self._draining)
        admin = Admin(self._kafka, health)
        try:
            if await self._prepare(admin, health):
                await working.run(admin)
        finally:
            await admin.aclose()

    async def _prepare(self, admin: Admin, health: Health) -> bool:
        """Return whether the topic is there; ``False``: a drain came before the broker.

        Nothing is held until then, so there is nothing to wait for.

        Cancellation: the topic may have been made.
        """
        ready = False
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def drained() -> None:
                await self._draining.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(drained)
            try:
                await prepare(admin, self._kafka, health)
                ready = True
            except Exception as error:
                # Raised outside of the nursery, which would make a group of it.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return ready
