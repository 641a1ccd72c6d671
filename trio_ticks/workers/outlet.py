"""Where the results of a pool's handlers go: to one place, before the tick has ended.

A worker that waits for its result to be written still holds its tick, so no more
results can be under way than ticks. A store that is away holds the workers up.

Rules: a result that raises one of ``AWAY`` is written again, until it is through or the
pool is cancelled; any other exception is for good, and fails the tick. The log says at
most once a second that results wait. What a handler returns for a gap is no result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import trio

from ..channel.state import ChannelState
from ..gaps import Gap
from ..handlers.batches import BatchError, values_of
from ..handlers.contexts import call_apart
from ..handlers.kinds import refuse_awaitable
from ..logs import log_event
from ..results import Place, Result, Results, ResultStore
from ..uninterrupted import uninterrupted
from .batch import Batch
from .runners import Runner
from .worker import Worker

__all__ = ["AWAY", "KeepingRunner", "Outlet"]

logger = logging.getLogger("trio_ticks.workers")

AWAY: Final = (ConnectionError, TimeoutError, trio.BrokenResourceError, trio.TooSlowError)
"""What says that a store is away, and will be back."""
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 1.0
_LINE_S: Final = 1.0
"""A result that waits for longer than this is told in the log, so often, in seconds."""

PlaceOf = Callable[[Any], tuple[Place | None, int]]
"""Takes a tick; returns its place in the buffer, and which delivery of it this is."""


def _in_memory(_item: Any) -> tuple[None, int]:
    return None, 1


@uninterrupted
@final
class Outlet:
    """Writes results for the workers of one pool, and counts them.

    Args:
        results: the user's.
        state: of the channel: its clock and its random numbers.
    """

    def __init__(self, results: Results, state: ChannelState[Any]) -> None:
        self.results = results
        """Where they go; the pool sets it anew if it was entered."""
        self.place_of: PlaceOf = _in_memory
        self.written = 0
        """Results that were written."""
        self.failed = 0
        """Results that could not be written; their ticks have failed."""
        self._now = state.now
        self._random = state.random
        self.waiting = 0
        """Results that are being written, or wait for a store that is away."""
        self._waited_s = 0.0
        self._waiting: dict[object, float] = {}
        """When each of the writings that are under way began, the oldest first."""
        self._some_wait = trio.Event()
        self._why = ""
        self._watching = trio.CancelScope()

    def waiting_s(self, now: float) -> float:
        """Return how long workers have waited for results up to *now*, added up."""
        return self._waited_s + sum(now - began for began in self._waiting.values())

    async def write(self, item: Any, value: Any) -> None:
        """Write *value*, which a handler returned for *item*.

        Raises:
            Exception: what the store raised for good.

        Cancellation: it may have been written.
        """
        await self._write([self._result(item, value)])

    async def write_all(
        self, pairs: Sequence[tuple[Any, Any]], written: Callable[[int], None]
    ) -> dict[int, Exception]:
        """Write the values of many items, in order.

        Args:
            pairs: items and values.
            written: called with how many of them have an outcome by now.

        Returns:
            What the store raised for good, by the place in *pairs*.

        Cancellation: some of them may have been written.
        """
        failures: dict[int, Exception] = {}
        if isinstance(self.results, ResultStore):
            try:
                await self._write([self._result(item, value) for item, value in pairs])
            except Exception as error:
                failures = dict.fromkeys(range(len(pairs)), error)
            written(len(pairs))
            return failures
        for index, (item, value) in enumerate(pairs):
            try:
                await self.write(item, value)
            except Exception as error:
                failures[index] = error
            written(index + 1)
        return failures

    def _result(self, item: Any, value: Any) -> Result:
        place, attempt = self.place_of(item)
        return Result(value=value, symbol=item.symbol, place=place, attempt=attempt, item=item)

    async def _write(self, results: list[Result]) -> None:
        key, wait_s = object(), _FIRST_WAIT_S
        self._waiting[key] = self._now()
        self.waiting += len(results)
        self._some_wait.set()
        try:
            while True:
                try:
                    await self._call(results)
                except AWAY as error:
                    self._why = repr(error)
                else:
                    break
                await trio.sleep(wait_s * self._random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        except Exception:
            self.failed += len(results)
            raise
        finally:
            self._waited_s += self._now() - self._waiting.pop(key)
            self.waiting -= len(results)
            if not self._waiting:
                self._why = ""
        self.written += len(results)

    async def _call(self, results: list[Result]) -> None:
        if isinstance(self.results, ResultStore):
            await call_apart(self.results.write_many, results)
            return
        for result in results:
            await call_apart(self.results, result)

    # Beside the workers

    async def run(self) -> None:
        """Say in the log, once a second, that results wait; ends with :meth:`stop`.

        Cancellation: nothing more is said.
        """
        with self._watching:
            while True:
                await self._some_wait.wait()
                self._some_wait = trio.Event()
                while self._waiting:
                    await trio.sleep(_LINE_S)
                    self._say()

    def stop(self) -> None:
        """End :meth:`run`: no worker is left."""
        self._watching.cancel()

    def _say(self) -> None:
        began = next(iter(self._waiting.values()), None)
        if began is None or (waited_s := self._now() - began) < _LINE_S:
            return
        text = "%d results wait to be written%s, the oldest for %.0f s; their workers wait, too%s"
        # A store may be away for a while before it says why.
        shown = getattr(self.results, "shown", None)
        where = f" to {shown}" if isinstance(shown, str) else ""
        why = f": {self._why}" if self._why else ""
        facts = {"results": self.waiting, "waited_s": waited_s}
        arguments = (self.waiting, where, waited_s, why)
        log_event(logger, logging.WARNING, "results.waiting", text, *arguments, **facts)

    # Around the handlers

    def around(
        self, handler: Callable[[Any], Any], worker: Worker[Any], *, in_loop: bool, whole: bool
    ) -> Callable[[Any], Any]:
        """Return *handler* of *worker*, as the pool calls it: what it returns is kept.

        Args:
            handler: ready to be called: with its time limit and its further tries.
            worker: whose it is.
            in_loop: whether it is awaited here. If not, its values are left in the
                worker's batch, for a :class:`KeepingRunner`.
            whole: whether it takes a batch.
        """
        if not in_loop:
            return _collecting(handler, worker)
        return self._around_batches(handler) if whole else self._around_items(handler)

    def _around_items(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def kept(item: Any) -> None:
            value = await handler(item)
            if value is not None and not isinstance(item, Gap):
                await self.write(item, value)

        return kept

    def _around_batches(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def kept(items: list[Any]) -> None:
            value = await handler(items)
            if value is None or isinstance(items[0], Gap):
                return
            pairs = [
                (index, each)
                for index, each in enumerate(values_of(value, len(items)))
                if each is not None
            ]
            failures = await self.write_all(
                [(items[index], each) for index, each in pairs], lambda _count: None
            )
            if failures:
                raise BatchError({pairs[number][0]: error for number, error in failures.items()})

        return kept


def _collecting(handler: Callable[[Any], Any], worker: Worker[Any]) -> Callable[[Any], Any]:
    def collected(given: Any) -> None:
        # Read before: if this thread is abandoned, the worker soon has no batch.
        batch = worker.batch
        value = handler(given)
        if value is None or batch is None or isinstance(given, Gap):
            return
        refuse_awaitable(value, "a thread")
        if not isinstance(given, list):
            batch.values.append((given, value))
        elif not isinstance(given[0], Gap):
            batch.values += zip(given, values_of(value, len(given)), strict=True)

    return collected


@uninterrupted
@final
class KeepingRunner:
    """Runs batches by another runner, and then writes the results of their ticks.

    Until a tick's result is written, it has no outcome; see :attr:`Batch.kept`. So a
    result that cannot be written is reported when the ticks behind it in its batch have
    been handled already.
    """

    def __init__(self, runner: Runner[Any], outlet: Outlet, now: Callable[[], float]) -> None:
        self._runner = runner
        self._outlet = outlet
        self._now = now
        self.calls_back = runner.calls_back

    async def run(self, worker: Worker[Any], batch: Batch[Any]) -> None:
        """Run *batch*, and write the results of what was handled.

        Cancellation: as the runner's; ticks whose results were not written have no
        outcome.
        """
        batch.kept, batch.values = 0, []
        await self._runner.run(worker, batch)
        began = self._now()
        await self._write(batch)
        # What the workers measure is the way to the thread or process, and back.
        batch.sent_at += self._now() - began

    async def _write(self, batch: Batch[Any]) -> None:
        found: Mapping[int, Any] = {
            id(item): value for item, value in batch.values if value is not None
        }
        done, failed = batch.done, {index for index, _error in batch.failures}
        places = [
            index
            for index, item in enumerate(batch.items[:done])
            if id(item) in found and index not in failed
        ]

        def written(count: int) -> None:
            batch.kept = places[count] if count < len(places) else done

        written(0)
        if places:
            pairs = [(batch.items[index], found[id(batch.items[index])]) for index in places]
            failures = await self._outlet.write_all(pairs, written)
            more = [(places[number], error) for number, error in failures.items()]
            batch.failures = sorted([*batch.failures, *more], key=lambda failure: failure[0])
