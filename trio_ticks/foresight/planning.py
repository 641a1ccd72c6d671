"""Plans a pipeline from a recording: measure the handler, simulate, choose.

Rules: what is measured is measured in the real pipeline, what is simulated is decided
by the real channel. All chance comes from the seed. The user's handler is called with
old data: it is told so by ``trio_ticks.replaying()``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import attrs
import trio

from ..checks import check_count, check_flag, check_number, check_seconds, check_word, is_whole
from ..clock import monotonic
from ..errors import ConfigError
from ..feeds.recording_files import Where
from ..feeds.venues import Codec
from ..handlers.batches import batch_options
from ..handlers.kinds import resolve_executor
from ..settings import Ordering
from .choosing import MOST_WORKERS
from .host import BUSY_CORES, OthersLoad, describe_load
from .past import read_past
from .plan import Plan
from .planner import Planner
from .plans import Target
from .simulating import Progress, Wishes

__all__ = ["plan"]

_MOST_TO_TRY: Final = 1000
"""More workers than these are a slip: they would be measured for minutes."""
_LOOK_S: Final = 0.5
"""How long the machine is looked at before anything is measured on it, in seconds."""


def plan(
    recording: Where,
    handler: Any,
    *,
    max_drop_rate: float = 0.0,
    p99_lag: float = 0.05,
    factor: float = 1.0,
    workers: int | Sequence[int] | None = None,
    maxsize: int | Sequence[int] | None = None,
    ordering: Ordering = "symbol",
    executor: Literal["auto", "loop", "thread", "process"] = "auto",
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
    symbols: Iterable[str] | None = None,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    measure_s: float = 10.0,
    verify: int = 0,
    verify_s: float = 30.0,
    busy_host: bool = False,
    processes: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Find the settings with which *handler* keeps up with *recording*.

    The handler is called with ticks of the recording, thousands of times, in a real
    pipeline with all workers busy: :func:`~trio_ticks.replaying` is true in it, so that
    a strategy can keep its orders to itself. What it takes is simulated over all ticks
    of the recording, with the real channel, for some thirty settings.

    A plain function with event loops of its own, for scripts and notebooks. It takes
    from seconds to minutes.

    Args:
        recording: as for :class:`~trio_ticks.ReplayFeed`; or a file of ``trio-ticks
            history``, though bars have no bursts.
        handler: as for :func:`~trio_ticks.open_pipeline`; not a batch handler.
        max_drop_rate: the share of the ticks that may be lost, from 0 to 1.
        p99_lag: how late the handling of all but one in a hundred ticks may begin, in
            seconds.
        factor: plan for ticks that come so many times as fast as recorded.
        workers: how many to try, 1000 at most; ``None``: what the load suggests.
        maxsize: which sizes of the queue to try; ``None``: what the load suggests.
        ordering: as for :func:`~trio_ticks.open_pipeline`.
        executor: where the handler runs; ``"auto"`` also compares the other places.
        venue: whose messages the recording holds; ``None``: it is found.
        channels: which of the recording's channels; ``None``: the venue's usual ones.
        symbols: which symbols; ``None``: all.
        start: from when on to read the recording; ``None``: from its beginning.
        end: up to when; ``None``: to its end.
        measure_s: how long to measure the handler at most, in seconds, each time.
        verify: how many times to play the recording through the real pipeline with the
            advised settings, to compare.
        verify_s: how much of the recording those runs play, in seconds.
        busy_host: measure although other programs keep this machine busy.
        processes: how many simulations run at once; ``None``: one a core.
        seed: of all chance.
        progress: is told what is being done.

    Raises:
        ConfigError: a setting cannot work, the recording cannot be read, the machine is
            busy, the handler raises for each tick, or this was called inside trio.
        TickError: a process that simulates has ended.
    """
    _check_outside_trio()
    target = _target(max_drop_rate, p99_lag, factor)
    _check_settings(handler, ordering, measure_s, verify, verify_s, busy_host, processes)
    wishes = Wishes(
        target=target,
        workers=_numbers("workers", workers, below=_MOST_TO_TRY + 1),
        maxsizes=_numbers("maxsize", maxsize),
        ordering=ordering,
        most_workers=MOST_WORKERS,
        measure_s=measure_s,
        processes=processes,
        seed=seed,
    )
    place = resolve_executor(executor, handler)
    tell: Progress = progress or (lambda _what, _done, _all: None)
    past = read_past(
        recording,
        venue=venue,
        channels=channels,
        symbols=symbols,
        start=start,
        end=end,
        seed=seed,
        progress=lambda share: tell("reading", share, 1.0),
    )
    _check_host(tell, busy_host)
    wishes = wishes.limited(len(past.load.counts()))
    planner = Planner(str(recording), past, handler, place, wishes, tell)
    found = planner.run(compare=executor == "auto")
    if verify and not past.bars:
        verified, predicted = planner.verify(
            recording, found.advice, verify, verify_s, venue=venue, channels=channels, start=start
        )
        return attrs.evolve(found, verified=verified, verified_prediction=predicted)
    return found


