"""Run the batches that workers lease: in the event loop or in worker threads.

``processes/work.py`` has the runner for worker processes.

Rules: a runner only runs; order, counting and error reports belong to the worker. A
runner writes down how far it came in the batch, also if it is cancelled: otherwise
ticks of the batch would have no outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import trio

from ..channel.state import ChannelState
from ..failures import is_request_to_end
from ..handlers.batches import failures_of
from ..handlers.contexts import call_apart
from ..handlers.kinds import refuse_awaitable
from ..uninterrupted import uninterrupted
from .batch import Batch
from .threads import WorkerThread
from .worker import Worker

__all__ = ["LoopRunner", "Runner", "ThreadRunner"]

T = TypeVar("T")


IsStale = Callable[[Any, float], bool]
"""Takes a tick and its arrival; tells whether it is too old now."""


class Runner(Protocol[T]):
    """Runs the batches of a pool's workers."""

    calls_back: bool
    """Whether ticks that a batch has not begun can be called back while it runs."""

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *worker*'s handler over *batch*, until its end or its first failure.

        Whatever this raises, *batch* says how far it came.
        """


def _break_off(batch: Batch[Any], error: BaseException, indexes: Iterable[int]) -> None:
    """Write down that the ticks at *indexes* failed by *error*, which is no Exception.

    Raises:
        BaseException: *error*, if it is only a request to end.
    """
    if is_request_to_end(error):
        raise error
    batch.broken = error
    batch.failures = [(index, error) for index in indexes]


def _run_batch(
    handler: Callable[[T], Any], batch: Batch[T], now: Callable[[], float], is_stale: IsStale | None
) -> bool:
    """Run *batch* tick by tick, until its end or its first failure. Runs in a thread.

    It also ends before the first tick behind stale ones: their gap is announced first.

    Returns:
        Whether the loop has to act on it.
    """
    batch.thread = threading.get_ident()
    take, began = batch.todo.popleft, batch.began_at.append
    first, clean = batch.first, copy_context()
    while not batch.failures:
        try:
            if batch.stale and is_stale is not None and not is_stale(*batch.todo[0]):
                # The gap that the stale ticks leave has to be announced before this
                # one. It stays in todo: once out of it, it has no room in the queue.
                break
            item, arrived = take() if first is None else first
        except IndexError:
            break
        first = None
        began(now())
        if is_stale is not None and is_stale(item, arrived):
            batch.stale.append(batch.done)
            batch.done += 1
            continue
        try:
            # Each tick has a context of its own: see contexts.py.
            result = clean.copy().run(handler, item)
            if result is not None:
                refuse_awaitable(
                    result, "a thread", ', or give executor="loop", where it is awaited'
                )
        except Exception as error:
            batch.failures.append((batch.done, error))
        except BaseException as error:
            _break_off(batch, error, [batch.done])
        batch.done += 1
    began(now())
    batch.thread = None
    return bool(batch.failures or batch.stale) or batch.kept is not None


def _run_whole(
    handler: Callable[[list[T]], Any], batch: Batch[T], now: Callable[[], float]
) -> bool:
    """Call *handler*, a batch handler, with all of *batch*. Runs in a thread.

    Returns:
        Whether the loop has to act on it.
    """
    batch.thread = threading.get_ident()
    batch.began_at.append(now())
    try:
        result = handler(list(batch.items))
        if result is not None:
            refuse_awaitable(result, "a thread")
    except Exception as error:
        batch.failures = list(failures_of(error, len(batch.items)))
    except BaseException as error:
        _break_off(batch, error, range(len(batch.items)))
    batch.began_at.append(now())
    batch.done = len(batch.items)
    batch.thread = None
    return bool(batch.failures) or batch.kept is not None


@uninterrupted
class ThreadRunner(Generic[T]):
    """Runs batches in threads: each worker has one of its own, from its first batch on.

    Args:
        state: of the channel.
        whole: whether the handler takes a batch at once.
    """

    def __init__(self, state: ChannelState[Any], *, whole: bool) -> None:
        self._state = state
        self._is_stale = state.taking.is_stale if state.ages else None
        """Tells which ticks are too old; ``None`` if none can be."""
        self._now = state.now
        self._whole = whole
        # A batch handler gets all ticks at once. If they were called back before its
        # thread began, it would get an empty batch.
        self.calls_back = not whole
        self.nursery: trio.Nursery | None = None
        """In which the threads are lent; the pool sets it."""
        self._threads: dict[Worker[Any], WorkerThread] = {}
        self._left = threading.Event()
        """Set when a thread was abandoned: then all threads of the pool are."""

    def pause(self, worker: Worker[Any], seconds: float) -> bool:
        """Wait between two tries, in *worker*'s thread.

        Returns:
            False if the thread was abandoned meanwhile, so that no next try is wanted.
        """
        worker.pausing = True
        try:
            return not self._left.wait(seconds)
        finally:
            worker.pausing = False

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *worker*'s handler over *batch* in its thread.

        Cancellation: the thread is abandoned at once. It finishes its current tick,
        whose outcome is ignored, and begins no further one. *batch* holds what was done
        until then.
        """
        thread = self._threads.get(worker) or self._lend(worker)
        if self._whole:
            job = partial(_run_whole, worker.handler, batch, self._now)
        else:
            job = partial(_run_batch, worker.handler, batch, self._now, self._is_stale)
        try:
            await thread.call(job)
        except BaseException:
            self._left.set()
            batch.stop()
            raise
        if thread.has_lingered:
            # Neither the worker's work, nor the way to its thread and back.
            waited_s = self._now() - batch.began_at[-1]
            worker.idled(waited_s)
            batch.sent_at += waited_s

    def dismiss(self, worker: Worker[Any]) -> None:
        """Let *worker*'s thread end."""
        thread = self._threads.pop(worker, None)
        if thread is not None:
            thread.dismiss()

    def _lend(self, worker: Worker[Any]) -> WorkerThread:
        assert self.nursery is not None
        thread = self._threads[worker] = WorkerThread(self._state)
        name = f"trio_ticks {worker.name}"
        self.nursery.start_soon(thread.serve, name, name=f"{name}'s thread")
        return thread


@uninterrupted
class LoopRunner(Generic[T]):
    """Runs async batch handlers in the event loop.

    Args:
        now: the time.
    """

    calls_back = False

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Await *worker*'s handler with all of *batch*.

        Cancellation: passed on to the handler; none of the batch has an outcome then.
        """
        batch.began_at.append(self._now())
        try:
            await call_apart(worker.handler, list(batch.items))
        except Exception as error:
            batch.failures = list(failures_of(error, len(batch.items)))
        except BaseException as error:
            _break_off(batch, error, range(len(batch.items)))
        batch.began_at.append(self._now())
        batch.done = len(batch.items)
        if batch.broken is not None:
            return
        # The handler may have had no checkpoint, and there may always be a next batch.
        await trio.lowlevel.checkpoint()
