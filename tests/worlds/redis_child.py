"""A worker process for tests: ``python -m tests.worlds.redis_child URL LOG POISON``.

It writes a line for each tick that it has handled, ends at once when it meets the
symbol and number of POISON, and leaves in good order at SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import trio

from tests.worlds.redis_world import Book, Workers
from trio_ticks.brokers.redis_streams import RedisStreams


async def main() -> None:
    url, path, poison = sys.argv[1:]
    buffer = RedisStreams.from_url(url)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handler(item: Any) -> None:
        await trio.sleep(0.0005)
        line = f"{item.symbol} {int(item.volume)}"
        if line == poison:
            os._exit(9)
        os.write(log, f"{line}\n".encode())

    workers, source = Workers(Book(), handler, room=300), buffer.source()

    async def leave() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            print("ready", flush=True)
            async for _ in signals:
                source.drain()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await workers.run(source)
        nursery.cancel_scope.cancel()
    workers.check(source)
    print(f"buried {len(workers.buried)}", flush=True)


if __name__ == "__main__":
    trio.run(main)
