"""Replays on a virtual clock: for the same seed, the same decisions for every tick.

Rules: a replay has an event loop, a clock and dice of its own. Nothing of it runs in
threads or processes, since their order is the system's. All chance comes from the seed.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from random import Random
from typing import Any, Final

import attrs
import trio

from ..checks import is_whole
from ..errors import ConfigError
from ..feeds.recording_files import Where
from ..feeds.replay import ReplayFeed
from ..feeds.venues import Codec
from ..handlers.batches import batch_options
from ..handlers.kinds import Handler, resolve_executor
from ..handlers.replays import begin_replaying
from ..logs import each_event_once, log_event
from ..metrics.snapshots import PipelineReport
from ..pipeline.opening import run_in_block
from ..pipeline.running import Pipeline
from ..settings import Settings
from .handlings import Handlings, Outcomes, Service, check_service
from .scheduling import check_scheduling, seeded
from .virtual_clock import VirtualClock

__all__ = ["replay_virtual"]

logger = logging.getLogger("trio_ticks.foresight")

_NOTABLE_S: Final = 1e-3
"""A handler that computes longer than this, in seconds, is worth a warning."""


def replay_virtual(
    recording: Where | ReplayFeed,
    handler: Handler[Any],
    *,
    seed: int = 0,
    service: Service = None,
    speed: float = 1.0,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    symbols: Collection[str] | None = None,
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
    books: bool = False,
    observe: Callable[[Pipeline[Any]], object] | None = None,
    on_progress: Callable[[Pipeline[Any]], object] | None = None,
    **settings: Any,
) -> PipelineReport:
    """Play a recording through *handler* on a virtual clock, and return the report.

    The recorded hours take as long as the code runs. For the same seed, recording and
    settings the same ticks are dropped, and all are handled in the same order at the
    same times: in every process, on every release of Python. So two settings, or two
    versions of a strategy, can be compared tick by tick; ``report.fingerprint`` tells
    at a glance whether two runs were the same. Each kind of event is logged once.

    A handler that awaits, sleeps virtually. What it computes takes no time, unless
    *service* says how much. A plain function is called in this thread; while
    it is given time, other workers run, as in threads.

    An own event loop is run, so this function must not be called in trio: use
    ``await trio.to_thread.run_sync(functools.partial(tt.replay_virtual, ...))`` there.
    :func:`~trio_ticks.replaying` is true in the handler.

    Args:
        recording: a path, several paths, a folder; or a :class:`~trio_ticks.ReplayFeed`
            with settings of its own, in place of those here.
        handler: as for :func:`~trio_ticks.open_pipeline`.
        seed: decides whatever is left to chance. The module ``random`` is seeded with
            it too while the replay runs.
        service: how long the code of the handler takes for a tick (of a batch handler:
            for a batch), besides what it awaits: in seconds; a function that returns
            that for a tick; ``"measured"``: as long as it takes here, so that two runs
            differ as two measurements do; ``None``: no time.
        speed: as for :class:`~trio_ticks.ReplayFeed`: 30 plays the recording as if the
            market had been 30 times as fast.
        start: as there.
        end: as there.
        symbols: as there.
        venue: as there.
        channels: as there.
        books: as there.
        observe: called with the pipeline before it begins: to listen to its items
            (``pipeline.item_listeners``), for example.
        on_progress: called with the pipeline about five times a second (of real time).
        **settings: those of :func:`~trio_ticks.open_pipeline`, except ``buffer``.

    Raises:
        ConfigError: a setting cannot work, the recording cannot be played, this is
            called in trio, or the installed trio cannot be seeded.
        Exception: what a handler's life or a callback raised, as itself.
    """
    _check_not_in_trio()
    check_service(service)
    if not is_whole(seed):
        raise ConfigError(f"seed must be a whole number, got {seed!r}")
    feed = recording
    if not isinstance(feed, ReplayFeed):
        feed = ReplayFeed(
            feed,
            speed,
            symbols=symbols,
            venue=venue,
            channels=channels,
            books=books,
            start=start,
            end=end,
        )
    handler, plain = _placed(handler, settings)
    check_scheduling()
    pipelines: list[Pipeline[Any]] = []
    clock = VirtualClock(None if on_progress is None else lambda _now: on_progress(pipelines[0]))
    outcomes = Outcomes(clock)
    handlings = Handlings(clock, service, outcomes, plain=plain)

    async def main() -> PipelineReport:
        begin_replaying()
        made = Settings(**settings, around=handlings.around)
        pipeline: Pipeline[Any] = Pipeline(feed, handler, made, random=Random(seed))
        pipelines.append(pipeline)
        pipeline.item_listeners.add(outcomes.on_items)
        if observe is not None:
            observe(pipeline)
        async with run_in_block(pipeline):
            await pipeline.wait()
        return pipeline.report

    with each_event_once(), seeded(seed):
        report = trio.run(main, clock=clock)
        _warn_of_computing(handlings, service)
    return attrs.evolve(report, fingerprint=outcomes.fingerprint())


def _check_not_in_trio() -> None:
    if trio.lowlevel.in_trio_run():
        raise ConfigError(
            "replay_virtual runs an event loop of its own, so it cannot be called in trio: "
            "await trio.to_thread.run_sync(functools.partial(tt.replay_virtual, recording, "
            "handler))"
        )


def _placed(handler: Any, settings: dict[str, Any]) -> tuple[Any, bool]:
    """Return *handler* for the event loop, and whether it would run in threads live.

    Sets the executor in *settings*.

    Raises:
        ConfigError: it cannot be played on a virtual clock.
    """
    for name in ("buffer", "shared_symbols"):
        if settings.pop(name, None):
            raise ConfigError(f"{name}: a replay on a virtual clock has one feed, and no broker")
    place = resolve_executor(settings.get("executor", "auto"), handler)
    settings["executor"] = "loop"
    if place == "process":
        raise ConfigError(
            'executor="process" is not for a virtual clock, which does not rule other processes: '
            "leave it out, and give service= the time that a tick takes there"
        )
    if place == "loop" or batch_options(handler) is None:
        return handler, place == "thread"
    if not inspect.isroutine(handler):
        raise ConfigError(
            "a batch handler that is a class or an object must be async on a virtual clock: make "
            f"its __call__ an async def, got {handler!r}"
        )

    @functools.wraps(handler)
    async def in_loop(items: Any) -> Any:
        return handler(items)

    return in_loop, True


def _warn_of_computing(handlings: Handlings, service: Service) -> None:
    """Warn if a handler has computed a good deal, and none of it took time."""
    mean_s = handlings.computed_s
    if service is None and mean_s > _NOTABLE_S:
        log_event(
            logger,
            logging.WARNING,
            "replay.took_no_time",
            "the handler computed %.3g ms a tick, and that took no time on the virtual clock: "
            'give it by service=%.3g, or have it measured by service="measured"',
            mean_s * 1e3,
            mean_s,
            mean_ms=mean_s * 1e3,
        )
