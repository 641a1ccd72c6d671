"""Worker processes, seen from the parent: made ready, kept, killed where a handler takes too long, replaced when they have ended.

Rules: a process belongs to one worker, so that state stays where its symbols are; one that is busy when its worker is cancelled is
killed, one that is idle leaves its handler first, within a bound. What is raised in a process is raised here, with where it was.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import multiprocessing
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from .errors import ConfigError, RemoteHandlerError, WorkerCrashedError
from .process_child import SetUp, close_session, end_with_parent, open_session, run_job
from .progress import Progress
from .wire import Reply, WireFailure, decode_reply

try:
    import trio_parallel
except ImportError as error:
    raise ConfigError("executor=\"process\" needs trio-parallel: pip install 'trio-ticks[process]'") from error

__all__ = ["Overdue", "WorkerProcess", "packed", "rebuilt"]

logger = logging.getLogger("trio_ticks.workers")

R = TypeVar("R")

_CLOSE_S = 5.0
"""How long a handler may take to be left in its process before that is killed, in seconds."""
_END_S = 2.0
"""How long a process may take to end after that, in seconds."""
_FALSE_STARTS = 3
"""So many processes may end by themselves while a worker's first handler is made ready, before the pipeline gives up."""
_KILLED = (-9, -15)
"""The exit codes of processes that were killed by SIGKILL or SIGTERM."""
_BACKOFF_S = (0.1, 5.0)
"""How long to wait where processes end again and again without having handled anything: the first wait and the longest, in seconds."""


