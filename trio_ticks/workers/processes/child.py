"""Runs in a worker process: enters the handler, runs batch after batch, leaves it.

The process ends itself as soon as its parent has ended.

Rules:

- The process writes into ``progress.py``'s memory before it begins an item and after it
  has handled it, so that the parent knows how far it came if the process is killed.
- A plain handler runs in the main thread. An async one runs in a trio loop in a second
  thread, since trio-parallel's calls come to the main thread one by one and a loop that
  ended with each call would end the handler's life.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import trio

from ...clock import monotonic, new_random
from ...failures import is_request_to_end
from ...gaps import Gap
from ...handlers.arrivals import answer_by
from ...handlers.batches import BatchError, failures_of, values_of
from ...handlers.contexts import call_apart
from ...handlers.kinds import is_async, refuse_awaitable
from ...handlers.lives import open_handler
from ...handlers.prepared import Hooks, prepared
from ...handlers.replays import begin_replaying
from ...handlers.retry import Retry
from ...tracebacks import StackTexts, bound, message_of, writable
from ...wire import ItemDecoder, ItemEncoder, Items
from .jobs import VERSION, Job, Reply, WireFailure, decode_job, encode
from .progress import Progress

__all__ = ["SetUp", "close_session", "end_with_parent", "open_session", "run_job"]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(slots=True)
class SetUp:
    """What a process needs before its first batch; sent once, pickled."""

    handler: Any
    whole: bool
    """Whether the handler takes all of a batch at once."""
    handler_timeout: float | None
    retry: Retry | None
    wants_results: bool = False
    """Whether what the handler returns goes back to the parent."""
    replays: bool = False
    """Whether the ticks are of the past."""
    around: None = None
    """Nothing is put around a handler in another process."""


def end_with_parent() -> None:
    """Make this process end when its parent has ended, and not before.

    It ends also if the parent is ended by ``kill -9``.
    """
    if sys.platform != "win32":
        # A terminal that is closed sends it to the processes, too: the parent is to let
        # them finish. trio-parallel has them ignore SIGINT for the same reason.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform == "linux":
        import fcntl

        # Have the kernel send a signal too: a handler that holds the interpreter's lock
        # would keep the thread below from running.
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="trio_ticks parent watch", daemon=True).start()


class _Batch:
    """The items of a batch, and how far the run has come."""

    def __init__(self, items: list[Any], job: Job, received: float) -> None:
        self.items = items
        self.lives_s = job.lives_s
        self._job = job
        self.received = received
        self.done = 0
        self.failures: list[tuple[int, BaseException]] = []
        self.broken = False
        self.values: list[tuple[int, Items]] = []
        self.began: array[float] = array("d")

    def arrival(self) -> datetime | None:
        """Return when the item that is handled now arrived."""
        arrivals = array("d", self._job.arrivals)
        if self.done >= len(arrivals):
            return None
        # Seconds since 1970 as a timedelta, as the parent's clock does it.
        return _EPOCH + timedelta(seconds=arrivals[self.done] + self._job.offset_s)

    def break_off(self, error: BaseException, indexes: Iterable[int]) -> None:
        """Write down that the items at *indexes* failed by *error*, no Exception.

        Raises:
            BaseException: *error*, if it is only a request to end.
        """
        if is_request_to_end(error):
            raise error
        self.broken = True
        self.failures = [(index, error) for index in indexes]

    def is_due(self, index: int) -> bool:
        """Record that the turn of the item *index* has come.

        Returns:
            False if the item has grown stale meanwhile. The batch then stops here, and
            the parent finds the item stale itself when it sends the rest.
        """
        now = monotonic() - self.received
        self.began.append(now)
        return not self.lives_s or now <= self.lives_s[index]


class Session:
    """A handler, from when it is entered until it is left, and the batches between."""

    def __init__(self, set_up: SetUp, progress: Progress) -> None:
        self._set_up = set_up
        if set_up.replays:
            begin_replaying()
        self._progress = progress
        self._decoder, self._encoder = ItemDecoder(), ItemEncoder()
        self._life = open_handler(set_up.handler)
        self._handler: Callable[[Any], Awaitable[Any]]
        self._loop = (
            _Loop(self._run_in_loop)
            if is_async(set_up.handler) or _has_async_life(set_up.handler)
            else None
        )
        self._random = new_random()
        self._timeouts = self._retries = 0
        self._batch: _Batch | None = None

    def open(self) -> None:
        """Enter the handler. Raises what the user's code raises."""
        if self._loop is not None:
            self._loop.open()
        else:
            self._handler = self._prepared(_at_once(self._life.__aenter__()))

    def close(self) -> None:
        """Leave the handler. Raises what the user's code raises."""
        if self._loop is not None:
            self._loop.close()
        else:
            _at_once(self._life.__aexit__(None, None, None))
        self._progress.close()

    async def _run_in_loop(self, serve: Callable[[], Awaitable[None]]) -> None:
        async with self._life as handler:
            self._handler = self._prepared(handler)
            answer_by(self._arrival)
            await serve()

    def _arrival(self) -> datetime | None:
        """Return when the item in hand arrived; ``None``: no batch is being handled."""
        return None if self._batch is None else self._batch.arrival()

    def _prepared(self, handler: Callable[..., Any]) -> Callable[[Any], Awaitable[Any]]:
        in_loop = is_async(self._set_up.handler)
        if self._set_up.handler_timeout is not None:
            handler = (_with_turns_async if in_loop else _with_turns)(handler, self._progress.turn)
        handler = prepared(
            handler,
            self._set_up,
            in_loop=in_loop,
            hooks=Hooks(self._count_timeout, self._count_retry, random=self._random),
        )
        return handler if in_loop else _as_async(handler)

    def _count_timeout(self, _item: object, _cut_off: bool) -> None:
        self._timeouts += 1

    def _count_retry(self) -> None:
        self._retries += 1

    def run(self, payload: bytes) -> bytes:
        """Handle the batch in *payload*, up to its first failure; return the reply."""
        received, cpu_before = monotonic(), time.process_time()
        job = decode_job(payload)
        self._progress.begin_job(job.number)
        self._timeouts = self._retries = 0
        items, wrong = self._decoder.decode(job.items)
        batch = self._batch = _Batch(items, job, received)
        work = (self._handle_whole if self._set_up.whole and items else self._handle)(batch)
        if self._loop is not None:
            self._loop.run(work)
        else:
            answer_by(self._arrival)
            _at_once(work)
        self._batch = None
        if wrong is not None and batch.done == len(items) and not batch.failures:
            batch.failures.append((batch.done, wrong))
            batch.done += 1
        return encode(
            Reply(
                version=VERSION,
                number=job.number,
                done=batch.done,
                failures=tuple(failure_of(index, error) for index, error in batch.failures),
                began=batch.began.tobytes(),
                total_s=monotonic() - received,
                cpu_s=time.process_time() - cpu_before,
                timeouts=self._timeouts,
                retries=self._retries,
                values=tuple(batch.values),
                broken=batch.broken,
            )
        )

    async def _handle(self, batch: _Batch) -> None:
        handler, begin, end = self._handler, self._progress.begin, self._progress.end
        for index, item in enumerate(batch.items):
            if not batch.is_due(index):
                return
            begin(index + 1)
            try:
                value = await call_apart(handler, item)
                if value is not None and self._set_up.wants_results:
                    self._keep(batch, index, value)
            except Exception as error:
                batch.failures.append((index, error))
                batch.done = index + 1
                break
            except BaseException as error:
                batch.break_off(error, [index])
                batch.done = index + 1
                break
            batch.done = index + 1
            end(index + 1)
        batch.began.append(monotonic() - batch.received)

    async def _handle_whole(self, batch: _Batch) -> None:
        count = len(batch.items)
        batch.began.append(monotonic() - batch.received)
        self._progress.begin(count)
        try:
            value = await call_apart(self._handler, batch.items)
            if value is not None and self._set_up.wants_results:
                self._keep_all(batch, value)
        except Exception as error:
            batch.failures = list(failures_of(error, count))
        except BaseException as error:
            batch.break_off(error, range(count))
        else:
            self._progress.end(count)
        batch.done = count
        batch.began.append(monotonic() - batch.received)

    def _keep(self, batch: _Batch, index: int, value: object) -> None:
        """Write *value* for the parent.

        Raises:
            ConfigError: it cannot be written.
        """
        if isinstance(batch.items[index], Gap):
            return
        written, _count, wrong = self._encoder.encode([value])
        if wrong is not None:
            raise wrong
        batch.values.append((index, written))

    def _keep_all(self, batch: _Batch, value: object) -> None:
        failures: dict[int, Exception] = {}
        for index, each in enumerate(values_of(value, len(batch.items))):
            try:
                if each is not None:
                    self._keep(batch, index, each)
            except Exception as error:
                failures[index] = error
        if failures:
            raise BatchError(failures)


