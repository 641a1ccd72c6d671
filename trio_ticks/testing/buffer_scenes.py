"""The scenes of check_buffer: what ingests and workers do to a buffer.

Rules: a tick's number is its ``volume``. Each scene ends with a last tick of each
symbol, so that whoever has seen that one has seen all that will come before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, final

import trio

from ..channel.ends import TickSendChannel
from ..gaps import Gap
from ..overflow import Block
from ..pipeline.opening import open_pipeline
from ..pipeline.running import Pipeline
from ..ticks import Tick
from .buffer_watch import WatchedBuffer

__all__ = ["SCENES", "SHARED", "Scene"]

_NOON: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
_SYMBOLS: Final = ("A", "B", "C", "D", "E", "F", "G")
_LAST: Final = 1_000_000
"""The number of the last tick of each symbol."""
_TURNS: Final = 5
"""Turns of a source after which it would have acknowledged what it may."""
_TURNS_S: Final = 3.0
"""The most seconds that these may take."""
_POLL_S: Final = 0.005
_STEP: Final = 12
"""Ticks of each symbol that are put in while workers come and go."""
_JOIN_S: Final = 10.0
"""The most seconds that a newcomer is waited for."""


def _ticks(count: int, first: int = 0, symbols: Sequence[str] = _SYMBOLS) -> list[Tick]:
    """Return *count* ticks of each symbol, in turn."""
    return [
        Tick(symbol, _NOON, 1.0, 2.0, 1.0, 1.0, float(number))
        for number in range(first, first + count)
        for symbol in symbols
    ]


class Seen:
    """What the handlers of one scene, or of one of its workers, were given."""

    def __init__(self) -> None:
        self.items: list[tuple[str, int]] = []

    def add(self, tick: Tick) -> int:
        """Note *tick*; return its number."""
        number = int(tick.volume)
        self.items.append((tick.symbol, number))
        return number

    def numbers(self, symbol: str) -> list[int]:
        """Return the numbers of *symbol*, without the last tick's."""
        return [number for each, number in self.items if each == symbol and number != _LAST]

    def has_last(self) -> bool:
        """Tell whether the last tick of each symbol has come."""
        return {symbol for symbol, number in self.items if number == _LAST} >= set(_SYMBOLS)


@final
class _Feed:
    """A feed that brings what it is given, until it is told to end."""

    def __init__(self) -> None:
        self._give, self._take = trio.open_memory_channel[Any](10_000)

    async def run(self, send: TickSendChannel[Tick]) -> None:
        async for items in self._take:
            lot: list[Tick] = []
            for item in items:
                if isinstance(item, Gap):
                    await send.send_many(lot)
                    lot = []
                    send.mark_gap(item)
                else:
                    lot.append(item)
            await send.send_many(lot)

    def put(self, items: Sequence[Tick | Gap]) -> None:
        self._give.send_nowait(items)

    def put_last(self) -> None:
        self.put(_ticks(1, _LAST))

    def end(self) -> None:
        self._give.close()


