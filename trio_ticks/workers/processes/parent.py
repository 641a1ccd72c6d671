"""Keeps one process for each worker: starts it, replaces it, kills it if it is late.

Rules:

- A process belongs to one worker, so that a handler's state stays where its symbols
  are.
- If a worker is cancelled, its process is killed if it is busy. An idle one leaves its
  handler first, within a bound.
- What is raised in the process is raised here again, with its traceback as a note.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import pickle
import pickletools
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing import process
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import trio

from ...control.scaling import AutoWorkers
from ...errors import ConfigError, RemoteHandlerError, WorkerCrashedError
from ...handlers.replays import replaying
from ...logs import log_event
from ...tracebacks import add_note
from ...uninterrupted import uninterrupted
from .child import SetUp, close_session, end_with_parent, open_session, run_job
from .jobs import Reply, WireFailure, decode_failure, decode_reply
from .progress import Progress, check_room

try:
    import trio_parallel
except ImportError as error:
    raise ConfigError(
        "executor=\"process\" needs trio-parallel: pip install 'trio-ticks[process]'"
    ) from error

__all__ = ["Overdue", "WorkerProcess", "packed", "rebuilt"]

logger = logging.getLogger("trio_ticks.workers")

R = TypeVar("R")

_CLOSE_S = 5.0
"""A process whose handler takes longer to leave is killed, in seconds."""
_END_S = 2.0
"""A process that takes longer to end after that is killed, in seconds."""
_FALSE_STARTS = 3
"""The pipeline fails if this many processes ended before a worker had its first one."""
_KILLED = (-1, -9, -15)
"""The exit codes of processes that were killed by SIGHUP, SIGKILL or SIGTERM."""
_BACKOFF_S = (0.1, 5.0)
"""The first and the longest wait before another process is started, in seconds.

It applies if processes end again and again without having handled anything."""


def packed(handler: Any, settings: Any, *, whole: bool) -> bytes:
    """Return the pickled :class:`SetUp` that each process gets once.

    Raises:
        ConfigError: *handler* cannot go to another process, or this one can have no
            worker processes.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "a worker process imports the main program, and that starts a pipeline: put what "
            'starts it under if __name__ == "__main__":'
        )
    if multiprocessing.current_process().daemon:
        raise ConfigError(
            "this process is a daemon of multiprocessing's, which may have no children: start it "
            'with daemon=False, or use executor="thread"'
        )
    main = sys.modules["__main__"]
    if (path := _lost_main(main)) is not None:
        raise ConfigError(
            f"a worker process imports the main program, and {path!r} is no file: start it from "
            "a file, or by python -m"
        )
    size = settings.pool_size
    check_room(size.maximum if isinstance(size, AutoWorkers) else size)
    try:
        wants_results = settings.results is not None
        written = pickle.dumps(
            SetUp(
                handler,
                whole,
                settings.handler_timeout,
                settings.retry,
                wants_results,
                replays=replaying(),
            )
        )
    except Exception as error:
        raise ConfigError(
            'executor="process" takes a handler that another process can import by its name, '
            "and whose state can be pickled: a function or a class at module level, no lambda, "
            f"nothing made within a function; got {handler!r}: {error}"
        ) from error
    if _is_typed_in(main) and _names_main(written):
        raise ConfigError(
            "a worker process cannot import what was typed in, into a notebook, for example: put "
            f"the handler, and all that it holds, into a module; got {handler!r}"
        )
    return written


def _lost_main(main: ModuleType) -> str | None:
    """Return the file of the program's *main*, if other processes cannot run it."""
    path = getattr(main, "__file__", None)
    known = getattr(main, "__spec__", None) is not None or getattr(sys, "frozen", False)
    if path is None or known:
        return None
    return None if Path(getattr(process, "ORIGINAL_DIR", None) or "", path).exists() else path


def _is_typed_in(main: ModuleType) -> bool:
    """Tell whether *main* has no source that another process could import."""
    return getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None


def _names_main(written: bytes) -> bool:
    """Tell whether something of the main program is pickled in *written*, by its name.

    A text of the user's that is ``"__main__"`` is taken for one, too.
    """
    return any(
        isinstance(argument, str) and argument.split(" ")[0] == "__main__"
        for _code, argument, _at in pickletools.genops(written)
    )


class Overdue(Exception):
    """A try took longer than ``handler_timeout``, and its process was killed for it."""


