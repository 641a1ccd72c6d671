"""How long a partition's ticks may go on when it is revoked, without a broker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.worlds.helpers import make_ticks
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka.dead_letters import DeadLetters
from trio_ticks.brokers.kafka.delivering import Delivering
from trio_ticks.brokers.kafka.health import Health
from trio_ticks.brokers.kafka.holding import Holding
from trio_ticks.brokers.kafka.parting import Parting
from trio_ticks.buffer import Stretch
from trio_ticks.clock import Clock


class Channel:
    """The workers' channel, with ticks that end when the test says it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self.room = 100
        self.queued: list[Any] = []
        self.withdrawn = 0
        self.given_up: list[int] = []

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        raise AssertionError("nothing is delivered any more")

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        raise AssertionError("nothing is delivered any more")

    async def give_up(self, shard: int, /) -> None:
        await trio.lowlevel.checkpoint()
        self.given_up.append(shard)

    def bury(self, item: Any, error: Exception, /) -> None:
        raise AssertionError("nothing is buried here")

    def unfinished(self) -> list[Any]:
        return list(self.queued)

    @property
    def busy(self) -> bool:
        return bool(self.queued)

    def withdraw(self, symbols: Collection[str]) -> int:
        left = [item for item in self.queued if item.symbol not in symbols]
        count, self.queued = len(self.queued) - len(left), left
        self.withdrawn += count
        return count


def held(channel: Channel, *, keeps: bool | None) -> tuple[Parting, list[Any]]:
    """Return a partition that was taken, and its four ticks, which are delivered."""
    parting, _holding, items = world(channel, keeps=keeps)
    return parting, items


def world(channel: Channel, *, keeps: bool | None) -> tuple[Parting, Holding, list[Any]]:
    """Return as :func:`held` does, with what holds the partition."""
    session = {"session.timeout.ms": 2000}
    kafka = Kafka("127.0.0.1:1", hand_over_s=10.0, consumer_settings=session)
    holding = Holding(kafka, "us")
    holding.keeps_metadata = keeps
    parting = Parting(
        kafka,
        channel,
        channel,
        holding,
        Delivering(holding, channel, bool, lambda: None),
        DeadLetters(kafka, Health(kafka, trio.current_time)),
    )
    holding.gain(0, 0, None)
    holding.book.take()
    holding.confirm(())
    holding.receive(0, 0, Stretch(make_ticks(4), [1.0] * 4))
    found = holding.next_ready()
    assert found is not None
    holding.delivered(found[1])
    return parting, holding, found[1].items


@pytest.mark.parametrize(
    ("keeps", "ends_at", "withdrawn"),
    [(True, 8.0, 2), (None, 8.0, 2), (False, 8.0, 0), (False, 9.5, 2)],
)
async def test_what_is_queued_goes_on_for_longer_where_no_metadata_is_kept(
    keeps: bool | None, ends_at: float, withdrawn: int, autojump_clock: MockClock
) -> None:
    channel = Channel()
    parting, items = held(channel, keeps=keeps)
    # Two are handled, two are queued behind others for long.
    channel.queued = items[2:]
    began = trio.current_time()

    async def end() -> None:
        await trio.sleep(ends_at)
        channel.queued.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        marks = await parting.hand_over([0])
        assert trio.current_time() - began <= 10.0
        nursery.cancel_scope.cancel()
    assert channel.withdrawn == withdrawn
    assert channel.given_up == [0]
    # The record is committed only if all of it is done.
    assert marks[0].offset == (0 if withdrawn else 1)


@pytest.mark.parametrize("stopped", [False, True])
async def test_to_wait_for_ticks_is_no_standstill_and_to_be_stopped_meanwhile_is_one(
    stopped: bool, autojump_clock: MockClock
) -> None:
    channel = Channel()
    parting, items = held(channel, keeps=False)
    channel.queued = items[2:]
    began = trio.current_time()

    async def end() -> None:
        await trio.sleep(4.0)
        if stopped:
            autojump_clock.jump(3.0)
        await trio.sleep(1.0)
        channel.queued.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        await parting.hand_over([0])
    now = trio.current_time()
    assert now - began == pytest.approx(8.0 if stopped else 5.0, abs=0.1)
    assert (now - parting.awake_at > 2.0) == stopped


async def test_what_is_withdrawn_is_not_taken_for_handled_while_others_are_waited_for(
    autojump_clock: MockClock,
) -> None:
    channel = Channel()
    parting, holding, items = world(channel, keeps=True)
    # The last is queued; the one before it is being handled, and withdrawn it is not.
    channel.queued = items[2:]
    begun, withdraw = items[2], channel.withdraw

    def keep(symbols: Collection[str]) -> int:
        count = withdraw(symbols)
        channel.queued.append(begun)
        return count - 1

    channel.withdraw = keep  # type: ignore[method-assign]

    async def settle() -> None:
        await trio.sleep(7.0)
        assert channel.queued == [begun]
        channel.queued.clear()
        holding.settle(parting.unfinished())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        marks = await parting.hand_over([0])
    # The record is not committed, for the sake of the last tick.
    assert marks[0].offset == 0
    assert holding.given_back == 1
