"""What one venue bids less what the other asks, for the same symbol.

Two feeds run in one pipeline. A mapping gives the symbol of each venue a name of its
own. When a venue is lost, its last quote is no price any more: ``on_feed`` takes it
away, and there is no spread until the venue is back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOL = "BTCUSDT"
VENUES = ("east", "west")


@dataclass
class Spread:
    """The better of the two directions, after each quote of either venue."""

    last: dict[str, tt.Tick] = field(default_factory=dict)
    """The newest quote of each venue that is connected."""
    seen: list[tuple[datetime, float]] = field(default_factory=list)
    """When, and the spread in the quote currency; NaN: a venue is away."""

    async def on_tick(self, tick: tt.Tick) -> None:
        self.last[tick.symbol.partition(".")[2]] = tick
        if len(self.last) == len(VENUES):
            east, west = (self.last[venue] for venue in VENUES)
            spread = max(east.bid - west.ask, west.bid - east.ask)
            self.seen.append((datetime.now(UTC), spread))

    async def on_feed(self, event: tt.FeedEvent) -> None:
        print(f"{event.feed} is {event.kind}")
        if event.kind == "lost":
            self.last.pop(event.feed, None)
            self.seen.append((datetime.now(UTC), math.nan))


async def run() -> tuple[Spread, tt.PipelineReport]:
    """Run for two seconds; one venue hangs up once."""
    spread = Spread()
    async with (
        open_exchange(symbols=[SYMBOL], rate=100) as east,
        open_exchange(symbols=[SYMBOL], rate=120) as west,
    ):
        feeds = [
            tt.WebSocketFeed(
                exchange.url,
                {SYMBOL: f"{SYMBOL}.{venue}"},
                name=venue,
                backoff=tt.BackoffPolicy(initial_s=0.4, maximum_s=0.5),
            )
            for venue, exchange in zip(VENUES, (east, west), strict=True)
        ]
        async with tt.open_pipeline(
            feeds, spread.on_tick, overflow=tt.Conflate(), on_feed=spread.on_feed
        ) as pipeline:
            await trio.sleep(0.8)
            await west.drop_clients()
            await trio.sleep(1.2)
    return spread, pipeline.report


async def main() -> None:
    spread, report = await run()
    taken = [value for _, value in spread.seen if not math.isnan(value)]
    print(f"{len(taken)} spreads, the best one {max(taken):+.2f}, the worst {min(taken):+.2f}")
    print(report)


if __name__ == "__main__":
    trio.run(main)
