"""Half an hour of everything at once: ``python -m tests.soak --minutes 30``.

Ten times what the workers can take, connections that are cut, symbols that come and go,
somebody who watches the live page, a scrape each second, and a recorder. Every sample
is written down at once, in ``docs/_static/soak.jsonl``: memory, descriptors, threads,
tasks, and how many symbols the channel and the page know of. At the end each of these
has to be flat, and ``docs/_static/soak.svg`` shows them.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import trio_ticks as tt
from tests.soak import HANDLER_S, WORKERS, WRITE_TIMEOUT_S, exchange, rss_mb
from tests.worlds.chaos_proxy import Chaos, ChaosProxy, chaos_proxy
from tests.worlds.dashboard_client import ask, open_events

__all__ = ["RECORDS", "Limit", "drawn", "judged", "soak_long"]

RECORDS: Final = Path(__file__).parents[1] / "docs" / "_static" / "soak.jsonl"
MARKET: Final = tuple(f"S{number:03d}" for number in range(200))
SAMPLE_S: Final = 5.0
WARM_UP: Final = 0.25
"""The share of the run whose samples do not count: caches fill up."""
_CUT_AFTER: Final = 8_000_000
"""A connection is cut after about so many bytes."""


@attrs.frozen
class Limit:
    """How much a value may grow."""

    name: str
    title: str
    per_hour: float
    """By its slope, in its unit."""
    spread: float
    """Also flat is what stays within so much of its median, whatever its slope."""


LIMITS: Final = (
    Limit("rss_mb", "memory (MB)", 6.0, 1.0),
    Limit("blocks", "blocks of Python (1000)", 10.0, 5.0),
    Limit("descriptors", "descriptors", 2.0, 6.0),
    Limit("threads", "threads", 1.0, 3.0),
    Limit("tasks", "tasks", 5.0, 12.0),
    Limit("series", "series in /metrics", 5.0, 4.0),
)


@attrs.define
class Run:
    """What happens beside the pipeline, and what was seen."""

    feed: tt.WebSocketFeed
    proxy: ChaosProxy
    series: int = 0
    pages: int = 0
    churned: int = 0
    laws: int = 0
    samples: list[dict[str, float]] = attrs.field(factory=list)

    async def churn(self) -> None:
        """Have symbols come and go."""
        chance = random.Random(5)
        while True:
            await trio.sleep(0.3)
            symbols = self.feed.symbols
            if len(symbols) > 60:
                self.feed.unsubscribe(chance.sample(symbols, 20))
            self.feed.subscribe(chance.sample(MARKET, 10))
            self.churned += 1

    async def scrape(self, url: str) -> None:
        """Read the metrics once a second."""
        while True:
            _status, _headers, body = await ask(url.removesuffix("/metrics"), "/metrics")
            self.series = sum(not line.startswith(b"#") for line in body.splitlines())
            await trio.sleep(1.0)

    async def watch_page(self, url: str) -> None:
        """Look at the live page, a few seconds at a time."""
        while True:
            await ask(url, "/")
            async with open_events(url) as events:
                with trio.move_on_after(10.0):
                    while True:
                        await events.next()
            self.pages += 1

    async def check_the_law(self, pipeline: tt.Pipeline[Any]) -> None:
        """Check it again and again."""
        while True:
            pipeline.ledger.check()
            self.laws += 1
            await trio.sleep(0.02)

    async def sample(self, pipeline: tt.Pipeline[Any], records: Path, run: str) -> None:
        """Write a sample down, every few seconds."""
        began = trio.current_time()
        while True:
            await trio.sleep(SAMPLE_S)
            gc.collect()
            now = pipeline.metrics()
            found = {
                "at_s": round(trio.current_time() - began, 1),
                "rss_mb": round(rss_mb(), 2),
                "blocks": round(sys.getallocatedblocks() / 1000, 1),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "tasks": trio.lowlevel.current_statistics().tasks_living,
                "series": self.series,
                "produced": now.items_produced,
                "dropped": now.items_dropped,
                "reconnects": self.feed.reconnects,
            }
            self.samples.append(found)
            with records.open("a") as file:
                file.write(json.dumps({"run": run, **found}) + "\n")
            if len(self.samples) % 6 == 1:
                print(" ".join(f"{name}={value:g}" for name, value in found.items()), flush=True)


def slope_per_hour(times: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much *values* grow in an hour, by least squares."""
    return statistics.linear_regression(times, values).slope * 3600