@final
class Scene:
    """The buffer of one scene, and how its ends are run."""

    def __init__(
        self, name: str, buffer: WatchedBuffer, patience_s: float, bound: int | None
    ) -> None:
        self.name = name
        self.buffer = buffer
        self.bound = bound
        self.patience_s = patience_s

    @asynccontextmanager
    async def ingest(self) -> AsyncIterator[tuple[_Feed, Pipeline[Any]]]:
        """Run an ingest; at the end all that was given to its feed is in the buffer.

        Cancellation: it is cancelled.
        """
        feed = _Feed()
        async with open_pipeline(
            feed, None, buffer=self.buffer, overflow=Block(), shutdown_timeout=self.patience_s
        ) as pipeline:
            yield feed, pipeline
            feed.end()
            await self.until(lambda: pipeline.phase == "stopped", "the ingest does not end")
        self.buffer.check()
        pipeline.ledger.check()
        report = pipeline.report
        if report.produced != report.consumed:
            self.fail(f"of {report.produced} ticks only {report.consumed} are appended")

    @asynccontextmanager
    async def work(
        self, handler: Callable[[Any], Awaitable[None]], **settings: Any
    ) -> AsyncIterator[Pipeline[Any]]:
        """Run workers; leaving the block shuts them down.

        Cancellation: they are cancelled.
        """
        async with open_pipeline(None, handler, buffer=self.buffer, **settings) as pipeline:
            yield pipeline
        self.buffer.check()
        pipeline.ledger.check()
        ledger = pipeline.report.ledger
        if ledger.dropped or ledger.produced != ledger.consumed + ledger.failed + ledger.given_back:
            self.fail(f"a shutdown gives back what has no outcome, and drops nothing: {ledger}")

    async def until(self, condition: Callable[[], bool], else_: str) -> None:
        """Wait until *condition* holds.

        Raises:
            AssertionError: it does not hold in time.

        Cancellation: harmless.
        """
        with trio.move_on_after(self.patience_s):
            while not condition():
                self.buffer.check()
                await trio.sleep(_POLL_S)
            return
        self.buffer.check()
        self.fail(f"{else_} (waited {self.patience_s:g} s)")

    async def some_turns(self) -> None:
        """Let the source acknowledge what it may, and what it may not.

        Cancellation: harmless.
        """
        enough = self.buffer.turns + _TURNS
        with trio.move_on_after(_TURNS_S):
            while self.buffer.turns < enough:  # noqa: ASYNC110
                await trio.sleep(_POLL_S)

    async def rest(self, feed: _Feed) -> Seen:
        """Put in the last ticks; return all that workers get up to them.

        Cancellation: harmless.
        """
        seen = Seen()

        async def handler(tick: Tick) -> None:
            seen.add(tick)

        feed.put_last()
        async with self.work(handler):
            await self.until(seen.has_last, "the last ticks do not come")
        return seen

    def cancel(self, pipeline: Pipeline[Any]) -> None:
        """Cancel *pipeline*, as a crash would."""
        self.buffer.cancelling = True
        pipeline.cancel()

    def fail(self, text: str) -> None:
        """Raise an AssertionError with the scene's name."""
        raise AssertionError(f"{self.name}: {text}")

    def compare(self, seen: Seen, wanted: range, symbol: str) -> None:
        """Check that *seen* is *wanted*, once and in order."""
        numbers = seen.numbers(symbol)
        if numbers == list(wanted):
            return
        if missing := sorted(set(wanted) - set(numbers)):
            self.fail(f"lost: tick {missing[0]} of {symbol!r} (and {len(missing) - 1} more)")
        if len(numbers) > len(set(numbers)) or not set(numbers) <= set(wanted):
            twice = next(n for n in numbers if numbers.count(n) > 1 or n not in wanted)
            self.fail(f"repeated: tick {twice} of {symbol!r} came again, and had an outcome")
        wrong = next(n for n, want in zip(numbers, wanted, strict=True) if n != want)
        self.fail(f"order: tick {wrong} of {symbol!r} came before an older one")

    def continues(self, done: Sequence[int], again: Seen, count: int, symbol: str) -> None:
        """Check that *again* goes on where *done* ended, or before, without a hole."""
        numbers = again.numbers(symbol)
        following = len(done)
        if done and list(done) != list(range(following)):
            self.fail(f"order: {symbol!r} came as {list(done)[:20]}")
        if following == count and not numbers:
            return
        if not numbers or numbers[0] > following:
            self.fail(
                f"lost: tick {following} of {symbol!r} had no outcome, and did not come again: it "
                "was acknowledged too early, or lost at the end of its worker"
            )
        if numbers != list(range(numbers[0], count)):
            self.fail(
                f"order: what came again of {symbol!r} is not one stretch up to {count - 1}: "
                f"{numbers[:20]}"
            )


