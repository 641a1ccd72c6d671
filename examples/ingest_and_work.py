"""The feed in one place, the strategy in two others, and a buffer between them.

``ingest`` brings the feed into the buffer. Two ``work``s share the symbols out among
themselves, so that each symbol stays in order; one of them leaves early, and the other
takes over its symbols. Each of the three could be a program of its own, on any machine.
Here they are three tasks, and the buffer is ZeroMQ, which needs no server
(``pip install 'trio-ticks[zeromq]'``); with ``redis://`` or ``kafka://`` the ticks
outlive a crash of all three.
"""

import socket
from collections import Counter

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META", "SPY", "QQQ"]


def free_address() -> str:
    """Return an address on this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"zmq+tcp://127.0.0.1:{free.getsockname()[1]}"


class Work:
    """Counts what it handles; ``seen`` has when and whose turn it was."""

    def __init__(self, name: str, seen: list[tuple[float, str, str]]) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.seen = seen

    async def __call__(self, tick: tt.Tick) -> None:
        self.counts[tick.symbol] += 1
        self.seen.append((trio.current_time(), self.name, tick.symbol))
        await trio.sleep(0.001)

    async def run(self, address: str, seconds: float) -> None:
        """Handle what comes out of the buffer for *seconds*."""
        buffer = tt.brokers.from_url(address)
        async with tt.open_pipeline(None, self, buffer=buffer, shutdown_timeout=1):
            await trio.sleep(seconds)


async def run() -> tuple[list[Work], list[tuple[float, str, str]], tt.PipelineReport]:
    """Run for three seconds; the second work leaves after half of them."""
    seen: list[tuple[float, str, str]] = []
    works = [Work("first", seen), Work("second", seen)]
    address = free_address()
    async with open_exchange(rate=500, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(exchange.url, SYMBOLS)
        async with (
            trio.open_nursery() as nursery,
            tt.open_pipeline(feed, None, buffer=tt.brokers.from_url(address)) as ingest,
        ):
            nursery.start_soon(works[0].run, address, 3.5)
            nursery.start_soon(works[1].run, address, 1.5)
            await trio.sleep(3)
    return works, seen, ingest.report


async def main() -> None:
    works, _, report = await run()
    for work in works:
        print(f"{work.name}: {work.counts.total()} ticks handled of {len(work.counts)} symbols")
    print(f"ingest: {report.consumed} of {report.produced} ticks brought into the buffer")
    print(report)


if __name__ == "__main__":
    trio.run(main)
