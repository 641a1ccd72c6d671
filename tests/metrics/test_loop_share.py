"""Threads have their turn beside an event loop that is never idle."""

from __future__ import annotations

import sys
import time

import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted
from trio_ticks.metrics import loop_share

PATIENCE_S = 30.0


class Machine:
    """The clocks of a machine whose loop and other threads compute as the test says."""

    def __init__(self) -> None:
        self.now = self.loop = self.others = 0.0
        self.naps, self.threads = 0, 3
        self.in_a_nap = 0.0
        """For how long others compute while the loop sleeps, in seconds."""

    def passes(self, seconds: float, *, loop: float = 0.0, others: float = 0.0) -> None:
        """Let *seconds* pass, in such parts of which somebody computes."""
        self.now += seconds
        self.loop += loop * seconds
        self.others += others * seconds

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.now += max(4 * seconds, self.in_a_nap)
        self.others += self.in_a_nap


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(loop_share, "monotonic", lambda: made.now)
    monkeypatch.setattr(loop_share, "thread_cpu", lambda: made.loop)

    class Time:
        process_time = staticmethod(lambda: made.loop + made.others)
        sleep = staticmethod(made.sleep)

    class Threading:
        active_count = staticmethod(lambda: made.threads)

    monkeypatch.setattr(loop_share, "time", Time)
    monkeypatch.setattr(loop_share, "threading", Threading)
    return made


def looked(machine: Machine, *kinds: dict[str, float]) -> list[float]:
    """Let time pass as *kinds* say; return how long it waited from look to look."""
    share, waits = loop_share.InterpreterShare(), []
    for kind in kinds:
        waits.append(share.every_s)
        machine.passes(share.every_s, **kind)
        share.look()
    return waits


BUSY, IDLE = {"loop": 1.0}, {"loop": 0.4}


def test_a_loop_that_is_idle_at_times_never_sleeps(machine: Machine) -> None:
    waits = looked(machine, *[IDLE] * 20)
    assert (machine.naps, set(waits)) == (0, {0.1})


def test_a_busy_loop_sleeps_seldom_where_nobody_waits(machine: Machine) -> None:
    waits = looked(machine, *[BUSY] * 20)
    assert machine.naps == 20
    assert set(waits[1:]) == {0.05}


def test_a_busy_loop_sleeps_often_where_somebody_waits(machine: Machine) -> None:
    machine.in_a_nap = 0.0003
    waits = looked(machine, *[BUSY] * 20)
    assert machine.naps == 20
    assert set(waits[1:]) == {0.005}
    machine.in_a_nap = 0.0
    waits = looked(machine, *[BUSY] * 8)
    assert max(waits[1:]) == 0.05


def test_threads_without_python_want_no_turn(machine: Machine) -> None:
    machine.in_a_nap, machine.threads = 0.0003, 2
    assert set(looked(machine, *[BUSY] * 20)[1:]) == {0.05}


def test_it_does_not_sleep_while_others_have_their_turn_anyway(machine: Machine) -> None:
    turns = {"loop": 0.3, "others": 0.7}
    assert set(looked(machine, *[turns] * 20)[1:]) == {0.05}
    assert machine.naps == 0
    machine.in_a_nap = 0.0003
    assert looked(machine, BUSY, turns, turns, BUSY, IDLE, IDLE) == [
        *(0.1, 0.005, 0.01, 0.02, 0.005, 0.1)
    ]


@pytest.mark.parametrize("kind", ["without a lock", "a coarse timer"])
async def test_where_it_is_of_no_use_nobody_sleeps(
    kind: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "without a lock":
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    else:
        monkeypatch.setattr(sys, "platform", "win32")
    with trio.move_on_after(0.01):
        await loop_share.share_interpreter()
    assert machine.naps == 0


async def test_plain_handlers_go_on_whatever_the_feed_brings() -> None:
    handled = 0

    def compute(_tick: tt.Tick) -> None:
        nonlocal handled
        until = time.perf_counter() + 0.0002
        while time.perf_counter() < until:
            pass
        handled += 1

    async def flood(send: Send) -> None:
        ticks = make_ticks(200, [*"ABCDEFGH"])
        while True:
            await send.send_many(ticks)

    async with tt.open_pipeline(
        ScriptFeed(flood), compute, workers=2, maxsize=1000, overflow=tt.DropOldest()
    ) as pipeline:
        with trio.fail_after(PATIENCE_S):
            while handled < 10_000:  # noqa: ASYNC110 - no handler sets an event
                await trio.sleep(0.05)
        pipeline.cancel()
    assert_accounted(pipeline.report)


@pytest.mark.skipif(not loop_share.is_wanted(), reason="no loop sleeps here")
async def test_what_a_signal_handler_raises_meanwhile_is_the_pipelines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handler(_tick: tt.Tick) -> None: ...

    async def idle(_send: Send) -> None:
        await trio.sleep_forever()

    def interrupted(_share: loop_share.InterpreterShare) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(loop_share.InterpreterShare, "look", interrupted)

    async def main() -> None:
        async with tt.open_pipeline(ScriptFeed(idle), handler) as pipeline:
            with trio.fail_after(PATIENCE_S):
                await pipeline.wait()

    with pytest.raises(SystemExit):
        await main()
