"""What a worker process does with a handler: its session, here without a process."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
from trio_ticks.workers.processes.child import Session, SetUp
from trio_ticks.workers.processes.jobs import JobEncoder, Reply, decode_reply
from trio_ticks.workers.processes.progress import Progress


@contextmanager
def session_of(handler: Any, *, whole: bool = False) -> Iterator[Callable[[list[Any]], Reply]]:
    """Open a session with *handler*; return what sends it items as a job."""
    parents = Progress()
    session = Session(SetUp(handler, whole, 60.0, None), Progress(parents.name))
    session.open()

    def send(items: list[Any]) -> Reply:
        payload, _count, _wrong = JobEncoder().encode(1, items)
        return decode_reply(session.run(payload))

    try:
        yield send
    finally:
        session.close()
        parents.close()


class Later:
    """Awaitable, and no coroutine."""

    def __await__(self) -> Any:
        yield


async def coroutine() -> None: ...


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [Later, coroutine], ids=lambda make: make.__name__)
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_to_be_awaited_out_of_a_plain_handler_fails_its_item(
    make: Callable[[], Any], whole: bool
) -> None:
    with session_of(lambda _items: make(), whole=whole) as send:
        reply = send(make_ticks(1))
    gc.collect()  # a coroutine that was never awaited would warn
    assert reply.done == 1
    (failure,) = reply.failures
    assert failure.kind == "TypeError"
    assert f"in a worker process, and returned a {make.__name__}" in failure.message


def test_a_plain_wrapper_around_an_async_handler_is_awaited() -> None:
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(number(tick))

    @functools.wraps(handler)
    def wrapper(tick: tt.Tick) -> Any:
        return handler(tick)

    with session_of(wrapper) as send:
        assert send(make_ticks(3)).failures == ()
    assert seen == [0, 1, 2]
