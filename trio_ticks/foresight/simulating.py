"""What a plan asks for, and the simulations that answer it, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

import attrs

from ..overflow import OverflowStrategy
from ..settings import Ordering
from ..simulation.events import Setting
from ..simulation.jobs import Job, Summary
from ..simulation.loads import Load, Services
from ..simulation.sweep import sweep
from .plans import Row, Target

__all__ = ["UNBOUNDED", "Progress", "Simulator", "Wishes"]

Progress = Callable[[str, float, float | None], None]
"""Called with what is being done, how much of it is done, and how much there is.

``None``: how much there is, is not known."""

UNBOUNDED: Final = 1 << 30
"""The size of a queue that no recording fills."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Wishes:
    """What the caller of :func:`~trio_ticks.plan` asks for."""

    target: Target
    workers: tuple[int, ...] | None
    maxsizes: tuple[int, ...] | None
    ordering: Ordering
    most_workers: int
    """No more workers than this are tried, unless they are asked for."""
    measure_s: float
    processes: int | None
    seed: int

    def limited(self, symbols: int) -> Wishes:
        """Return the same for a load of so many *symbols*.

        In order by symbol no more workers than symbols are ever busy at once.
        """
        if self.ordering != "symbol":
            return self
        return attrs.evolve(self, most_workers=min(self.most_workers, symbols))


@final
class Simulator:
    """Simulates settings.

    Args:
        tell: is told of the progress.
        ordering: of the settings, unless a job says otherwise.
        factor: how many times as fast as recorded the ticks come, unless a job says
            otherwise.
        processes: how many to use; ``None``: as many as cores may be used. 1: none.
    """

    def __init__(
        self,
        tell: Progress,
        *,
        ordering: Ordering = "symbol",
        factor: float = 1.0,
        processes: int | None = None,
    ) -> None:
        self._tell = tell
        self._ordering: Ordering = ordering
        self._factor = factor
        self._processes = processes

    def job(
        self,
        workers: int,
        maxsize: int,
        overflow: OverflowStrategy,
        *,
        factor: float | None = None,
        scale: float = 1.0,
        services: str = "",
        ordering: Ordering | None = None,
    ) -> Job:
        """Return a job; what is not given is as it was given at the beginning."""
        setting = Setting(
            workers=workers,
            maxsize=maxsize,
            overflow=overflow,
            ordering=ordering or self._ordering,
        )
        factor = self._factor if factor is None else factor
        return Job(setting=setting, services=services, factor=factor, scale=scale)

    def run(
        self, what: str, jobs: Sequence[Job], load: Load, services: Mapping[str, Services]
    ) -> list[tuple[Row, Summary]]:
        """Return what comes of *jobs*, each as a row and in full. Blocks.

        Args:
            what: is done, for those who wait.
            jobs: with one strategy for all kinds each.
            load: as it was recorded.
            services: by their names.

        Raises:
            TickError: a process that simulates has ended.
        """
        summaries = sweep(
            jobs,
            load,
            services,
            processes=self._processes,
            progress=lambda done, count: self._tell(what, done, count),
        )
        return [(_row(job, each), each) for job, each in zip(jobs, summaries, strict=True)]


def _row(job: Job, summary: Summary) -> Row:
    overflow = job.setting.overflow
    assert isinstance(overflow, OverflowStrategy)
    return Row.of(
        summary,
        workers=job.setting.workers,
        maxsize=job.setting.maxsize,
        overflow=overflow,
        factor=job.factor,
    )
