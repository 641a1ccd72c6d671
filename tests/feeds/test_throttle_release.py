"""A limit that is taken back leaves no symbol paused."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.worlds.helpers import make_tick
from trio_ticks.feeds.websocket.throttling import SourceThrottle

SYMBOLS = "ABCDEFGH"


class PausingCodec:
    """The language of a venue that knows no rate request: symbols are paused."""

    def subscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        return ["+" + ",".join(symbols)]

    def unsubscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        return ["-" + ",".join(symbols)]


def test_all_symbols_come_back_though_nobody_says_so_again() -> None:
    throttle = SourceThrottle(PausingCodec(), SYMBOLS)
    throttle.opening(0.0)
    throttle.limit(100.0)
    throttle.due(2.0)
    ticks = [make_tick(symbol, n) for symbol in SYMBOLS for n in range(500)]
    throttle.delivered(2.2, 0.0, ticks, 0.0)
    throttle.due(2.5)
    assert len(throttle.paused) == 7
    throttle.limit(None)
    now = 4.0
    for _ in range(10):
        throttle.due(now)
        now = throttle.next_due_at(now)
        if now == math.inf:
            break
    assert not throttle.paused
