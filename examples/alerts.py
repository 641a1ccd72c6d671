"""Somebody is told when ticks are lost, the feed is away, or the strategy fails.

A task looks at ``pipeline.metrics()`` and speaks when a state begins and when it ends,
not each time it looks. Here it prints; put your pager in the place of ``print``. What
runs for long is better watched by Prometheus (docs/operations): an alert from inside
the program cannot say that the program is gone.
"""

from dataclasses import dataclass, field

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA"]


@dataclass
class Watch:
    """What is wrong now, and what was, with when it began and ended."""

    open: dict[str, float] = field(default_factory=dict)
    past: list[tuple[str, float, float]] = field(default_factory=list)
    rows: list[tuple[float, float, float]] = field(default_factory=list)
    """When (in seconds), the queue's fill (in percent), and ticks lost a second."""

    def look(self, now: float, metrics: tt.PipelineMetrics) -> None:
        self.rows.append((now, metrics.queue_utilization_pct, metrics.dropped_per_s))
        wrong = {
            "ticks are lost": metrics.pressure == "shed",
            "the feed is away": not metrics.producer_connected,
            "more than 5 % of the ticks fail": metrics.failed_share > 0.05,
        }
        for what, is_wrong in wrong.items():
            if is_wrong and what not in self.open:
                self.open[what] = now
                print(f"{now:4.1f} s  ALERT: {what}")
            elif not is_wrong and what in self.open:
                self.past.append((what, self.open.pop(what), now))
                print(f"{now:4.1f} s  over: {what}")

    async def follow(self, pipeline: tt.Pipeline[tt.Tick]) -> None:
        began = trio.current_time()
        while True:
            await trio.sleep(0.05)
            self.look(trio.current_time() - began, pipeline.metrics())


@dataclass
class Strategy:
    """Keeps up, but for half a second in which its database is slow."""

    pause_s: float = 0.0

    async def __call__(self, tick: tt.Tick) -> None:
        await trio.sleep(self.pause_s)


async def run() -> tuple[Watch, tt.PipelineReport]:
    """Run for four seconds: a slow database, then an exchange that hangs up."""
    watch, strategy = Watch(), Strategy()
    async with open_exchange(rate=2_000, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, SYMBOLS, backoff=tt.BackoffPolicy(initial_s=0.8, maximum_s=1.0)
        )
        async with (
            tt.open_pipeline(feed, strategy, maxsize=200, write_timeout=0.1) as pipeline,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(watch.follow, pipeline)
            await trio.sleep(1)
            strategy.pause_s = 0.02
            await trio.sleep(0.5)
            strategy.pause_s = 0.0
            await trio.sleep(1)
            await exchange.drop_clients()
            await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
    return watch, pipeline.report


async def main() -> None:
    watch, report = await run()
    assert "ticks are lost" in {what for what, _, _ in watch.past}
    print(report)


if __name__ == "__main__":
    trio.run(main)
