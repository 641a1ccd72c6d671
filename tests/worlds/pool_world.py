"""A pipeline and its worker pool: a test can size the pool and see its workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import trio_ticks as tt
from trio_ticks.pipeline import parts
from trio_ticks.workers.pool import WorkerPool

__all__ = ["open_with_pool"]


@asynccontextmanager
async def open_with_pool(
    feed: Any, handler: Any, **settings: Any
) -> AsyncIterator[tuple[tt.Pipeline[Any], WorkerPool[Any]]]:
    """Open a pipeline; give it and the pool that it has made."""
    pools: list[WorkerPool[Any]] = []

    class Caught(WorkerPool[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            pools.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "WorkerPool", Caught)
        async with tt.open_pipeline(feed, handler, **settings) as pipeline:
            patch.undo()
            yield pipeline, pools[0]
