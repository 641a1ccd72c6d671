"""Mean reversion on TickDB's quotes.

With a key in TICKDB_API_KEY it runs on the venue; without one, on a local exchange that
speaks TickDB. The strategy acts on crossings of the mean only where the sizes agree: it
buys what is cheap if more is bid than asked. Forex has no sizes, so that its ratio is
NaN and the comparison false: there it never trades.
"""

import os
from collections import defaultdict, deque
from statistics import fmean, pstdev

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL.US", "BTCUSDT", "EURUSD"]
WINDOW = 20
ENTRY_Z = 1.5


class MeanReversion:
    """Counts the orders that it would send."""

    def __init__(self) -> None:
        self.mids: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self.orders: defaultdict[str, int] = defaultdict(int)

    async def __call__(self, tick: tt.Tick) -> None:
        window = self.mids[tick.symbol]
        window.append(tick.mid_price)
        if len(window) == WINDOW and (deviation := pstdev(window)) > 0:
            score = (tick.mid_price - fmean(window)) / deviation
            if score < -ENTRY_Z and tick.pressure_ratio > 1:
                self.orders[tick.symbol] += 1


async def run(url: str | None, api_key: str | None, seconds: float) -> None:
    """Run the strategy for *seconds*; ``None`` is the venue's own address."""
    strategy = MeanReversion()
    feed = tt.WebSocketFeed(url, SYMBOLS, api_key, venue="tickdb")
    async with tt.open_pipeline(feed, strategy, on_feed=print) as pipeline:
        await trio.sleep(seconds)
    ledger = pipeline.report.ledger
    print(f"{ledger.consumed} of {ledger.produced} quotes handled, orders: {dict(strategy.orders)}")


async def main() -> None:
    api_key = os.environ.get("TICKDB_API_KEY")
    if api_key:
        await run(None, api_key, 60)
        return
    async with open_exchange(venue="tickdb", symbols=SYMBOLS, rate=500) as exchange:
        await run(exchange.url, None, 2)


if __name__ == "__main__":
    trio.run(main)
