"""The pressure and the throttle of an ingest go by the fuller of queue and broker."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.buffer import BufferStatistics, Sink, Source
from trio_ticks.channel.ends import open_tick_channel
from trio_ticks.pipeline.shared_queue import SharedQueue

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def ticks(first: int, count: int) -> list[tt.Tick]:
    return [
        tt.Tick("ABCDE"[number % 5], NOON, 1.5, 1.6, 1.0, 2.0, float(number))
        for number in range(first, first + count)
    ]


class Obedient:
    """Sends 1,000 ticks a second, or as many as it is asked for."""

    def __init__(self) -> None:
        self.rate = 1000.0
        self.asked: list[float | None] = []

    def throttle(self, max_rate: float | None) -> None:
        self.asked.append(max_rate)
        self.rate = 1000.0 if max_rate is None else min(max_rate, 1000.0)

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        owed = 0.0
        for number in itertools.count():
            if owed >= 1:
                await send.send_many(ticks(number, int(owed)))
            owed = owed % 1 + self.rate * 0.05
            await trio.sleep(0.05)


async def test_the_throttle_slows_the_feed_before_the_broker_is_full(
    autojump_clock: MockClock,
) -> None:
    buffer, feed = MemoryBuffer(maxsize=2000, turn_s=0.05), Obedient()
    fullest = 0

    async def handler(_item: tt.Tick) -> None:
        nonlocal fullest
        fullest = max(fullest, buffer.used)
        await trio.sleep(0.02)  # 200 a second, with four workers

    async with tt.open_pipeline(
        feed,
        handler,
        buffer=buffer,
        workers=4,
        ordering="none",
        overflow=tt.Throttle(tt.DropNewest(timeout=0)),
        shutdown_timeout=0,
    ) as pipeline:
        await trio.sleep(10)
        assert pipeline.ingest is not None
        late = pipeline.ingest.ledger.produced
        await trio.sleep(10)
        brought = pipeline.ingest.ledger.produced - late
    assert 900 < fullest < 2000
    assert pipeline.ingest.report.dropped == 0
    # It settles near the workers' rate.
    assert 0.8 * 200 * 10 < brought < 1.2 * 200 * 10
    pipeline.ingest.ledger.check()
    pipeline.ledger.check()


async def test_the_pressure_is_that_of_the_broker_though_the_queue_is_empty(
    autojump_clock: MockClock,
) -> None:
    buffer = MemoryBuffer(maxsize=100)

    async def script(send: tt.TickSendChannel[tt.Tick]) -> None:
        await send.send_many(ticks(0, 100))
        await trio.sleep_forever()

    class Feed:
        run = staticmethod(script)

    async def empty(_item: tt.Tick) -> None: ...

    async with tt.open_pipeline(Feed(), None, buffer=buffer, shutdown_timeout=0) as ingest:
        await ingest.pressure.wait_for("shed")
        assert (ingest.ledger.queued, buffer.used) == (0, 100)
        # Others take them out, while nothing happens here.
        async with tt.open_pipeline(None, empty, buffer=buffer):
            await ingest.pressure.wait_for("ok")
        assert ingest.pressure.changes >= 2
    assert not buffer.used


@attrs.define
class Silent:
    """A buffer that does not tell how full it is."""

    inner: MemoryBuffer

    def sink(self) -> Sink:
        return SilentSink(self.inner.sink())

    def source(self) -> Source:
        return self.inner.source()


@attrs.define
class SilentSink:
    inner: Sink

    async def run(self, receive: Any) -> None:
        await self.inner.run(receive)

    def statistics(self) -> BufferStatistics:
        return attrs.evolve(self.inner.statistics(), used=None, maxsize=None)


async def test_where_the_broker_does_not_tell_the_queue_alone_counts(
    autojump_clock: MockClock,
) -> None:
    buffer = MemoryBuffer(maxsize=100)

    async def script(send: tt.TickSendChannel[tt.Tick]) -> None:
        await send.send_many(ticks(0, 100))
        await trio.sleep(1)
        await send.send_many(ticks(0, 10))
        await trio.sleep_forever()

    class Feed:
        run = staticmethod(script)

    async with tt.open_pipeline(
        Feed(), None, buffer=Silent(buffer), maxsize=100, lag_threshold=10, shutdown_timeout=0
    ) as ingest:
        await trio.sleep(0.5)
        assert (ingest.pressure.state, buffer.used) == ("ok", 100)
        await trio.sleep(1)
        assert (ingest.pressure.state, ingest.ledger.queued) == ("warn", 10)


async def test_the_log_tells_which_of_the_two_is_full(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.pressure")

    async def script(send: tt.TickSendChannel[tt.Tick]) -> None:
        for at in range(0, 70, 10):
            await send.send_many(ticks(at, 10))
            await trio.sleep(1)
        await trio.sleep_forever()

    class Feed:
        run = staticmethod(script)

    async with tt.open_pipeline(
        Feed(), None, buffer=MemoryBuffer(maxsize=50), maxsize=1000, lag_threshold=500
    ) as ingest:
        await trio.sleep(10)
        assert ingest.ledger.queued < 30
        ingest.cancel()
    assert caplog.messages[:2] == [
        "pressure.warn: 30 of 50 ticks wait in the buffer (was ok)",
        "pressure.shed: 50 of 50 ticks wait in the buffer (was warn); its workers do not keep "
        "up, or there are none",
    ]
    assert [vars(record)["where"] for record in caplog.records[:2]] == ["buffer"] * 2


@pytest.mark.parametrize(
    ("waits", "used", "most", "seen"),
    [
        (0, 0, 100, (0, 10, 0, 10)),
        (5, 10, 100, (15, 30, 5, 10)),
        (1, 80, 100, (81, 101, 8, 10)),
        (5, None, None, (5, 10, 5, 10)),
        (0, 150, 100, (150, 100, 15, 10)),
    ],
)
async def test_the_fuller_of_the_two(
    waits: int, used: int | None, most: int | None, seen: tuple[int, int, int, int]
) -> None:
    send: tt.TickSendChannel[tt.Tick]
    send, receive = open_tick_channel(10)
    with send, receive:
        await send.send_many(ticks(0, waits))
        await wait_all_tasks_blocked()
        now = BufferStatistics(appended=200, used=used, maxsize=most)
        shared = SharedQueue(receive.state, lambda: now)
        shared.refresh()
        assert (shared.used, shared.maxsize, shared.pressing, receive.state.maxsize) == seen
        # The log names the buffer only where that is the fuller one.
        assert shared.behind == ((used, most) if seen[2] > waits else None)
        assert shared.finished() == 200 - (used or 0)
        now = BufferStatistics(appended=200, used=250, maxsize=300)
        shared.refresh()
        # Another producer's ticks do not make the count fall.
        assert shared.finished() == 200 - (used or 0)
