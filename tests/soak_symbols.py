"""Ten million symbols: what is kept by symbol has a bound, whatever a server sends.

Two runs, against a server in a process of its own that gives every message another
symbol. ``three``: the feed has asked for three symbols. ``all``: it has asked for all,
the queue is always full, the strategy wants gaps and fails, each with a breaker,
metrics by symbol, and the live page polled. Memory must stay flat once the bounds are
reached.

    python -m tests.soak_symbols --symbols 10000000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_ticks as tt
from tests.benchmarks.loadgen import Client, ClientGoneError
from tests.benchmarks.wire import TEXT, server_frame
from trio_ticks.feeds.venues.flat import FlatCodec
from trio_ticks.observability.fetch import fetch

__all__ = ["EXECUTORS", "Outcome", "main", "run"]

EXECUTORS = ("loop", "thread", "process")
_BATCH = 500
_WARM = 0.3
"""The part of the run after which all bounds are reached."""


class WildCodec(tt.Codec):
    """The flat language, with a wildcard."""

    wildcard = "*"

    def __init__(self, context: tt.CodecContext) -> None:
        super().__init__(context)
        self._flat = FlatCodec(context)

    def subscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
        return self._flat.subscribe(symbols)

    def decode(self, payloads: Sequence[bytes], /) -> Sequence[Any]:
        return self._flat.decode(payloads)


@attrs.frozen(kw_only=True)
class Outcome:
    """What a run came to."""

    growth_mb: float
    """From when the bounds were reached to the end."""
    received: int
    unasked: int
    forgotten: int
    accounted: bool


def serve(symbols: int) -> None:
    """Serve one client *symbols* ticks, each of another symbol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps(listener.getsockname()[1]), flush=True)
        connection, _ = listener.accept()
        with contextlib.suppress(ClientGoneError, OSError), connection:
            client = Client(connection)
            client.handshake()
            while not client.subscribed:
                client.listen(None)
            template = (
                '{"symbol":"S%012d","timestamp":"2026-03-02T14:30:00Z","bid":1.0,"ask":2.0,'
                '"bid_size":3.0,"ask_size":4.0,"volume":5.0}'
            )
            for first in range(0, symbols, _BATCH):
                connection.sendall(
                    b"".join(
                        server_frame(TEXT, (template % number).encode())
                        for number in range(first, min(first + _BATCH, symbols))
                    )
                )
                client.listen()
            # Until the feed has read all of it.
            while True:
                client.listen(None)


@contextlib.contextmanager
def _server(symbols: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.soak_symbols", f"--serve={symbols}"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield f"ws://127.0.0.1:{json.loads(process.stdout.readline())}/?ticks=0"
        finally:
            process.terminate()


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fail(tick: tt.Tick) -> None:
    """The strategy: it fails for each tick, so that all symbols reach the breaker."""
    raise ValueError(tick.symbol)


async def fail_in_loop(tick: tt.Tick) -> None:
    """The same, in the event loop."""
    raise ValueError(tick.symbol)


async def run(kind: str, symbols: int, executor: Any = "loop") -> Outcome:
    """Run one pipeline on *symbols* symbols, and measure its memory."""
    gaps = 0

    def on_gap(_gap: tt.Gap) -> None:
        nonlocal gaps
        gaps += 1

    with _server(symbols) as url:
        feed = tt.WebSocketFeed(
            url,
            ["A", "B", "C"] if kind == "three" else (),
            venue="flat" if kind == "three" else WildCodec,
            stale_after=None,
            # The server sends as fast as it can, and answers no ping meanwhile.
            ping_interval=None,
        )
        warm = growth = 0.0
        async with tt.open_pipeline(
            feed,
            fail_in_loop if executor == "loop" else fail,
            executor=executor,
            workers=2,
            maxsize=200,
            overflow=tt.DropOldest(),
            breaker=tt.Breaker(failures=1, pause_s=3600.0),
            on_gap=on_gap,
            shutdown_timeout=0.0,
        ) as pipeline:
            metrics = await pipeline.serve_metrics(0, symbols=100)
            page = await pipeline.serve_dashboard(0)
            while feed.stats.messages < symbols:
                await trio.sleep(0.5)
                for address in (metrics, f"{page.rstrip('/')}/api/snapshot"):
                    await fetch(address, timeout_s=30.0)
                pipeline.ledger.check()
                if not warm and feed.stats.messages >= _WARM * symbols:
                    warm = _rss_mb()
            growth = _rss_mb() - warm
            forgotten = pipeline.worker_statistics().symbols_forgotten
        return Outcome(
            growth_mb=growth,
            received=feed.stats.messages,
            unasked=feed.stats.unasked,
            forgotten=forgotten,
            accounted=pipeline.report.ledger.unaccounted == 0,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of it and print a table; return 1 where memory has grown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--most-mb", type=float, default=20.0)
    parser.add_argument("--executors", default=",".join(EXECUTORS))
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        serve(options.serve)
        return 0
    # The strategy fails for every tick, and each failure would be a traceback.
    logging.disable(logging.CRITICAL)
    failed = False
    runs = [("three", "loop"), *(("all", executor) for executor in options.executors.split(","))]
    for kind, executor in runs:
        outcome = trio.run(run, kind, options.symbols, executor)
        good = outcome.growth_mb <= options.most_mb and outcome.accounted
        failed |= not good
        print(f"{'ok' if good else 'FAILED'} {kind:5} {executor:8} {outcome}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
