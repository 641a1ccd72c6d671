"""The gap of a reconnect spans all of the outage, not the last try alone."""

from __future__ import annotations

import trio

import trio_ticks as tt


async def test_the_gap_of_a_reconnect_begins_at_the_loss() -> None:
    refused: list[float] = []
    gaps: list[tt.Gap] = []
    down = False
    first, again = trio.Event(), trio.Event()

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        if down and len(refused) < 4:
            refused.append(trio.current_time())
            raise OSError("down")
        return await trio.open_tcp_stream(host, port)

    async def handler(tick: tt.Tick) -> None:
        first.set()
        if gaps:
            again.set()

    with trio.fail_after(20):
        async with tt.exchange.open_exchange(symbols=["A"], rate=200) as exchange:
            backoff = tt.BackoffPolicy(initial_s=0.1, maximum_s=0.1, uniform=lambda: 1.0)
            feed = tt.WebSocketFeed(exchange.url, ["A"], backoff=backoff, open_stream=open_stream)
            async with tt.open_pipeline(feed, handler, workers=1, on_gap=gaps.append):
                await first.wait()
                down = True
                await exchange.drop_clients()
                await again.wait()
    (gap,) = gaps
    assert (gap.timestamp - gap.first_timestamp).total_seconds() >= refused[-1] - refused[0]
