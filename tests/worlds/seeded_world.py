"""Runs that are made entirely from a seed.

The seed decides what flows, where it is handled, what each handling does, and how it
all ends. Afterwards the handlers' records are checked against the pipeline's counters:
each tick has one outcome, in its turn.
"""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import attrs
import trio
import trio.lowlevel

import trio_ticks as tt
from tests.worlds.helpers import make_tick, number
from tests.worlds.pipeline_world import ScriptFeed, Send
from tests.worlds.process_world import workers_now
from tests.worlds.seeded_handlers import Async, CurableError, Event, Fate, Log, Plain
from trio_ticks import open_pipeline
from trio_ticks.errors import LedgerError
from trio_ticks.ledger import DropReason

__all__ = ["UNIT_S", "Load", "Outcome", "Place", "Steer", "play", "seeds"]

Place = Literal["loop", "thread", "process"]
Steer = Callable[[tt.Pipeline[Any], Log], Awaitable[None]]
"""Tells a pipeline what to do while it runs."""
UNIT_S: dict[Place, float] = {"loop": 0.01, "thread": 0.001, "process": 0.01}
SHARES: dict[Place, tuple[int, int]] = {"loop": (60, 40), "thread": (30, 20), "process": (10, 4)}
"""How many of a hundred runs are of each kind, and how many there are by default."""
_APART_S = 1e-9 * math.pi
"""What a tick's number adds to its sleeps: no two end at one moment, for trio then goes
by the addresses of objects, which no seed decides."""


