"""A market maker that pulls its quotes the moment the feed is lost.

A quote that stands while its maker is blind is taken by whoever still sees the market.
``on_feed`` is called when the connection is lost, ahead of the ticks that still wait in
the queue; the first tick after it is back puts the quotes there again.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA"]
EDGE = 0.0005
"""How far from the middle the quotes stand, as a share of the price."""


@dataclass
class MarketMaker:
    """Keeps a bid and an ask around the middle of each symbol."""

    quotes: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The quotes that stand at the exchange now."""
    blind: bool = False
    seen: list[tuple[datetime, int, bool]] = field(default_factory=list)
    """When quotes were placed or pulled, how many stand, whether the feed is lost."""

    async def on_tick(self, tick: tt.Tick) -> None:
        if self.blind:
            return  # what waits in the queue is from before the loss
        edge = tick.mid_price * EDGE
        self.quotes[tick.symbol] = (tick.mid_price - edge, tick.mid_price + edge)
        self._note()

    async def on_feed(self, event: tt.FeedEvent) -> None:
        if event.kind == "lost":
            self.blind = True
            print(f"lost ({event.reason}): {len(self.quotes)} quotes pulled")
            self.quotes.clear()
        elif event.kind == "back":
            self.blind = False
            print("back: the next tick of each symbol places its quotes again")
        self._note()

    def _note(self) -> None:
        self.seen.append((datetime.now(UTC), len(self.quotes), self.blind))


async def run() -> tuple[MarketMaker, tt.PipelineReport]:
    """Run for two seconds, in which the exchange hangs up once."""
    maker = MarketMaker()
    async with open_exchange(rate=1_000, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url,
            symbols=SYMBOLS,
            backoff=tt.BackoffPolicy(initial_s=0.3, maximum_s=0.5),
        )
        async with tt.open_pipeline(feed, maker.on_tick, on_feed=maker.on_feed) as pipeline:
            await trio.sleep(0.7)
            await exchange.drop_clients()
            await trio.sleep(1.3)
    return maker, pipeline.report


async def main() -> None:
    maker, report = await run()
    assert any(lost and not standing for _, standing, lost in maker.seen)
    print(f"at the end {len(maker.quotes)} quotes stand")
    print(report)


if __name__ == "__main__":
    trio.run(main)
