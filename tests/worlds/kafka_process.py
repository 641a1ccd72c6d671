"""A worker process of a Kafka buffer, for tests that kill it.

It prints a line ``<symbol> <number>`` for each tick that it has handled. Arguments: the
address, the topic, the group, the milliseconds that a handling takes, and as JSON
further settings. ``poison`` is the number of the ticks at which it kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import trio

import trio_ticks as tt
from tests.worlds.helpers import number
from tests.worlds.kafka_world import QUICK, Workers
from trio_ticks.brokers import Kafka


async def main() -> None:
    """Work until killed, or until SIGTERM, which drains."""
    address, topic, group, pause_ms, more = sys.argv[1:]
    settings = json.loads(more)
    poison = settings.pop("poison", None)
    consumer = {**QUICK, **settings.pop("consumer_settings", {})}
    kafka = Kafka(address, topic, group=group, consumer_settings=consumer, **settings)

    async def handler(tick: tt.Tick) -> None:
        if number(tick) == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        await trio.sleep(float(pause_ms) / 1000)
        # One write a line, so that a kill tears none.
        os.write(1, f"{tick.symbol} {number(tick)}\n".encode())

    world = Workers(handler, keep=False)
    source = kafka.source()

    async def end() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                source.drain()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        nursery.start_soon(world.pool.run)
        await source.run(world, world.outcomes)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
