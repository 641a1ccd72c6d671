"""A 50 ms mean-reversion strategy on a feed that is far too fast for it, and what the pipeline does about that.

Four runs on the same feed: the default strategy for a full queue, the one that keeps the newest, a bound on the age, and only the latest
quote of each symbol. The number to look at is the wait in the queue: how old the news is that the strategy acts on.
"""

from collections import defaultdict, deque
from statistics import fmean, pstdev

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META", "SPY", "QQQ"]
WINDOW = 20
ENTRY_Z = 1.5


class MeanReversion:
    """Buys what is cheap against its own recent mean, sells what is dear. One order at most a tick, no position kept."""

    def __init__(self) -> None:
        self.mids: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self.signals = {"buy": 0, "sell": 0}

    async def __call__(self, tick: tt.Tick) -> None:
        # With ordering="symbol" (the default) no other worker touches this symbol's window meanwhile.
        window = self.mids[tick.symbol]
        window.append(tick.mid_price)
        if len(window) == WINDOW and (deviation := pstdev(window)) > 0:
            score = (tick.mid_price - fmean(window)) / deviation
            if abs(score) > ENTRY_Z:
                self.signals["sell" if score > 0 else "buy"] += 1
        await trio.sleep(0.05)  # The model's slow part: features from a database, a risk check, the order gateway.


async def run(title: str, url: str, overflow: tt.OverflowStrategy, max_age: float | None = None) -> None:
    """Run the strategy for a second and a half and print what became of the ticks."""
    strategy = MeanReversion()
    feed = tt.WebSocketFeed(url, symbols=SYMBOLS)
    async with tt.open_pipeline(
        feed, strategy, workers=8, maxsize=200, overflow=overflow, max_age=max_age, shutdown_timeout=0.25
    ) as pipeline:
        await trio.sleep(1.5)
    report = pipeline.report
    drops = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped_by_reason.items() if count)
    print(f"\n{title}")
    print(f"  {report.produced:,} ticks in {report.duration_s:.1f} s; handled {report.consumed:,}; dropped: {drops}")
    print(
        f"  wait in the queue: p50 {report.queue_wait_ms.p50:,.0f} ms, p99 {report.queue_wait_ms.p99:,.0f} ms; signals: {strategy.signals}"
    )
    assert report.produced == report.consumed + report.failed + report.dropped, "a tick has no outcome"


async def main() -> None:
    async with open_exchange(rate=4_000, symbols=SYMBOLS) as exchange:
        print("8 workers at 50 ms take at most 160 ticks/s; the feed brings 4,000.")
        await run(
            "DropNewest(timeout=0.5): wait half a second an episode, then drop what finds no room", exchange.url, tt.DropNewest(timeout=0.5)
        )
        await run("DropOldest(): never wait, push out what has waited longest", exchange.url, tt.DropOldest())
        await run("DropOldest(), max_age=0.25: and never act on what is older than 250 ms", exchange.url, tt.DropOldest(), max_age=0.25)
        await run("Conflate(): each symbol's latest quote and no other", exchange.url, tt.Conflate())


if __name__ == "__main__":
    trio.run(main)
