"""A feed is asked for a book's snapshot until it has come, once in 5 s at most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import EPOCH, make_book
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send

EVERY_S = 5.0

Script = Callable[[Send], Awaitable[None]]


@attrs.define
class Requests:
    """When each symbol's snapshot was asked for."""

    all: list[tuple[str, float]] = attrs.field(factory=list)

    def record(self, symbol: str) -> None:
        self.all.append((symbol, trio.current_time()))

    def of(self, symbol: str) -> list[float]:
        return [moment for name, moment in self.all if name == symbol]


class Asked(ScriptFeed):
    """A feed with a plain method."""

    def __init__(self, script: Script, requests: Requests) -> None:
        super().__init__(script)
        self.requests = requests

    def request_snapshot(self, symbol: str) -> None:
        self.requests.record(symbol)


class AskedAsync(ScriptFeed):
    """A feed with an async method."""

    def __init__(self, script: Script, requests: Requests) -> None:
        super().__init__(script)
        self.requests = requests

    async def request_snapshot(self, symbol: str) -> None:
        await trio.lowlevel.checkpoint()
        self.requests.record(symbol)


plain_or_async = pytest.mark.parametrize("kind", [Asked, AskedAsync])
Kind = type[Asked] | type[AskedAsync]


def lose(send: Send, symbol: str) -> None:
    """Say that an update of *symbol*'s book was lost on the way."""
    send.mark_gap(tt.Gap(symbol, EPOCH, "sequence", 1, EPOCH), book=True)


async def answer(send: Send, symbol: str) -> None:
    await send.send(make_book(symbol, 1, snapshot=True))


async def requests_of(kind: Kind, script: Script) -> Requests:
    """Return the requests that *script* leads to; the clock begins at 0."""
    requests = Requests()
    await tt.run_pipeline(kind(script, requests), Recorder(), workers=1)
    return requests


@plain_or_async
async def test_losses_in_quick_succession_do_not_ask_more_often(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async def script(send: Send) -> None:
        for _ in range(48):
            lose(send, "A")
            await trio.sleep(0.5)

    requests = await requests_of(kind, script)
    moments = requests.of("A")
    assert moments[0] == 0
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(moments))
    # And not much less often: 24 s have passed.
    assert len(moments) >= 4


@plain_or_async
async def test_it_is_asked_again_until_the_snapshot_has_come(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async def script(send: Send) -> None:
        lose(send, "A")
        await trio.sleep(12)
        await send.send(make_book("A", 1))  # no snapshot
        await trio.sleep(5)
        await answer(send, "A")
        await trio.sleep(60)

    requests = await requests_of(kind, script)
    assert requests.all == [("A", 0.0), ("A", 5.0), ("A", 10.0), ("A", 15.0)]


async def test_a_snapshot_ends_the_asking_for_its_own_symbol_alone(
    autojump_clock: MockClock,
) -> None:
    async def script(send: Send) -> None:
        lose(send, "A")
        lose(send, "B")
        await trio.sleep(1)
        await answer(send, "A")
        await trio.sleep(11)
        await answer(send, "B")
        await trio.sleep(60)

    requests = await requests_of(Asked, script)
    assert requests.of("A") == [0.0]
    assert requests.of("B") == [0.0, 5.0, 10.0]


@plain_or_async
async def test_another_symbol_is_asked_for_at_once_though_the_first_was_just_now(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async def script(send: Send) -> None:
        for symbol in "ABC":
            lose(send, symbol)
            await trio.sleep(1)
        for symbol in "ABC":
            await answer(send, symbol)
        await trio.sleep(60)

    requests = await requests_of(kind, script)
    assert requests.all == [("A", 0.0), ("B", 1.0), ("C", 2.0)]


async def test_symbols_lost_together_are_asked_for_together(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        for symbol in "CAB":
            lose(send, symbol)
        await trio.sleep(7)

    requests = await requests_of(Asked, script)
    assert requests.all == [(symbol, moment) for moment in (0.0, 5.0) for symbol in "ABC"]


async def test_a_loss_after_an_answer_waits_for_its_turn_and_is_asked_for_then(
    autojump_clock: MockClock,
) -> None:
    """An answer does not begin the count anew, however often the book is lost."""

    async def script(send: Send) -> None:
        for _ in range(30):
            lose(send, "A")
            await trio.sleep(0.5)
            await answer(send, "A")
            await trio.sleep(0.5)
        lose(send, "A")
        await trio.sleep(11)

    requests = await requests_of(Asked, script)
    moments = requests.of("A")
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(moments))
    assert moments[0] == 0
    assert moments[-1] >= 30
    assert len(moments) >= 5


async def test_a_loss_that_is_answered_in_the_same_moment_does_not_end_the_wait(
    autojump_clock: MockClock,
) -> None:
    async def script(send: Send) -> None:
        lose(send, "A")
        await trio.sleep(1)
        lose(send, "A")
        assert send.deliver([make_book("A", 1, snapshot=True)]) is None
        await trio.sleep(1)
        lose(send, "A")
        await trio.sleep(1)
        assert requests.of("A") == [0.0]
        await trio.sleep(9)

    requests = Requests()
    await tt.run_pipeline(Asked(script, requests), Recorder(), workers=1)
    assert len(requests.all) > 1
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(requests.of("A")))


async def test_a_quiet_while_after_an_answer_the_next_loss_is_asked_for_at_once(
    autojump_clock: MockClock,
) -> None:
    async def script(send: Send) -> None:
        lose(send, "A")
        await trio.sleep(1)
        await answer(send, "A")
        await trio.sleep(19)
        lose(send, "A")
        await trio.sleep(1)
        await answer(send, "A")

    requests = await requests_of(Asked, script)
    assert requests.all == [("A", 0.0), ("A", 20.0)]


async def test_a_feed_that_cannot_be_asked_is_not(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        lose(send, "A")
        await trio.sleep(20)
        await answer(send, "A")

    handler = Recorder()
    await tt.run_pipeline(ScriptFeed(script), handler, workers=1)
    assert len(handler.ticks) == 1
