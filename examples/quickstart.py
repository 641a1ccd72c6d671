"""A live feed through a bounded pipeline, for two seconds."""

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange


async def strategy(tick: tt.Tick) -> None:
    await trio.sleep(0.005)  # Your decision, your order gateway.


async def main() -> None:
    async with open_exchange(rate=5_000, symbols=["AAPL", "MSFT", "NVDA", "TSLA"]) as exchange:
        # Replace the local exchange's address by your venue's.
        feed = tt.WebSocketFeed(exchange.url, symbols=["AAPL", "MSFT", "NVDA", "TSLA"])
        async with tt.open_pipeline(feed, strategy, workers=4, maxsize=200) as pipeline:
            for _ in range(4):
                await trio.sleep(0.5)
                now = pipeline.metrics()
                print(
                    f"queue {now.queue_utilization_pct:3.0f} %  "
                    f"in {now.produced_per_s:,.0f}/s  out {now.consumed_per_s:,.0f}/s"
                )
    print(pipeline.report)


if __name__ == "__main__":
    trio.run(main)
