"""What the tests of Coinbase on real sockets share: a follower of a local Coinbase.

The follower is a strategy: it keeps a book of each product from what its pipeline hands
to it, and writes down gaps, trades, quotes and events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, until
from trio_ticks.exchange.coinbase import CoinbaseExchange, open_coinbase_exchange
from trio_ticks.exchange.coinbase.market import ONE, Product
from trio_ticks.feeds.websocket.backoff import BackoffPolicy

__all__ = ["CHANNELS", "SOON", "VENUES", "Follower", "follow", "true_levels"]

VENUES = ("coinbase", "coinbase-advanced")
CHANNELS = {
    "coinbase": ("ticker", "matches", "level2_batch", "heartbeat"),
    "coinbase-advanced": ("ticker", "level2", "market_trades", "heartbeats"),
}
SOON = BackoffPolicy(initial_s=0.01, maximum_s=0.02)


def true_levels(product: Product) -> tuple[Any, Any]:
    """Return bids and asks as they are at the venue, the best first."""
    bids = [(price / 100, size / ONE) for price, size in sorted(product.bids.items())]
    asks = [(price / 100, size / ONE) for price, size in sorted(product.asks.items())]
    return tuple(reversed(bids)), tuple(asks)


class Follower:
    """A strategy, and all that it has heard."""

    def __init__(self, exchange: CoinbaseExchange, feed: tt.WebSocketFeed) -> None:
        self.exchange = exchange
        self.feed = feed
        self.pipeline: Any = None
        self.books: dict[str, tt.Book] = {}
        self.outcomes: Counter[str] = Counter()
        """What became of book updates, and how many there were of other items."""
        self.gaps: list[tt.Gap] = []
        self.trades: list[tt.Trade] = []
        self.quotes: list[tt.Tick] = []
        self.events: list[tt.FeedEvent] = []

    async def handle(self, item: Any) -> None:
        if isinstance(item, tt.Gap):
            self.gaps.append(item)
            if item.reason == "reconnect" and item.symbol in self.books:
                # For all other reasons the pipeline holds back what is of no use.
                self.books[item.symbol].mark_stale(item.reason)
        elif isinstance(item, tt.BookUpdate):
            book = self.books.setdefault(item.symbol, tt.Book(item.symbol))
            self.outcomes[book.apply(item)] += 1
            self.outcomes["snapshot"] += item.snapshot
        elif isinstance(item, tt.Trade):
            self.trades.append(item)
        else:
            self.quotes.append(item)

    def reasons(self) -> set[str]:
        """Return the reasons of the gaps so far."""
        return {gap.reason for gap in self.gaps}

    def is_right(self) -> bool:
        """Return whether every book equals that of the venue, level by level."""
        for name, product in self.exchange.market.products.items():
            book = self.books.get(name)
            if book is None or (book.bids(), book.asks()) != true_levels(product):
                return False
        return True

    async def settle(self) -> None:
        """Let the market stand still, and wait until every book is right."""
        self.exchange.pause()
        await until(self.is_right)
        assert all(book.state == "valid" for book in self.books.values())


@asynccontextmanager
async def follow(
    venue: Any,
    *,
    channels: Any = "all",
    options: dict[str, Any] | None = None,
    symbols: Any = None,
    **settings: Any,
) -> AsyncIterator[Follower]:
    """Run a pipeline against a local Coinbase while the block lasts.

    The ledger is checked at the end. The market moves on until the block lets it stand
    still.
    """
    settings = {"symbols": ("BTC-USD", "ETH-USD"), "rate": 3000, "burst": 0.0, **settings}
    with trio.fail_after(PATIENCE):
        async with open_coinbase_exchange(venue=venue, **settings) as exchange:
            feed = tt.WebSocketFeed(
                exchange.url,
                exchange.symbols if symbols is None else symbols,
                venue=venue,
                channels=channels,
                **{"backoff": SOON, **(options or {})},
            )
            follower = Follower(exchange, feed)

            async def on_gap(gap: tt.Gap) -> None:
                await follower.handle(gap)

            async with tt.open_pipeline(
                feed,
                follower.handle,
                workers=2,
                on_gap=on_gap,
                on_feed=follower.events.append,
                overflow=tt.Block(),
            ) as pipeline:
                follower.pipeline = pipeline
                yield follower
            assert pipeline.report.ledger.unaccounted == 0