def seeds(place: Place) -> range:
    """Return the seeds to try.

    ``TRIO_TICKS_SEEDS`` says how many in all, ``TRIO_TICKS_FIRST_SEED`` where to begin.
    """
    share, usually = SHARES[place]
    first, asked = (
        int(os.environ.get("TRIO_TICKS_FIRST_SEED", "0")),
        os.environ.get("TRIO_TICKS_SEEDS"),
    )
    return range(first, first + (usually if asked is None else -(-int(asked) * share // 100)))


class FeedError(Exception):
    """The source has broken."""


@attrs.frozen
class Load:
    """A run, before it is run."""

    place: Place
    settings: dict[str, Any]
    """As ``open_pipeline`` takes them."""
    fates: dict[int, Fate]
    sends: list[tuple[float, list[tt.Tick], float | None]]
    """How long to wait, what to send then, and for how long to try."""
    awaits: bool
    batch: tuple[int, float] | None
    """Of a batch handler: ``max_size`` and ``max_wait``."""
    names_failures: bool
    tells_s: float | None
    """How long ``on_error`` takes, if it is async."""
    kills_s: list[float]
    """How long to wait before each kill of some process."""
    kills_at_once: bool
    """Whether the first wait begins before a process has handled anything."""
    end: tuple[Literal["drain", "feed fails", "shutdown", "cancel", "scope"], float]

    @classmethod
    def drawn(cls, place: Place, seed: int) -> Load:
        """Make a load from *seed*."""
        rng = random.Random(f"{place} {seed}")
        unit = UNIT_S[place]
        pace = rng.choice([0.05, 1])  # of quick ones batches are large
        symbols = "ABCDEFGH"[: rng.randint(1, 8)]
        sends: list[tuple[float, list[tt.Tick], float | None]] = []
        fates: dict[int, Fate] = {}
        for _ in range(rng.randint(10 if place == "process" else 1, 20)):
            ticks = [
                make_tick(rng.choice(symbols), len(fates) + n) for n in range(rng.randint(1, 20))
            ]
            for tick in ticks:
                seconds = unit * pace * rng.choice([-1, -1, 0, 0, 0.3, 1, 4])
                if seconds > 0:
                    seconds += _APART_S * (number(tick) + 1)
                fails = rng.choices([0, 1, 2, 9], [85, 6, 4, 5])[0]
                fates[number(tick)] = Fate(seconds, fails, hopeless=rng.random() < 0.05)
            waits = (
                [0, 0.5, 2, 6, 15] if place == "process" else [0, 0, 0.5, 2, 6]
            )  # until they are ready, and after
            sends.append(
                (
                    unit * rng.choice(waits),
                    ticks,
                    unit * rng.uniform(0, 3) if rng.random() < 0.15 else None,
                )
            )
        span_s = sum(wait_s for wait_s, _ticks, _for_s in sends) + 10 * unit
        batch = (rng.randint(1, 9), unit * rng.choice([0, 0, 1, 5])) if rng.random() < 0.4 else None
        settings: dict[str, Any] = {
            "executor": place,
            "workers": rng.randint(1, 3 if place == "process" else 6),
            "ordering": rng.choice(["symbol", "symbol", "none"]),
            "maxsize": rng.choice([1, 3, 10, 50, 1000]),
            "overflow": rng.choice(
                [
                    tt.Block(),
                    tt.Block(timeout=2 * unit),
                    tt.DropNewest(0),
                    tt.DropNewest(3 * unit),
                    tt.DropNewest(0, max_per_symbol=2),
                    tt.DropOldest(),
                    tt.DropOldest(longest_line=True),
                    tt.Conflate(),
                ]
            ),
            "max_age": rng.choice([None, None, None, 8 * unit]),
            "shutdown_timeout": rng.choice([0, 2 * unit, 1000 * unit]),
            "handler_timeout": rng.choice([None, 2 * unit]) if place == "loop" else None,
            "retry": tt.Retry(CurableError, attempts=rng.randint(2, 3), initial_s=0, maximum_s=unit)
            if rng.random() < 0.5
            else None,
            "breaker": tt.Breaker(rng.randint(1, 4), 5 * unit) if rng.random() < 0.15 else None,
            "on_crash": rng.choice(["fail", "retry"]),
        }
        ends: list[Any] = ["drain", "drain", "drain", "feed fails", "shutdown", "cancel", "scope"]
        return cls(
            place,
            settings,
            fates,
            sends,
            awaits=place == "loop" or (place == "process" and rng.random() < 0.4),
            batch=batch,
            names_failures=rng.random() < 0.5,
            tells_s=rng.choice([None, 0, unit]),
            kills_s=[rng.uniform(0, 0.2) for _ in range(rng.choice([0, 1, 2, 2, 2]))]
            if place == "process"
            else [],
            kills_at_once=rng.random() < 0.2,
            end=(rng.choice(ends), rng.uniform(0, span_s)),
        )

    def handler(self, log: Log) -> Callable[[Any], Any]:
        handler = (Async if self.awaits else Plain)(log, self.fates, self.names_failures)
        if self.batch is None:
            return handler
        max_size, max_wait = self.batch
        return tt.batch_handler(max_size=max_size, max_wait=max_wait)(handler)


@attrs.define
class Outcome:
    """What the feed, the listeners that count, and ``on_error`` saw of a run."""

    load: Load
    pipeline: tt.Pipeline[Any] | None = None
    sent: Counter[int] = attrs.field(factory=Counter)
    received: Counter[int] = attrs.field(factory=Counter)
    dropped: Counter[int] = attrs.field(factory=Counter)
    """In the channel; of ticks lost in the pool only the count is known."""
    conflated: Counter[str] = attrs.field(factory=Counter)
    """By symbol: which tick it was that a newer one replaced is not told."""
    failed: Counter[int] = attrs.field(factory=Counter)
    killed: set[int] = attrs.field(factory=set)
    """The numbers of the processes that were killed from here."""
    stopped: bool = False
    """Whether whoever steers the pipeline has shut it down."""
    events: list[Event] = attrs.field(factory=list)
    wrongs: list[str] = attrs.field(factory=list)

    def hear(self, items: Sequence[Any], reason: DropReason | None) -> None:
        if reason == "conflated":
            self.conflated.update(item.symbol for item in items)
        else:
            (self.received if reason is None else self.dropped).update(map(number, items))

    def check(self) -> None:
        """Raise an AssertionError unless law and order were kept."""
        self._check_law()
        if self.load.settings["ordering"] == "symbol":
            self._check_order()
        assert not self.wrongs, "; ".join(self.wrongs[:5])

    def _check_law(self) -> None:
        assert self.pipeline is not None
        report, lost = self.pipeline.report, self.pipeline.ledger.in_pool.shutdown
        self.pipeline.ledger.check()
        assert report.ledger.unaccounted == report.queued == report.in_flight == 0
        assert self.received == self.sent, f"{self.received.total()} of {self.sent.total()}"
        for counts in (self.received, self.dropped, self.failed):
            assert set(counts.values()) <= {1}, f"more than once: {counts.most_common(5)}"
        received, dropped, failed = set(self.received), set(self.dropped), set(self.failed)
        assert dropped | failed <= received
        assert not dropped & failed, f"dropped and failed: {dropped & failed}"
        seen = len(received), len(dropped) + self.conflated.total() + lost, len(failed)
        assert seen == (report.produced, report.dropped, report.failed), (
            f"{seen} of {report.ledger}"
        )
        if self.load.end[0] == "drain" and not self.stopped:
            # A send that was cut off counts its ticks as left, too, but in the channel.
            cut_off = any(for_s is not None for _wait_s, _ticks, for_s in self.load.sends)
            assert not lost, "left in hand"
            left = report.ledger.dropped_by_reason["shutdown"]
            assert cut_off or not left, f"left behind: {left}"
        tries, ended = Counter[int](), set[int]()
        for event in self.events:
            if event.what == "begin":
                tries.update(event.numbers)
                ended.difference_update(event.numbers)
            elif event.what == "end":
                ended.update(set(event.numbers) - set(event.failed))
        assert set(tries) <= received
        if not self.killed:
            assert not ended & failed, f"failed, but ended well: {ended & failed}"
            assert failed <= set(tries), f"failed unseen: {failed - set(tries)}"
            assert not set(tries) & dropped, (
                f"begun, and dropped in the channel: {set(tries) & dropped}"
            )
        # If a process was killed, or all were cancelled, the outcome of some ticks that
        # were handled may not have arrived in time.
        handled = ended - failed - dropped
        assert report.consumed <= len(handled) <= report.consumed + lost
        if not lost:
            outcomes = (
                self._by_symbol(handled)
                + self._by_symbol(failed)
                + self._by_symbol(dropped)
                + self.conflated
            )
            assert self._by_symbol(received) == outcomes, (
                f"{self._by_symbol(received)} came, of {outcomes} is known what became"
            )
            assert handled == received - failed - dropped or self.conflated
        retry = self.load.settings["retry"]
        again = 2 if self.killed and self.load.settings["on_crash"] == "retry" else 1
        most = max(tries.values(), default=0)
        assert most <= again * (1 if retry is None else retry.attempts), f"{most} tries"

    def _by_symbol(self, numbers: set[int]) -> Counter[str]:
        return Counter(
            tick.symbol
            for _wait_s, ticks, _for_s in self.load.sends
            for tick in ticks
            if number(tick) in numbers
        )

    def _check_order(self) -> None:
        holders: dict[str, int] = {}
        """By symbol, the process in which a handling is under way."""
        last: dict[str, list[int]] = defaultdict(list)
        """By symbol, what the last handling had."""
        telling: dict[str, int] = {}
        for event in self.events:
            mine: dict[str, list[int]] = defaultdict(list)
            for symbol, tick_number in zip(event.symbols, event.numbers, strict=True):
                mine[symbol].append(tick_number)
            for symbol, numbers in mine.items():
                where = f"{event.what} {numbers} of {symbol} after {last[symbol]}"
                if event.what in ("end", "cut"):
                    if holders.pop(symbol, None) != event.pid or numbers != last[symbol]:
                        self.wrongs.append(f"{where}: not begun")
                    continue
                if event.what == "told":
                    if telling.pop(symbol) != numbers[0] or symbol in holders:
                        self.wrongs.append(f"{where}: did not wait for its report")
                    continue
                # A killed process records no more ends, so its handlings are over too.
                if symbol in holders and holders[symbol] not in self.killed - {event.pid}:
                    self.wrongs.append(f"{where}: two at once")
                holders.pop(symbol, None)
                if symbol in telling:
                    self.wrongs.append(f"{where}: while {telling[symbol]} was being told")
                later = not last[symbol] or numbers[0] > last[symbol][-1]
                if event.what == "telling":
                    telling[symbol] = numbers[0]
                    if not later and numbers[0] not in last[symbol]:
                        self.wrongs.append(f"{where}: too late")
                    continue
                if numbers != sorted(set(numbers)) or not (later or numbers == last[symbol]):
                    self.wrongs.append(f"{where}: out of order")
                holders[symbol], last[symbol] = event.pid, numbers


class Watch(trio.abc.Instrument):
    """Looks after every step of every task."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        outcome = self._outcome
        if outcome.pipeline is None:
            return
        ledger = outcome.pipeline.ledger
        try:
            ledger.check()
        except LedgerError as error:
            outcome.wrongs.append(f"law: {error}")
        channel = outcome.pipeline.statistics()
        used, waiting = channel.current_buffer_used, channel.waiting_for_room
        if used > outcome.load.settings["maxsize"]:
            outcome.wrongs.append(f"bound: {used} in the buffer and the lanes")
        if used + waiting != ledger.queued:
            outcome.wrongs.append(
                f"bound: {used} in the buffer and the lanes, {waiting} wait for room, "
                f"{ledger.queued} measured"
            )


async def play(load: Load, path: Path | None = None, steer: Steer | None = None) -> Outcome:
    """Run *load*; handlers in processes write to *path*, *steer* runs beside it all."""
    outcome, log = Outcome(load), Log(None if path is None else str(path))
    watch = Watch(outcome)

    async def script(send: Send) -> None:
        for wait_s, ticks, for_s in load.sends:
            await trio.sleep(wait_s)
            outcome.sent.update(map(number, ticks))
            with trio.move_on_after(math.inf if for_s is None else for_s):
                await send.send_many(ticks)
        if load.end[0] == "feed fails":
            raise FeedError

    async def on_error(tick: tt.Tick, _error: Exception) -> None:
        outcome.failed[number(tick)] += 1
        log.write("telling", [tick])
        try:
            if load.tells_s is not None:
                await trio.sleep(load.tells_s + _APART_S / 3 * (number(tick) + 1))
        finally:
            log.write("told", [tick])

    async def kill() -> None:
        rng = random.Random(len(load.fates))
        while load.kills_s and not (load.kills_at_once or log.read()):  # noqa: ASYNC110 - a process sets no event
            await trio.sleep(0.005)
        for wait_s in load.kills_s:
            await trio.sleep(wait_s)
            if pids := sorted(workers_now()):
                outcome.killed.add(pid := rng.choice(pids))
                os.kill(pid, signal.SIGKILL)

    trio.lowlevel.add_instrument(watch)
    try:
        with suppress(FeedError), trio.CancelScope() as scope:
            async with open_pipeline(
                ScriptFeed(script), load.handler(log), on_error=on_error, **load.settings
            ) as pipeline:
                outcome.pipeline = pipeline
                pipeline.item_listeners.add(outcome.hear)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(kill)
                    if steer is not None:
                        nursery.start_soon(steer, pipeline, log)
                    how, after_s = load.end
                    if how in ("shutdown", "cancel", "scope"):
                        with trio.move_on_after(after_s):
                            await pipeline.wait()
                        scope.cancel() if how == "scope" else getattr(pipeline, how)()
                    await pipeline.wait()
                    nursery.cancel_scope.cancel()
    finally:
        trio.lowlevel.remove_instrument(watch)
    outcome.events, outcome.stopped = log.read(), log.stopped
    return outcome
