"""A worker process for tests: writes the number of each tick, and its own, to a file.

``python -m tests.worlds.zeromq_worker ADDRESS FILE SECONDS POISON``: at the tick with
the number POISON the process kills itself; -1: at none.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import trio

from tests.worlds.zeromq_world import Strategy
from trio_ticks.brokers.zeromq import ZeroMQ


async def main(*arguments: str) -> None:
    address, path, seconds, poison = arguments
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle(item: Any) -> None:
        if int(item.volume) == int(poison):
            os.kill(os.getpid(), signal.SIGKILL)
        await trio.sleep(float(seconds))
        os.write(file, b"%d %d\n" % (int(item.volume), os.getpid()))

    strategy = Strategy(handle, workers=4)
    source = ZeroMQ(address).source()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(strategy.run)

            async def stop() -> None:
                async for _ in signals:
                    source.drain()

            nursery.start_soon(stop)
            await source.run(strategy, strategy)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
