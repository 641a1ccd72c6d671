"""Wherever the handler runs, gaps are told between their neighbours.

The clock, the threads and the processes are real: nothing is asserted about time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.gap_handlers import PLACES, Place, lines_of, tell_of_error, tell_of_gap
from tests.worlds.helpers import EPOCH, make_tick, make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, listed
from tests.worlds.process_world import guarded, path, quick_main, until

__all__ = ["guarded", "path", "quick_main"]

in_every_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
# A process sees only the gaps that are handed to a handler; ``on_gap`` runs outside it.
told_everywhere = pytest.mark.parametrize(
    ("place", "in_band"),
    [
        pytest.param(place, in_band, id=f"{place.name}-{'in band' if in_band else 'on_gap'}")
        for place in PLACES
        for in_band in (True, False)
        if in_band or place.executor != "process"
    ],
)


@pytest.fixture(autouse=True)
def no_tick_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no batch called back: test_gaps_behind_called_back_ticks.py is for that."""
    monkeypatch.setattr("trio_ticks.workers.batch_work.LATE_S", 1000.0)


def loss(symbol: str, count: int) -> tt.Gap:
    return tt.Gap(symbol, EPOCH, "sequence", count, EPOCH)


def told_by(in_band: bool, path: Path) -> dict[str, Any]:
    """Return the settings with which gaps are told into *path*."""
    return {} if in_band else {"on_gap": tell_of_gap(path)}


@told_everywhere
async def test_a_gap_in_the_middle_of_a_lane_is_told_between_its_neighbours(
    place: Place, in_band: bool, path: Path
) -> None:
    """Behind the first tick others wait in a lane, with a loss before each third."""

    async def script(send: Send) -> None:
        for first in range(0, 30, 3):
            if first:
                send.mark_gap(loss("A", first))
            assert send.deliver(make_ticks(3, first=first)) is None
        # The worker that handles B has passed all of A's ticks: they are in the lane.
        await send.send(make_tick("B", 100))
        await until(lambda: lines_of(path, "A") and lines_of(path, "B"))
        await wait_all_tasks_blocked()
        assert lines_of(path, "A") == [0]
        place.gate(path).touch()

    report = await tt.run_pipeline(
        ScriptFeed(script),
        place.handler(path),
        workers=2,
        executor=place.executor,
        **told_by(in_band, path),
    )
    expected: list[Any] = [0, 1, 2]
    for first in range(3, 30, 3):
        expected += [("gap: sequence", first), first, first + 1, first + 2]
    assert lines_of(path, "A") == expected
    assert_accounted(report, consumed=31, failed=0)


@in_every_place
async def test_a_gap_in_a_batch_of_several_symbols_is_told_before_its_own_symbols_tick(
    place: Place, path: Path
) -> None:
    async def script(send: Send) -> None:
        for first in range(0, 48, 6):
            if first:
                send.mark_gap(loss("A", first))
                send.mark_gap(loss("B", first))
            assert send.deliver(make_ticks(6, "AB", first=first)) is None

    place.gate(path).touch()
    await tt.run_pipeline(
        ScriptFeed(script), place.handler(path), workers=1, executor=place.executor
    )
    for offset, symbol in enumerate("AB"):
        expected: list[Any] = []
        for first in range(0, 48, 6):
            expected += [("gap: sequence", first)] if first else []
            expected += range(first + offset, first + 6, 2)
        assert lines_of(path, symbol) == expected


@pytest.mark.parametrize("drained", [False, True], ids=["while the lane is there", "after it"])
@told_everywhere
async def test_a_gap_at_the_end_of_a_lane_is_told_behind_the_lane(
    place: Place, in_band: bool, drained: bool, path: Path
) -> None:
    """B takes the place of A3, the newest of A's lane; A4 had found no room."""

    async def script(send: Send) -> None:
        ledger = pipeline.ledger
        await send.send(make_tick("A", 0))
        await until(lambda: lines_of(path, "A"))
        await send.send_many(make_ticks(3, first=1))
        await wait_all_tasks_blocked()
        await send.send_many([make_tick("A", 4), make_tick("B", 100)])
        await until(lambda: lines_of(path, "B") and (ledger.queued, ledger.in_flight) == (2, 1))
        if drained:
            place.gate(path).touch()
            await until(lambda: not ledger.queued and not ledger.in_flight)
            await send.send(make_tick("A", 5))
        else:
            await send.send(make_tick("A", 5))
            await wait_all_tasks_blocked()
            assert lines_of(path, "A") == [0]
            place.gate(path).touch()
            await until(lambda: not ledger.queued and not ledger.in_flight)
        await send.send(make_tick("A", 6))

    async with tt.open_pipeline(
        ScriptFeed(script),
        place.handler(path),
        workers=2,
        maxsize=3,
        overflow=tt.DropNewest(0),
        executor=place.executor,
        **told_by(in_band, path),
    ) as pipeline:
        await pipeline.wait()
    assert lines_of(path, "A") == [0, 1, 2, ("gap: overflow", 2), 5, 6]
    assert lines_of(path, "B") == [100]
    assert_accounted(pipeline.report, consumed=6, overflow=2)


# Handlers that raise at a gap


@in_every_place
async def test_a_handler_that_raises_at_a_gap_fails_with_the_gap_alone(
    place: Place, path: Path
) -> None:
    async def script(send: Send) -> None:
        for first in range(0, 9, 3):
            if first:
                send.mark_gap(loss("A", first))
            assert send.deliver(make_ticks(3, first=first)) is None

    place.gate(path).touch()
    report = await tt.run_pipeline(
        ScriptFeed(script),
        place.handler(path, raises=True),
        workers=1,
        executor=place.executor,
        on_error=tell_of_error(path),
    )
    expected: list[Any] = [0, 1, 2]
    for first in (3, 6):
        expected += [("gap: sequence", first), ("Gap: GapError", first)]
        expected += [first, first + 1, first + 2]
    assert lines_of(path, "A") == expected
    assert_accounted(report, consumed=9, failed=0)


@in_every_place
async def test_an_error_at_a_gap_holds_up_no_other_symbol_and_is_logged_without_on_error(
    place: Place, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed = listed(make_ticks(4, "AB"))

    async def script(send: Send) -> None:
        send.mark_gap(loss("A", 7))
        await feed.run(send)

    place.gate(path).touch()
    report = await tt.run_pipeline(
        ScriptFeed(script), place.handler(path, raises=True), workers=2, executor=place.executor
    )
    assert lines_of(path, "A") == [("gap: sequence", 7), 0, 2]
    assert lines_of(path, "B") == [1, 3]
    assert_accounted(report, consumed=4, failed=0)
    (record,) = [record for record in caplog.records if "handler.failed" in record.getMessage()]
    assert (record.symbol, record.failed) == ("A", 1)  # type: ignore[attr-defined]