async def _in_order(scene: Scene) -> None:
    """All comes once and in order, and nothing after a clean end."""
    seen = Seen()
    gaps: list[tuple[str, int]] = []
    sent: list[Tick | Gap] = []
    wanted: list[tuple[str, int]] = []
    for number, tick in enumerate(_ticks(40)):
        if number % 17 == 5:
            sent.append(Gap(tick.symbol, _NOON, "sequence", number, _NOON))
            wanted.append((tick.symbol, number))
        sent.append(tick)

    async def handler(item: Tick | Gap) -> None:
        if isinstance(item, Gap):
            gaps.append((item.symbol, item.count))
            places[item.count] = len(seen.numbers(item.symbol))
        else:
            seen.add(item)

    places: dict[int, int] = {}
    total = sum(isinstance(each, Tick) for each in sent)
    async with scene.work(handler):
        async with scene.ingest() as (feed, _pipeline):
            feed.put(sent)
            await scene.until(
                lambda: len(seen.items) >= total, f"lost: of {total} ticks some do not come"
            )
        await scene.some_turns()
    for symbol in _SYMBOLS:
        scene.compare(seen, range(40), symbol)
    if sorted(gaps) != sorted(wanted):
        scene.fail(f"gaps: {len(wanted)} went in, and {len(gaps)} came: {gaps[:5]}")
    for symbol, number in wanted:
        before = number // len(_SYMBOLS)
        if places[number] != before:
            scene.fail(
                f"gaps: the gap of {symbol!r} before its tick {before} came before its tick "
                f"{places[number]}"
            )
    await _nothing_more(scene)


async def _nothing_more(scene: Scene) -> None:
    async with scene.ingest() as (feed, _pipeline):
        seen = await scene.rest(feed)
    for symbol in _SYMBOLS:
        scene.compare(seen, range(0), symbol)


async def _unfinished(scene: Scene) -> None:
    """What is unfinished when its worker is cancelled comes again, in order."""
    seen = Seen()

    async def handler(tick: Tick) -> None:
        if tick.symbol == "A" and int(tick.volume) == 2:
            await trio.sleep_forever()
        seen.add(tick)

    async with scene.ingest() as (feed, _pipeline):
        feed.put(_ticks(6))
        async with scene.work(handler) as pipeline:
            wanted = 6 * (len(_SYMBOLS) - 1) + 2
            await scene.until(
                lambda: len(seen.items) >= wanted, "one handler that hangs stops other symbols"
            )
            await scene.some_turns()
            scene.cancel(pipeline)
        again = await scene.rest(feed)
    for symbol in _SYMBOLS:
        scene.continues(seen.numbers(symbol), again, 6, symbol)


async def _given_back(scene: Scene) -> None:
    """A shutdown gives back what no worker has begun, and it comes again."""
    seen = Seen()
    hangs = trio.Event()

    async def handler(tick: Tick) -> None:
        if len(seen.items) >= 10:
            hangs.set()
            await trio.sleep_forever()
        seen.add(tick)

    async with scene.ingest() as (feed, _pipeline):
        feed.put(_ticks(8))
        async with scene.work(handler, workers=1, shutdown_timeout=0.1):
            await scene.until(hangs.is_set, "lost: the first ticks do not come")
            await scene.some_turns()
        again = await scene.rest(feed)
    for symbol in _SYMBOLS:
        scene.continues(seen.numbers(symbol), again, 8, symbol)


async def _ended(scene: Scene) -> None:
    """What is handled in the time of a shutdown is acknowledged, and comes no more."""
    seen = Seen()

    async def handler(tick: Tick) -> None:
        await trio.sleep(0.005)
        seen.add(tick)

    async with scene.ingest() as (feed, _pipeline):
        feed.put(_ticks(8))
        async with scene.work(handler, workers=1, shutdown_timeout=scene.patience_s):
            await scene.until(lambda: len(seen.items) >= 10, "lost: the first ticks do not come")
        again = await scene.rest(feed)
    for symbol in _SYMBOLS:
        done = seen.numbers(symbol)
        scene.continues(done, again, 8, symbol)
        if (numbers := again.numbers(symbol)) and numbers[0] < len(done):
            scene.fail(
                f"repeated: tick {numbers[0]} of {symbol!r} was handled in the shutdown's time, "
                "and came again: after drain() wait while outcomes.busy, then acknowledge"
            )


async def _failed(scene: Scene) -> None:
    """A tick whose handler failed has an outcome, too."""
    seen = Seen()

    async def handler(tick: Tick) -> None:
        if seen.add(tick) % 2:
            raise ValueError("on purpose")

    async def ignore(_tick: Tick, _error: Exception) -> None:
        await trio.lowlevel.checkpoint()

    async with scene.work(handler, on_error=ignore), scene.ingest() as (feed, _pipeline):
        feed.put(_ticks(10))
        wanted = 10 * len(_SYMBOLS)
        await scene.until(lambda: len(seen.items) >= wanted, "lost: some ticks do not come")
    for symbol in _SYMBOLS:
        scene.compare(seen, range(10), symbol)
    await _nothing_more(scene)


