"""A running pipeline says which setting would have avoided what it lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from random import Random

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from trio_ticks.metrics.advice import NOW
from trio_ticks.pipeline import advising
from trio_ticks.simulation.live import Present, advise
from trio_ticks.simulation.recent import Recent


class Overload:
    """Brings 10 ticks of twenty symbols every 50 ms: twice what is handled."""

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        now = datetime.now(UTC)
        ticks = [tt.Tick(f"S{n}", now, 1, 2, 1, 1, n) for n in range(20)]
        while True:
            for part in (ticks[:10], ticks[10:]):
                await send.send_many(part)
                await trio.sleep(0.05)


async def handler(_tick: tt.Tick) -> None:
    await trio.sleep(0.02)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "FIRST_S", 0.5)


async def test_losses_are_followed_by_advice(hasty: None) -> None:
    async with tt.open_pipeline(
        Overload(), handler, workers=2, maxsize=20, overflow=tt.DropNewest(0), shutdown_timeout=0
    ) as pipeline:
        assert pipeline.meters.advice == {}
        assert pipeline.metrics().advice is None
        with trio.fail_after(60):
            while not pipeline.meters.advice:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.05)
        shares, text = pipeline.meters.advice, pipeline.metrics().advice
    assert shares[NOW] > 0.1
    assert any(share < shares[NOW] / 2 for share in shares.values())
    assert any(change.startswith("workers=") for change in shares)
    # It is too much for two workers, however long the queue is.
    assert not any(change.startswith("maxsize=") for change in shares)
    assert text is not None
    assert text.startswith("lost with ")
    assert pipeline.report.advice == text
    assert pipeline.report.to_dict()["advice"] == text


class HotSymbol:
    """Brings three ticks of one symbol for each of another: one of them is too fast."""

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        now = datetime.now(UTC)
        hot, cold = (tt.Tick(name, now, 1, 2, 1, 1, 0) for name in ("HOT", "COLD"))
        while True:
            await send.send_many([hot, cold, hot, hot])
            await trio.sleep(0.025)


async def test_symbols_are_simulated_as_often_as_they_come(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def observed(
        present: Present, recent: Recent, counts: Sequence[int], random: Random, steps: int
    ) -> Iterator[Mapping[str, float] | None]:
        load = recent.load(recent.stretch(), random)
        assert load is not None
        shares.append(load.counts()["HOT"] / len(load))
        return advise(present, recent, counts, random, steps)

    monkeypatch.setattr(advising, "advise", observed)
    async with tt.open_pipeline(
        HotSymbol(), handler, workers=2, maxsize=50, overflow=tt.DropNewest(0), shutdown_timeout=0
    ):
        with trio.fail_after(60):
            while not shares:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.05)
    # Nearly all that waits is the hot symbol's, but of what comes it is three quarters.
    assert 0.5 < shares[-1] < 0.95


async def test_a_mistake_in_it_costs_the_advice_alone(
    hasty: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_arguments: object) -> Iterator[dict[str, float] | None]:
        yield None
        raise ZeroDivisionError

    monkeypatch.setattr(advising, "advise", fails)
    async with tt.open_pipeline(
        Overload(), handler, workers=2, maxsize=20, overflow=tt.DropNewest(0), shutdown_timeout=0
    ) as pipeline:
        with trio.fail_after(60):
            while "advice.failed" not in caplog.text:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.05)
        handled = pipeline.ledger.consumed
        with trio.fail_after(60):
            while pipeline.ledger.consumed == handled:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.05)
        assert pipeline.meters.advice == {}


def test_on_a_virtual_clock_there_is_none(hasty: None) -> None:
    async def main() -> tt.Pipeline[tt.Tick]:
        async with tt.open_pipeline(
            Overload(), handler, workers=2, maxsize=20, overflow=tt.DropNewest(0)
        ) as pipeline:
            await trio.sleep(60)
        return pipeline

    pipeline = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert pipeline.report.dropped > 1000
    assert pipeline.meters.advice == {}


@pytest.mark.parametrize(
    "overflow", [tt.Fail(), tt.Throttle(), {tt.Tick: tt.Conflate()}], ids=lambda o: type(o).__name__
)
async def test_what_cannot_be_simulated_runs_without_advice(
    hasty: None, overflow: tt.OverflowStrategy
) -> None:
    feed = tt.IterableFeed([])
    async with tt.open_pipeline(feed, handler, overflow=overflow) as pipeline:
        await pipeline.wait()
    assert pipeline.meters.advice == {}
    assert not math.isnan(pipeline.report.duration_s)
