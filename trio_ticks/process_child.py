"""What runs in a worker process: the handler's life, one batch after the other; and its end as soon as the parent has ended.

Rules: before an item's handling begins and after it has ended, that is written down where the parent can read it, whatever happens here.
A plain handler runs in the main thread, an async one in a trio loop that lives as long as the process; a batch comes to either.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import attrs
import trio

from .executors import failures_of
from .handling import Hooks, Retry, is_async, prepared
from .lives import open_handler
from .progress import Progress
from .wire import VERSION, ItemDecoder, Reply, WireFailure, decode_job, encode

__all__ = ["SetUp", "close_session", "end_with_parent", "open_session", "run_job"]


@attrs.frozen(slots=True)
class SetUp:
    """What a process is told once."""

    handler: Any
    whole: bool
    """Whether the handler takes all of a batch at once."""
    handler_timeout: float | None
    retry: Retry | None


def end_with_parent() -> None:
    """See to it that this process ends when its parent has ended, also by ``kill -9``, whatever a handler does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform == "linux":
        import fcntl

        # The kernel's own signal, for handlers that hang without letting go of the interpreter, and so no thread of ours run.
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="trio_ticks parent watch", daemon=True).start()


class _Batch:
    """The items of a batch, and how far they came."""

    def __init__(self, items: list[Any], lives_s: Sequence[float], received: float) -> None:
        self.items = items
        self.lives_s = lives_s
        self.received = received
        self.done = 0
        self.failures: list[tuple[int, Exception]] = []
        self.began: array[float] = array("d")

    def is_due(self, index: int) -> bool:
        """Note the time of an item's turn; False where it has grown stale meanwhile, which the parent then sees for itself."""
        now = time.perf_counter() - self.received
        self.began.append(now)
        return not self.lives_s or now <= self.lives_s[index]


class Session:
    """A handler and all that is around it."""

    def __init__(self, set_up: SetUp, progress: Progress) -> None:
        self._set_up = set_up
        self._progress = progress
        self._decoder = ItemDecoder()
        self._life = open_handler(set_up.handler)
        self._handler: Callable[[Any], Awaitable[Any]]
        self._loop = _Loop(self._run_in_loop) if is_async(set_up.handler) or _has_async_life(set_up.handler) else None
        self._timeouts = self._retries = 0

    def open(self) -> None:
        """Make the handler ready. Raises what the user's code raises."""
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
            await serve()

    def _prepared(self, handler: Callable[..., Any]) -> Callable[[Any], Awaitable[Any]]:
        in_loop = is_async(self._set_up.handler)
        if self._set_up.handler_timeout is not None:
            handler = (_told_async if in_loop else _told)(handler, self._progress.turn)
        handler = prepared(handler, self._set_up, in_loop=in_loop, hooks=Hooks(self._note_timeout, self._note_retry))
        return handler if in_loop else _as_async(handler)

    def _note_timeout(self, _item: object, _cut_off: bool) -> None:
        self._timeouts += 1

    def _note_retry(self) -> None:
        self._retries += 1

    def run(self, payload: bytes) -> bytes:
        """Handle the batch that *payload* holds, up to its first failure; return what came of it."""
        received, cpu_before = time.perf_counter(), time.process_time()
        job = decode_job(payload)
        self._progress.begin_job(job.number)
        self._timeouts = self._retries = 0
        items, wrong = self._decoder.decode(job)
        batch = _Batch(items, job.lives_s, received)
        work = (self._handle_whole if self._set_up.whole and items else self._handle)(batch)
        if self._loop is not None:
            self._loop.run(work)
        else:
            _at_once(work)
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
                total_s=time.perf_counter() - received,
                cpu_s=time.process_time() - cpu_before,
                timeouts=self._timeouts,
                retries=self._retries,
            )
        )

    async def _handle(self, batch: _Batch) -> None:
        handler, begin, end = self._handler, self._progress.begin, self._progress.end
        for index, item in enumerate(batch.items):
            if not batch.is_due(index):
                return
            begin(index + 1)
            try:
                await handler(item)
            except Exception as error:
                batch.failures.append((index, error))
                batch.done = index + 1
                break
            batch.done = index + 1
            end(index + 1)
        batch.began.append(time.perf_counter() - batch.received)

    async def _handle_whole(self, batch: _Batch) -> None:
        count = len(batch.items)
        batch.began.append(time.perf_counter() - batch.received)
        self._progress.begin(count)
        try:
            await self._handler(batch.items)
        except Exception as error:
            batch.failures = failures_of(error, count)
        else:
            self._progress.end(count)
        batch.done = count
        batch.began.append(time.perf_counter() - batch.received)


class _Loop:
    """A trio loop in a thread of its own, in one task of which everything runs: the handler's life, and each batch."""

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
        """Have *work* done; raises what ended the loop, if it does not come back."""
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
    """Run *work*, which has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a plain handler waited for something: make it an async def")


def _as_async(handler: Callable[[Any], Any]) -> Callable[[Any], Awaitable[None]]:
    async def call(item: Any) -> None:
        result = handler(item)
        if result is not None and inspect.iscoroutine(result):
            result.close()
            raise TypeError("the handler is a plain callable that returned a coroutine: make it an async def")

    return call


def _told(handler: Callable[[Any], Any], turn: Callable[[], None]) -> Callable[[Any], Any]:
    """Return *handler* with its tries told, so that the parent can see one that takes too long."""

    def call(item: Any) -> Any:
        turn()
        try:
            return handler(item)
        finally:
            turn()

    return call


def _told_async(handler: Callable[[Any], Any], turn: Callable[[], None]) -> Callable[[Any], Awaitable[None]]:
    async def call(item: Any) -> None:
        turn()
        try:
            result = handler(item)
            if inspect.isawaitable(result):
                await result
        finally:
            turn()

    return call


def failure_of(index: int, error: BaseException) -> WireFailure:
    """Return *error* as it goes to the parent: itself where that is possible, and as text in any case."""
    try:
        written = pickle.dumps(error)
        pickled = written if type(pickle.loads(written)) is type(error) else None
    except Exception:
        pickled = None
    try:
        message = str(error)
    except Exception:
        message = "(its text cannot be had)"
    return WireFailure(index, type(error).__qualname__, message, "".join(traceback.format_exception(error)), pickled)


# What the parent calls: there is one session a process

_session: Session | None = None


def open_session(progress: str, set_up: bytes) -> tuple[int, bytes]:
    """Make the handler ready; return this process's number, and what the user's code raised, if it did."""
    global _session
    try:
        # Our own parent's bytes: the user's handler. Ticks are never pickled.
        session = Session(pickle.loads(set_up), Progress(progress))
        session.open()
    except Exception as error:
        return os.getpid(), encode(failure_of(0, error))
    _session = session
    return os.getpid(), b""


def run_job(payload: bytes) -> bytes:
    """Handle a batch; return the reply, or nothing where this is a new process, in which the handler is not ready."""
    return b"" if _session is None else _session.run(payload)


def close_session() -> bytes:
    """Leave the handler; return what the user's code raised, if it did."""
    global _session
    session, _session = _session, None
    try:
        if session is not None:
            session.close()
    except Exception as error:
        return encode(failure_of(0, error))
    return b""
