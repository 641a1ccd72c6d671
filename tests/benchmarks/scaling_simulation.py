"""The controller of ``workers="auto"`` against a simulated load, and a picture of it.

The loads: a step, a ramp and a square wave. A fluid model, in steps of ten
milliseconds: ticks come at a rate; each keeps a worker busy for a set time, and a core
for a part of it. The number of cores is limited, and so is the number of ticks at a
resource that the workers share. Ticks that find no room are dropped. The figures are
always the same.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import attrs

from trio_ticks.control.scaling import AutoWorkers, Limit, Reading, SizeController

__all__ = ["CASES", "LIMITED", "Case", "Point", "changes", "draw", "main", "simulate", "summary"]

STEP_S = 0.01
LOOK_STEPS = 25


@attrs.frozen
class Case:
    """A load, in ticks a second over time, and the time that a tick takes."""

    title: str
    load: Callable[[float], float]
    handling_s: Callable[[float], float] = lambda _now: 0.005
    seconds: float = 80.0
    place: Literal["loop", "thread", "process"] = "loop"
    cpu_s: float = 0.0001
    """For how long a tick keeps a core busy."""
    cores: float = 1.0
    """How many of them can be busy with handlers at once."""
    usable: float = 4.0
    """How many there are."""
    gil: bool = True
    places: float = math.inf
    """How many ticks can use a resource that all handlers need (a database) at once."""
    maxsize: float = 1000.0


@attrs.frozen
class Point:
    """The simulation at one moment."""

    at_s: float
    load: float
    """How many workers it would keep busy, if there were enough."""
    size: int
    queued: float
    wait_s: float
    handled: float
    dropped: float
    limit: Limit | None


CASES = {
    "step": Case("A step to 40 times, and back", lambda now: 4000.0 if 10 <= now < 40 else 100.0),
    "ramp": Case(
        "A ramp up to 40 times, and down again",
        lambda now: 100.0 + 3900.0 * max(0.0, 1 - abs(now - 30) / 25),
    ),
    "square": Case(
        "A square wave, 10 s high and 10 s low", lambda now: 4000.0 if now % 20 >= 10 else 100.0
    ),
}
LIMITED = {
    "loop": Case("Handlers that compute, in the event loop", lambda _now: 900.0, cpu_s=0.005),
    "gil": Case(
        "Handlers that compute, in threads with a GIL",
        lambda _now: 900.0,
        cpu_s=0.005,
        place="thread",
    ),
    "released": Case(
        "Handlers that compute without the GIL",
        lambda _now: 900.0,
        cpu_s=0.005,
        place="thread",
        cores=4.0,
    ),
    "free": Case(
        "Handlers that compute, without a GIL",
        lambda _now: 900.0,
        cpu_s=0.005,
        place="thread",
        cores=4.0,
        gil=False,
    ),
    "processes": Case(
        "Handlers that compute, in processes",
        lambda _now: 900.0,
        cpu_s=0.005,
        place="process",
        cores=4.0,
    ),
    "half": Case(
        "Handlers that compute for half of their time, in the loop",
        lambda _now: 900.0,
        cpu_s=0.0025,
    ),
    "elsewhere": Case(
        "Four connections to a database, for whatever many handlers",
        lambda _now: 1200.0,
        places=4.0,
        seconds=400.0,
    ),
}


def simulate(case: Case, settings: AutoWorkers) -> list[Point]:
    """Run *case* under *settings*."""
    controller = SizeController(settings, case.place, case.usable, gil=case.gil)
    size, queued, came, handled, busy_s, life_s, cpu_s = (
        settings.minimum,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    )
    points = []
    for number in range(round(case.seconds / STEP_S)):
        now = number * STEP_S
        load, handling_s = case.load(now), case.handling_s(now)
        most = min(size / handling_s, case.cores / case.cpu_s, case.places / handling_s)
        came += load * STEP_S
        queued += load * STEP_S
        served = min(queued, most * STEP_S)
        queued -= served
        handled += served
        dropped = max(0.0, queued - case.maxsize)
        queued -= dropped
        # If a resource is short, all workers are busy, most of them with waiting for
        # it.
        busy_s += (size if queued >= 1 else served / STEP_S * handling_s) * STEP_S
        life_s += size * STEP_S
        cpu_s += served * case.cpu_s
        wait_s = queued / most
        if number % LOOK_STEPS == 0:
            in_flight, waiting = (
                (size, int(queued)) if queued >= 1 else (round(served / STEP_S * handling_s), 0)
            )
            loop_s = cpu_s if case.place == "loop" else 0.0
            reading = Reading(
                now=now,
                busy_s=busy_s,
                life_s=life_s,
                came=round(came),
                handled=round(handled),
                loop_busy_s=loop_s,
                loop_cpu_s=loop_s,
                cpu_s=cpu_s,
                size=size,
                in_flight=in_flight,
                waiting=waiting,
                queued=waiting,
                wait_s=wait_s,
            )
            size = controller.update(reading)
        points.append(
            Point(
                now,
                load * handling_s,
                size,
                queued,
                wait_s,
                served / STEP_S,
                dropped,
                controller.limit,
            )
        )
    return points


def changes(points: list[Point]) -> list[tuple[float, int, int]]:
    """Return when the size changed, from what and to what."""
    return [
        (after.at_s, before.size, after.size)
        for before, after in pairwise(points)
        if before.size != after.size
    ]


def summary(points: list[Point]) -> str:
    """Say in one line what became of the load."""
    steps = changes(points)
    late_s = sum(point.wait_s > 0.5 for point in points) * STEP_S
    return (
        f"{len(steps):3} changes, {min(p.size for p in points)} to "
        f"{max(p.size for p in points)} workers, {points[-1].size} at the end; "
        f"dropped {sum(point.dropped for point in points):8,.0f}; "
        f"over 0.5 s of wait for {late_s:6.2f} s; "
        f"limit at the end: {points[-1].limit or 'none'}"
    )


def draw(path: Path) -> None:
    """Draw the loads, one a column: workers above, the queue below.

    Dashes distinguish the lines, not colour alone.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "trio_ticks",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            2, len(CASES), figsize=(11, 5), sharex=True, sharey="row", constrained_layout=True
        )
        for column, case in enumerate(CASES.values()):
            points = simulate(case, AutoWorkers())
            times = [point.at_s for point in points]
            workers, queue = axes[0][column], axes[1][column]
            workers.set_title(case.title, fontsize=9)
            workers.plot(
                times,
                [point.load for point in points],
                color="#6b6b6b",
                linestyle=":",
                linewidth=1.2,
                label="busy, if enough",
            )
            workers.plot(
                times,
                [point.size for point in points],
                color="#00529b",
                linewidth=1.8,
                label="workers",
            )
            queue.plot(
                times,
                [point.queued for point in points],
                color="#00529b",
                linewidth=1.4,
                label="queued",
            )
            queue.axhline(
                case.maxsize, color="#b35900", linestyle="--", linewidth=1.0, label="room"
            )
            queue.set_xlabel("seconds")
        axes[0][0].set_ylabel("workers")
        axes[1][0].set_ylabel("ticks")
        for row in axes:
            row[-1].legend(
                loc="upper right",
                ncols=2,
                fontsize=6.5,
                frameon=False,
                columnspacing=1.0,
                handlelength=1.6,
            )
        axes[0][0].set_ylim(0, 50)
        axes[1][0].set_ylim(0, 1250)
        figure.savefig(
            path,
            metadata={
                "Date": None,
                "Title": "A pool that sizes itself: a step, a ramp and a square wave",
            },
        )
        plt.close(figure)


def main() -> None:
    """Print a line for each case; with ``--plot`` draw the loads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="where to write the picture, as SVG")
    parser.add_argument("--changes", action="store_true", help="print each change of each case")
    arguments = parser.parse_args()
    for name, case in {**CASES, **LIMITED}.items():
        points = simulate(case, AutoWorkers())
        print(f"{name:10} {summary(points)}")
        if arguments.changes:
            print(
                "           "
                + ", ".join(
                    f"{at:.2f} s: {before} -> {after}" for at, before, after in changes(points)
                )
            )
    if arguments.plot is not None:
        draw(arguments.plot)


if __name__ == "__main__":
    main()
