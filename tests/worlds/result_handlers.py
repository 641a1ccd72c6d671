"""Handlers that return something, at module level: processes can import them."""

from __future__ import annotations

import attrs

import trio_ticks as tt


@attrs.frozen
class Found:
    """What a handler found out about a tick."""

    symbol: str
    volume: float


def of_tick(tick: tt.Tick) -> Found | None:
    return Found(tick.symbol, tick.volume) if tick.volume % 3 else None


async def of_tick_async(tick: tt.Tick) -> Found | None:
    return of_tick(tick)


@tt.batch_handler(max_size=16)
def of_batch(ticks: list[tt.Tick]) -> list[Found | None]:
    return [of_tick(tick) for tick in ticks]


@tt.batch_handler(max_size=16)
async def of_batch_async(ticks: list[tt.Tick]) -> list[Found | None]:
    return [of_tick(tick) for tick in ticks]


@tt.batch_handler
def short_batch(ticks: list[tt.Tick]) -> str:
    return "one value"


def strange(tick: tt.Tick) -> object:
    return object()


def of_gap_too(item: tt.Tick | tt.Gap) -> str:
    return type(item).__name__
