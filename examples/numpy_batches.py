"""A strategy over many ticks at a time, with NumPy.

One call of NumPy costs a microsecond whether it takes one number or a hundred. A batch
handler gets what waits, up to its limit: single ticks while it is calm, and large
batches, each cheaper a tick, when much comes at once.
"""

from typing import Any

import numpy as np
import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = [f"SYM{number:02}" for number in range(30)]
ALPHA = 0.05


class Averages:
    """Moving averages of all symbols, in one array."""

    def __init__(self) -> None:
        self.row = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        self.mean = np.full(len(SYMBOLS), np.nan)
        self.sizes: list[int] = []
        """How many ticks each batch had."""

    @tt.batch_handler(max_size=500)
    async def on_ticks(self, ticks: list[tt.Tick]) -> None:
        self.sizes.append(len(ticks))
        rows = np.array([self.row[tick.symbol] for tick in ticks])
        bids = np.array([tick.bid for tick in ticks])
        asks = np.array([tick.ask for tick in ticks])
        middles: Any = (bids + asks) / 2
        # Of a symbol that is there several times, the last one counts.
        newest = np.full(len(SYMBOLS), np.nan)
        newest[rows] = middles
        seen = ~np.isnan(newest)
        fresh = seen & np.isnan(self.mean)
        self.mean[fresh] = newest[fresh]
        self.mean[seen] += ALPHA * (newest[seen] - self.mean[seen])
        await trio.sleep(0.002)  # Orders, once a batch.


async def run() -> tuple[Averages, tt.PipelineReport]:
    """Run for two seconds, with bursts."""
    strategy = Averages()
    async with open_exchange(rate=20_000, burst=0.9, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        async with tt.open_pipeline(
            feed, strategy.on_ticks, workers=1, ordering="none", maxsize=10_000
        ) as pipeline:
            await trio.sleep(2)
    return strategy, pipeline.report


async def main() -> None:
    strategy, report = await run()
    sizes = sorted(strategy.sizes)
    print(
        f"{len(sizes):,} batches; the median one had {sizes[len(sizes) // 2]} ticks, "
        f"the largest {sizes[-1]}"
    )
    print(f"averages of {np.count_nonzero(~np.isnan(strategy.mean))} symbols")
    print(report)


if __name__ == "__main__":
    trio.run(main)