async def _bound(scene: Scene) -> None:
    """A buffer that is full takes no more, and goes on when there is room."""
    bound = scene.bound or 0
    count = 2 * bound // len(_SYMBOLS) + 2
    async with scene.ingest() as (feed, pipeline):
        feed.put(_ticks(count))
        with trio.move_on_after(_TURNS_S):
            while True:
                now = pipeline.buffer_statistics
                used = 0 if now is None else max(now.used or 0, now.appended)
                if used > bound:
                    scene.fail(f"it holds at most {bound} ticks, and has {used}")
                await trio.sleep(_POLL_S)
        seen = await scene.rest(feed)
    for symbol in _SYMBOLS:
        scene.compare(seen, range(count), symbol)


@final
class _Team:
    """The workers of one scene that share a buffer, and what they were given."""

    def __init__(self, scene: Scene, feed: _Feed, nursery: trio.Nursery) -> None:
        self._scene = scene
        self._feed = feed
        self._nursery = nursery
        self._next = 0
        self._came: dict[str, set[int]] = {symbol: set() for symbol in _SYMBOLS}
        self.seen = Seen()

    async def join(self, cancelled: bool = False) -> trio.Event:
        """Start a worker, and have ticks handled until it has its share of them.

        One that gets none is left alone: there may be a single shard, and then it waits
        for its turn.

        Args:
            cancelled: whether it is cancelled at its end, not shut down.

        Returns:
            What ends it.
        """
        leave, own = trio.Event(), Seen()

        async def handler(tick: Tick) -> None:
            await trio.sleep(0.001)
            self._came[tick.symbol].add(self.seen.add(tick))
            own.add(tick)

        async def worker() -> None:
            async with self._scene.work(handler, workers=2, shutdown_timeout=1.0) as pipeline:
                await leave.wait()
                if cancelled:
                    self._scene.cancel(pipeline)

        if self._next:
            await self.step(lambda: self._nursery.start_soon(worker))
        else:
            self._nursery.start_soon(worker)
        end = trio.current_time() + _JOIN_S
        while not own.items and trio.current_time() < end:
            await self.step()
            await trio.sleep(0.02)
        return leave

    async def step(self, change: Callable[[], None] | None = None) -> None:
        """Have ticks handled, and make a *change* of workers in the midst of them."""
        before, numbers = len(self.seen.items), range(self._next, self._next + _STEP)
        self._next += _STEP
        self._feed.put(_ticks(_STEP, numbers[0]))
        await self._scene.until(
            lambda: len(self.seen.items) > before + 10,
            f"lost: the ticks from {numbers[0]} on do not come",
        )
        if change is not None:
            change()
        await self._scene.until(
            lambda: all(came.issuperset(numbers) for came in self._came.values()),
            f"lost: the ticks from {numbers[0]} on do not come, of workers that join and leave",
        )


async def _shared(scene: Scene) -> None:
    """Workers join, leave and are cancelled while others run."""
    async with trio.open_nursery() as nursery:
        async with scene.ingest() as (feed, _pipeline):
            team = _Team(scene, feed, nursery)
            leave = await team.join()
            for cancelled in (True, False):
                leave_before = leave
                # Who leaves before the newcomer has joined hands nothing over to it.
                leave = await team.join(cancelled)
                await team.step(leave_before.set)
            await team.step()
        leave.set()
    for symbol in _SYMBOLS:
        newest = -1
        for number in team.seen.numbers(symbol):
            if number > newest + 1:
                scene.fail(f"skipped: tick {number} of {symbol!r} was handled before {newest + 1}")
            newest = max(newest, number)


SCENES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "all once, in order": _in_order,
    "a worker is cancelled": _unfinished,
    "a worker is shut down": _given_back,
    "a worker ends in time": _ended,
    "handlers fail": _failed,
    "the bound": _bound,
}
SHARED: dict[str, Callable[[Scene], Awaitable[None]]] = {"workers come and go": _shared}
