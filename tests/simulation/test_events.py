"""A simulation drives the real channel, and what comes of it is what the pipeline does.

Both get the same arrivals and the same service for each tick: the pipeline on a virtual
clock, with a feed, tasks and handlers that sleep; the simulation without trio. What
they see is compared tick for tick, and to the last bit of each moment.

Rules: all times are multiples of :data:`EXACT`: sums of them have no rounding error. No
two events fall on one moment, since trio would decide by chance which is first.

Services begin at 0.05 ms, or at 1 ms where chance would decide in the pipeline what is
dropped, which it does the more often the quicker the ticks are:

- One step may let a sender go on and wake a worker, and trio decides by chance which
  runs first. It matters where a strategy both waits for room and takes the place of
  others, or counts them: DropNewest, and a strategy for each kind.
- A worker handles quick ticks in sprints of a random length. A sprint drops a tick that
  is too old before it is parked behind its symbol, other steps when its turn comes.
"""

from __future__ import annotations

import functools
import math
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_trade, number
from tests.worlds.recordings import REAL, needs_real, read_all
from trio_ticks.ledger import DropReason
from trio_ticks.overflow import Overflow, OverflowStrategy
from trio_ticks.simulation.events import EventLoop, Setting
from trio_ticks.simulation.loads import KINDS, Load, Services
from trio_ticks.simulation.outcomes import Outcome

Item = tt.Tick | tt.Trade
Arrivals = Sequence[tuple[float, Sequence[Item]]]
"""What is due at once, and when, in order."""

EXACT = 2.0**-40
"""Seconds: fine enough for chance not to make two events fall on one moment."""
GRID = 256
"""Moments a second to which arrivals are rounded up: a socket read brings several."""
SPEED = 60.0
QUOTES = 28_040
QUICK_S = 0.00005
UNHURRIED_S = 0.001
"""No tick that takes so long is handled in a sprint."""


def exact(seconds: float) -> float:
    return round(seconds / EXACT) * EXACT


STRATEGIES: dict[str, Overflow] = {
    "Block()": tt.Block(),
    "Block(timeout)": tt.Block(timeout=exact(0.0007)),
    "DropNewest(timeout)": tt.DropNewest(exact(0.2)),
    "DropNewest(max_per_symbol)": tt.DropNewest(exact(0.05), max_per_symbol=60),
    "DropOldest()": tt.DropOldest(),
    "DropOldest(longest_line)": tt.DropOldest(longest_line=True),
    "Conflate()": tt.Conflate(),
}
SERVICES: dict[str, Callable[[random.Random], float]] = {
    "exponential": lambda dice: dice.expovariate(200),
    "heavy-tailed": lambda dice: min(dice.paretovariate(1.5) * 0.002, 1.0),
    "mostly quick": lambda dice: dice.expovariate(15 if dice.random() < 0.2 else 10_000),
}


def shortest_s(overflow: Overflow) -> float:
    """Return how short a service may be without chance deciding what is dropped."""
    sure = isinstance(overflow, tt.Block | tt.DropOldest | tt.Conflate)
    return QUICK_S if sure else UNHURRIED_S


@attrs.define
class Seen:
    """What became of each item, and when. Items are named by their numbers."""

    number: Callable[[Any], int] = attrs.field(eq=False)
    came: list[tuple[float, int]] = attrs.field(factory=list)
    dropped: list[tuple[float, DropReason, int]] = attrs.field(factory=list)
    """For ``conflated`` the number is that of the item that came in the place."""
    begun: list[tuple[float, int]] = attrs.field(factory=list)
    ended: list[tuple[float, int]] = attrs.field(factory=list)

    def hear(self, now: float, items: Iterable[Any], reason: DropReason | None) -> None:
        """Record *items*, which came, or were dropped for *reason*."""
        if reason is None:
            self.came += ((now, self.number(item)) for item in items)
        else:
            self.dropped += ((now, reason, self.number(item)) for item in items)

    def begins(self, number: int, begun: float, ended: float) -> None:
        """Record that an item is handled."""
        self.begun.append((begun, number))
        self.ended.append((ended, number))