@uninterrupted
class WorkerProcess:
    """The process of one worker; if it ends, another one takes its place.

    Args:
        name: of the worker.
        set_up: what :func:`packed` returned.
        starts: limits how many processes are started at once.
        is_wanted: tells whether the worker still needs a process, if it has none.
        on_restart: called when another process is ready.
        on_crash: called with *name* and the error when a process has ended by itself.
    """

    def __init__(
        self,
        name: str,
        set_up: bytes,
        starts: trio.CapacityLimiter,
        *,
        is_wanted: Callable[[], bool],
        on_restart: Callable[[], None],
        on_crash: Callable[[str, Exception], None],
    ) -> None:
        self.name = name
        self.pid: int | None = None
        """The id of the process whose handler is ready, or was ready last."""
        self.progress: Progress
        """How far the process has come with its batch; set while it is opened."""
        self._set_up = set_up
        self._starts = starts
        self._is_wanted = is_wanted
        self._on_restart = on_restart
        self._on_crash = on_crash
        self._context: trio_parallel.WorkerContext
        self._is_open = False
        self._waiting: trio.CancelScope | None = None
        """Around the wait for its turn to start one; ``None``: it does not wait."""
        self._false_starts = 0
        self._futile = 0
        """How many processes have ended since one handled anything."""
        self._scope: trio.CancelScope | None = None
        self._trying: tuple[int | None, float] = (None, math.inf)
        """The try that was seen last, and when it was first seen."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have a process with its handler ready for as long as the block lasts.

        Raises:
            Exception: what the handler raised on its way in or out.
            ConfigError: there is no shared memory.
            WorkerCrashedError: processes ended again and again before the first one was
                ready.

        Cancellation: an idle process leaves its handler, within a bound; a busy one is
        killed.
        """
        manager = trio_parallel.open_worker_context(
            init=end_with_parent, idle_timeout=math.inf, grace_period=_END_S
        )
        with contextlib.closing(Progress()) as self.progress:
            self._context = await manager.__aenter__()
            try:
                await self.ready()
                yield
            finally:
                # Shielded and bounded: by the deadline, and by the grace period.
                with trio.CancelScope(shield=True):
                    try:
                        await self._leave()  # noqa: ASYNC102  # bounded in there
                    finally:
                        await self._end(manager)  # noqa: ASYNC102  # the grace period

    async def _end(self, manager: AbstractAsyncContextManager[Any]) -> None:
        try:
            # Not with the exception that is being raised: the error of a process that
            # ended badly would hide it. The grace period bounds this call.
            await manager.__aexit__(None, None, None)
        except trio_parallel.BrokenWorkerError as error:
            text, facts = "%s: %s", {"worker": self.name}
            log_event(
                logger, logging.WARNING, "process.ended_badly", text, self.name, error, **facts
            )

    async def _leave(self) -> None:
        if not (self._is_open and self._context.statistics().idle_workers):
            return
        self._is_open = False
        with trio.CancelScope(deadline=trio.current_time() + _CLOSE_S) as scope:
            try:
                raised = await self._call(close_session)
            except trio_parallel.BrokenWorkerError as error:
                code = exit_of(error)
                log_event(
                    logger,
                    logging.WARNING,
                    "process.crashed",
                    "%s (%s), while it left its handler",
                    self.name,
                    code,
                    worker=self.name,
                    exit=code,
                )
            else:
                if raised:
                    raise raised_in(raised, self.pid)
        if scope.cancelled_caught:
            log_event(
                logger,
                logging.ERROR,
                "handler.exit_hangs",
                "%s was killed after %g s in its handler's __exit__",
                self.name,
                _CLOSE_S,
                worker=self.name,
                waited_s=_CLOSE_S,
            )

    async def _call(self, function: Callable[..., R], *args: Any) -> R:
        # No limiter: the size of the pool is the limit, as a worker makes one call at a
        # time.
        result: R = await self._context.run_sync(
            function, *args, kill_on_cancel=True, limiter=contextlib.nullcontext()
        )
        return result

    async def ready(self) -> None:
        """Wait until the handler is ready in a process; replace one that has ended.

        Returns without a process, or before the handler is entered in it, if it is not
        wanted any more.

        Raises:
            Exception: what the handler raised when it was entered.
            WorkerCrashedError: processes ended again and again before the first was
                ready.

        Cancellation: a process that is being started is killed.
        """
        if self._is_open and not self._context.statistics().idle_workers:
            self._record_end(
                WorkerCrashedError(f"{self.name} ended while it was idle", exitcode=None)
            )
        while not self._is_open and self._is_wanted():
            try:
                if not await self._start():
                    continue
                pid, raised = await self._call(open_session, self.progress.name, self._set_up)
            except trio_parallel.BrokenWorkerError as error:
                crash = crash_of(error, f"{self.name} ended before its handler was ready")
                self._record_end(crash)
                # A process that somebody killed is no sign that the handler cannot
                # start.
                self._false_starts += self.pid is None and crash.exitcode not in _KILLED
                if self._false_starts >= _FALSE_STARTS:
                    hint = (
                        "standard error may say why; what starts a pipeline must stand under "
                        'if __name__ == "__main__":'
                    )
                    raise WorkerCrashedError(
                        f"{crash}, {self._false_starts} times: {hint}", exitcode=crash.exitcode
                    ) from None
                continue
            if raised:
                raise raised_in(raised, pid)
            if self.pid is not None:
                self._on_restart()
            self.pid, self._is_open = pid, True

    async def _start(self) -> bool:
        """Start a process, when its turn has come; return whether it is still wanted.

        No handler is entered in it yet. So the limit is on what keeps a core busy, and
        a handler that waits for something on its way in keeps no other from beginning.
        """
        with trio.CancelScope() as self._waiting:
            if self._futile > 1:
                first, longest = _BACKOFF_S
                await trio.sleep(min(first * 2.0 ** (self._futile - 2), longest))
            async with self._starts:
                # The start itself is not called off: the worker may be taken back.
                self._waiting = None
                if self._is_wanted():
                    self.progress.clear()
                    await self._call(bool)
                    return self._is_wanted()
        return False

    def call_off_start(self) -> None:
        """Wait no longer for the start of a process, if it is not wanted any more."""
        if self._waiting is not None and not self._is_wanted():
            self._waiting.cancel()

    async def handle(self, payload: bytes) -> Reply:
        """Have the ready process handle the batch in *payload*.

        Raises:
            WorkerCrashedError: the process has ended; ``progress`` says how far it
            came. Overdue: :meth:`kill_if_late` killed it; ``progress`` says how far it
            came.

        Cancellation: the process is killed; ``progress`` says how far it came.
        """
        with trio.CancelScope() as self._scope:
            self._trying = (None, math.inf)
            try:
                answer = await self._call(run_job, payload)
            except trio_parallel.BrokenWorkerError as error:
                crash = crash_of(error, f"{self.name} ended")
                self._record_end(crash)
                raise crash from None
            except trio.Cancelled:
                self._is_open = False
                raise
            finally:
                self._scope = None
            if not answer:
                # The process ended a moment ago, and trio-parallel has started a new
                # one, in which no handler was entered.
                crash = WorkerCrashedError(f"{self.name} ended while it was idle", exitcode=None)
                self._record_end(crash)
                raise crash
            self._futile = 0
            return decode_reply(answer)
        self._is_open = False
        raise Overdue

    def _record_end(self, crash: WorkerCrashedError) -> None:
        self._is_open = False
        self._futile += 1
        self._on_crash(self.name, crash)

    def kill_if_late(self, now: float, limit_s: float) -> None:
        """Kill the process if one try has taken longer than *limit_s*.

        A try counts from the call that first saw it, so call this often.
        """
        if self._scope is None:
            return
        trying = self.progress.trying
        if trying is None or trying != self._trying[0]:
            self._trying = (trying, now)
        elif now - self._trying[1] >= limit_s:
            self._scope.cancel()

    def was_of_use(self) -> None:
        """Say that the process that ended had handled something: replace it at once."""
        self._futile = 1


