"""What is expected of a setting: the middle of several draws, in an interval."""

from __future__ import annotations

import random
from array import array

import trio_ticks as tt
from tests.foresight.test_measuring import HEAVY
from trio_ticks.foresight.measuring import Measured
from trio_ticks.foresight.predicting import predict
from trio_ticks.foresight.simulating import Simulator
from trio_ticks.handlers.kinds import Place
from trio_ticks.simulation.loads import Load

WORKERS = 8
SYMBOLS = tuple(f"S{n}" for n in range(40))


def found(executor: Place, batch_s: float = 0.0) -> Measured:
    mean_s = sum(HEAVY) / len(HEAVY)
    return Measured(
        executor=executor,
        workers=WORKERS,
        handled=len(HEAVY),
        failed=0,
        failure=None,
        timed=len(HEAVY),
        seconds=10.0,
        rate=WORKERS / mean_s,
        mean_s=mean_s,
        p50_s=mean_s,
        p99_s=mean_s,
        max_s=1.0,
        error=0.01,
        turnaround_s=batch_s,
        core=0.1,
        computes=False,
        others_cores=0.0,
        busy=array("d", [0.0]) * len(HEAVY),
        waits=array("d", HEAVY),
        symbols=array("I", (n % 40 for n in range(len(HEAVY)))),
        batch_s=batch_s,
    )


def simulator() -> Simulator:
    return Simulator(lambda _what, _done, _all: None, processes=1)


def load_of(rate: float) -> Load:
    dice = random.Random(1)
    times = array("d", (n / rate for n in range(3000)))
    return Load(times, array("I", (dice.randrange(40) for _ in times)), SYMBOLS)


def test_the_middle_one_of_several_draws_is_expected() -> None:
    measured, overflow = found("loop"), tt.Conflate()
    load = load_of(1.2 * measured.rate)
    by_seed = [
        simulator()
        .run("", [simulator().job(WORKERS, 500, overflow)], load, {"": services})[0][0]
        .conflated_rate
        for services in (measured.services(load, random.Random(seed)) for seed in range(5))
    ]
    expected = predict(measured, load, WORKERS, 500, overflow, simulator(), 0)
    assert expected.row.conflated_rate == sorted(by_seed)[2] != by_seed[0]
    assert expected.lags.low < expected.row.p99_lag_s < expected.lags.high


def test_a_plan_knows_what_threads_and_processes_do_differently() -> None:
    """The same services, whose batches cost nothing: what differs is who takes what."""
    load = load_of(0.9 * found("loop").rate)
    loop, thread, process = (
        predict(found(place), load, WORKERS, 500, tt.Conflate(), simulator(), 0).row
        for place in ("loop", "thread", "process")
    )
    assert loop.p99_lag_s < thread.p99_lag_s < process.p99_lag_s
    costly = predict(found("thread", 0.004), load, WORKERS, 500, tt.Conflate(), simulator(), 0)
    assert costly.row.conflated_rate > thread.conflated_rate
