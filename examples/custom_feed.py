"""A feed of your own is a class with one method: ``async def run(self, send)``.

This one reads lines of text from a TCP server; the server beside it plays the venue. A
real feed differs only in how it decodes what it reads.
"""

from datetime import UTC, datetime
from functools import partial

import trio

import trio_ticks as tt


class LineFeed:
    """Ticks from lines like ``AAPL 187.01 187.02 300 200 45000``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stats = tt.FeedStats()  # Optional; the pipeline's metrics and report show it.

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        """Push ticks until the server hangs up; then the pipeline drains its queue."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            self.stats.connected = True
            rest = b""
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                await send.send_many(
                    [tick for line in lines if (tick := self.decode(line)) is not None]
                )

    def decode(self, line: bytes) -> tt.Tick | None:
        """Return the line's tick; None, counted as malformed, if the line has none."""
        self.stats.messages += 1
        try:
            symbol, *numbers = line.decode().split()
            bid, ask, bid_size, ask_size, volume = map(float, numbers)
            return tt.Tick(symbol, datetime.now(UTC), bid, ask, bid_size, ask_size, volume)
        except (
            ValueError
        ):  # Too few words, no number, not UTF-8; or a Tick that cannot be: NaN, a negative size.
            self.stats.malformed += 1
            return None


async def play_venue(stream: trio.SocketStream) -> None:
    """Send two thousand quotes and some junk, then hang up."""
    for number in range(2_000):
        price = 187 + number % 50 / 100
        await stream.send_all(f"AAPL {price:.2f} {price + 0.01:.2f} 300 200 {number}\n".encode())
        if number % 500 == 0:
            await stream.send_all(b"AAPL nan 187.02 300 200 1\n")
            await trio.sleep(0.1)


async def main() -> None:
    """Run the feed until it ends."""
    mids: list[float] = []

    async def strategy(tick: tt.Tick) -> None:
        mids.append(tick.mid_price)

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, play_venue, 0, host="127.0.0.1")
        )
        report = await tt.run_pipeline(LineFeed(listeners[0].socket.getsockname()[1]), strategy)
        nursery.cancel_scope.cancel()
    print(f"{len(mids):,} quotes, mid price between {min(mids):.2f} and {max(mids):.2f}")
    print(report)


if __name__ == "__main__":
    trio.run(main)
