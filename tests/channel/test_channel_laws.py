"""The laws of the channel, over random schedules on a virtual clock.

Schedules of senders, receivers, cancellations and closings.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.channel_world import Op, Outcome, Party, Schedule, play
from tests.worlds.helpers import EPOCH, make_tick, number, numbers
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.conflation import conflation_of
from trio_ticks.errors import QueueFullError
from trio_ticks.overflow import (
    Block,
    Conflate,
    DropNewest,
    DropOldest,
    Fail,
    OverflowStrategy,
    Policy,
)
from trio_ticks.ticks import Tick, Trade

TIMEOUTS = st.sampled_from([0, 0.25, 0.3, 1.0, 1000.0])
CAPS = st.integers(1, 4)
STRATEGIES: dict[str, tuple[st.SearchStrategy[Policy], set[str]]] = {
    "block": (st.just(Block()), set()),
    "block-for-a-time": (TIMEOUTS.map(Block), {"overflow"}),
    "drop-newest": (TIMEOUTS.map(DropNewest), {"overflow"}),
    "drop-newest-capped": (st.builds(DropNewest, TIMEOUTS, max_per_symbol=CAPS), {"overflow"}),
    "drop-oldest": (st.just(DropOldest()), {"evicted"}),
    "drop-oldest-capped": (
        st.builds(DropOldest, max_per_symbol=CAPS, longest_line=st.booleans()),
        {"evicted"},
    ),
    "drop-oldest-fair": (st.just(DropOldest(longest_line=True)), {"evicted"}),
    "conflate": (st.just(Conflate()), {"conflated", "evicted"}),
    "fail": (st.just(Fail()), {"overflow"}),
    "quotes-and-trades": (
        st.just({Tick: Conflate(), Trade: Block()}),
        {"conflated", "evicted", "overflow"},
    ),
    "mixed": (
        st.builds(lambda t: {Tick: DropOldest(longest_line=True), Trade: DropNewest(t)}, TIMEOUTS),
        {"evicted", "overflow"},
    ),
}
"""Each with the reasons that it may drop for."""


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of drops a second are the point here; no log of them is."""
    logger = logging.getLogger("trio_ticks.channel")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@st.composite
def schedules(draw: st.DrawFn, overflow: st.SearchStrategy[Policy]) -> Schedule:
    """Draw a schedule that ends: every receiver goes on to the end, or closes."""
    # Most times lie on a grid, so that things happen at the same moment; one of the
    # grids has no exact floats.
    unit = draw(st.sampled_from([0.25, 0.1]))
    steps = st.sampled_from([0, 0, 0, 1, 1, 2, 5])
    sleeps = steps.map(lambda n: n * unit)
    deadlines = st.one_of(st.just(math.inf), steps.map(lambda n: n * unit))
    closings = st.one_of(
        st.just(math.inf), st.just(math.inf), st.integers(0, 12).map(lambda n: n * unit)
    )
    sends = st.builds(Op, sleeps, st.integers(0, 14), st.booleans(), deadlines)
    receives = st.builds(
        Op, sleeps, st.one_of(st.none(), st.integers(1, 12)), st.booleans(), deadlines
    )
    symbols = st.sampled_from([("A",), ("A", "B"), ("A", "B", "C", "A", "A", "D")])
    sender = st.builds(
        Party,
        st.lists(sends, max_size=8).map(tuple),
        st.booleans(),
        closings,
        symbols,
        st.booleans(),
    )
    receiver = st.builds(
        Party,
        st.lists(receives, max_size=8).map(tuple),
        st.booleans(),
        closings,
        drains=st.booleans(),
    )
    return Schedule(
        maxsize=draw(st.integers(1, 10)),
        overflow=draw(overflow),
        max_age=draw(st.sampled_from([None, None, 0.6 * unit, 2 * unit, 100.0])),
        senders=tuple(draw(st.lists(sender, min_size=1, max_size=3))),
        receivers=tuple(draw(st.lists(receiver, min_size=1, max_size=3))),
        check_every_s=unit,
    )


def check(schedule: Schedule, outcome: Outcome) -> None:
    assert outcome.wrongs == []
    delivered = numbers(outcome.delivered)
    assert len(set(delivered)) == len(delivered), "a tick was delivered twice"
    assert set(delivered) <= set(outcome.handed), "a tick came from nowhere"
    assert len(outcome.handed) == len(delivered) + sum(outcome.dropped.values()), "a tick was lost"
    assert outcome.peak <= schedule.maxsize
    assert abs(outcome.blocked_s - outcome.waited_s) < 1e-6


