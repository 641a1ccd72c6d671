"""A strategy that blocks runs in worker threads, and the event loop stays responsive.

The strategy is a plain ``def`` with ``time.sleep``. A heartbeat in the event loop
measures how late it wakes up. With the strategy in the loop it would be late by the
strategy's whole 20 ms, and so would be the reader of the socket and its pongs.
"""

import time

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA"]


def strategy(tick: tt.Tick) -> None:
    """Stand for a client library that knows nothing of trio."""
    time.sleep(0.02)


async def watch_the_loop(delays_ms: list[float]) -> None:
    """Record how much later than asked the loop wakes this task up."""
    while True:
        began = trio.current_time()
        await trio.sleep(0.005)
        delays_ms.append((trio.current_time() - began - 0.005) * 1e3)


async def main() -> None:
    delays_ms: list[float] = []
    async with (
        open_exchange(rate=1_000, symbols=SYMBOLS) as exchange,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(watch_the_loop, delays_ms)
        feed = tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        async with tt.open_pipeline(
            feed, strategy, workers=4, maxsize=300, shutdown_timeout=0.5
        ) as pipeline:
            await trio.sleep(1.5)
            for worker in pipeline.metrics().workers:
                print(f"{worker.name}: {worker.consumed} handled, busy {worker.busy_ratio:.0%}")
        nursery.cancel_scope.cancel()
    delays_ms.sort()
    print(
        f"the loop was late by {delays_ms[len(delays_ms) // 2]:.2f} ms (median), "
        f"{delays_ms[-1]:.1f} ms (worst) beside handlers of 20 ms"
    )
    print(pipeline.report)


if __name__ == "__main__":
    trio.run(main)