class DueFeed:
    """Delivers each item when it is due, or as soon as all before it has found room."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        for moment, items in self._arrivals:
            if moment > trio.current_time():
                await trio.sleep_until(moment)
            wait = send.deliver(items)
            if wait is not None:
                await wait


def by_pipeline(
    arrivals: Arrivals, services: list[float], **settings: Any
) -> tuple[Seen, tt.PipelineReport]:
    seen = Seen(number)

    async def handler(item: Item) -> None:
        seen.begun.append((trio.current_time(), number(item)))
        await trio.sleep(services[number(item)])
        seen.ended.append((trio.current_time(), number(item)))

    async def main() -> tt.PipelineReport:
        feed = DueFeed(arrivals)
        async with tt.open_pipeline(feed, handler, shutdown_timeout=1e6, **settings) as pipeline:
            pipeline.item_listeners.add(
                lambda items, reason: seen.hear(trio.current_time(), items, reason)
            )
            await pipeline.wait()
        return pipeline.report

    return seen, trio.run(main, clock=MockClock(autojump_threshold=0))


def load_of(arrivals: Arrivals) -> Load:
    items = [(moment, item) for moment, items in arrivals for item in items]
    assert [number(item) for _, item in items] == list(range(len(items)))
    names = tuple(dict.fromkeys(item.symbol for _, item in items))
    return Load(
        array("d", (moment for moment, _ in items)),
        array("H", (names.index(item.symbol) for _, item in items)),
        names,
        bytes(KINDS.index(type(item)) for _, item in items),
    )


def by_simulation(
    arrivals: Arrivals, services: list[float], **settings: Any
) -> tuple[Seen, Outcome]:
    seen = Seen(lambda item: item.number)
    load = load_of(arrivals)
    loop = EventLoop(load, Services.each(services[: len(load)]), Setting(**settings), seen.begins)
    state = loop.state
    state.drops.item_listeners = (lambda items, why: seen.hear(state.now(), items, why),)
    outcome = loop.run()
    state.ledger.check()
    assert state.ledger.delivered == outcome.handled
    seen.ended.sort()
    return seen, outcome


def check(arrivals: Arrivals, services: list[float], **settings: Any) -> tt.PipelineReport:
    """Play *arrivals* both ways, see that nothing differs, and return the report."""
    seen, outcome = by_simulation(arrivals, services, **settings)
    theirs, report = by_pipeline(arrivals, services, **settings)
    # One by one: pytest would explain at length how two Seens differ.
    for name in ("came", "dropped", "begun", "ended"):
        pairs = zip(getattr(seen, name), getattr(theirs, name), strict=False)
        assert not next((pair for pair in pairs if pair[0] != pair[1]), None), name
        assert len(getattr(seen, name)) == len(getattr(theirs, name)), name
    assert outcome.produced == report.produced
    assert outcome.handled == report.consumed
    assert outcome.dropped == report.dropped
    assert report.dropped_by_reason == outcome.dropped_by_reason
    assert outcome.peak == report.queue_peak
    assert outcome.blocked_s == pytest.approx(report.blocked_s)
    return report


@functools.cache
def recorded() -> Arrivals:
    """Return the quotes of the real recording, of six symbols in an irregular order."""
    quotes, _ = read_all(REAL)
    assert len(quotes) == QUOTES
    arrivals: dict[float, list[Item]] = {}
    for n, (received_ns, quote) in enumerate(quotes):
        since_s = (received_ns - quotes[0][0]) / 1e9 / SPEED
        symbol = "ABCDEF"[n * n % 7 % 6]
        tick = attrs.evolve(quote, symbol=symbol, volume=float(n))
        arrivals.setdefault((math.floor(since_s * GRID) + 1) / GRID, []).append(tick)
    return list(arrivals.items())


@functools.cache
def invented() -> Arrivals:
    """Return 1,000 ticks that come in bursts, with pauses between."""
    dice = random.Random(11)
    arrivals: list[tuple[float, list[Item]]] = []
    at = first = 0
    while first < 1000:
        at += dice.choice([1, 1, 1, 2, 6])
        count = min(dice.choice([1, 2, 5, 30]), 1000 - first)
        ticks: list[Item] = [make_tick(dice.choice("AAABCD"), first + n) for n in range(count)]
        arrivals.append((at / GRID, ticks))
        first += count
    return arrivals


LOADS = [
    *(("invented", service, ordering) for service in SERVICES for ordering in ("symbol", "none")),
    # Each of these takes seconds, so two of them have to do.
    pytest.param("recorded", "exponential", "symbol", marks=needs_real),
    pytest.param("recorded", "heavy-tailed", "none", marks=needs_real),
]


@pytest.mark.parametrize(("load", "service", "ordering"), LOADS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_simulation_does_what_the_pipeline_does(
    load: str, strategy: str, service: str, ordering: str
) -> None:
    dice = random.Random(5)
    overflow = STRATEGIES[strategy]
    least_s = shortest_s(overflow)
    services = [exact(least_s + SERVICES[service](dice)) for _ in range(QUOTES)]
    arrivals = recorded() if load == "recorded" else invented()
    report = check(arrivals, services, workers=4, maxsize=200, overflow=overflow, ordering=ordering)
    assert report.produced == (QUOTES if load == "recorded" else 1000)
    # A load that the workers keep up with would prove little.
    assert report.dropped > report.produced // 20 or strategy == "Block()"


@pytest.mark.parametrize("seed", range(30))
def test_the_same_for_loads_made_by_chance(seed: int) -> None:
    dice = random.Random(seed)
    arrivals: list[tuple[float, list[Item]]] = []
    at, first = UNHURRIED_S, 0
    symbols = "ABCDEF"[: dice.randint(1, 6)]
    while first < 100:
        at = exact(at + dice.choice([0.001, 0.003, 0.02]) * dice.random()) + EXACT
        numbers = range(first, first + dice.choice([1, 1, 1, 2, 5, 30]))
        arrivals.append((at, [drawn(dice, symbols, n) for n in numbers]))
        first = numbers.stop
    more = [dice.choice([0.0002, 0.001, 0.004, 0.03]) * dice.random() for _ in range(first)]
    quicks: list[OverflowStrategy] = [tt.DropOldest(), tt.Conflate(), tt.DropNewest(0)]
    quick = dice.choice(quicks)
    patience = exact(dice.choice([0.0005, 0.003, 0.02]) * dice.random())
    patients: list[OverflowStrategy] = [tt.Block(timeout=patience), tt.DropNewest(patience)]
    patient = dice.choice(patients)
    cap = dice.choice([None, 2, 4])
    policies: list[Overflow] = [
        tt.Block(),
        patient,
        tt.DropNewest(patience, max_per_symbol=cap),
        tt.DropOldest(max_per_symbol=cap),
        tt.DropOldest(longest_line=True),
        quick,
        {tt.Tick: quick, tt.Trade: patient},
        {tt.Tick: patient, tt.Trade: tt.Block()},
        {tt.Tick: quick, tt.Trade: tt.Block()},
    ]
    overflow = dice.choice(policies)
    # With order and a strategy for each kind, one step may let a sender go on and wake
    # a worker: trio decides by chance which runs first, and it may matter.
    by_kind = isinstance(overflow, dict)
    max_age = dice.choice([None, None, exact(0.001 + 0.02 * dice.random())])
    least_s = UNHURRIED_S if max_age is not None else shortest_s(overflow)
    check(
        arrivals,
        [exact(least_s + seconds) for seconds in more],
        workers=dice.randint(1, 6),
        maxsize=dice.randint(1, 20),
        overflow=overflow,
        ordering="none" if by_kind else dice.choice(["symbol", "symbol", "none"]),
        max_age=max_age,
    )


def drawn(dice: random.Random, symbols: str, n: int) -> Item:
    symbol = dice.choice(symbols)
    return make_tick(symbol, n) if dice.random() < 0.7 else make_trade(symbol, n)
