"""How many bytes one queued tick takes, the tick itself included.

Fills a queue in a fresh process and reads the resident size.
``python -m tests.benchmarks.memory trio_ticks 500000`` prints one number.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .runner import ROOT

__all__ = ["QUEUES", "bytes_per_tick", "main"]

_BATCH = 256


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _trio_ticks(ticks: int, payloads: list[bytes]) -> int:
    import trio

    import trio_ticks as tt

    from .contenders import decoder

    async def fill() -> int:
        decode = decoder()
        send: tt.TickSendChannel[Any]
        receive: tt.TickReceiveChannel[Any]
        send, receive = tt.open_tick_channel(maxsize=ticks, overflow=tt.Block())
        before = _resident()
        async with send, receive:
            for start in range(0, ticks, _BATCH):
                await send.send_many(
                    [
                        decode(payloads[number % len(payloads)])
                        for number in range(start, min(ticks, start + _BATCH))
                    ]
                )
            after = _resident()
            assert receive.ledger.queued == ticks
        return after - before

    return trio.run(fill)


def _classic(ticks: int, payloads: list[bytes]) -> int:
    import asyncio
    from datetime import datetime

    from .classic import ClassicTick

    async def fill() -> int:
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=ticks)
        before = _resident()
        for number in range(ticks):
            data = json.loads(payloads[number % len(payloads)])
            data["timestamp"] = datetime.fromisoformat(data["timestamp"])
            queue.put_nowait(ClassicTick(**data))
        after = _resident()
        assert queue.qsize() == ticks
        return after - before

    return asyncio.run(fill())


QUEUES: dict[str, Callable[[int, list[bytes]], int]] = {
    "trio_ticks": _trio_ticks,
    "asyncio.Queue": _classic,
}


def bytes_per_tick(queue: str, ticks: int) -> float:
    """Measure *queue* with *ticks* in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", queue, str(ticks)]
    return float(
        subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=True
        ).stdout
    )


def main() -> None:
    """Fill the queue that the arguments name, and print the bytes a tick."""
    from .wire import encode_session

    queue, ticks = sys.argv[1], int(sys.argv[2])
    payloads = encode_session(min(ticks, 10_000)).payloads()
    print(QUEUES[queue](ticks, payloads) / ticks)


if __name__ == "__main__":
    main()
