"""The protocol of ZeroMQ without sockets: sharing, and ingest and workers at random."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.zeromq_world import tick
from trio_ticks.brokers.packing import Packer, Unpacker
from trio_ticks.brokers.zeromq.clocks import ClockDifference
from trio_ticks.brokers.zeromq.dispatch import Dispatch, Terms
from trio_ticks.brokers.zeromq.hub import Hub
from trio_ticks.brokers.zeromq.link import Link
from trio_ticks.brokers.zeromq.protocol import MAGIC, VERSION, Acked, Hello, Welcome, encode
from trio_ticks.brokers.zeromq.sharing import moves
from trio_ticks.brokers.zeromq.symbols import Symbols
from trio_ticks.buffer import Stretch
from trio_ticks.logs import LogLimit

SHARDS = 4
WINDOW = 30


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 12))
def test_shares_are_fair_after_few_moves(counts: list[int], free: int) -> None:
    numbers = iter(range(sum(counts) + free))
    kept = {bytes([member]): [next(numbers) for _ in range(n)] for member, n in enumerate(counts)}
    rest = list(numbers)
    total = sum(counts) + free
    changes = moves(kept, rest, total)
    least, more = divmod(total, len(counts))
    sizes = {member: len(shards) for member, shards in kept.items()}
    for member, shard in changes.revokes:
        assert shard in kept[member]
        sizes[member] -= 1
    for member, shard in changes.grants:
        assert shard in rest
        sizes[member] += 1
    assert len({shard for _, shard in changes.grants}) == len(changes.grants) == len(rest)
    assert all(size <= least + 1 for size in sizes.values())
    # What is missing to the fair share is what others still have to give up.
    assert sum(max(0, least - size) for size in sizes.values()) <= len(changes.revokes)
    surplus = sorted((max(0, n - least) for n in counts), reverse=True)
    assert len(changes.revokes) == sum(max(0, n - (p < more)) for p, n in enumerate(surplus))


def test_nobody_gets_nothing() -> None:
    assert moves({}, range(5), 5).grants == []


class Worker:
    """A worker without sockets: it handles ticks, and may crash or lose connections."""

    def __init__(self, number: int) -> None:
        hello = Hello(MAGIC, VERSION, "work", b"w%d" % number, 0, "w", SHARDS, 12, b"", [], 0.0)
        self.link = Link("tcp://there", hello)
        self.peer = b"%d" % number
        self.coming: deque[bytes] = deque()
        self.going: deque[bytes] = deque()
        self.todo: deque[tuple[int, int, list[int]]] = deque()
        self.left = False


class Simulation:
    """One ingest and its workers; messages wait until they are carried."""

    def __init__(self) -> None:
        self.now = 0.0
        terms = Terms(b"ingest", SHARDS, WINDOW, 1.0, 5.0, 3, 10)
        packer = Packer(SHARDS, 4)
        self.packer = packer
        self.dispatch = Dispatch(terms, packer)
        self.hub = Hub(terms, self.dispatch, LogLimit(lambda: self.now))
        self.workers: list[Worker] = []
        self.count = 0
        self.made = 0
        self.handled: list[int] = []
        self.unpacker = Unpacker()

    def step(self, action: str, which: int) -> None:
        if action == "join" and len(self.workers) < 4:
            self.count += 1
            self.workers.append(Worker(self.count))
        elif action == "ticks":
            self.produce(which)
        elif action == "time":
            self.pass_time(which / 15)
        elif self.workers:
            worker = self.workers[which % len(self.workers)]
            if action == "crash":
                self.workers.remove(worker)
            elif action == "reconnect":
                # What is under way is lost.
                worker.coming.clear()
                worker.going.clear()
                self.count += 1
                worker.peer = b"%d" % self.count
            elif action == "leave" and not worker.link.leaving:
                worker.link.leave()
            elif action == "handle":
                self.handle(worker)
        self.carry(which % 4)

    def produce(self, count: int) -> None:
        most = min(count, WINDOW - self.dispatch.used)
        numbers = range(self.made, self.made + most)
        self.made += most
        items = [tick(f"S{number % 5}", number) for number in numbers]
        records, _ = self.packer.pack(Stretch(items, [0.0] * most, []))
        self.dispatch.append((record, 0.0) for record in records)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for worker in self.workers:
            if worker.link.is_over(self.now):
                # Everything was withdrawn: nothing of it is handled any more.
                worker.link.fence()
                worker.todo.clear()
                worker.link.begin_anew(0)
            worker.link.advance(self.now, self.now)
        self.carry(1)
        self.hub.advance(self.now)

    def handle(self, worker: Worker) -> None:
        link = worker.link
        if not worker.todo:
            return
        shard, last, numbers = worker.todo.popleft()
        self.handled += numbers
        link.finish(shard, last, len(numbers))
        # Not after each: the ingest is told of several at once.
        if link.untold >= 3 or not worker.todo:
            link.acknowledge()

    def carry(self, most: int) -> None:
        """Carry at most *most* messages each way for each worker."""
        for worker in self.workers:
            link = worker.link
            self.act(worker)
            worker.going.extend(link.outbox)
            link.outbox.clear()
            for _ in range(min(most, len(worker.going))):
                self.hub.receive(worker.peer, worker.going.popleft(), self.now, self.now)
            self.post()
            for _ in range(min(most, len(worker.coming))):
                link.receive(worker.coming.popleft(), self.now, self.now)
        self.workers = [each for each in self.workers if each.link.state != "left"]

    def post(self) -> None:
        for peer, body in self.dispatch.outbox:
            for worker in self.workers:
                if worker.peer == peer:
                    worker.coming.append(body)
        self.dispatch.outbox.clear()

    def act(self, worker: Worker) -> None:
        """Do what a source does: deliver, give up, leave."""
        link = worker.link
        while link.inbox:
            arrival = link.inbox.popleft()
            arrival.hold.here -= 1
            stretch = self.unpacker.unpack(arrival.body)
            found = [int(item.volume) for item in stretch.items]
            worker.todo.append((arrival.shard, arrival.last, [] if arrival.dead else found))
        busy = {shard for shard, _, _ in worker.todo}
        for shard, hold in list(link.holds.items()):
            if hold.revoked and shard not in busy:
                link.give_up([shard])
        if link.leaving and not link.holds and not worker.left:
            worker.left = True
            link.say_left()

    def check(self) -> None:
        assert 0 <= self.dispatch.used <= WINDOW
        assert self.dispatch.appended + self.dispatch.used == self.made
        holders = [shard for worker in self.workers for shard in worker.link.holds]
        assert len(holders) == len(set(holders))
        for member in self.dispatch.members.values():
            assert 0 <= member.out <= max(member.credit, 4)
            assert 0 <= member.singles <= SHARDS

    def finish(self) -> None:
        if not any(not worker.link.leaving for worker in self.workers):
            self.count += 1
            self.workers.append(Worker(self.count))
        for _ in range(400):
            for worker in list(self.workers):
                self.handle(worker)
                self.handle(worker)
            self.carry(20)
            self.carry(20)
            self.pass_time(0.3)
        assert self.dispatch.used == 0


ACTIONS = {"join": 3, "ticks": 20, "handle": 40, "time": 8, "carry": 40, "crash": 1} | {
    "reconnect": 3,
    "leave": 1,
}
"""What may happen, and how often."""


def skips(numbers: Sequence[int], dead: set[int]) -> int:
    """Return how many ticks came before an earlier one of their symbol ever had."""
    seen = set(dead)
    found = 0
    for number in numbers:
        seen.add(number)
        found += number >= 5 and number - 5 not in seen
    return found


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_each_tick_is_handled_in_order(seed: int) -> None:
    random = Random(seed)
    simulation = Simulation()
    names, weights = list(ACTIONS), list(ACTIONS.values())
    for action in random.choices(names, weights, k=400):
        simulation.step(action, random.randrange(31))
        simulation.check()
    simulation.finish()
    simulation.check()
    dead = {int(each.item.volume) for each in simulation.dispatch.dead_letters}
    assert set(simulation.handled) | dead == set(range(simulation.made))
    assert skips(simulation.handled, dead) == 0


@pytest.mark.parametrize("seed", range(10))
def test_without_losses_nothing_is_handled_twice(seed: int) -> None:
    random = Random(seed)
    simulation = Simulation()
    actions = ["join", "leave", *["ticks", "handle", "carry"] * 20]
    for action in random.choices(actions, k=600):
        simulation.step(action, random.randrange(31))
        simulation.check()
    simulation.finish()
    assert sorted(simulation.handled) == list(range(simulation.made))
    assert simulation.dispatch.redelivered == 0
    assert skips(simulation.handled, set()) == 0


def test_a_lost_connection_costs_no_repeat() -> None:
    simulation = Simulation()
    simulation.step("join", 0)
    for _ in range(5):
        simulation.pass_time(0.1)
    simulation.produce(20)
    simulation.carry(9)
    simulation.carry(9)
    (worker,) = simulation.workers
    assert len(worker.todo) > 2
    simulation.handle(worker)
    simulation.step("reconnect", 0)
    for _ in range(15):
        simulation.pass_time(0.1)
        simulation.carry(9)
    assert worker.link.joins == 2
    simulation.finish()
    assert sorted(simulation.handled) == list(range(20))


def test_what_is_finished_is_told_once_and_of_shards_that_are_held() -> None:
    simulation = Simulation()
    simulation.step("join", 0)
    for _ in range(5):
        simulation.pass_time(0.1)
    (worker,) = simulation.workers
    link = worker.link
    for _ in range(9):
        simulation.carry(9)
    held = sorted(link.holds)[:3]
    for shard in held:
        link.finish(shard, 4, 4)
    link.finish(held[0], 6, 2)
    assert link.untold == 14
    assert link.outbox == []
    # A shard that is given up is told with that.
    link.give_up([held[1]])
    link.outbox.clear()
    link.acknowledge()
    link.acknowledge()
    epochs = {shard: link.holds[shard].epoch for shard in (held[0], held[2])}
    told = Acked([(held[0], epochs[held[0]], 6), (held[2], epochs[held[2]], 4)])
    assert link.outbox == [encode(told)]
    assert link.untold == 0


def test_a_hello_that_waited_too_long_is_said_again() -> None:
    """Else the lease would be over before anything comes."""
    simulation = Simulation()
    simulation.step("join", 0)
    (worker,) = simulation.workers
    worker.link.advance(simulation.now, simulation.now)
    worker.going.extend(worker.link.outbox)
    worker.link.outbox.clear()
    simulation.now += 10.0
    simulation.carry(5)
    assert str(worker.link.state) == "away"
    for _ in range(5):
        simulation.pass_time(0.1)
        simulation.carry(5)
    assert worker.link.joins == 1
    assert len(worker.link.holds) == SHARDS
    assert not worker.link.is_over(simulation.now)


def test_the_difference_of_clocks_is_within_its_error() -> None:
    clock = ClockDifference()
    # The other's clock is 100 s ahead; the way there takes 3 ms, the way back 1 ms.
    clock.add(10.0, 110.003, 110.004, 10.005)
    assert clock.difference_s is not None
    assert clock.error_s is not None
    assert abs(clock.difference_s + 100) <= clock.error_s < 0.0021
    assert clock.shift_s == clock.difference_s
    # A worse sample changes nothing, one that cannot be neither.
    before = clock.difference_s
    clock.add(20.0, 120.5, 120.5, 21.0)
    clock.add(30.0, 130.5, 130.4, 31.0)
    clock.add(40.0, float("nan"), 130.4, 41.0)
    assert clock.difference_s == before
    assert clock.round_trip_s == 1.0


def test_clocks_that_agree_within_the_error_shift_nothing() -> None:
    clock = ClockDifference()
    clock.add(10.0, 10.001, 10.001, 10.003)
    assert clock.difference_s is not None
    assert clock.shift_s == 0.0


def test_another_clock_shows_in_the_first_welcome() -> None:
    hello = Hello(MAGIC, VERSION, "work", b"w", 0, "w", SHARDS, 12, b"", [], 0.0)
    link = Link("tcp://there", hello)
    link.advance(5.0, 1000.0)
    welcome = Welcome(
        MAGIC, VERSION, "ingest", 0, b"i", SHARDS, 10, 1.0, 5.0, 1000.0, 1060.01, 1060.01
    )
    link.receive(encode(welcome), 5.02, 1000.02)
    assert round(link.clock.shift_s, 6) == -60.0


def _gaps(stretch: Stretch) -> list[tuple[int, str, str, int]]:
    return [(place, gap.symbol, gap.reason, gap.count) for place, gap in stretch.gaps]


@pytest.mark.parametrize("ingests", [1, 2])
def test_each_symbol_of_a_later_run_gets_one_gap(ingests: int) -> None:
    """Also one that another worker may have had before."""
    symbols = Symbols(ingests)
    first = Stretch([tick("A", 1), tick("B", 1)], [0.0] * 2)
    assert symbols.note(0, 1, first) == []
    assert first.gaps == []
    later = Stretch([tick("C", 2), tick("A", 3), tick("A", 4)], [0.0] * 3)
    symbols.note(0, 2, later)
    assert _gaps(later) == [(0, "C", "reconnect", 0), (1, "A", "reconnect", 0)]
    orphans = Stretch([tick("B", 2)], [0.0])
    symbols.note(0, 1, orphans)
    assert orphans.gaps == []
    again = Stretch([tick("A", 5), tick("B", 6), tick("C", 6)], [0.0] * 3)
    symbols.note(0, 2, again)
    assert _gaps(again) == [(1, "B", "reconnect", 0)]
    symbols.note(0, 3, third := Stretch([tick("A", 7)], [0.0]))
    assert _gaps(third) == [(0, "A", "reconnect", 0)]


def test_a_run_of_which_nothing_came_is_no_earlier_one() -> None:
    symbols = Symbols(1)
    stretch = Stretch([tick("A", 1)], [0.0])
    symbols.note(0, 2, stretch)
    assert stretch.gaps == []


def test_symbols_of_several_ingests_are_told_once() -> None:
    symbols = Symbols(2)
    assert symbols.note(0, 1, Stretch([tick("A", 1), tick("B", 1)], [0.0] * 2)) == []
    assert symbols.note(1, 1, Stretch([tick("B", 2), tick("C", 2)], [0.0] * 2)) == ["B"]
    assert symbols.note(0, 1, Stretch([tick("B", 3)], [0.0])) == []
    assert symbols.twice == {"B"}
