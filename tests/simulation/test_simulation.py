"""Some hundred runs of everything, each from a seed; and that a seed repeats a run.

``TRIO_TICKS_FIRST_SEED=4711`` begins elsewhere, ``TRIO_TICKS_SEEDS=2000`` plays more.
Each block of seeds is a test; what it prints when it fails repeats one run.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.simulation.__main__ import main
from tests.simulation.network import Connection, WireFault
from tests.simulation.plan import Act, Plan
from tests.simulation.scheduler import run_seeded
from tests.simulation.shrink import shrunk
from tests.simulation.trying import explained
from tests.simulation.world import played
from trio_ticks.channel.drops import Drops

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("TRIO_TICKS_SEEDS", "300"))
FIRST = int(os.environ.get("TRIO_TICKS_FIRST_SEED", "0"))
BLOCK = 25


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BLOCK))
def test_every_seed_keeps_the_law(first: int) -> None:
    print(f"seeds {first} to {min(first + BLOCK, FIRST + COUNT) - 1}")
    for seed in range(first, min(first + BLOCK, FIRST + COUNT)):
        wrongs = played(Plan.drawn(seed))
        assert not wrongs, explained(seed, wrongs)


# A seed is the same run again


class Steps(trio.abc.Instrument):
    """Writes down which task ran when."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.lines.append(f"{trio.current_time():.9f} {task.name}")


def trace(seed: int) -> str:
    """Play *seed*; return how many steps there were, and a number that is theirs."""
    steps = Steps()
    steps.lines += played(Plan.drawn(seed), steps)
    text = re.sub("0x[0-9a-f]+", "", "\n".join(steps.lines))
    return f"{len(steps.lines)}:{zlib.crc32(text.encode())}"


PROGRAM = """
import logging, sys
from tests.simulation.test_simulation import trace
logging.disable()
ballast = bytearray(1_000_000 * int(sys.argv[1]))
print(*map(trace, range(12)))
"""


def test_a_seed_is_the_same_run_to_the_last_step_in_every_process() -> None:
    """Whatever the addresses and the hashes of objects are there."""
    here = " ".join(map(trace, range(12)))
    assert len(set(here.split())) > 6, "the seeds are alike"
    for number in ("1", "7"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, number],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.strip() == here


# A failure is found, cut down, and repeated


def test_a_bug_is_found_and_the_line_that_is_printed_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Drops, "displace", lambda _self, _items: None)
    monkeypatch.setattr(Drops, "conflate", lambda _self, _items: None)
    found = ((seed, played(Plan.drawn(seed))) for seed in range(1000))
    seed, wrongs = next((seed, wrongs) for seed, wrongs in found if wrongs)
    assert "law: channel" in wrongs[0]
    text = explained(seed, wrongs)
    (line,) = re.findall(r"python -m tests.simulation (--seed .*)", text)
    monkeypatch.setattr(sys, "argv", ["tests.simulation", *line.split()])
    assert main() == 1
    assert "law: channel" in capsys.readouterr().out
    monkeypatch.undo()
    logging.disable()
    monkeypatch.setattr(sys, "argv", ["tests.simulation", *line.split()])
    assert main() == 0, "it fails without the bug as well"


def test_many_seeds_are_played_on_all_cores() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", "12", "--jobs", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^12 seeds from 0 in \d+ s, 0 failed$", done.stdout, re.MULTILINE)


def test_a_plan_is_cut_down_to_what_is_needed() -> None:
    def is_needed(fault: Act | WireFault) -> bool:
        return fault.kind in ("resize", "reset")

    seed = next(
        seed
        for seed in range(1000)
        if len(faults := Plan.drawn(seed).faults) > 5 and sum(map(is_needed, faults)) == 2
    )
    cut = shrunk(seed, lambda plan: sum(map(is_needed, plan.faults)) == 2 and plan.ticks >= 5)
    plan = cut.plan()
    assert len(plan.faults) == 2
    assert 5 <= plan.ticks < 10
    assert all(map(is_needed, plan.faults))
    assert plan.settings == Plan.drawn(seed).settings


# The network does what its faults say


def exchanged(*faults: WireFault, then: bool = True) -> list[Any]:
    """Send 1,000 bytes down in ten writes; return what came, and how it ended."""
    sent = [bytes((65 + number,)) * 100 for number in range(10)]

    async def play(_clock: object) -> list[Any]:
        connection = Connection(0, faults)
        found: list[Any] = [b""]

        async def send() -> None:
            try:
                for data in sent:
                    await connection.server.send_all(data)
                await connection.server.send_eof()
            except trio.BrokenResourceError:
                found.append("sender broken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with trio.move_on_after(100) as scope:
                try:
                    while data := await connection.client.receive_some():
                        found[0] += data
                except trio.BrokenResourceError:
                    found.append("reset")
            if scope.cancelled_caught:
                found.append("silence")
            nursery.cancel_scope.cancel()
        return found

    return run_seeded(1, play)


WHOLE = b"".join(bytes((65 + number,)) * 100 for number in range(10))


@pytest.mark.parametrize(
    ("fault", "came", "ended"),
    [
        (None, WHOLE, []),
        (WireFault(kind="eof", connection=0, at=250), WHOLE[:250], ["sender broken"]),
        (WireFault(kind="mute", connection=0, at=250), WHOLE[:250], ["silence"]),
        (WireFault(kind="insert", connection=0, at=1, data=b"?"), None, []),
        (WireFault(kind="corrupt", connection=0, at=0, bit=1), b"C" + WHOLE[1:], []),
        (WireFault(kind="slow", connection=0, delay_s=1.0, piece=3, room=10), WHOLE, []),
        (WireFault(kind="eof", connection=1, at=250), WHOLE, []),
        (WireFault(kind="eof", connection=0, side="up", at=0), WHOLE, []),
    ],
)
def test_a_fault_of_the_network(
    fault: WireFault | None, came: bytes | None, ended: list[str]
) -> None:
    expected = WHOLE[:100] + b"?" + WHOLE[100:] if came is None else came
    assert exchanged(*([] if fault is None else [fault])) == [expected, *ended]


def test_a_reset_destroys_what_is_under_way() -> None:
    came, *ended = exchanged(
        WireFault(kind="reset", connection=0, at=950),
        WireFault(kind="slow", connection=0, delay_s=1.0),
    )
    assert (came, sorted(ended)) == (b"", ["reset", "sender broken"])