def _check_outside_trio() -> None:
    if trio.lowlevel.in_trio_run():
        raise ConfigError(
            "plan() runs event loops of its own and blocks this one meanwhile: call it from a "
            "thread, await trio.to_thread.run_sync(lambda: trio_ticks.plan(...))"
        )


def _target(max_drop_rate: float, p99_lag: float, factor: float) -> Target:
    check_number("max_drop_rate", max_drop_rate, below=1.0)
    check_seconds("p99_lag", p99_lag, positive=True)
    check_number("factor", factor, above=0.0)
    return Target(max_drop_rate=max_drop_rate, p99_lag_s=p99_lag, factor=factor)


def _check_settings(
    handler: Any,
    ordering: object,
    measure_s: object,
    verify: object,
    verify_s: object,
    busy_host: object,
    processes: object,
) -> None:
    check_word("ordering", ordering, ("symbol", "none"))
    check_seconds("measure_s", measure_s, positive=True)
    check_count("verify", verify, least=0, of="runs")
    check_seconds("verify_s", verify_s, positive=True)
    check_flag("busy_host", busy_host)
    check_count("processes", processes, or_none=True)
    if batch_options(handler) is not None:
        raise ConfigError(
            "a batch handler cannot be planned: how long a batch takes depends on how many "
            "ticks wait, and only single ticks are measured"
        )


def _numbers(
    name: str, value: int | Sequence[int] | None, *, below: float = math.inf
) -> tuple[int, ...] | None:
    """Return the numbers to try, in ascending order, each once.

    Raises:
        ConfigError: they are no whole numbers from 1 on, or none at all, or one is not
            *below*.
    """
    if value is None:
        return None
    numbers = (value,) if is_whole(value) or not isinstance(value, Iterable) else tuple(value)
    for number in numbers:
        check_count(name, number, also=", or several of them", below=below)
    if not numbers:
        raise ConfigError(f"{name} must name at least one number to try, or be None")
    return tuple(sorted(set(numbers)))


def _check_host(tell: Progress, busy_host: bool) -> None:
    """Refuse to measure while other programs keep the machine busy.

    Raises:
        ConfigError: they do, and nobody said that it does not matter.
    """
    others, began = OthersLoad(monotonic()), monotonic()
    while (passed_s := monotonic() - began) < _LOOK_S:
        tell("looking at the machine", passed_s, _LOOK_S)
        time.sleep(_LOOK_S / 5)
    cores = others.cores(monotonic())
    if cores is not None and cores >= BUSY_CORES and not busy_host:
        raise ConfigError(
            f"this machine is busy: {describe_load(cores)}, and what a handler takes would be "
            "measured too long. Plan on a quiet machine, or say that it does not matter: "
            "busy_host=True, --busy-host"
        )
