"""A codec for Bybit, public spot channels of API v5: best quotes and trades.

It was written from the page "Write a venue" alone, by somebody who had seen none of
the library's source. It has run against messages like those of
https://bybit-exchange.github.io/docs/v5/ws/connect, not against the venue.
"""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import trio_ticks as tt

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ms: int) -> datetime:
    """Return the time that is so many milliseconds after the beginning of 1970."""
    return EPOCH + timedelta(milliseconds=ms)


def trade(row: dict[str, Any]) -> tt.Trade:
    """Return the trade in *row*; its side is that of the taker."""
    price, size = float(row["p"]), float(row["v"])
    return tt.Trade(row["s"], moment(row["T"]), price, size, row["S"].lower(), row["i"])


# begin: the codec
class BybitCodec(tt.Codec):
    """Bybit v5, public spot: best quotes (orderbook.1) and trades."""

    url = "wss://stream.bybit.com/v5/public/spot"
    channels = ("orderbook.1", "publicTrade")
    default_channels = ("orderbook.1",)
    keep_alive = tt.KeepAlive('{"op":"ping"}', every_s=20, within_s=10)

    def __init__(self, context: tt.CodecContext) -> None:
        super().__init__(context)
        self._tops: dict[str, dict[str, tuple[float, float]]] = {}

    def subscribe(self, symbols: Sequence[str]) -> list[str]:
        self._tops.update((symbol, {}) for symbol in symbols)
        return self._request("subscribe", symbols)

    def unsubscribe(self, symbols: Sequence[str]) -> list[str]:
        return self._request("unsubscribe", symbols)

    def _request(self, op: str, symbols: Sequence[str]) -> list[str]:
        topics = [".".join(pair) for pair in product(self.context.channels, symbols)]
        parts = [topics[first : first + 10] for first in range(0, len(topics), 10)]
        return [json.dumps({"op": op, "args": part}) for part in parts]

    def decode_one(self, payload: bytes) -> tt.Tick | list[tt.Trade] | None:
        message = json.loads(payload)
        if "topic" not in message:
            self._take_answer(message["op"], message.get("success"), message["ret_msg"])
            return None
        data = message["data"]
        if message["topic"].startswith("publicTrade"):
            return [trade(row) for row in data]
        # A delta has the side that has changed, and the level that is gone as size 0.
        sides = {side: [(float(p), float(q)) for p, q in data[side] if float(q)] for side in "ba"}
        top = self._tops[data["s"]]
        top.update({side: levels[-1] for side, levels in sides.items() if levels})
        if len(top) < 2:
            return None
        (bid, bid_size), (ask, ask_size) = top["b"], top["a"]
        return tt.Tick(data["s"], moment(message["ts"]), bid, ask, bid_size, ask_size, math.nan)

    def _take_answer(self, op: str, success: bool | None, words: str) -> None:
        if op == "ping":
            self.context.pong()
        elif success is False:
            self.context.refused(words.rpartition(".")[2] if "topic" in words else None, words)


# end: the codec
