"""``python -m tests.benchmarks.simulations``: a day simulated, and a sweep of settings.

A *day* is 24 hours of three symbols with 100 ticks a second each: 25.9 million ticks.
An hour of them (or ``--minutes``) is written, compressed as the recorder does it, read
into columns, given services, and simulated in each place under each strategy; the time
of a day is what that would take in proportion. It is the processor's, since other
programs on the machine change that less.

A *sweep* is 30 settings over a million ticks (or ``--sweep-ticks``), on all cores: five
numbers of workers, two strategies, three places. Its time is the processor's too,
divided by the cores; the wall time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, get_args

import attrs

import trio_ticks as tt
from trio_ticks.control.cores import usable_cores
from trio_ticks.foresight.past import Past, read_past
from trio_ticks.handlers.kinds import Place
from trio_ticks.recordings.growing import compressor_of
from trio_ticks.simulation.events import Setting
from trio_ticks.simulation.jobs import Job, summarised
from trio_ticks.simulation.loads import Load, Services
from trio_ticks.simulation.playing import simulate
from trio_ticks.simulation.sweep import sweep

from .machine import facts

__all__ = ["Day", "main", "measure_day", "measure_sweep"]

_DAY: Final = 25_920_000
_RATE: Final = 300
_SYMBOLS: Final = ("EURUSD", "GBPUSD", "USDJPY")
_BEGIN_NS: Final = 1_772_409_600_000_000_000
_PLACES: Final[tuple[Place, ...]] = get_args(Place)
_WORKERS: Final = 4
_LOADS: Final = (0.7, 1.2)
"""How busy the workers are: they keep up, or they do not."""
_STRATEGIES: Final = (tt.DropNewest(0.5), tt.Block(), tt.DropOldest(), tt.Conflate())
_MEASURED: Final = 8000
"""As many services as a plan measures."""
_DAY_LIMIT_S: Final = 360.0
_SWEEP_LIMIT_S: Final = 180.0
_SWEEP_TICKS: Final = 1_000_000


@attrs.frozen
class Day:
    """What one setting takes."""

    place: Place
    load: float
    strategy: str
    us: float
    """Time of the processor, in microseconds a tick, reading included."""
    ticks: int
    dropped: float
    """The share of the ticks."""

    @property
    def day_s(self) -> float:
        """How long a day of ticks takes, in seconds."""
        return self.us * _DAY / 1e6

    def line(self) -> str:
        """Return what is printed of it."""
        return (
            f"{self.place:8} {self.load:.0%} busy  {self.strategy:11} {self.us:6.2f} us a tick, "
            f"a day in {self.day_s / 60:4.1f} min; not handled {self.dropped:6.2%}"
        )


def _lines(ticks: int) -> Iterator[bytes]:
    random = Random(1)
    for number in range(ticks):
        # Somewhere within its time, so that no two come at one moment.
        ns = _BEGIN_NS + int((number + random.random()) / _RATE * 1e9)
        fields = {
            "symbol": random.choice(_SYMBOLS),
            "timestamp": f"2026-03-02T00:00:00.{number % 1_000_000:06}Z",
            "bid": 1.08012,
            "ask": 1.08015,
            "bid_size": 2.5,
            "ask_size": 1.25,
            "volume": number,
        }
        yield b"%d %s\n" % (ns, json.dumps(fields).encode())


def _write(ticks: int, path: Path) -> None:
    """Write a recording, a frame a second as the recorder does."""
    _name, compress = compressor_of(None)
    frame: list[bytes] = []
    with path.open("wb") as file:
        for line in _lines(ticks):
            frame.append(line)
            if len(frame) == _RATE:
                file.write(compress(b"".join(frame)))
                frame.clear()
        file.write(compress(b"".join(frame)))


def _services(load: Load, place: Place, busy_share: float) -> Services:
    """Return services of such a length that the workers are so busy."""
    random = Random(2)
    mean_s = busy_share * _WORKERS / load.rate
    whole = [random.expovariate(1 / mean_s) for _ in range(_MEASURED)]
    return Services.drawn(
        load,
        array("d", (0.02 * each for each in whole)),
        array("d", (0.98 * each for each in whole)),
        [random.randrange(len(load.names)) for _ in whole],
        random=random,
        executor=place,
        hand_over_s=0.0 if place == "loop" else 0.0002,
    )


def _read(ticks: int) -> tuple[Past, float]:
    """Return *ticks* of a recording, and how long reading computed, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ticks.zst")
        _write(ticks, path)
        began = time.process_time()
        return read_past(path), time.process_time() - began


