"""A pipeline as an observer sees it; the test replaces some of the workers' numbers."""

from __future__ import annotations

from typing import Any

import attrs

import trio_ticks as tt
from trio_ticks.metrics.observed import WorkerStatistics

__all__ = ["Altered"]


class Altered:
    """*pipeline*, but for the *numbers* of its workers that are given."""

    def __init__(self, pipeline: tt.Pipeline[Any], **numbers: Any) -> None:
        self._pipeline = pipeline
        self._numbers = numbers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def worker_statistics(self) -> WorkerStatistics:
        return attrs.evolve(self._pipeline.worker_statistics(), **self._numbers)
