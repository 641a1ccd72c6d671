"""What the levels of a book cost to decode, against msgspec alone.

The rest of a message's way, from the wire to the handler, is that of a flat tick. So an
update of a book may cost as much as a flat tick, and 1.3 times what msgspec takes to
decode the same bytes to plain lists and numbers. What is decoded is kept until the end
of its batch, by msgspec's side too, since memory that is used again at once is free.
Given is the CPU time a message, the least of all rounds, in which the three take turns.
Coinbase's updates have one level each in its recording of 2021; a batch has several.

    python -m tests.benchmarks.depth
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from trio_ticks.feeds.venues import find_language
from trio_ticks.testing import CodecProbe

from .wire import encode_session

__all__ = ["main"]

_LIMIT = 1.3
_MESSAGES = 200
_BATCH = 20


def _levels(rng: random.Random, count: int) -> list[list[str]]:
    return [[f"{61_000 + rng.random() * 900:.2f}", f"{rng.random() * 9:.8f}"] for _ in range(count)]


def _binance(rng: random.Random, number: int) -> Any:
    fields = {"e": "depthUpdate", "E": 1_723_161_255_208 + number, "s": "BTCUSDT"}
    fields |= {"U": 10 * number + 1, "u": 10 * number + 10}
    fields |= {"b": _levels(rng, 18), "a": _levels(rng, 18)}
    return {"stream": "btcusdt@depth@100ms", "data": fields}


def _tickdb(rng: random.Random, number: int) -> Any:
    fields = {"symbol": "BTCUSDT", "bids": _levels(rng, 10), "asks": _levels(rng, 10)}
    return {"cmd": "depth", "data": {**fields, "timestamp": 1_703_123_456_789 + number}}


def _coinbase(rng: random.Random, number: int, levels: int = 20) -> Any:
    changes = [[rng.choice(["buy", "sell"]), *level] for level in _levels(rng, levels)]
    stamp = f"2026-03-02T14:30:00.{number:06}Z"
    return {"type": "l2update", "product_id": "BTC-USD", "changes": changes, "time": stamp}


def _kraken(rng: random.Random, number: int) -> Any:
    def side() -> list[dict[str, float]]:
        return [{"price": float(price), "qty": float(qty)} for price, qty in _levels(rng, 10)]

    row = {"symbol": "BTC/USD", "bids": side(), "asks": side(), "checksum": 2_439_117_997}
    row["timestamp"] = f"2026-03-02T14:30:00.{number:06}Z"
    return {"channel": "book", "type": "update", "data": [row]}


_Make = Callable[[random.Random, int], Any]
_SETS: dict[str, tuple[str, str, str, _Make]] = {
    "binance": ("binance", "depth", "BTCUSDT", _binance),
    "tickdb": ("tickdb", "depth", "BTCUSDT", _tickdb),
    "kraken": ("kraken", "book", "BTC/USD", _kraken),
    **{
        f"coinbase, {levels:2}": (
            "coinbase",
            "level2_batch",
            "BTC-USD",
            partial(_coinbase, levels=levels),
        )
        for levels in (1, 3, 20)
    },
}
"""The venue, the channel, the symbol and what makes a message, by the line's name."""


def _payloads(name: str) -> list[bytes]:
    rng, make = random.Random(name), _SETS[name][3]
    return [
        json.dumps(make(rng, number), separators=(",", ":")).encode() for number in range(_MESSAGES)
    ]


def _decoder(name: str, payloads: Sequence[bytes]) -> Callable[[], None]:
    """Return what decodes all messages, by one codec.

    Raises:
        SystemExit: they do not make an item each.
    """
    venue, channel, symbol, _make = _SETS.get(name, ("flat", "", "", None))
    language = find_language(venue, [channel] if channel else "all")
    batches = [payloads[at : at + _BATCH] for at in range(0, len(payloads), _BATCH)]

    codec = language.codec_for(CodecProbe(language.channels))
    if symbol:
        codec.subscribe([symbol])

    def run() -> int:
        return sum(len(codec.decode(batch)) for batch in batches)

    if run() != len(payloads):
        raise SystemExit(f"{name}: {run()} items of {len(payloads)} messages")
    return lambda: (run(), None)[1]


def _least_us(works: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    least = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            began = time.process_time()
            work()
            least[index] = min(least[index], time.process_time() - began)
    return [each / _MESSAGES * 1e6 for each in least]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each set of messages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args(arguments)
    flat = _decoder("flat", encode_session(_MESSAGES).payloads())
    decode = msgspec.json.Decoder().decode
    kept = True
    for name in _SETS:
        payloads = _payloads(name)

        def alone(payloads: Sequence[bytes] = payloads) -> None:
            for at in range(0, len(payloads), _BATCH):
                len([decode(payload) for payload in payloads[at : at + _BATCH]])

        ours, bare, tick = _least_us([_decoder(name, payloads), alone, flat], options.rounds)
        ratio = (ours - tick) / bare
        kept = kept and ratio <= _LIMIT
        print(
            f"{name:12} {ours:6.2f} us, msgspec alone {bare:6.2f} us, a flat tick {tick:.2f} us:"
            f" {ratio:.2f} (limit {_LIMIT:g}), {len(payloads[0]) / ours:.0f} MB/s"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