def measure_day(
    ticks: int, tell: Callable[[str], object] = lambda _line: None
) -> tuple[float, list[Day]]:
    """Return how long reading takes, in microseconds a tick, and what settings take.

    Args:
        ticks: how many are written and simulated; the rest is in proportion.
        tell: gets a line for each of them as soon as it is measured.
    """
    past, read_s = _read(ticks)
    read_us = read_s / ticks * 1e6
    tell(f"reading: {read_us:.2f} us a tick, {read_us * _DAY / 1e6:.0f} s a day")
    load, found = past.load, []
    for place in _PLACES:
        for share in _LOADS:
            began = time.process_time()
            services = _services(load, place, share)
            drawn_s = time.process_time() - began
            for strategy in _STRATEGIES:
                setting = Setting(workers=_WORKERS, overflow=strategy)
                began = time.process_time()
                outcome = simulate(load, services, setting)
                summarised(outcome, setting, 10)
                spent_s = time.process_time() - began + read_s + drawn_s
                name = type(strategy).__name__
                us = spent_s / ticks * 1e6
                found.append(Day(place, share, name, us, len(load), outcome.drop_rate))
                tell(found[-1].line())
    return read_us, found


def _jobs() -> list[Job]:
    return [
        Job(setting=Setting(workers=workers, overflow=strategy), services=place)
        for place in _PLACES
        for workers in (2, 3, 4, 6, 8)
        for strategy in (tt.DropNewest(0.5), tt.Conflate())
    ]


def measure_sweep(ticks: int, *, processes: int | None = None) -> dict[str, Any]:
    """Sweep 30 settings over *ticks*; return what that took.

    Args:
        ticks: of the load.
        processes: how many to use; ``None``: one a core.
    """
    past, _read_s = _read(ticks)
    load, jobs = past.load, _jobs()
    services: dict[str, Services] = {place: _services(load, place, _LOADS[0]) for place in _PLACES}
    told: list[int] = []

    def progress(done: int, count: int) -> None:
        told.append(done)
        if sys.stderr.isatty():
            print(f"\r{done} of {count} settings", end="", file=sys.stderr, flush=True)

    began, before = time.perf_counter(), _computed_s()
    found = sweep(jobs, load, services, processes=processes, progress=progress)
    cores = max(1, int(usable_cores())) if processes is None else processes
    return {
        "settings": len(found),
        "told": told,
        "wall_s": time.perf_counter() - began,
        "cores": cores,
        "core_s": (_computed_s() - before) / cores,
    }


def _computed_s() -> float:
    """Return how long this process and those that it waited for have computed."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each setting, and one for the sweep; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of the day")
    parser.add_argument("--sweep-ticks", type=int, default=_SWEEP_TICKS)
    options = parser.parse_args(arguments)
    machine = facts()
    print(f"Python {machine['python']}, {machine['cpus']} x {machine['cpu']}", flush=True)
    _read_us, days = measure_day(int(options.minutes * 60 * _RATE), partial(print, flush=True))
    late = [day for day in days if day.day_s > _DAY_LIMIT_S]
    print(f"{len(days) - len(late)} of {len(days)} in {_DAY_LIMIT_S / 60:g} min", flush=True)
    found = measure_sweep(options.sweep_ticks)
    whole_s = found["core_s"] * _SWEEP_TICKS / options.sweep_ticks
    print(
        f"sweep: {found['settings']} settings, {len(found['told'])} times progress; over "
        f"{_SWEEP_TICKS:,} ticks {whole_s:.0f} s on {found['cores']} cores (limit "
        f"{_SWEEP_LIMIT_S:g}); wall time of {options.sweep_ticks:,}: {found['wall_s']:.0f} s"
    )
    return 1 if late or whole_s > _SWEEP_LIMIT_S else 0


if __name__ == "__main__":
    sys.exit(main())
