"""One contender's task: what to connect to, with which settings, and how it ends.

A contender ends when the last tick has its outcome. A contender that loses ticks would
wait for ever: it is given up after ``stall_s`` without progress, and its account says
so.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from functools import partial
from typing import Any

import attrs
import trio

from .recorder import Recorder

__all__ = ["Job", "run_asyncio", "run_trio_until"]

_POLL_S = 0.1


@attrs.frozen(kw_only=True)
class Job:
    """One contender's settings."""

    contender: str
    url: str
    ticks: int
    rate: float = 0.0
    """Ticks a second at which the generator paces; 0: as fast as they are taken."""
    ca: str | None = None
    workers: int = 4
    maxsize: int = 1000
    symbols: int = 5
    ordering: str = "symbol"
    write_timeout: float = 1.0
    stall_s: float = 5.0
    core: int | None = None
    venue: str = "flat"
    record: bool = False
    """Whether it also records what comes; only this library can."""
    threads: bool = False
    """Whether handlers run in threads, as many as *workers*."""

    @property
    def full_url(self) -> str:
        return f"{self.url}/?ticks={self.ticks}&rate={self.rate}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context that trusts the generator, for ``wss``."""
        return ssl.create_default_context(cafile=self.ca) if self.ca else None


def run_asyncio(job: Job, recorder: Recorder, *coroutines: Coroutine[Any, Any, None]) -> None:
    """Run *coroutines* until all ticks have outcomes, one fails, or progress stalls."""

    async def main() -> None:
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        recorder.on_done = partial(loop.call_soon_threadsafe, done.set)
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        finished = asyncio.create_task(done.wait())
        progress, stalled_s = -1, 0.0
        while (
            not finished.done()
            and stalled_s < job.stall_s
            and not any(task.done() and task.exception() for task in tasks)
        ):
            await asyncio.wait([finished], timeout=_POLL_S)
            stalled_s = stalled_s + _POLL_S if recorder.progress == progress else 0.0
            progress = recorder.progress
        for task in (*tasks, finished):
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    asyncio.run(main())


async def run_trio_until(job: Job, recorder: Recorder, done: trio.Event) -> None:
    """Wait until every tick has its outcome, or nothing has moved for too long."""
    token = trio.lowlevel.current_trio_token()
    recorder.on_done = partial(token.run_sync_soon, done.set)
    progress, stalled_s = -1, 0.0
    while not done.is_set() and stalled_s < job.stall_s:
        with trio.move_on_after(_POLL_S):
            await done.wait()
        stalled_s = stalled_s + _POLL_S if recorder.progress == progress else 0.0
        progress = recorder.progress
