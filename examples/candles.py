"""Candles of a quarter of a second, made of trades.

Trades must not be lost, or the candles are wrong: the channel blocks. Each symbol's
trades are handled in order, so that a candle is complete when the first trade of the
next interval comes, and no lock is needed.
"""

from dataclasses import dataclass, field

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
INTERVAL_S = 0.25


@dataclass
class Candle:
    """One interval of one symbol."""

    begin_s: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int = 1


@dataclass
class Candles:
    """The candles of each symbol; the last one is still running."""

    of: dict[str, list[Candle]] = field(default_factory=dict)

    async def on_trade(self, trade: tt.Trade) -> None:
        begin_s = trade.timestamp.timestamp() // INTERVAL_S * INTERVAL_S
        candles = self.of.setdefault(trade.symbol, [])
        if not candles or begin_s > candles[-1].begin_s:
            price = trade.price
            candles.append(Candle(begin_s, price, price, price, price, trade.size))
            return
        candle = candles[-1]
        candle.high = max(candle.high, trade.price)
        candle.low = min(candle.low, trade.price)
        candle.close = trade.price
        candle.volume += trade.size
        candle.trades += 1


async def run() -> tuple[Candles, tt.PipelineReport]:
    """Run for three seconds."""
    candles = Candles()
    async with open_exchange(venue="binance", symbols=SYMBOLS, rate=400) as exchange:
        feed = tt.WebSocketFeed(exchange.url, SYMBOLS, venue="binance", channels=["trade"])
        async with tt.open_pipeline(feed, candles.on_trade, overflow=tt.Block()) as pipeline:
            await trio.sleep(3)
    return candles, pipeline.report


async def main() -> None:
    candles, report = await run()
    for symbol, made in sorted(candles.of.items()):
        last = made[-1]
        print(
            f"{symbol}: {len(made)} candles; the last: open {last.open:,.2f}, "
            f"high {last.high:,.2f}, low {last.low:,.2f}, close {last.close:,.2f}"
        )
    assert sum(candle.trades for made in candles.of.values() for candle in made) == report.consumed
    print(report)


if __name__ == "__main__":
    trio.run(main)
