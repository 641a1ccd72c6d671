"""One Redis server a file, for tests that need no other kind; many have their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(min(BINARIES)) as server:
        yield server


@pytest.fixture
def buffer(server: Server) -> RedisStreams:
    server.ask("FLUSHALL")
    return RedisStreams(server.url, lease=10.0)
