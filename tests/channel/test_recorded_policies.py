"""A recording of quotes and trades, ten times too fast, under a strategy per kind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.recordings import REAL, busy_day, needs_real, write


def recorded(path: Path) -> Iterator[tuple[float, tt.Tick | tt.Trade]]:
    """Give each quote and trade of the recording with its arrival, in seconds.

    Every third goes to a second symbol.
    """
    with gzip.open(path, "rt") as lines:
        for number, line in enumerate(lines):
            arrived, _, text = line.partition(" ")
            message = json.loads(text)
            data = message.get("data", message)
            symbol = "BTCUSDT" if number % 3 else "SHADOW"
            moment = int(arrived) / 1e9
            stamp = datetime.fromtimestamp(moment, UTC)
            if str(message.get("stream", "")).endswith("@bookTicker"):
                yield (
                    moment,
                    tt.Tick(
                        symbol,
                        stamp,
                        float(data["b"]),
                        float(data["a"]),
                        float(data["B"]),
                        float(data["A"]),
                        float(number),
                    ),
                )
            elif str(message.get("stream", "")).endswith("@trade"):
                yield (
                    moment,
                    tt.Trade(
                        symbol, stamp, float(data["p"]), float(data["q"]), trade_id=str(number)
                    ),
                )


class Recording:
    """Plays the recording at its true pace, on the virtual clock."""

    def __init__(self, items: list[tuple[float, Any]]) -> None:
        self._items = items

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        began, first = trio.current_time(), self._items[0][0]
        place = 0
        while place < len(self._items):
            due = self._items[place][0] - first
            await trio.sleep_until(began + due)
            batch = []
            while (
                place < len(self._items)
                and self._items[place][0] - first <= trio.current_time() - began
            ):
                batch.append(self._items[place][1])
                place += 1
            await send.send_many(batch)


def number(item: tt.Tick | tt.Trade) -> int:
    return int(item.trade_id or 0) if isinstance(item, tt.Trade) else int(item.volume)


async def test_not_a_trade_is_lost_and_every_symbol_ends_up_to_date(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write(tmp_path / "recording.gz", *busy_day(4000), compressed=True)
    await play_too_fast(list(recorded(path)))


@needs_real
async def test_so_it_is_with_a_real_recording(autojump_clock: MockClock) -> None:
    await play_too_fast(list(recorded(REAL)))


async def play_too_fast(items: list[tuple[float, Any]]) -> None:
    span = items[-1][0] - items[0][0]
    sent = [item for _, item in items]
    trades = [number(item) for item in sent if isinstance(item, tt.Trade)]
    last_quote = {item.symbol: number(item) for item in sent if isinstance(item, tt.Tick)}
    handled: list[Any] = []
    workers, overload = 2, 10.0
    service_s = workers * overload * span / len(items)

    async def handler(item: tt.Tick | tt.Trade) -> None:
        handled.append(item)
        await trio.sleep(service_s)

    async with tt.open_pipeline(
        Recording(items),
        handler,
        workers=workers,
        maxsize=1000,
        overflow={tt.Tick: tt.Conflate(), tt.Trade: tt.Block()},
    ) as pipeline:
        await pipeline.wait()
    report = pipeline.report
    pipeline.ledger.check()
    assert report.produced == len(items)
    assert report.dropped == report.dropped_by_reason["conflated"] > 0
    got = {
        symbol: [number(item) for item in handled if item.symbol == symbol] for symbol in last_quote
    }
    for symbol, numbers in got.items():
        assert numbers == sorted(numbers)
        assert [n for n in numbers if n in last_quote.values()] == [last_quote[symbol]]
    assert sorted(number(item) for item in handled if isinstance(item, tt.Trade)) == trades
    assert report.consumed + report.dropped == len(items)
