"""A thread that runs the batches of one worker, one after another.

Plan: the thread stays with its worker, and sleeps between two batches until the loop
puts the next one into its queue. To ask trio for a thread for each batch, as
``trio.to_thread.run_sync`` does, takes several times as long: it sets the thread's name
in the system twice, each time letting go of the interpreter, and waits a turn of the
loop for its limiter.

To wake the loop costs as much as all else that is done for a lone tick. So a thread
that has ended a batch while nothing is queued lingers: it does not tell the loop, but
puts itself into ``sleepers.lingering`` and waits for its next batch. The next tick that
comes recalls its worker, which then settles the old batch and brings a new one. If none
comes in time, the thread tells the loop after all.

Rules:

- The thread is lent by ``trio.to_thread.run_sync``, so that handlers may use
  ``trio.from_thread`` in it. Each batch runs in a copy of the worker's context.
- The loop learns of each end of a batch once: from whoever takes the thread out of
  ``lingering``, which is atomic.
- What the loop has to act on (a failure, ticks that wait) is told at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Final, final

import trio

from ..channel.state import ChannelState
from ..uninterrupted import uninterrupted

__all__ = ["LINGER_S", "WorkerThread"]

LINGER_S: Final = 0.002
"""How long the end of a batch may stay untold, in seconds."""


@uninterrupted
@final
class WorkerThread:
    """One worker's thread; make it in the worker's task, and run :meth:`serve`.

    Args:
        state: of the channel.
    """

    def __init__(self, state: ChannelState[Any]) -> None:
        self._state = state
        self._sleepers = state.sleepers
        self._jobs: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        """What to call next; ``None`` ends the thread."""
        self._run_soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._waiting: trio.lowlevel.Task | None = None
        """The task in :meth:`call`."""
        self._is_recalled = False
        self._error: BaseException | None = None
        """What the last job raised."""
        self.has_lingered = False
        """Whether the end of the last job was not told at once."""

    async def serve(self, name: str) -> None:
        """Lend the thread, until :meth:`dismiss`.

        Args:
            name: the thread's.

        Cancellation: the thread is abandoned; it ends after the job in hand.
        """
        try:
            await trio.to_thread.run_sync(
                self._serve,
                thread_name=name,
                # The size of the pool is the limit: a worker makes one call at a time.
                limiter=trio.CapacityLimiter(math.inf),
                abandon_on_cancel=True,
            )
        finally:
            self.dismiss()

    def dismiss(self) -> None:
        """Let the thread end after the job in hand."""
        self._jobs.put(None)

    async def call(self, job: Callable[[], bool]) -> None:
        """Have the thread call *job*, and wait until that has returned.

        Args:
            job: returns whether the loop has to know at once that it has.

        Raises:
            BaseException: what *job* raised.

        Cancellation: the job goes on, and what it raises is ignored. The thread must
        not be called again.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._waiting = trio.lowlevel.current_task()
        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(self._abandon)
        if self._is_recalled:
            self._is_recalled = False
            self._sleepers.coming -= 1
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # or it would refer to itself by its traceback

    def recall(self) -> bool:
        """Let the worker come, whose thread lingers; False if it was cancelled."""
        self._is_recalled = self._returned()
        return self._is_recalled

    def _returned(self) -> bool:
        """Go on with the task in :meth:`call`, if that still waits; run in the loop."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        trio.lowlevel.reschedule(waiting)
        return True

    def _abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    # In the thread

    def _serve(self) -> None:
        # If the loop has ended meanwhile, the pool is long gone.
        with suppress(trio.RunFinishedError):
            job = self._jobs.get()
            while job is not None:
                self.has_lingered = False
                try:
                    is_urgent = copy_context().run(job)
                except BaseException as error:
                    self._error, is_urgent = error, True
                del job  # what it refers to may end before the next one comes
                job = self._tell_and_wait() if is_urgent or self._is_wanted() else self._linger()

    def _tell_and_wait(self) -> Callable[[], bool] | None:
        self._run_soon(self._returned)
        return self._jobs.get()

    def _linger(self) -> Callable[[], bool] | None:
        """Wait for the next job; tell the loop of the last one only if none comes."""
        self.has_lingered = True
        lingering = self._sleepers.lingering
        lingering[self] = None
        # A tick that came before the line above has not recalled the worker: so see
        # once more whether there is one.
        if not self._is_wanted():
            with suppress(Empty):
                return self._jobs.get(timeout=LINGER_S)
        try:
            del lingering[self]
        except KeyError:
            return self._jobs.get()  # The loop was faster, and the worker comes.
        return self._tell_and_wait()

    def _is_wanted(self) -> bool:
        """Tell whether the loop may have something to do for the worker."""
        state = self._state
        return bool(
            state.buffer or state.lanes.parked or state.deliveries.pending or self._sleepers.ended
        )
