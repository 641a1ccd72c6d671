"""A minute at ten times what the workers can take: ``python -m tests.soak``.

It takes its time (``--seconds 60``), so it is not a test of the suite. It exits with 1
if memory grows; if the exchange, which pings every 5 s and allows 5 s, hangs up; if a
tick enters the channel later than the timeout allows, or is handled later than that and
the queue's own wait; or if the law does not hold in one of the samples, which it takes
every 10 ms.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

import trio_ticks as tt

SYMBOLS = ["SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META"]
WORKERS, HANDLER_S, WRITE_TIMEOUT_S = 4, 0.005, 1.0
RATE = 10 * WORKERS / HANDLER_S
WARM_UP_S = 10.0
GROWTH_MB = 10.0
SLACK_S = 0.5
"""The way from the exchange to the channel, on a machine that does other things too."""


@attrs.define
class Observations:
    """What the watchers saw, in figures."""

    rss_mb: list[tuple[float, float]] = attrs.field(factory=list)
    laws: int = 0
    oldest_s: float = 0.0
    """Age of the oldest tick when the channel had taken it in, or dropped it."""
    handled_s: float = 0.0
    """Age of the oldest tick when its handler began."""
    unconnected: int = 0

    def growth_mb(self) -> float:
        """Return by how much memory ever exceeded its size after the warm-up."""
        warm = [size for moment, size in self.rss_mb if moment >= WARM_UP_S]
        return max(warm) - warm[0] if warm else 0.0


@attrs.frozen
class WatchedSend:
    """The send channel; records the age of each batch's first tick once taken."""

    inner: tt.TickSendChannel[tt.Tick]
    seen: Observations

    async def send_many(self, ticks: Sequence[tt.Tick]) -> None:
        await self.inner.send_many(ticks)
        if ticks:
            self.seen.oldest_s = max(
                self.seen.oldest_s, time.time() - ticks[0].timestamp.timestamp()
            )


@attrs.frozen
class WatchedFeed:
    """A feed that pushes into a watched channel."""

    inner: tt.WebSocketFeed
    seen: Observations

    @property
    def stats(self) -> tt.FeedStats:
        return self.inner.stats

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        await self.inner.run(WatchedSend(send, self.seen))


@asynccontextmanager
async def exchange(symbols: Sequence[str] = SYMBOLS) -> AsyncIterator[str]:
    """Run the local exchange in a process of its own; yield its address."""
    command = [
        sys.executable,
        "-m",
        "trio_ticks",
        "exchange",
        f"--rate={RATE:g}",
        f"--symbols={','.join(symbols)}",
    ]
    process = await trio.lowlevel.open_process(
        [*command, "--ping-interval=5", "--ping-timeout=5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it tells people
    )
    assert process.stdout is not None
    try:
        line = b""
        while not line.endswith(b"\n"):
            data = await process.stdout.receive_some()
            if not data:
                raise RuntimeError("the exchange did not start")
            line += data
        yield line.decode().strip()
    finally:
        process.terminate()
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await process.wait()


def rss_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def check_the_law(pipeline: tt.Pipeline[tt.Tick], seen: Observations) -> None:
    while True:
        pipeline.ledger.check()
        seen.laws += 1
        await trio.sleep(0.01)


async def sample(pipeline: tt.Pipeline[tt.Tick], seen: Observations) -> None:
    """Record memory and the connection every second; print a line every five."""
    began = trio.current_time()
    second = 0
    while True:
        now, rss = pipeline.metrics(), rss_mb()
        seen.rss_mb.append((trio.current_time() - began, rss))
        seen.unconnected += second > 1 and not now.producer_connected
        if second % 5 == 0:
            rates = (
                f"in {now.produced_per_s:6,.0f}/s  handled {now.consumed_per_s:5,.0f}/s  "
                f"dropped {now.items_dropped:9,}"
            )
            delays = (
                f"lag p99 {now.processing_lag_ms.p99:6,.0f} ms  "
                f"wait p99 {now.queue_wait_ms.p99:6,.0f} ms"
            )
            print(
                f"{second:3} s  {rss:6.1f} MB  {rates}  queue {now.queue_size:4}  {delays}",
                flush=True,
            )
        second += 1
        await trio.sleep_until(began + second)


def verdicts(report: tt.PipelineReport, seen: Observations) -> dict[str, bool]:
    """Return what there is to say, and whether it is as it should be."""
    wait_s = report.queue_wait_ms.max / 1e3
    growth_mb, oldest_s = seen.growth_mb(), seen.oldest_s
    may_take_s = WRITE_TIMEOUT_S + SLACK_S
    return {
        f"memory grew by {growth_mb:.1f} MB after {WARM_UP_S:g} s (at most {GROWTH_MB:g})": (
            growth_mb <= GROWTH_MB
        ),
        f"{report.reconnects} reconnects, {seen.unconnected} samples without a connection (0)": (
            not report.reconnects + seen.unconnected
        ),
        f"a tick entered the channel {oldest_s:.2f} s after it was sent, at most "
        f"({WRITE_TIMEOUT_S:g} + {SLACK_S:g})": (oldest_s <= may_take_s),
        f"and was handled {seen.handled_s:.2f} s after, at most "
        f"(those and the queue's own wait, {wait_s:.2f})": (seen.handled_s <= may_take_s + wait_s),
        f"the law held in {seen.laws:,} samples, and at the end": seen.laws > 0
        and not report.ledger.unaccounted,
        f"{report.dropped:,} of {report.produced:,} dropped: an overload": report.dropped
        > report.produced / 2,
    }


async def soak(seconds: float) -> bool:
    """Run, print what was seen, and return whether every bound held."""
    seen = Observations()

    async def handler(tick: tt.Tick) -> None:
        seen.handled_s = max(seen.handled_s, time.time() - tick.timestamp.timestamp())
        await trio.sleep(HANDLER_S)

    async with exchange() as url:
        feed = WatchedFeed(tt.WebSocketFeed(url, symbols=SYMBOLS), seen)
        async with (
            tt.open_pipeline(
                feed, handler, workers=WORKERS, write_timeout=WRITE_TIMEOUT_S, shutdown_timeout=1
            ) as pipeline,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(check_the_law, pipeline, seen)
            nursery.start_soon(sample, pipeline, seen)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
    report = pipeline.report
    print(report)
    results = verdicts(report, seen)
    for text, held in results.items():
        print("held  " if held else "MISSED", text)
    return all(results.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--minutes",
        type=float,
        help="with reconnects, symbols that come and go, page, scrapes and recorder, so long",
    )
    options = parser.parse_args()
    logging.disable()
    if options.minutes is not None:
        from tests.soak_long import soak_long

        sys.exit(not trio.run(soak_long, options.minutes))
    sys.exit(not trio.run(soak, options.seconds))
