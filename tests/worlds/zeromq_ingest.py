"""An ingest process for tests, which says nothing when it is killed.

``python -m tests.worlds.zeromq_ingest PORT FIRST COUNT``: it binds 127.0.0.1 and sends
ticks from the number FIRST on.
"""

from __future__ import annotations

import sys

import trio

from tests.worlds.zeromq_world import Queue, ticks
from trio_ticks.brokers.zeromq import ZeroMQ


async def main(*arguments: str) -> None:
    port, first, count = map(int, arguments)
    buffer = ZeroMQ(f"tcp://127.0.0.1:{port}", heartbeat=0.1, lease=1.0)
    await buffer.sink().run(Queue(ticks(count, first=first)))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
