"""Faults on real sockets, between the brokers' clients and their servers.

Whatever the network does, what was appended is handled, no symbol goes back behind a
tick that it skipped, and the laws of both ends hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.worlds.chaos_proxy import Chaos, chaos_proxy
from tests.worlds.redis_world import Book, Ingest, Workers, sums, ticks, until
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams

COUNT = 1500

FAULTS = {
    "cut": Chaos(end="cut", end_after=30_000),
    "reset": Chaos(end="reset", end_after=30_001),
    "half-closed": Chaos(end="half", end_after=30_002),
    "slow": Chaos(latency_s=0.003, piece=1000, end="cut", end_after=60_000),
    "narrow": Chaos(bytes_per_s=2_000_000, piece=2048, end="reset", end_after=60_001),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(sorted(BINARIES)[-1]) as server:
        yield server


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_between_clients_and_redis(fault: str, server: Server) -> None:
    server.ask("FLUSHALL")
    sent, book = ticks(COUNT), Book()
    chaos = FAULTS[fault]
    with trio.fail_after(90):
        async with chaos_proxy(
            server.port,
            # Ever later, so that there is progress.
            lambda number: attrs.evolve(chaos, end_after=chaos.end_after + 997 * number),
        ) as proxy:
            direct = RedisStreams(server.url, lease=10.0)
            through = attrs.evolve(direct, url=f"redis://127.0.0.1:{proxy.port}/0")
            ingest, sink = Ingest(ends=False, batch=100), through.sink()
            workers, source = Workers(book), through.source()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sink.run, ingest)
                nursery.start_soon(workers.run, source)
                for at in range(0, COUNT, 100):
                    ingest.put(sent[at : at + 100])
                    await trio.sleep(0.01)
                await until(lambda: source.statistics().acknowledged == COUNT)
                ingest.end()
                source.drain()
    assert proxy.ended > 0
    ingest.check(sink)
    workers.check(source)
    book.check(sent)
    left = await sums(direct)
    left.check()
    assert (left.came, left.entries) == (COUNT, 0)