def check_order(outcome: Outcome, *, per_symbol: bool) -> None:
    for received in outcome.lines:
        lines: dict[tuple[int, str], list[int]] = defaultdict(list)
        for tick in received:
            lines[number(tick) // 1_000_000, tick.symbol if per_symbol else ""].append(number(tick))
        for sent in lines.values():
            assert sent == sorted(sent), "one sender's ticks changed places"


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(data=st.data())
def test_law_bound_order_patience_and_wake_ups(strategy: str, data: st.DataObject) -> None:
    overflow, reasons = STRATEGIES[strategy]
    schedule = data.draw(schedules(overflow))
    outcome = play(schedule)
    check(schedule, outcome)
    # A conflated tick takes an older one's place in the queue, so that it passes ticks
    # of other symbols.
    check_order(outcome, per_symbol="conflated" in reasons)
    possible = reasons | {"shutdown"} | ({"stale"} if schedule.max_age else set())
    assert {reason for reason, count in outcome.dropped.items() if count} <= possible
    if isinstance(schedule.overflow, DropOldest | Conflate | Fail):
        assert outcome.waited_s == 0
    if (
        strategy == "quotes-and-trades"
        and not outcome.dropped["shutdown"]
        and not outcome.dropped["stale"]
    ):
        delivered = {number(item) for item in outcome.delivered}
        trades = {
            n for n in outcome.handed if schedule.senders[n // 1_000_000].trades and n % 3 == 0
        }
        assert trades <= delivered, "a trade was lost"
    assert bool(outcome.failures) == (
        isinstance(schedule.overflow, Fail) and outcome.dropped["overflow"] > 0
    )
    stood_for = sum(
        evidence.count - 1 for tick in outcome.delivered if (evidence := conflation_of(tick))
    )
    assert stood_for <= outcome.dropped["conflated"]


class Model:
    """The plain strategies in the simplest form: a list, and what each tick becomes."""

    def __init__(self, maxsize: int, overflow: OverflowStrategy, max_age: float | None) -> None:
        self.queue: deque[tuple[int, float]] = deque()
        self.dropped: dict[str, int] = defaultdict(int)
        self.failed = False
        self._maxsize = maxsize
        self._overflow = overflow
        self._max_age = math.inf if max_age is None else max_age

    def offer(self, numbers: range, now: float) -> None:
        self.failed = False
        for n in numbers:
            if len(self.queue) == self._maxsize:
                if not isinstance(self._overflow, DropOldest):
                    self.dropped["overflow"] += 1
                    self.failed = isinstance(self._overflow, Fail)
                    continue
                self.queue.popleft()
                self.dropped["evicted"] += 1
            self.queue.append((n, now))

    def take(self, limit: int, now: float) -> list[int]:
        batch: list[int] = []
        while self.queue and len(batch) < limit:
            n, arrived = self.queue.popleft()
            if now - arrived > self._max_age:
                self.dropped["stale"] += 1
            else:
                batch.append(n)
        return batch


@given(
    maxsize=st.integers(1, 10),
    overflow=st.sampled_from(
        [
            DropNewest(0),
            DropOldest(),
            Fail(),
            DropOldest(max_per_symbol=10),
            DropNewest(0, max_per_symbol=10),
        ]
    ),
    max_age=st.sampled_from([None, 1.5, 3.0]),
    steps=st.lists(
        st.tuples(st.sampled_from(["send", "receive", "sleep"]), st.integers(0, 14)), max_size=30
    ),
)
def test_without_waiting_each_tick_fares_as_the_model_says(
    maxsize: int, overflow: OverflowStrategy, max_age: float | None, steps: list[tuple[str, int]]
) -> None:
    async def compare() -> None:
        send: TickSendChannel[Tick]
        receive: TickReceiveChannel[Tick]
        send, receive = open_tick_channel(maxsize, overflow, max_age)
        model = Model(maxsize, overflow, max_age)
        made = 0
        for step, n in steps:
            if step == "send":
                batch = range(made, made + n)
                made += n
                model.offer(batch, trio.current_time())
                try:
                    await send.send_many(make_tick(n=i, now=EPOCH) for i in batch)
                except QueueFullError:
                    assert model.failed
                else:
                    assert not model.failed
            elif step == "receive" and n:
                expected = model.take(n, trio.current_time())
                got: list[Tick] = []
                with trio.move_on_after(0.01):
                    got = await receive.receive_many(n)
                assert numbers(got) == expected
            else:
                await trio.sleep(n / 10)
            assert len(receive) == len(model.queue)
            assert {
                reason: count for reason, count in send.ledger.dropped_by_reason.items() if count
            } == dict(model.dropped)
            send.ledger.check()

    trio.run(compare, clock=trio.testing.MockClock(autojump_threshold=0))
