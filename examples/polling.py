"""A venue that does not push is asked, once in a while: a ``PollingFeed``.

The venue is a small HTTP server in this file. ``fetch`` asks it with plain sockets, so
that the example needs nothing else; with httpx it is two lines.
"""

import json
from datetime import UTC, datetime
from functools import partial
from random import Random

import trio

import trio_ticks as tt


class Venue:
    """Answers each request with its quotes; every tenth time it is busy."""

    def __init__(self) -> None:
        self.random = Random(7)
        self.requests = 0
        self.bid = 187.0

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        self.requests += 1
        if self.requests % 10 == 0:
            await stream.send_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\n\r\n")
            return
        # A venue's quote does not change between any two requests.
        self.bid += self.random.choice([-0.01, 0, 0, 0.01])
        quote = {"symbol": "AAPL", "bid": self.bid, "at": datetime.now(UTC).isoformat()}
        if self.random.random() < 0.05:
            quote["bid"] = None
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps([quote]).encode())


class BusyError(Exception):
    """The venue asks to be left alone; the feed knows the attribute."""

    retry_after_s = 0.0


async def fetch(port: int) -> list[tt.Tick]:
    """Ask once; what this raises is the feed's to deal with."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /quotes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = b"".join([bytes(part) async for part in stream]).partition(b"\r\n\r\n")
    if b" 503 " in head.splitlines()[0]:
        raise BusyError("the venue is busy")
    return [
        # With the venue's own time: so the feed sees what it has seen before.
        tt.Tick(
            quote["symbol"],
            datetime.fromisoformat(quote["at"]),
            quote["bid"],
            quote["bid"] + 0.01,
            float("nan"),  # Not said is NaN, never 0.
            float("nan"),
            float("nan"),
        )
        for quote in json.loads(body)
        if quote["bid"] is not None
    ]


async def main() -> None:
    """Ask every 20 ms for a second."""

    async def strategy(tick: tt.Tick) -> None:
        # How old a quote was when it came, and how long it then waited here.
        ages.append((tt.arrival() - tick.timestamp).total_seconds())

    ages: list[float] = []
    events: list[str] = []
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, Venue().serve, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        feed = tt.PollingFeed(
            partial(fetch, port),
            interval=0.02,
            name="quotes",
            symbols=["AAPL"],
            backoff=tt.BackoffPolicy(initial_s=0.01, maximum_s=0.1),
        )
        async with tt.open_pipeline(
            feed, strategy, on_feed=lambda event: events.append(event.kind)
        ) as pipeline:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    print(f"{len(ages)} quotes, on average {sum(ages) / len(ages) * 1e3:.1f} ms old")
    print(f"{feed.stats.connect_failures} requests failed; told: {sorted(set(events))}")
    print(pipeline.report)


if __name__ == "__main__":
    trio.run(main)
