"""A signal handler may ask anything of a pipeline, whatever line it interrupts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.ctrl_c import Interrupt, handled_by
from tests.worlds.memory_buffer import MemoryBuffer

COUNT = 120
TICKS = [
    tt.Tick(f"S{place % 3}", datetime(2026, 3, 2, 12, tzinfo=UTC), 1.0, 2.0, 1.0, 1.0, float(place))
    for place in range(COUNT)
]
OURS = re.compile("trio_ticks/(channel|workers|pipeline|loop[.]py)")


async def source() -> AsyncIterator[tt.Tick]:
    for tick in TICKS:
        await trio.lowlevel.checkpoint()
        yield tick


class Seen:
    """Handles ticks and notes them; some take turns with others."""

    def __init__(self) -> None:
        self.volumes: list[float] = []

    async def in_loop(self, tick: tt.Tick) -> None:
        if tick.volume % 5 == 0:
            await trio.lowlevel.checkpoint()
        self.volumes.append(tick.volume)

    def in_thread(self, tick: tt.Tick) -> None:
        self.volumes.append(tick.volume)

    @tt.batch_handler(max_size=4)
    async def in_batches(self, ticks: list[tt.Tick]) -> None:
        await trio.lowlevel.checkpoint()
        self.volumes += [tick.volume for tick in ticks]

    def check(self) -> None:
        """Each tick was handled once, those of a symbol in their order."""
        assert sorted(self.volumes) == list(range(COUNT))
        for symbol in range(3):
            of_symbol = [volume for volume in self.volumes if volume % 3 == symbol]
            assert of_symbol == sorted(of_symbol)


def steered(
    handler: Any, interrupt: Interrupt, function: Callable[[tt.Pipeline[Any]], object], **more: Any
) -> tt.Pipeline[Any]:
    """Run a pipeline, and call *function* with it at each of the interrupts."""
    seen: list[tt.Pipeline[Any]] = []

    async def main() -> None:
        with trio.fail_after(60):
            settings = {"workers": 2, "maxsize": 8, "overflow": tt.Block(), **more}
            async with tt.open_pipeline(tt.IterableFeed(source()), handler, **settings) as pipeline:
                seen.append(pipeline)
                await pipeline.wait()

    with handled_by(lambda: [function(pipeline) for pipeline in seen]), interrupt:
        trio.run(main)
    return seen[0]


def all_at_once(pipeline: tt.Pipeline[Any]) -> None:
    pipeline.pause()
    pipeline.resize(workers=3)
    pipeline.resume()


def asked_in_turn() -> Callable[[tt.Pipeline[Any]], object]:
    """Return a function that resizes, pauses and resumes, each in its turn."""
    wishes: Iterator[Callable[[tt.Pipeline[Any]], object]] = cycle(
        [
            lambda pipeline: pipeline.resize(workers=1),
            lambda pipeline: pipeline.pause(),
            lambda pipeline: pipeline.resize(workers=4),
            lambda pipeline: pipeline.resume(),
            all_at_once,
        ]
    )

    def asked(pipeline: tt.Pipeline[Any]) -> None:
        next(wishes)(pipeline)

    return asked


@pytest.mark.parametrize("place", ["in_loop", "in_thread", "in_batches"])
@pytest.mark.parametrize("every", [7, 41, 101])
@pytest.mark.parametrize("at", range(1, 4))
def test_the_size_and_a_pause(place: str, every: int, at: int) -> None:
    seen, interrupt = Seen(), Interrupt(at * 97, OURS, every)
    pipeline = steered(getattr(seen, place), interrupt, asked_in_turn())
    assert interrupt.count > 20
    seen.check()
    pipeline.ledger.check()
    assert pipeline.report.consumed == COUNT


@pytest.mark.parametrize("end", ["shutdown", "cancel"])
@pytest.mark.parametrize("place", ["in_loop", "in_thread"])
def test_the_end(end: str, place: str) -> None:
    count = 0
    for at in range(50, 6000, 283):
        seen, interrupt = Seen(), Interrupt(at, OURS)
        pipeline = steered(
            getattr(seen, place), interrupt, lambda pipeline: getattr(pipeline, end)()
        )
        count += interrupt.count
        pipeline.ledger.check()
        ledger = pipeline.report.ledger
        assert (ledger.queued, ledger.in_flight) == (0, 0), interrupt.where
        assert ledger.consumed == len(seen.volumes)
    assert count > 15


@pytest.mark.parametrize("at", range(1, 4))
def test_both_halves_where_a_buffer_is_between(at: int) -> None:
    seen, interrupt = Seen(), Interrupt(at * 97, OURS, 61)
    pipeline = steered(seen.in_loop, interrupt, asked_in_turn(), buffer=MemoryBuffer(maxsize=20))
    assert interrupt.count > 20
    pipeline.ledger.check()
    assert pipeline.ingest is not None
    pipeline.ingest.ledger.check()
    # This buffer delivers an entry again of which a part was handled before a pause.
    assert set(seen.volumes) == set(range(COUNT))