def judged(samples: Sequence[dict[str, float]]) -> dict[str, bool]:
    """Return a verdict for each value: what there is to say, and whether it is flat."""
    warm = [each for each in samples if each["at_s"] >= WARM_UP * samples[-1]["at_s"]]
    found: dict[str, bool] = {}
    for limit in LIMITS:
        values = [each[limit.name] for each in warm]
        slope = slope_per_hour([each["at_s"] for each in warm], values)
        middle = statistics.median(values)
        spread = max(abs(value - middle) for value in values)
        text = (
            f"{limit.title}: {middle:g} in the middle, at most {spread:.1f} from that, "
            f"{slope:+.2f} an hour (flat: {limit.spread:g}, or {limit.per_hour:g} an hour)"
        )
        found[text] = slope <= limit.per_hour or spread <= limit.spread
    return found


def drawn(samples: Sequence[dict[str, float]]) -> str:
    """Return an SVG with a line for each value."""
    width, height, left = 720, 90, 150
    last = max(each["at_s"] for each in samples) or 1.0
    parts = []
    for number, limit in enumerate(LIMITS):
        values = [each[limit.name] for each in samples]
        top = max(values) * 1.2 or 1.0
        points = " ".join(
            f"{left + each['at_s'] / last * (width - left - 10):.1f},"
            f"{number * height + height - 12 - value / top * (height - 24):.1f}"
            for each, value in zip(samples, values, strict=True)
        )
        y = number * height
        parts.append(
            f'<text x="4" y="{y + 40}">{limit.title}</text>'
            f'<text x="4" y="{y + 56}" opacity="0.6">{min(values):g} to {max(values):g}</text>'
            f'<line x1="{left}" x2="{width - 10}" y1="{y + height - 12}" y2="{y + height - 12}" '
            'stroke="#888" stroke-width="0.5"/>'
            f'<polyline fill="none" stroke="#2a7" stroke-width="1.5" points="{points}"/>'
        )
    total = height * len(LIMITS) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        'font-family="sans-serif" font-size="11" fill="#777">'
        f"{''.join(parts)}"
        f'<text x="{left}" y="{total - 6}">0</text>'
        f'<text x="{width - 70}" y="{total - 6}">{last / 60:.0f} minutes</text></svg>\n'
    )


async def soak_long(minutes: float, records: Path = RECORDS) -> bool:
    """Run, print what was seen, and return whether everything was flat.

    Args:
        minutes: how long.
        records: where samples are added.
    """
    chance, run_name = random.Random(3), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())

    def plan(_number: int) -> Chaos:
        return Chaos(end=chance.choice(["cut", "reset"]), end_after=chance.randrange(_CUT_AFTER))

    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(HANDLER_S)

    async with exchange(MARKET) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        async with chaos_proxy(port, plan) as proxy:
            feed = tt.WebSocketFeed(
                f"ws://127.0.0.1:{proxy.port}/",
                MARKET[:40],
                backoff=tt.BackoffPolicy(initial_s=0.1, maximum_s=0.5),
            )
            seen = Run(feed, proxy)
            with tempfile.TemporaryDirectory() as folder:
                async with tt.open_pipeline(
                    feed,
                    handler,
                    workers=WORKERS,
                    write_timeout=WRITE_TIMEOUT_S,
                    shutdown_timeout=1,
                    record=tt.Recorder(folder, max_bytes=20_000_000),
                ) as pipeline:
                    metrics = await pipeline.serve_metrics(port=0, symbols=20)
                    page = await pipeline.serve_dashboard(port=0)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(seen.churn)
                        nursery.start_soon(seen.scrape, metrics)
                        nursery.start_soon(seen.watch_page, page)
                        nursery.start_soon(seen.check_the_law, pipeline)
                        nursery.start_soon(seen.sample, pipeline, records, run_name)
                        nursery.start_soon(_delete_old, Path(folder))
                        await trio.sleep(60 * minutes)
                        nursery.cancel_scope.cancel()
    report = pipeline.report
    print(report)
    records.with_suffix(".svg").write_text(drawn(seen.samples))
    verdicts = judged(seen.samples)
    verdicts[f"the law held in {seen.laws:,} samples, and at the end"] = (
        seen.laws > 0 and not report.ledger.unaccounted
    )
    verdicts[f"{report.dropped:,} of {report.produced:,} dropped: an overload"] = (
        report.dropped > report.produced / 2
    )
    verdicts[
        f"{feed.reconnects:,} reconnects, {seen.churned:,} changes of symbols, {seen.pages:,} pages"
    ] = feed.reconnects > 0 and seen.churned > 0
    for text, held in verdicts.items():
        print("held  " if held else "MISSED", text)
    return all(verdicts.values())


async def _delete_old(folder: Path) -> None:
    """Keep the last recordings only: the disk of this machine is not tested."""
    while True:
        await trio.sleep(10.0)
        for path in _by_age(folder)[:-3]:
            path.unlink()


def _by_age(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)
