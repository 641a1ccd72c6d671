"""A gap is announced for what may have been missed while a feed was not connected.

Once for each symbol, before the symbol's next tick.
"""

from __future__ import annotations

from typing import Any

import trio

import trio_ticks as tt


async def test_a_reconnect_is_told_as_a_gap_before_each_symbols_next_tick() -> None:
    log: list[Any] = []
    both, both_again = trio.Event(), trio.Event()

    async def handler(item: tt.Tick | tt.Gap) -> None:
        log.append(item)
        ticks = [
            (later.symbol, index) for index, later in enumerate(log) if isinstance(later, tt.Tick)
        ]
        gaps = [index for index, later in enumerate(log) if isinstance(later, tt.Gap)]
        if len({symbol for symbol, _ in ticks}) == 2:
            both.set()
        if len(gaps) == 2 and len({symbol for symbol, index in ticks if index > gaps[-1]}) == 2:
            both_again.set()

    with trio.fail_after(20):
        async with tt.exchange.open_exchange(symbols=["A", "B"], rate=200) as exchange:
            feed = tt.WebSocketFeed(
                exchange.url, ["A", "B"], backoff=tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02)
            )
            async with tt.open_pipeline(feed, handler, workers=2) as pipeline:
                await both.wait()
                assert not [item for item in log if isinstance(item, tt.Gap)]
                await exchange.drop_clients()
                await both_again.wait()
    pipeline.ledger.check()
    gaps = [(index, item) for index, item in enumerate(log) if isinstance(item, tt.Gap)]
    assert sorted(gap.symbol for _, gap in gaps) == ["A", "B"]
    for index, gap in gaps:
        assert (gap.reason, gap.count) == ("reconnect", 0)
        assert gap.first_timestamp <= gap.timestamp
        before = [
            item for item in log[:index] if isinstance(item, tt.Tick) and item.symbol == gap.symbol
        ]
        after = [
            item for item in log[index:] if isinstance(item, tt.Tick) and item.symbol == gap.symbol
        ]
        assert before
        assert after
        assert before[-1].timestamp <= gap.timestamp <= after[0].timestamp
