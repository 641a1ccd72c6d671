"""The last commits of a worker that leaves, while its group refuses them."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.brokers.test_kafka_parting import Channel
from tests.worlds.helpers import make_ticks
from tests.worlds.kafka_world import (
    PATIENCE_S,
    Workers,
    appended,
    make,
    numbered,
    open_broker,
    until,
    working,
)
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka.committing import Mark
from trio_ticks.brokers.kafka.consuming import Turn
from trio_ticks.brokers.kafka.dead_letters import DeadLetters
from trio_ticks.brokers.kafka.delivering import Delivering
from trio_ticks.brokers.kafka.health import Health
from trio_ticks.brokers.kafka.holding import Holding
from trio_ticks.brokers.kafka.leaving import leave
from trio_ticks.brokers.kafka.parting import Parting
from trio_ticks.buffer import Stretch


@attrs.define
class Client:
    """Answers each commit a second later, and refuses the first ones."""

    refusals: int
    sent: list[dict[int, int]] = attrs.Factory(list)
    due: dict[int, Mark] = attrs.Factory(dict)

    async def poll(self, commits: Mapping[int, Mark]) -> Turn:
        if commits:
            assert not self.due, "two commits at a time"
            self.due = dict(commits)
            self.sent.append({shard: mark.offset for shard, mark in commits.items()})
            await trio.sleep(0.01)
            return Turn()
        await trio.sleep(1.0)
        due, self.due = self.due, {}
        refused = len(self.sent) <= self.refusals
        return Turn(refused=tuple(due) if refused else ())


def world(records: int = 1) -> tuple[Holding, Parting]:
    """Two partitions of which all is handled, and nothing is committed."""
    kafka, channel = Kafka("127.0.0.1:1", partitions=2), Channel()
    holding = Holding(kafka, "us")
    parting = Parting(
        kafka,
        channel,
        channel,
        holding,
        Delivering(holding, channel, bool, lambda: None),
        DeadLetters(kafka, Health(kafka, trio.current_time)),
    )
    for shard in (0, 1):
        holding.gain(shard, 0, None)
    holding.book.take()
    holding.confirm(())
    for shard in (0, 1) if records else ():
        holding.receive(shard, 0, Stretch(make_ticks(4), [1.0] * 4))
        found = holding.next_ready()
        assert found is not None
        holding.delivered(found[1])
    return holding, parting


def check(holding: Holding) -> None:
    assert holding.received == holding.acknowledged + holding.given_back == 8


@pytest.mark.parametrize("refusals", [0, 1, 4])
async def test_they_are_sent_until_they_are_taken(refusals: int, autojump_clock: MockClock) -> None:
    holding, parting = world()
    client = Client(refusals)
    await leave(holding, parting, client.poll, 10.0)
    assert client.sent == [{0: 1, 1: 1}] * (refusals + 1)
    assert (holding.acknowledged, holding.given_back) == (8, 0)
    check(holding)


async def test_after_the_time_they_are_counted_as_given_back(autojump_clock: MockClock) -> None:
    holding, parting = world()
    began = trio.current_time()
    await leave(holding, parting, Client(1000).poll, 10.0)
    assert trio.current_time() - began == pytest.approx(10.0)
    assert (holding.acknowledged, holding.given_back) == (0, 8)
    assert parting.last == {}
    check(holding)


async def test_a_partition_that_is_revoked_takes_its_last_commit_along(
    autojump_clock: MockClock,
) -> None:
    holding, parting = world()
    client = Client(2)

    async def revoke() -> None:
        await trio.sleep(1.5)
        marks = await parting.hand_over([1])
        assert {shard: mark.offset for shard, mark in marks.items()} == {1: 1}
        parting.handed_over(marks, True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(revoke)
        await leave(holding, parting, client.poll, 10.0)
    # Another may have committed more of it since.
    assert client.sent == [{0: 1, 1: 1}, {0: 1, 1: 1}, {0: 1}]
    assert (holding.acknowledged, holding.given_back) == (8, 0)
    check(holding)


async def test_a_partition_that_is_lost_is_not_committed_any_more(
    autojump_clock: MockClock,
) -> None:
    holding, parting = world()
    client = Client(2)

    async def lose() -> None:
        await trio.sleep(1.5)
        await parting.lost([1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose)
        await leave(holding, parting, client.poll, 10.0)
    assert client.sent[-1] == {0: 1}
    assert (holding.acknowledged, holding.given_back) == (4, 4)
    check(holding)


async def test_a_broker_that_is_away_is_waited_for_if_ticks_are_to_be_acknowledged(
    autojump_clock: MockClock,
) -> None:
    holding, parting = world()
    began = trio.current_time()
    await leave(holding, parting, Client(1000).poll, 10.0, lambda: True)
    assert trio.current_time() - began == pytest.approx(10.0)
    check(holding)


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_broker_that_is_away_is_not_waited_for_in_vain(
    is_away: bool, autojump_clock: MockClock
) -> None:
    holding, parting = world(records=0)
    client = Client(2)
    began = trio.current_time()
    await leave(holding, parting, client.poll, 10.0, lambda: is_away)
    assert (trio.current_time() == began) is is_away
    assert len(client.sent) == (0 if is_away else 3)
    assert (parting.last, holding.given_back) == ({}, 0)


async def test_a_drain_ends_a_worker_that_has_never_found_its_broker() -> None:
    source, world = Kafka("127.0.0.1:1").source(), Workers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, world, world.outcomes)
        await trio.sleep(0.5)
        source.drain()
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S
    assert not nursery.cancel_scope.cancelled_caught
    assert source.statistics().received == 0


async def test_a_drain_ends_a_worker_with_nothing_to_commit_whose_broker_is_gone() -> None:
    with open_broker() as broker:
        kafka = make(broker.address)
        await appended(kafka, numbered(100))
        async with working(kafka) as (world, source):
            await until(lambda: source.statistics().acknowledged == 100)
            broker.kill()
            await until(lambda: not source.statistics().connected)
            began = trio.current_time()
        # To wait for its answers took ten seconds.
        assert trio.current_time() - began < 5.0
    assert len(world.handled) == 100