def packed(handler: Any, settings: Any, *, whole: bool) -> bytes:
    """Return what a process is told once.

    Raises:
        ConfigError: *handler* cannot go to another process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            'a worker process imports the main program, and that starts a pipeline: put what starts it under if __name__ == "__main__":'
        )
    main = sys.modules["__main__"]
    inner = handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    owner = inner if hasattr(inner, "__qualname__") else type(inner)
    if owner.__module__ == "__main__" and getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None:
        raise ConfigError(f"a worker process cannot import what was typed in: put the handler into a module, got {handler!r}")
    try:
        return pickle.dumps(SetUp(handler, whole, settings.handler_timeout, settings.retry))
    except Exception as error:
        raise ConfigError(
            'executor="process" takes a handler that another process can import by its name, and whose state can be pickled: a function or '
            f"a class at module level, no lambda, nothing made within a function; got {handler!r}: {error}"
        ) from error


class Overdue(Exception):
    """A try took longer than ``handler_timeout``, and its process was killed for it."""


class WorkerProcess:
    """The process of one worker: one after the other, should it end."""

    def __init__(self, name: str, set_up: bytes, on_restart: Callable[[], None], on_crash: Callable[[str, Exception], None]) -> None:
        self.name = name
        self.pid: int | None = None
        """Of the process whose handler is ready, or was last."""
        self.progress = Progress()
        self._set_up = set_up
        self._on_restart = on_restart
        self._on_crash = on_crash
        self._context: trio_parallel.WorkerContext
        self._is_open = False
        self._false_starts = 0
        self._futile = 0
        """How many processes ended since one last handled anything."""
        self._scope: trio.CancelScope | None = None
        self._trying: tuple[int | None, float] = (None, math.inf)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have a process with its handler ready for as long as the block lasts.

        Raises:
            Exception: what the handler raised on its way in or out.
            WorkerCrashedError: processes ended again and again before the first one was ready.

        Cancellation: a process that is idle leaves its handler, within a bound; another one is killed.
        """
        manager = trio_parallel.open_worker_context(init=end_with_parent, idle_timeout=math.inf, grace_period=_END_S)
        self._context = await manager.__aenter__()
        try:
            await self.ready()
            yield
        finally:
            # Shielded and bounded: by the deadline, and by the grace period.
            with trio.CancelScope(shield=True):
                try:
                    await self._leave()
                finally:
                    try:
                        # Without what is being raised, which the error of a process that ended badly would hide.
                        await manager.__aexit__(None, None, None)  # noqa: ASYNC102  # its grace period bounds it
                    except trio_parallel.BrokenWorkerError as error:
                        logger.warning("process.ended_badly: %s: %s", self.name, error, extra={"worker": self.name})
                    self.progress.close()

    async def _leave(self) -> None:
        if not (self._is_open and self._context.statistics().idle_workers):
            return
        self._is_open = False
        with trio.CancelScope(deadline=trio.current_time() + _CLOSE_S) as scope:
            try:
                raised = await self._call(close_session)
            except trio_parallel.BrokenWorkerError as error:
                facts = {"worker": self.name, "exit": exit_of(error)}
                logger.warning("process.crashed: %s (%s), while it left its handler", self.name, exit_of(error), extra=facts)
            else:
                if raised:
                    raise raised_in(raised, self.pid)
        if scope.cancelled_caught:
            text = "handler.exit_hangs: %s was killed after %g s in its handler's __exit__"
            logger.error(text, self.name, _CLOSE_S, extra={"worker": self.name, "waited_s": _CLOSE_S})

    async def _call(self, function: Callable[..., R], *args: Any) -> R:
        # No limiter: the workers are as many as they are, and one of them makes one call at a time.
        result: R = await self._context.run_sync(function, *args, kill_on_cancel=True, limiter=contextlib.nullcontext())
        return result

    async def ready(self) -> None:
        """Return as soon as the handler is ready in a process: the one there is, or its successor."""
        if self._is_open and not self._context.statistics().idle_workers:
            self._note_end(WorkerCrashedError(f"{self.name} ended while it was idle", exitcode=None))
        while not self._is_open:
            if self._futile > 1:
                first, longest = _BACKOFF_S
                await trio.sleep(min(first * 2.0 ** (self._futile - 2), longest))
            self.progress.clear()
            try:
                pid, raised = await self._call(open_session, self.progress.name, self._set_up)
            except trio_parallel.BrokenWorkerError as error:
                crash = crash_of(error, f"{self.name} ended before its handler was ready")
                self._note_end(crash)
                # Who kills processes from outside means no more than that.
                self._false_starts += self.pid is None and crash.exitcode not in _KILLED
                if self._false_starts >= _FALSE_STARTS:
                    hint = 'standard error may say why; what starts a pipeline must stand under if __name__ == "__main__":'
                    raise WorkerCrashedError(f"{crash}, {self._false_starts} times: {hint}", exitcode=crash.exitcode) from None
                continue
            if raised:
                raise raised_in(raised, pid)
            if self.pid is not None:
                self._on_restart()
            self.pid, self._is_open = pid, True

    async def handle(self, payload: bytes) -> Reply:
        """Have the ready process handle the batch that *payload* holds.

        Raises:
            WorkerCrashedError: the process has ended; what it had done is in ``progress``.

        Cancellation: the process is killed; what it had done is in ``progress``.
        """
        with trio.CancelScope() as self._scope:
            self._trying = (None, math.inf)
            try:
                answer = await self._call(run_job, payload)
            except trio_parallel.BrokenWorkerError as error:
                crash = crash_of(error, f"{self.name} ended")
                self._note_end(crash)
                raise crash from None
            except trio.Cancelled:
                self._is_open = False
                raise
            finally:
                self._scope = None
            if not answer:
                # It ended a moment ago, and trio-parallel has a new one, which knows nothing.
                crash = WorkerCrashedError(f"{self.name} ended while it was idle", exitcode=None)
                self._note_end(crash)
                raise crash
            self._futile = 0
            return decode_reply(answer)
        self._is_open = False
        raise Overdue

    def _note_end(self, crash: WorkerCrashedError) -> None:
        self._is_open = False
        self._futile += 1
        self._on_crash(self.name, crash)

    def kill_if_late(self, now: float, limit_s: float) -> None:
        """Kill the process where one try has taken longer than *limit_s*, as far as somebody has looked."""
        if self._scope is None:
            return
        trying = self.progress.trying
        if trying is None or trying != self._trying[0]:
            self._trying = (trying, now)
        elif now - self._trying[1] >= limit_s:
            self._scope.cancel()

    def was_of_use(self) -> None:
        """Note that the process that ended had handled something."""
        self._futile = 1


def exit_of(error: trio_parallel.BrokenWorkerError) -> int | None:
    """Return the exit code of the process that *error* is about."""
    code = getattr(error.args[-1], "exitcode", None)
    return code if isinstance(code, int) else None


def crash_of(error: trio_parallel.BrokenWorkerError, text: str) -> WorkerCrashedError:
    """Return what *error* means for ticks."""
    code = exit_of(error)
    how = "" if code is None else (f", by {_signal(-code)}" if code < 0 else f", with exit code {code}")
    return WorkerCrashedError(text + how, exitcode=code)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def raised_in(raised: bytes, pid: int | None) -> Exception:
    """Return the exception that a process answered."""
    return rebuilt(msgspec.msgpack.decode(raised, type=WireFailure), pid)


def rebuilt(failure: WireFailure, pid: int | None) -> Exception:
    """Return the exception that *failure* stands for: itself, as far as it could be pickled, with where it was raised as a note."""
    text = f"{failure.kind}: {failure.message}" if failure.message else failure.kind
    error: Exception = RemoteHandlerError(text, kind=failure.kind, traceback=failure.traceback)
    if failure.pickled is not None:
        with contextlib.suppress(Exception):  # The child could read it; we may lack its module.
            read = pickle.loads(failure.pickled)
            error = read if isinstance(read, Exception) else error
    error.add_note(f"In the worker process {pid}:\n{failure.traceback.rstrip()}")
    return error
