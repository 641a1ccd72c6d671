"""The throttle's controller against a simulated source and simulated workers.

The loads: a step, a ramp and a burst; it also draws them. A fluid model, in steps of
ten milliseconds. The source makes ticks at its own rate, or at the rate asked for, if
that is lower and *delay_s* old. The workers take what is queued at their rate; ticks
that find no room are dropped. The figures are the same everywhere.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from trio_ticks.control.throttle import RateController
from trio_ticks.overflow import Throttle

__all__ = ["CASES", "Case", "Point", "draw", "main", "simulate"]

STEP_S = 0.01
SERVICE = 900.0


@attrs.frozen
class Case:
    """A load, in ticks a second over time, and the rate that the workers can handle."""

    title: str
    load: Callable[[float], float]
    service: Callable[[float], float] = lambda _now: SERVICE
    seconds: float = 40.0
    capacity: int = 1000
    delay_s: float = 0.1


@attrs.frozen
class Point:
    """The simulation at one moment."""

    at_s: float
    load: float
    asked: float | None
    came: float
    handled: float
    dropped: float
    queued: float


CASES = {
    "step": Case(
        "A step to 5 times what the workers take, and back",
        lambda now: 4500.0 if 5 <= now < 30 else 300.0,
    ),
    "ramp": Case(
        "A ramp up to 5 times, and down again",
        lambda now: 300.0 + 4200.0 * max(0.0, 1 - abs(now - 20) / 15),
    ),
    "burst": Case("Bursts of a second, every eight", lambda now: 4500.0 if now % 8 >= 7 else 300.0),
}


def simulate(case: Case, settings: Throttle | None) -> list[Point]:
    """Run *case* under *settings*; without them nothing is throttled."""
    controller = None if settings is None else RateController(settings)
    asked: deque[tuple[float, float | None]] = deque()
    limit: float | None = None
    queued = consumed = next_look = 0.0
    points = []
    for number in range(round(case.seconds / STEP_S)):
        now = number * STEP_S
        while asked and asked[0][0] <= now:
            limit = asked.popleft()[1]
        load, service = case.load(now), case.service(now)
        came = load if limit is None else min(load, limit)
        queued += came * STEP_S
        handled = min(queued, service * STEP_S)
        queued -= handled
        consumed += handled
        dropped = max(0.0, queued - case.capacity)
        queued -= dropped
        rate = None
        if controller is not None and settings is not None:
            if now >= next_look or controller.is_urgent(int(queued), case.capacity):
                # As the task does it: the next step follows an interval later, or when
                # urgent.
                next_look = now + settings.interval
                controller.update(now, int(queued), case.capacity, queued / service, int(consumed))
                asked.append((now + case.delay_s, controller.rate))
            rate = controller.rate
        points.append(Point(now, load, rate, came, handled / STEP_S, dropped / STEP_S, queued))
    return points


def summary(case: Case, points: list[Point]) -> str:
    """Say in one line what became of the load."""
    handled = sum(point.handled for point in points) * STEP_S
    dropped = sum(point.dropped for point in points) * STEP_S
    late = [point for point in points if point.at_s > 10 and point.load > case.service(point.at_s)]
    busy = sum(point.handled / case.service(point.at_s) for point in late) / max(len(late), 1)
    return (
        f"handled {handled:8,.0f}   dropped {dropped:8,.0f}   "
        f"workers busy in the overload after 10 s: {busy:6.1%}"
    )


def draw(path: Path) -> None:
    """Draw all cases, one a column: rates above, the queue below.

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
            points = simulate(case, Throttle())
            alone = simulate(case, None)
            times = [point.at_s for point in points]
            rates, queue = axes[0][column], axes[1][column]
            rates.set_title(case.title, fontsize=9)
            rates.plot(
                times,
                [point.load for point in points],
                color="#6b6b6b",
                linestyle=":",
                linewidth=1.2,
                label="the source would send",
            )
            nothing = float("nan")
            wanted = [nothing if point.asked is None else point.asked for point in points]
            rates.plot(times, wanted, color="#00529b", linewidth=1.8, label="asked for")
            rates.axhline(
                SERVICE, color="#b35900", linestyle="--", linewidth=1.0, label="the workers take"
            )
            queue.plot(
                times,
                [point.queued for point in alone],
                color="#6b6b6b",
                linestyle=":",
                linewidth=1.2,
                label="without Throttle",
            )
            queue.plot(
                times,
                [point.queued for point in points],
                color="#00529b",
                linewidth=1.8,
                label="with Throttle",
            )
            queue.axhline(
                case.capacity * Throttle().target_fill,
                color="#b35900",
                linestyle="--",
                linewidth=1.0,
                label="target",
            )
            queue.set_xlabel("seconds")
        axes[0][0].set_ylabel("ticks a second")
        axes[1][0].set_ylabel("ticks queued, of 1,000")
        axes[0][0].set_ylim(0, 5800)
        axes[1][0].set_ylim(0, 1350)
        for row in axes:
            row[-1].legend(
                loc="upper center",
                ncols=3,
                fontsize=6.5,
                frameon=False,
                columnspacing=1.0,
                handlelength=1.6,
            )
        figure.savefig(
            path, metadata={"Date": None, "Title": "Throttle: a step, a ramp and a burst"}
        )
        plt.close(figure)


def main() -> None:
    """Print a line for each case, throttled and not; with ``--plot`` draw them too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="where to write the picture, as SVG")
    arguments = parser.parse_args()
    for name, case in CASES.items():
        print(f"{name:6} throttled    {summary(case, simulate(case, Throttle()))}")
        print(f"{name:6} unthrottled  {summary(case, simulate(case, None))}")
    if arguments.plot is not None:
        draw(arguments.plot)


if __name__ == "__main__":
    main()
