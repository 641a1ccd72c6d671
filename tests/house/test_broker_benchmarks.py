"""The benchmark of the buffers runs from end to end, and its accounting can fail.

No timing is asserted here. What takes processes is kept to a few hundred ticks.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.broker_child import Tally, make_ticks
from tests.benchmarks.broker_runs import Program, outcome_of, run
from tests.benchmarks.brokers import PROGRAMS, brokers_report, measure_brokers
from tests.benchmarks.limits import evaluate
from tests.benchmarks.runner import ContenderError


def silent(line: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize(
    ("broker", "key"),
    [("redis", "batch"), ("redis", "thread"), ("kafka", "auto"), ("zeromq", "loop")],
)
def test_each_kind_of_program_handles_every_tick_once(broker: str, key: str) -> None:
    outcome = run(PROGRAMS[broker][key], 300)
    assert outcome.ticks == 300
    assert outcome.per_s > 0


def test_the_section_is_measured_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("loop", "bare"):
        monkeypatch.delitem(PROGRAMS["zeromq"], key)
    parts = ("throughput", "scaling")
    section = measure_brokers(["zeromq"], ticks=400, rounds=1, seconds=0.1, say=silent, parts=parts)
    assert set(section["zeromq"]["throughput"]) == {"ours"}
    assert section["zeromq"]["scaling"]["ratio"] > 0
    (limit,) = evaluate({"brokers": section})
    assert limit.name == "zeromq: two processes against one"
    assert "whose handler waits 200" in brokers_report(section)


def test_a_timed_run_has_when_each_tick_was_handled() -> None:
    late_us = run(PROGRAMS["zeromq"]["ours"], 50, rate=500.0, timed=True).late_us
    # All processes read one clock: nothing is handled before it was brought.
    assert len(late_us) == 50
    assert min(late_us) > 0


def accounts(handled: int, total: float) -> list[dict[str, Any]]:
    return [{"handled": handled, "total": total, "last_ns": 2_000, "cpu_s": 1.0, "times": []}]


BROUGHT = {"begun_ns": 1_000, "cpu_s": 1.0, "times": []}


@pytest.mark.parametrize(
    ("handled", "total"), [(9, 36.0), (11, 54.0), (10, 44.0)], ids=["lost", "twice", "both"]
)
def test_a_tick_that_is_lost_or_comes_twice_is_a_failure(handled: int, total: float) -> None:
    program: Program = PROGRAMS["redis"]["ours"]
    good = outcome_of(program, 10, BROUGHT, accounts(10, 45.0), 0.0)
    assert good.wall_s == pytest.approx(1e-6)
    with pytest.raises(ContenderError, match="10 ticks were brought"):
        outcome_of(program, 10, BROUGHT, accounts(handled, total), 0.0)


def test_a_program_that_fails_says_why() -> None:
    program = Program(broker="zeromq", name="none", produce="nothing", consume="nothing")
    with pytest.raises(ContenderError, match="KeyError: 'nothing'"):
        run(program, 10)


def test_the_tally_counts_and_ends_once() -> None:
    ends: list[bool] = []
    tally = Tally(3, timed=True)
    tally.on_done = lambda: ends.append(True)
    for tick in make_ticks(3, 2):
        tally.handle(tick)
    account = tally.account()
    assert (account["handled"], account["total"], ends) == (3, 3.0, [True])
    assert [number for number, _ in account["times"]] == [0, 1, 2]


def row(**against: float) -> dict[str, Any]:
    return {"name": "x", "against": against}


def test_limits_of_the_buffers_are_met_or_missed() -> None:
    def section(factor: float) -> dict[str, Any]:
        return {
            "brokers": {
                "redis": {
                    "throughput": {
                        "ours": row(loop=40 * factor, batch=3 * factor),
                        "loop": row(),
                        "batch": row(),
                    },
                    "latency": {"500": {"ours": {"p50_us": 1000 / factor}}},
                    "scaling": {"ratio": 1.8 * factor},
                },
                "kafka": {
                    "throughput": {
                        "ours": row(loop=20 * factor, auto=1.5 * factor),
                        "loop": row(),
                        "auto": row(),
                    },
                    "latency": {"500": {"ours": {"p50_us": 1e6}}},
                },
                "zeromq": {
                    "throughput": {
                        "ours": row(loop=1.3 * factor),
                        "bare": row(loop=2 * factor),
                        "loop": row(),
                    }
                },
            }
        }

    assert [limit.met for limit in evaluate(section(1.01))] == [True] * 8
    assert [limit.met for limit in evaluate(section(0.99))] == [False] * 8
