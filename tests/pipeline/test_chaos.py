"""Faults on real sockets between exchange and feed: faults, strategies, places.

Whatever the network does to a connection, each tick that was decoded has one outcome,
each symbol's ticks are handled in order, none twice, and the feed comes back.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.chaos_handlers import Book, Handlers
from tests.worlds.chaos_proxy import CALM, Chaos, chaos_proxy
from tests.worlds.pipeline_world import assert_accounted
from tests.worlds.process_world import quick_main
from trio_ticks.exchange import open_exchange

__all__ = ["quick_main"]

PATIENCE_S = 60.0
SYMBOLS = ("SPY", "QQQ", "IWM")

FAULTS = {
    "cut": Chaos(end="cut", end_after=20_000),
    "cut in the handshake": Chaos(end="cut", end_after=40),
    "reset": Chaos(end="reset", end_after=7_777),
    "half-closed": Chaos(end="half", end_after=15_001),
    "stalled": Chaos(end="stall", end_after=12_345),
    "slow": Chaos(latency_s=0.02, piece=900, end="cut", end_after=9_000),
    "narrow": Chaos(bytes_per_s=2_000_000, piece=512, end="reset", end_after=20_000),
    "a wrong byte": Chaos(corrupt_at=5_003, end="cut", end_after=30_000),
}
STRATEGIES: dict[str, Any] = {
    "block": tt.Block(),
    "newest": tt.DropNewest(0.01),
    "oldest": tt.DropOldest(),
    "conflate": tt.Conflate(),
}
PLACES = {"loop": (0, 2), "thread": (1, 4), "process": (3, 4)}
"""Of the pairs of a fault and a strategy, which are tried there: one in so many."""


def cases() -> list[tuple[str, str, str]]:
    """Return what is tried: each fault and strategy in the loop or beside it."""
    return [
        (fault, strategy, place)
        for one, fault in enumerate(FAULTS)
        for other, strategy in enumerate(STRATEGIES)
        for place, (which, of) in PLACES.items()
        if (one + other) % of == which
    ]


@pytest.mark.parametrize(("fault", "strategy", "place"), cases())
async def test_a_fault_between_exchange_and_feed(fault: str, strategy: str, place: str) -> None:
    book = Book()
    faults = 3

    def plan(number: int) -> Chaos:
        return FAULTS[fault] if number < faults else CALM

    with trio.fail_after(PATIENCE_S):
        async with (
            open_exchange(symbols=SYMBOLS, rate=3000, seed=5) as exchange,
            chaos_proxy(exchange.port, plan) as proxy,
        ):
            feed = tt.WebSocketFeed(
                f"ws://127.0.0.1:{proxy.port}/",
                SYMBOLS,
                ping_interval=0.2,
                pong_timeout=0.2,
                connect_timeout=1.0,
                backoff=tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02),
            )
            async with tt.open_pipeline(
                feed,
                Handlers(place, book).of,
                executor=place,
                workers=2,
                maxsize=50,
                overflow=STRATEGIES[strategy],
                shutdown_timeout=30,
            ) as pipeline:
                while proxy.connections <= faults or not feed.connected:
                    pipeline.ledger.check()
                    await trio.sleep(0.005)
                before = pipeline.ledger.consumed
                while pipeline.ledger.consumed < before + 100:
                    pipeline.ledger.check()
                    await trio.sleep(0.005)
    assert proxy.ended == faults
    report = pipeline.report
    assert_accounted(report, failed=0)
    assert report.produced > 100
    stats = feed.stats
    assert stats.messages == report.produced + stats.malformed + stats.ignored + stats.unasked
    if place != "process":
        assert book.handled == report.consumed
        book.check(corrupted="wrong" in fault)
