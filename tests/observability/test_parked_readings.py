"""What waits in lanes is told to an operator as what waits in the buffer is."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send
from trio_ticks.observability.health import Health
from trio_ticks.observability.readings import Readings


@attrs.define
class Gauges:
    """A sink that keeps gauges alone."""

    values: dict[str, float] = attrs.field(factory=dict)

    def gauge(self, name: str, help: str, value: Any, **labels: str) -> None:
        self.values[name] = value

    def counter(self, *_args: Any, **_labels: Any) -> None:
        """Not needed here."""

    def histogram(self, *_args: Any, **_labels: Any) -> None:
        """Not needed here."""


async def test_the_oldest_tick_may_be_parked(autojump_clock: MockClock) -> None:
    handler, gauges = Gate(), Gauges()

    async def script(send: Send) -> None:
        for symbol in "AABC":
            await send.send(make_tick(symbol))
            await trio.sleep(1)
        await trio.sleep_forever()

    async with tt.open_pipeline(ScriptFeed(script), handler, workers=2) as pipeline:
        # A and B are handled, another A is parked since 2.5 s, C queued since 0.5 s.
        await trio.sleep(3.5)
        Readings(pipeline, Health(pipeline, 30.0)).read_into(gauges)
        assert gauges.values["queue_items"] == 2
        assert gauges.values["queue_oldest_item_age_seconds"] == pytest.approx(2.5)
        handler.opened.set()
