"""A 50 ms mean-reversion strategy on a feed that is far too fast for it.

In memory there are four runs on the same feed: the default strategy for a full queue,
the one that keeps the newest ticks, a bound on the age, and only the latest quote of
each symbol. The number to compare is the wait in the queue: how old the news is that
the strategy acts on.

The same strategy with a buffer between processes, which another program may share:

    python mean_reversion.py --buffer 'redis://localhost?name=ticks'
    python mean_reversion.py --buffer kafka://localhost:9092/ticks
    python mean_reversion.py --buffer zmq+tcp://127.0.0.1:5555

and as two programs, of which the second may run many times, on any machines:

    python mean_reversion.py --buffer 'redis://localhost?name=ticks' --half ingest
    python mean_reversion.py --buffer 'redis://localhost?name=ticks' --half work

With a buffer the windows are kept in the folder "windows", from which the next run, and
whoever takes a symbol over, goes on. Remove it to begin anew.
"""

import argparse
import os
from collections import defaultdict, deque
from statistics import fmean, pstdev

import msgspec
import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META", "SPY", "QQQ"]
WINDOW = 20
ENTRY_Z = 1.5
WINDOWS = trio.Path("windows")
"""Where the windows of symbols are saved; shared by all workers."""


class MeanReversion:
    """Buys a symbol that is cheap against its own recent mean, sells one that is dear.

    It sends at most one order a tick and keeps no position. With a buffer its symbols
    may move to another worker, which then goes on with the window that this one has
    saved.
    """

    def __init__(self) -> None:
        self.mids: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self.signals = {"buy": 0, "sell": 0}
        self.begun = trio.Event()

    async def gained(self, symbols: frozenset[str]) -> None:
        """Load the windows of *symbols*, before their first tick here."""
        self.begun.set()
        for symbol in symbols:
            path = WINDOWS / f"{symbol}.json"
            if await path.exists():
                self.mids[symbol].extend(msgspec.json.decode(await path.read_bytes()))

    async def lost(self, symbols: frozenset[str]) -> None:
        """Save the windows of *symbols*, after their last tick here."""
        await WINDOWS.mkdir(parents=True, exist_ok=True)
        for symbol in symbols:
            window = self.mids.pop(symbol, deque())
            # Written beside it and then renamed: nobody reads half a file.
            part = WINDOWS / f"{symbol}.{os.getpid()}"
            await part.write_bytes(msgspec.json.encode(list(window)))
            await part.replace(WINDOWS / f"{symbol}.json")

    async def __call__(self, tick: tt.Tick) -> None:
        # With ordering="symbol" (the default) no other worker uses this symbol's window
        # meanwhile.
        window = self.mids[tick.symbol]
        window.append(tick.mid_price)
        if len(window) == WINDOW and (deviation := pstdev(window)) > 0:
            score = (tick.mid_price - fmean(window)) / deviation
            if abs(score) > ENTRY_Z:
                self.signals["sell" if score > 0 else "buy"] += 1
        await trio.sleep(
            0.05
        )  # The model's slow part: features from a database, a risk check, the order gateway.


async def run(
    title: str, url: str, overflow: tt.OverflowStrategy, max_age: float | None = None
) -> None:
    """Run the strategy for a second and a half and print what became of the ticks."""
    strategy = MeanReversion()
    feed = tt.WebSocketFeed(url, symbols=SYMBOLS)
    async with tt.open_pipeline(
        feed,
        strategy,
        workers=8,
        maxsize=200,
        overflow=overflow,
        max_age=max_age,
        shutdown_timeout=0.25,
    ) as pipeline:
        await trio.sleep(1.5)
    report = pipeline.report
    drops = ", ".join(
        f"{count:,} {reason}" for reason, count in report.dropped_by_reason.items() if count
    )
    print(f"\n{title}")
    print(
        f"  {report.produced:,} ticks in {report.duration_s:.1f} s; "
        f"handled {report.consumed:,}; dropped: {drops}"
    )
    print(
        f"  wait in the queue: p50 {report.queue_wait_ms.p50:,.0f} ms, "
        f"p99 {report.queue_wait_ms.p99:,.0f} ms; signals: {strategy.signals}"
    )
    assert report.produced == report.consumed + report.failed + report.dropped, (
        "a tick has no outcome"
    )


async def run_in_memory() -> None:
    async with open_exchange(rate=4_000, symbols=SYMBOLS) as exchange:
        print("8 workers at 50 ms take at most 160 ticks/s; the feed brings 4,000.")
        await run(
            "DropNewest(timeout=0.5): wait half a second an episode, then drop what finds no room",
            exchange.url,
            tt.DropNewest(timeout=0.5),
        )
        await run(
            "DropOldest(): never wait, push out what has waited longest",
            exchange.url,
            tt.DropOldest(),
        )
        await run(
            "DropOldest(), max_age=0.25: and never act on what is older than 250 ms",
            exchange.url,
            tt.DropOldest(),
            max_age=0.25,
        )
        await run(
            "Conflate(): each symbol's latest quote and no other", exchange.url, tt.Conflate()
        )


async def run_over(buffer: str, half: str, seconds: float) -> None:
    """Run the strategy, or one half of it, with the buffer at this URL."""
    strategy = MeanReversion()
    async with open_exchange(rate=80, symbols=SYMBOLS) as exchange:
        feed = None if half == "work" else tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        handler = None if half == "ingest" else strategy
        async with tt.open_pipeline(
            feed,
            handler,
            buffer=tt.brokers.from_url(buffer),
            overflow=None if feed is None else tt.DropOldest(),
            workers=4 if handler is None else 8,
        ) as pipeline:
            if handler is not None:
                # Kafka takes some seconds to give a new worker its share.
                with trio.move_on_after(20):
                    await strategy.begun.wait()
            await trio.sleep(seconds)
    for each in (pipeline.ingest, pipeline):
        if each is not None:
            ledger = each.report.ledger
            verb = "brought into the buffer" if each.half == "ingest" else "handled"
            print(
                f"{each.half}: {verb} {ledger.consumed:,} of {ledger.produced:,} ticks, dropped "
                f"{ledger.dropped:,}, given back {ledger.given_back:,}"
            )
            assert ledger.unaccounted == 0, "a tick has no outcome"
    print(f"signals: {strategy.signals}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--buffer", help="URL of a buffer between processes; none: in memory")
    parser.add_argument("--half", choices=["both", "ingest", "work"], default="both")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.buffer is None:
        trio.run(run_in_memory)
    else:
        trio.run(run_over, options.buffer, options.half, options.seconds)


if __name__ == "__main__":
    main()
