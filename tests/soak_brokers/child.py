"""The processes of a run: an ingest, or a worker. Each is a pipeline as a user has it.

``python -m tests.soak_brokers.child ingest|work SPEC``, where SPEC is JSON: the buffer,
and for an ingest ``seed``, ``count``, ``prefix`` and ``rate``, for a worker ``log``. An
ingest may be told to ``drop`` the oldest where there is no room, a worker how long a
handling takes (``pause_s``), or to wait for a line before it begins (``waits``). On
standard output they say in lines of JSON how their half is doing whenever that has
changed, and what their ledger was at the end. An ingest begins to send at the first
line on its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import trio

import trio_ticks as tt
from tests.soak_brokers.market import tick, walk

HANDLING_S = 0.0002
"""How long a handling takes, at least."""
_SAY_S = 0.05
_SHOWN = (
    "connected",
    "reconnects",
    "appended",
    "in_doubt",
    "duplicates",
    "received",
    "redelivered",
    "acknowledged",
    "given_back",
    "fenced",
    "shards",
    "takeovers",
)


def make_buffer(spec: dict[str, Any]) -> Any:
    """Make the buffer of *spec*: the name of its class, and its settings."""
    settings = dict(spec)
    return getattr(tt.brokers, settings.pop("kind"))(**settings)


class Paced:
    """A feed that sends its ticks at a rate, once it is told to begin."""

    def __init__(self, spec: dict[str, Any], told: trio.Event) -> None:
        self._told = told
        self._pairs = walk(spec["seed"], spec["count"], spec["prefix"])
        self._rate = spec["rate"]

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        """Send until there are no more."""
        await self._told.wait()
        began, sent = trio.current_time(), 0
        while True:
            due = int((trio.current_time() - began) * self._rate) - sent
            # Behind a broker that was away it does not make up for all at once.
            ticks = [tick(*pair) for pair in islice(self._pairs, min(max(due, 1), 500))]
            if not ticks:
                return
            await send.send_many(ticks)
            sent += len(ticks)
            await trio.sleep_until(began + sent / self._rate + 0.005)


def say(**facts: Any) -> None:
    """Write a line of JSON in one piece."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def shown(pipeline: tt.Pipeline[Any]) -> dict[str, Any]:
    """Return what this half knows of its buffer; its law holds at this moment."""
    statistics = pipeline.buffer_statistics
    pipeline.ledger.check()
    return {name: getattr(statistics, name) for name in _SHOWN} | {
        "produced": pipeline.ledger.produced,
        "dropped": pipeline.ledger.dropped,
    }


async def tell(pipeline: tt.Pipeline[Any]) -> None:
    """Say how the half is doing, whenever that has changed."""
    before = None
    while True:
        now = shown(pipeline)
        if now != before:
            say(**now)
            before = now
        await trio.sleep(_SAY_S)


async def listen(told: trio.Event) -> None:
    """Set *told* at the first line; end with whoever started us, however that ended."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for _ in stream:
            told.set()
    os._exit(3)


async def leave(pipeline: tt.Pipeline[Any], signals: AsyncIterator[int]) -> None:
    """Shut down at the signal."""
    async for _ in signals:
        pipeline.shutdown()


async def run(half: str, spec: dict[str, Any]) -> None:
    """Run one half until its end or SIGTERM, and check its law there."""
    buffer, told = make_buffer(spec["buffer"]), trio.Event()
    feed: Any = None
    handler: Any = None
    settings: dict[str, Any]
    if half == "ingest":
        overflow = tt.DropOldest() if spec.get("drop") else tt.Block()
        feed, settings = Paced(spec, told), {"overflow": overflow, "shutdown_timeout": 60.0}
    else:
        handler, settings = make_handler(spec), {"workers": 8}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, told)
        if spec.get("waits"):
            await told.wait()
        async with tt.open_pipeline(feed, handler, buffer=buffer, **settings) as pipeline:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                nursery.start_soon(tell, pipeline)
                nursery.start_soon(leave, pipeline, signals)
                await pipeline.wait()
        nursery.cancel_scope.cancel()
    pipeline.ledger.check()
    say(**shown(pipeline), ledger=pipeline.ledger.snapshot().to_dict())


def make_handler(spec: dict[str, Any]) -> Any:
    """Return a handler that writes what it has handled into the log."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pause_s = spec.get("pause_s", HANDLING_S)

    async def handler(item: tt.Tick) -> None:
        await trio.sleep(pause_s)
        # The file's order is the order in which all workers have handled.
        os.write(log, f"{item.symbol} {int(item.volume)}\n".encode())

    return handler


if __name__ == "__main__":
    form = "%(relativeCreated)d %(process)d %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("trio_ticks.brokers").setLevel(logging.INFO)
    trio.run(run, sys.argv[1], json.loads(sys.argv[2]))