class _Loop:
    """A trio loop in a thread of its own, for an async handler.

    The handler is entered, run and left in one task: it may hold a nursery or a cancel
    scope open, which must be left in the task that entered it.
    """

    def __init__(self, run: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
        self._run = run
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._token: trio.lowlevel.TrioToken
        self._send: trio.MemorySendChannel[Coroutine[Any, Any, None]]
        self._receive: trio.MemoryReceiveChannel[Coroutine[Any, Any, None]]
        self._ended: BaseException | None = None

    def open(self) -> None:
        threading.Thread(target=self._serve_thread, name="trio_ticks handler", daemon=True).start()
        self._answer()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* in the loop, and wait for its end.

        Raises:
            BaseException: what ended the loop, if that ended instead.
        """
        try:
            self._token.run_sync_soon(self._send.send_nowait, work)
        except trio.RunFinishedError:
            work.close()
        self._answer()

    def close(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._send.close)
            self._answer()

    def _answer(self) -> None:
        if self._ended is None:
            answer = self._answers.get()
            if answer is None:
                return
            self._ended = answer
        raise self._ended

    def _serve_thread(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._answers.put(error)
        else:
            self._answers.put(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._send, self._receive = trio.open_memory_channel[Coroutine[Any, Any, None]](1)
        await self._run(self._serve)

    async def _serve(self) -> None:
        self._answers.put(None)
        async for work in self._receive:
            await work
            self._answers.put(None)


def _has_async_life(handler: Any) -> bool:
    kind = handler if inspect.isclass(handler) else type(handler)
    return hasattr(kind, "__aenter__")


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Run *work*, which never waits, without a loop; return its result."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a plain handler waited for something: make it an async def")


def _as_async(handler: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    async def call(item: Any) -> Any:
        result = handler(item)
        if result is not None:
            refuse_awaitable(result, "a worker process")
        return result

    return call


def _with_turns(handler: Callable[[Any], Any], turn: Callable[[], None]) -> Callable[[Any], Any]:
    """Return *handler*, with *turn* called before and after each of its tries.

    So the parent can see a try that takes too long.
    """

    def call(item: Any) -> Any:
        turn()
        try:
            return handler(item)
        finally:
            turn()

    return call


def _with_turns_async(
    handler: Callable[[Any], Any], turn: Callable[[], None]
) -> Callable[[Any], Awaitable[Any]]:
    async def call(item: Any) -> Any:
        turn()
        try:
            result = handler(item)
            return await result if inspect.isawaitable(result) else result
        finally:
            turn()

    return call


_stacks = StackTexts()


def failure_of(index: int, error: BaseException) -> WireFailure:
    """Return *error* for the parent: as text, and pickled if it can be unpickled."""
    bound(error)
    try:
        written = pickle.dumps(error)
        pickled = written if type(pickle.loads(written)) is type(error) else None
    except Exception:
        pickled = None
    return WireFailure(
        index,
        writable(type(error).__qualname__),
        message_of(error),
        _stacks.whole(error),
        pickled,
    )


# What the parent calls: one session a process

_session: Session | None = None


def open_session(progress: str, set_up: bytes) -> tuple[int, bytes]:
    """Enter the handler; return this process's id, and what the user's code raised.

    If it raised nothing, the second is empty.
    """
    global _session
    try:
        # The bytes come from our own parent: the user's handler. Ticks are never
        # pickled.
        session = Session(pickle.loads(set_up), Progress(progress))
        session.open()
    except Exception as error:
        return os.getpid(), encode(failure_of(0, error))
    _session = session
    return os.getpid(), b""


def run_job(payload: bytes) -> bytes:
    """Handle a batch; return the reply.

    It is empty in a new process, in which no handler was entered: trio-parallel started
    it in the place of one that ended while it was idle.
    """
    return b"" if _session is None else _session.run(payload)


def close_session() -> bytes:
    """Leave the handler; return what the user's code raised, else nothing."""
    global _session
    session, _session = _session, None
    try:
        if session is not None:
            session.close()
    except Exception as error:
        return encode(failure_of(0, error))
    return b""
