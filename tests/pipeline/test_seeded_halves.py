"""Seeded runs of the two halves around a buffer: ends at random moments, by tick.

Programs that work come and go until the buffer is empty. Whatever ends them, no tick is
lost and no symbol's order breaks; only what was cancelled may come again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.memory_buffer import MemoryBuffer

SEEDS = int(os.environ.get("TRIO_TICKS_SEEDS", "24"))
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("block", range(4))
def test_no_end_of_a_program_loses_a_tick(block: int) -> None:
    for seed in range(block, SEEDS, 4):
        try:
            trio.run(_one_run, Random(seed), clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def _one_run(chance: Random) -> None:
    count, symbols = chance.randrange(50, 400), "ABCDEFGH"[: chance.randrange(1, 9)]
    buffer = MemoryBuffer(
        maxsize=chance.choice([10, 100, 1000]),
        shards=chance.choice([1, 3, 8]),
        prefetch=chance.choice([8, 64]),
        pack=chance.choice([1, 8]),
        turn_s=0.01,
    )
    ticks = [
        tt.Tick(chance.choice(symbols), NOON, 1.0, 2.0, 1.0, 1.0, float(number))
        for number in range(count)
    ]
    began: list[tt.Tick] = []
    ended: list[tt.Tick] = []

    async def handler(item: tt.Tick) -> None:
        began.append(item)
        if chance.random() < 0.5:
            await trio.sleep(chance.random() * 0.2)
        ended.append(item)
        if item.volume % 17 == 5:
            raise ValueError

    clean = chance.random() < 0.5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ingest, ticks, buffer, chance)
        while buffer.acknowledged < count:
            await _work(handler, buffer, chance, clean=clean)
    _check(ticks, began, ended, clean=clean)
    assert buffer.appended == buffer.acknowledged == count


async def _ingest(ticks: list[tt.Tick], buffer: MemoryBuffer, chance: Random) -> None:
    report = await tt.run_pipeline(
        tt.IterableFeed(ticks), None, buffer=buffer, overflow=tt.Block(), signals=False
    )
    assert report.consumed == len(ticks)


async def _work(handler: Any, buffer: MemoryBuffer, chance: Random, *, clean: bool) -> None:
    grace = 60.0 if clean else chance.choice([0.0, 0.1, 60.0])
    with trio.CancelScope() as scope:
        async with tt.open_pipeline(
            None,
            handler,
            buffer=buffer,
            workers=chance.randrange(1, 5),
            shutdown_timeout=grace,
            executor="loop",
        ) as pipeline:
            for _ in range(chance.randrange(1, 40)):
                await trio.sleep(chance.random() * 0.1)
                pipeline.ledger.check()
            if not clean and chance.random() < 0.5:
                scope.cancel()
    pipeline.ledger.check()
    ledger = pipeline.report.ledger
    assert (ledger.dropped, ledger.queued, ledger.in_flight) == (0, 0, 0)
    assert clean is False or ledger.given_back == 0


def _check(
    ticks: list[tt.Tick], began: list[tt.Tick], ended: list[tt.Tick], *, clean: bool
) -> None:
    for symbol in {item.symbol for item in ticks}:
        sent = [item.volume for item in ticks if item.symbol == symbol]
        got = [item.volume for item in ended if item.symbol == symbol]
        assert set(got) == set(sent)
        if clean:
            assert got == sent
        # What comes again comes from an earlier tick on, without a hole.
        highest = -1
        for volume in got:
            assert sent.index(volume) <= highest + 1
            highest = max(highest, sent.index(volume))
    if clean:
        assert len(began) == len(ended) == len(ticks)
