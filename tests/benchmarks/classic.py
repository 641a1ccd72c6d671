"""(a) The classic asyncio pipeline of tutorials and production code, well written.

A bounded ``asyncio.Queue`` between one reader and some workers, ``json`` and
``datetime.fromisoformat`` into a dataclass, and a timeout around each ``put`` and each
``get``. It has none of the well-known mistakes, so that bad style is not measured: no
logging per tick, no flag polled, no copy.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime

from .job import Job, run_asyncio
from .recorder import Handler, Recorder
from .wire import SUBSCRIBE

__all__ = ["ClassicTick", "run_classic"]


@dataclass(frozen=True, slots=True)
class ClassicTick:
    """One quote."""

    symbol: str
    timestamp: datetime
    bid: float
    ask: float
    bid_size: float
    ask_size: float
    volume: float


async def read(job: Job, recorder: Recorder, queue: asyncio.Queue[ClassicTick]) -> None:
    """Connect, subscribe, and queue every tick, each with its own timeout."""
    from websockets.asyncio.client import connect

    async with connect(job.full_url, ssl=job.ssl_context(), compression=None) as socket:
        await socket.send(SUBSCRIBE)
        async for message in socket:
            data = json.loads(message)
            tick = ClassicTick(
                data["symbol"],
                datetime.fromisoformat(data["timestamp"]),
                data["bid"],
                data["ask"],
                data["bid_size"],
                data["ask_size"],
                data["volume"],
            )
            try:
                await asyncio.wait_for(queue.put(tick), timeout=job.write_timeout)
            except TimeoutError:
                recorder.drop()


async def work(handler: Handler, queue: asyncio.Queue[ClassicTick]) -> None:
    """Handle what comes out of *queue*."""
    while True:
        try:
            tick = await asyncio.wait_for(queue.get(), timeout=1.0)
        except TimeoutError:
            continue
        await handler(tick)
        queue.task_done()


def run_classic(job: Job, recorder: Recorder) -> None:
    """Run the classic pipeline."""
    queue: asyncio.Queue[ClassicTick] = asyncio.Queue(maxsize=job.maxsize)
    run_asyncio(
        job,
        recorder,
        read(job, recorder, queue),
        *(work(recorder.handler, queue) for _ in range(job.workers)),
    )
