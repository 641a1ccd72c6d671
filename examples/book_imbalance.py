"""Order books kept from their updates, and the imbalance of their best five levels.

The feed sends what changed; ``tt.Book`` makes the whole book of it, and holds no levels
while it may be wrong. Updates must not be lost, so the channel blocks instead of
dropping. Where more is bid than asked, the next price is more often a higher one.
"""

from collections import defaultdict

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["BTC/USD", "ETH/USD"]
LEVELS = 5


class Imbalance:
    """Keeps a book a symbol, and the imbalance after each update."""

    def __init__(self) -> None:
        self.books: dict[str, tt.Book] = {}
        self.seen: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """The middle and the imbalance (-1 to 1) after each update, by symbol."""

    async def __call__(self, update: tt.BookUpdate) -> None:
        book = self.books.get(update.symbol)
        if book is None:
            book = self.books[update.symbol] = tt.Book(update.symbol)
        if book.apply(update) != "applied":
            return
        bids, asks = book.bids(LEVELS), book.asks(LEVELS)
        if bids and asks:
            bid, ask = sum(size for _, size in bids), sum(size for _, size in asks)
            middle = (bids[0][0] + asks[0][0]) / 2
            self.seen[update.symbol].append((middle, (bid - ask) / (bid + ask)))


async def run() -> tuple[Imbalance, tt.PipelineReport]:
    """Run for two seconds."""
    strategy = Imbalance()
    async with open_exchange(venue="kraken", symbols=SYMBOLS, rate=400) as exchange:
        feed = tt.WebSocketFeed(exchange.url, SYMBOLS, venue="kraken", channels=["book"])
        async with tt.open_pipeline(feed, strategy, overflow=tt.Block()) as pipeline:
            await trio.sleep(2)
    return strategy, pipeline.report


async def main() -> None:
    strategy, report = await run()
    for symbol, seen in sorted(strategy.seen.items()):
        share = sum(imbalance > 0 for _, imbalance in seen) / len(seen)
        print(f"{symbol}: {len(seen)} updates, in {share:.0%} of them more is bid than asked")
    print(report)


if __name__ == "__main__":
    trio.run(main)
