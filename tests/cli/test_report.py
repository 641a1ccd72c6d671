"""The lines and the report of a run: numbers that are shown together agree."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.metrics.test_metrics import report, snapshot
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send
from trio_ticks.cli.report import progress_line, report_text


async def test_what_is_shown_together_is_of_one_time(autojump_clock: MockClock) -> None:
    """In, out and dropped a second add up; after the feed's end nothing comes in."""

    async def script(send: Send) -> None:
        for _ in range(60):
            await send.send_many(make_ticks(100))
            await trio.sleep(0.5)
        for _ in range(6):  # three seconds of twice as many
            await send.send_many(make_ticks(200))
            await trio.sleep(0.5)

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.1)

    async with tt.open_pipeline(
        ScriptFeed(script), handler, maxsize=50, overflow=tt.DropOldest()
    ) as pipeline:
        for _ in range(65):
            await trio.sleep(0.5)
            now = pipeline.metrics()
        assert now.state == "running"
        assert now.produced_per_s == pytest.approx(320, abs=45)
        assert now.produced_per_s - now.consumed_per_s - now.dropped_per_s == pytest.approx(
            0, abs=15
        )
        assert f"in {now.produced_per_s:,.0f}/s" in progress_line(now)
        await trio.sleep(1.1)
        ended = pipeline.metrics()
        assert ended.state != "running"
        assert "feed stopped  in 7,200  out" in progress_line(ended)
        pipeline.cancel()


def test_messages_without_ticks_are_explained() -> None:
    made = attrs.evolve(report(snapshot()), ignored=1, malformed=2)
    text = report_text(made)
    assert "  2 malformed messages, 0 reconnects\n" in text
    one = attrs.evolve(made, malformed=1, reconnects=1)
    assert "  1 malformed message, 1 reconnect\n" in report_text(one)
    assert "  1 message held no tick, and needs none: answers, heartbeats and the like\n" in text
    assert "3 messages held no tick, and need none" in report_text(attrs.evolve(made, ignored=3))
    assert "held no tick" not in report_text(attrs.evolve(made, ignored=0))


def test_each_half_has_its_own_words() -> None:
    made = report(snapshot())
    both, ingest, work = (report_text(made, half) for half in (None, "ingest", "work"))
    assert both.startswith("  produced ")
    assert ingest.startswith("  produced ")
    assert work.startswith("  received ")
    assert "= appended" in ingest
    assert "ticks/s appended\n" in ingest
    assert "handled\n" not in ingest
    assert "ticks/s handled\n" in both
    assert "ticks/s handled\n" in work
