"""The log lines of drops stand for every drop: what a second had no line for gets one
at the end.
"""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in caplog.records:
        if getattr(record, "event", "") == "ticks.dropped":
            reason: str = record.__dict__["reason"]
            counts[reason] = counts.get(reason, 0) + record.__dict__["dropped"]
    return counts


async def test_the_lines_of_a_pipeline_add_up_to_its_drops(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(_tick: tt.Tick) -> None:
        await trio.sleep(1)

    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick], /) -> None:
            for tick in make_ticks(500):
                await send.send(tick)
            await trio.sleep_forever()

    with caplog.at_level(logging.WARNING, "trio_ticks.channel"):
        async with tt.open_pipeline(
            Feed(), slow, maxsize=20, write_timeout=0, shutdown_timeout=0.1
        ) as pipeline:
            await trio.sleep(0.5)
    drops = {reason: n for reason, n in pipeline.report.dropped_by_reason.items() if n}
    assert set(drops) == {"overflow", "shutdown"}
    assert logged(caplog) == drops
    pipeline.ledger.check()


async def test_the_lines_of_a_channel_add_up_to_its_drops(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    channel: tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]]
    channel = tt.open_tick_channel(maxsize=5, overflow=tt.DropOldest())
    send, receive = channel
    with caplog.at_level(logging.WARNING, "trio_ticks.channel"):
        for tick in make_ticks(50):
            await send.send(tick)
        send.close()
        receive.close()
    assert logged(caplog) == {"evicted": 45, "shutdown": 5}
    send.ledger.check()
