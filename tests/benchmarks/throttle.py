"""The throttle against the local exchange: real sockets, and one row a second.

The overload lasts from the first second on, which begins once a tick was handled: how
long connecting takes is none of the throttle's doing. What has to show: after ten
seconds nothing is dropped any more, and the workers are busy for more than 85 % of
their time throughout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import trio_ticks as tt

__all__ = ["Load", "Row", "main", "run", "verdict"]

WAYS: Final = ("request", "pause", "read")
SETTLED_S: Final = 10.0
LEAST_BUSY: Final = 0.85


@attrs.frozen(kw_only=True)
class Load:
    """The rate of the ticks, the time to handle them, and the venue's features."""

    way: str = "request"
    overload: float = 5.0
    seconds: float = 30.0
    workers: int = 4
    service_s: float = 0.004
    maxsize: int = 1000
    symbols: int = 20
    skew: float = 0.0
    ordering: str = "symbol"
    """With ``"symbol"`` one worker at a time handles a symbol.

    If most symbols are paused, some workers then have no work.
    """
    interval_s: float = 1.0
    """How long each row is."""

    @property
    def capacity(self) -> float:
        """Ticks a second that the workers could take if they only handled ticks."""
        return self.workers / self.service_s


@attrs.frozen(kw_only=True)
class Row:
    """One stretch of time."""

    at_s: float
    came: float
    """Ticks a second that came in."""
    handled: float
    dropped: float
    left_out: float
    """Ticks a second that the exchange left out, since it was asked to."""
    busy: float
    """Share of their time that the workers did not wait for ticks."""
    queued: int
    rate: float | None
    paused: int


def _counts(
    pipeline: tt.Pipeline[Any], exchange: tt.exchange.Exchange
) -> tuple[tt.PipelineMetrics, float, int]:
    metrics = pipeline.metrics()
    busy_s = (
        sum(worker.busy_ratio for worker in metrics.workers)
        / len(metrics.workers)
        * metrics.uptime_s
    )
    return metrics, busy_s, exchange.throttled


async def run(load: Load) -> tuple[list[Row], tt.PipelineReport]:
    """Run *load* for its time, counted from the first tick that was handled.

    Cancellation: all is closed.
    """
    first_handled = trio.Event()

    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(load.service_s)
        first_handled.set()

    rows = []
    names = [f"S{number:02d}" for number in range(1 if load.way == "read" else load.symbols)]
    async with tt.exchange.open_exchange(
        symbols=names,
        rate=load.capacity * load.overload,
        skew=load.skew,
        ping_interval=0.5,
        ping_timeout=2.0,
    ) as exchange:
        exchange.take_throttle_requests(load.way == "request")
        feed = tt.WebSocketFeed(exchange.url, names)
        settings: dict[str, Any] = {
            "workers": load.workers,
            "maxsize": load.maxsize,
            "ordering": load.ordering,
        }
        async with tt.open_pipeline(
            feed, handler, overflow=tt.Throttle(tt.DropNewest(timeout=1.0)), **settings
        ) as pipeline:
            await first_handled.wait()
            began = trio.current_time()
            before, busy_before, left_out_before = _counts(pipeline, exchange)
            for number in range(1, round(load.seconds / load.interval_s) + 1):
                await trio.sleep_until(began + number * load.interval_s)
                now, busy, left_out = _counts(pipeline, exchange)
                passed = now.uptime_s - before.uptime_s
                rows.append(
                    Row(
                        at_s=number * load.interval_s,
                        came=(now.items_produced - before.items_produced) / passed,
                        handled=(now.items_consumed - before.items_consumed) / passed,
                        dropped=(now.items_dropped - before.items_dropped) / passed,
                        left_out=(left_out - left_out_before) / passed,
                        busy=(busy - busy_before) / passed,
                        queued=now.queue_size,
                        rate=now.throttle_rate,
                        paused=len(feed.paused_symbols),
                    )
                )
                before, busy_before, left_out_before = now, busy, left_out
            pipeline.cancel()
        if exchange.disconnects["ping_timeout"]:
            raise RuntimeError("a ping was not answered in time")
    return rows, pipeline.report


def verdict(rows: list[Row]) -> dict[str, Any]:
    """Print figures, and whether they are as required."""
    settled = [row for row in rows if row.at_s > SETTLED_S]
    last_drop = max((row.at_s for row in rows if row.dropped), default=0.0)
    return {
        "last_second_with_a_drop": last_drop,
        "dropped_per_s_after_10_s": sum(row.dropped for row in settled) / max(len(settled), 1),
        "busy_mean_after_10_s": sum(row.busy for row in settled) / max(len(settled), 1),
        "busy_least": min((row.busy for row in rows), default=0.0),
        "passed": bool(settled)
        and last_drop <= SETTLED_S
        and min(row.busy for row in rows) > LEAST_BUSY,
    }


def main() -> None:
    """Run from the command line, and print a row a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS, default="request", help="what the venue knows")
    parser.add_argument("--overload", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument(
        "--skew", type=float, default=0.0, help="how much hotter the first symbols are"
    )
    parser.add_argument("--ordering", choices=("symbol", "none"), default="symbol")
    parser.add_argument("--json", type=Path, help="write the rows and the verdict there")
    arguments = parser.parse_args()
    load = Load(
        way=arguments.way,
        overload=arguments.overload,
        seconds=arguments.seconds,
        skew=arguments.skew,
        ordering=arguments.ordering,
    )
    rows, report = trio.run(run, load)
    print(
        f"{load.way}: {load.capacity * load.overload:,.0f} ticks/s "
        f"against workers that take at most {load.capacity:,.0f}/s"
    )
    print("    s    came/s handled/s dropped/s left out/s   busy  queued  asked for  paused")
    for row in rows:
        rate = "no limit" if row.rate is None else f"{row.rate:,.0f}/s"
        print(
            f"{row.at_s:5.0f} {row.came:9,.0f} {row.handled:9,.0f} {row.dropped:9,.0f} "
            f"{row.left_out:10,.0f} "
            f"{row.busy:6.1%} {row.queued:7,} {rate:>10} {row.paused:7}"
        )
    result = verdict(rows)
    print(json.dumps(result, indent=1))
    print(report)
    if arguments.json is not None:
        text = json.dumps(
            {
                "load": attrs.asdict(load),
                "rows": [attrs.asdict(row) for row in rows],
                "verdict": result,
            },
            indent=1,
        )
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