def exit_of(error: trio_parallel.BrokenWorkerError) -> int | None:
    """Return the exit code of the process that *error* is about."""
    code = getattr(error.args[-1], "exitcode", None)
    return code if isinstance(code, int) else None


def crash_of(error: trio_parallel.BrokenWorkerError, text: str) -> WorkerCrashedError:
    """Return *error* as the one that ticks fail with, with how the process ended."""
    code = exit_of(error)
    how = (
        ""
        if code is None
        else (f", by {_signal(-code)}" if code < 0 else f", with exit code {code}")
    )
    return WorkerCrashedError(text + how, exitcode=code)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def raised_in(raised: bytes, pid: int | None) -> BaseException:
    """Return the exception in *raised*, which a process answered."""
    return rebuilt(decode_failure(raised), pid)


def rebuilt(failure: WireFailure, pid: int | None) -> BaseException:
    """Return the exception in *failure*, with its traceback as a note.

    If it was not pickled, it is a :class:`RemoteHandlerError` with its text.
    """
    text = f"{failure.kind}: {failure.message}" if failure.message else failure.kind
    error: BaseException = RemoteHandlerError(text, kind=failure.kind, traceback=failure.traceback)
    if failure.pickled is not None:
        with contextlib.suppress(Exception):  # The child could read it; we may lack its module.
            read = pickle.loads(failure.pickled)
            error = read if isinstance(read, BaseException) else error
    add_note(error, f"In the worker process {pid}:\n{failure.traceback.rstrip()}")
    return error
