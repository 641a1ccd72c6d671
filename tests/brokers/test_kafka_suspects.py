"""Which tick is to blame for a death: what is committed before a suspect is begun."""

from __future__ import annotations

from typing import Any

from trio_ticks.brokers.kafka.careful import Careful, Suspects
from trio_ticks.buffer import Stretch


class World:
    """Suspects of several shards; commits are answered when the test says so."""

    def __init__(self, ticks: dict[int, int], *, most: int = 3) -> None:
        self.committed: dict[int, tuple[int, int]] = {}
        """By shard: how many of its ticks are through, and how often the next one was
        begun."""
        self.asked: dict[int, tuple[int, int]] = {}
        self.delivered: list[tuple[int, Any]] = []
        self.through: set[int] = set()
        self.suspects = Suspects(most, self._mark, self._is_marked, self._deliver)
        self.items: dict[int, list[object]] = {}
        for shard, count in ticks.items():
            items = self.items[shard] = [object() for _ in range(count)]
            careful = self.suspects.shards[shard] = Careful(count, 0)
            careful.add(0, Stretch(list(items), [1.0] * count))

    def _mark(self, shard: int, careful: Careful, _unfinished: frozenset[int]) -> None:
        through = sum(id(item) in self.through for item in self.items[shard])
        self.asked[shard] = through, careful.begun

    def _is_marked(self, shard: int) -> bool:
        return shard not in self.asked

    def _deliver(self, shard: int, stretch: Stretch) -> None:
        self.delivered += [(shard, item) for item in stretch.items]

    def confirm(self) -> None:
        self.committed |= self.asked
        self.asked.clear()

    def step(self) -> None:
        everything = {id(item) for items in self.items.values() for item in items}
        assert self.suspects.step(frozenset(everything - self.through), False) == []


def test_a_tick_that_is_through_is_not_suspected_when_another_kills() -> None:
    world = World({0: 1, 1: 1})
    world.step()
    world.confirm()
    world.step()
    ((shard, item),) = world.delivered
    assert (shard, world.committed) == (0, {0: (0, 1)})
    world.through.add(id(item))
    for _ in range(3):
        world.step()
        # The other shard's tick is not begun before it is known that this one is
        # through.
        assert world.asked == {0: (1, 0)}
    world.confirm()
    world.step()
    assert world.asked == {1: (0, 1)}
    world.confirm()
    world.step()
    assert [shard for shard, _item in world.delivered] == [0, 1]
    assert world.committed == {0: (1, 0), 1: (0, 1)}


def test_the_next_tick_of_a_shard_takes_one_commit() -> None:
    world = World({0: 3})
    for number in range(3):
        world.step()
        assert world.asked == {0: (number, 1)}
        world.confirm()
        world.step()
        world.through.add(id(world.delivered[-1][1]))
    world.step()
    # The last one is noted before what comes after it is delivered as usual.
    assert world.asked == {0: (3, 0)}
    assert world.suspects.shards
    world.confirm()
    world.step()
    assert not world.suspects.shards


def test_a_shard_that_went_away_is_not_waited_for() -> None:
    world = World({0: 1, 1: 1})
    world.step()
    world.confirm()
    world.step()
    world.through.add(id(world.delivered[0][1]))
    world.step()
    del world.suspects.shards[0]
    world.step()
    assert world.asked[1] == (0, 1)
