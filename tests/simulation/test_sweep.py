"""Many simulations in processes: they say what the same ones say here."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from random import Random
from typing import Literal

import attrs
import pytest

import trio_ticks as tt
from trio_ticks.overflow import Policy
from trio_ticks.simulation.events import Setting
from trio_ticks.simulation.jobs import Job, packed, run, unpacked
from trio_ticks.simulation.loads import Load, Services
from trio_ticks.simulation.sweep import sweep

TICKS = 2000
POLICIES: list[Policy] = [
    tt.DropNewest(0.01, max_per_symbol=7),
    tt.DropOldest(longest_line=True),
    tt.Conflate(lambda _old, new: new),
    tt.Block(timeout=0.02),
    {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()},
]


@pytest.fixture
def load() -> Load:
    dice = Random(4)
    times, moment = array("d"), 0.0
    for _ in range(TICKS):
        moment += dice.expovariate(1000)
        times.append(moment)
    symbols = array("I", (dice.randrange(3) for _ in range(TICKS)))
    return Load(times, symbols, ("A", "B", "C"), bytes(dice.randrange(2) for _ in range(TICKS)))


@pytest.fixture
def services(load: Load) -> Mapping[str, Services]:
    dice = Random(5)
    table = [dice.expovariate(400) for _ in range(100)]
    drawn = Services.drawn(load, [0.0] * 100, table, [0] * 100, random=Random(6), least=1000)
    slow = attrs.evolve(drawn.scaled(2), executor="process", hand_over_s=0.001, per_batch=2.0)
    return {"quick": drawn, "slow": slow}


def jobs() -> list[Job]:
    kinds: tuple[tuple[str, Literal["none", "symbol"]], ...]
    kinds = (("quick", "none"), ("slow", "symbol"))
    return [
        Job(
            setting=Setting(workers=3, maxsize=50, overflow=policy, ordering=ordering),
            services=name,
            factor=1.5,
            scale=1.1,
        )
        for policy in POLICIES
        for name, ordering in kinds
    ]


def test_processes_find_what_is_found_here(load: Load, services: Mapping[str, Services]) -> None:
    told: list[tuple[int, int]] = []
    here = sweep(jobs(), load, services, progress=lambda *done: told.append(done))
    assert told == [(n, 10) for n in range(1, 11)]
    told.clear()
    there = sweep(
        jobs(), load, services, processes=2, few_ticks=0, progress=lambda *done: told.append(done)
    )
    assert told[-1] == (10, 10)
    assert there == here
    assert len({summary.handled for summary in here}) > 5


def test_jobs_survive_the_way_to_a_process(load: Load, services: Mapping[str, Services]) -> None:
    for job in jobs():
        there = unpacked(packed(job))
        assert run(there, load, services) == run(job, load, services)
        if not isinstance(job.setting.overflow, tt.Conflate | dict):
            assert there == job


def test_a_job_without_services_is_refused_before_anything_runs(
    load: Load, services: Mapping[str, Services]
) -> None:
    job = Job(setting=Setting(), services="no such")
    with pytest.raises(tt.ConfigError, match="no services 'no such'"):
        sweep([job], load, services)
    other = load.part(0, 10)
    with pytest.raises(tt.ConfigError, match="10 ticks in the load, and services of 2,000"):
        sweep([Job(setting=Setting(), services="quick")], other, services)


def test_a_process_that_ends_is_an_error_and_no_hang(
    load: Load, services: Mapping[str, Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(tt.TickError, match="has ended"):
        sweep(jobs(), load, services, processes=2, few_ticks=0)
