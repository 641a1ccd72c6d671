"""Notices from a thread that the event loop stands still, and shows where.

A handler or a feed that blocks the loop stops all its tasks: the socket is not read,
pings are not answered, no metric can be asked for. So a task of the loop writes down
ten times a second that the loop turns, and a thread sees whether it is overdue.

Rules:

- One thread a loop, however many pipelines run in it. It ends with the last of them.
- On a virtual clock there is no watch: time does not pass there while code runs.
- How long the loop stood still is measured by the loop alone. The thread may come late
  though the loop is well: beside a loop that is never idle it has to wait for its turn
  (:mod:`.loop_share`).
- A process that got no processor, or was stopped, is not taken for a loop that blocks:
  the watch counts only the slices of its wait that took about as long as they should.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, final

import trio

from ..clock import Clock, monotonic
from ..failures import log_second
from ..logs import Lines, LogLimit, log_event
from ..uninterrupted import uninterrupted
from .latency import LatencyWindow
from .loop_share import share_interpreter

__all__ = ["AGAIN", "LOG_EVERY_S", "LoopWatch", "watch_loop"]

logger = logging.getLogger("trio_ticks.pipeline")

_EVERY_S: Final = 0.1
_SLICE_S: Final = 0.05
_STILL_S: Final = 0.2
"""A loop that is overdue for so long stands still."""
_LATE_S: Final = 0.05
"""A wait that took so much longer says more about this thread than about the loop."""
_HELD_S: Final = 0.15
"""Whoever was late, while the process used a processor for so long, waited for code."""
LOG_EVERY_S: Final = 10.0
"""Seconds from one line of a kind to the next."""
AGAIN: Final = 10
"""A loop is told of again each time it has stood still for so many times as long."""
_WINDOW_S: Final = 10.0
_FRAMES: Final = 12

Guard = Callable[[float], None]
"""Called in the watch's thread, every 50 ms or so while the loop stands still, with how
long it has, in seconds."""


@final
class LoopWatch:
    """The watch of one event loop: ``pipeline.loop_watch``.

    Args:
        thread: the identity of the loop's thread.
    """

    def __init__(self, thread: int) -> None:
        self.users = 0
        """How many pipelines of the loop want the watch."""
        self.blocks = 0
        """How often the loop has stood still for 0.2 s or longer."""
        self.delays = LatencyWindow(_WINDOW_S, 10)
        """How late the loop was for its next turn; ten times a second.

        Up to a millisecond of it is the system's timer."""
        self.guards: tuple[Guard, ...] = ()
        """Replaced as a whole: the thread reads it."""
        self.beats: tuple[Callable[[], None], ...] = ()
        """Called in the loop ten times a second."""
        self.failing: tuple[Callable[[BaseException], object], ...] = ()
        """The first one is told what was raised here, and is not ours."""
        self._loop_thread = thread
        self._turns = 0
        """How often the loop has turned by itself."""
        self._due_at = math.inf
        """When it is to turn next."""
        self._stood_in = -1
        """The last turn that the thread has waited for in vain."""
        self._turning, self._sharing = trio.CancelScope(), trio.CancelScope()
        self._stopped = threading.Event()
        self._limit = LogLimit(monotonic, LOG_EVERY_S)
        self._thread: threading.Thread | None = None

    def delay_s(self) -> float:
        """Return how late the loop was at most in the last 10 s, in seconds.

        The wait that is going on counts. Call it in the loop.
        """
        now = monotonic()
        return max(0.0, now - self._due_at, self.delays.stats(now).max / 1e3)

    def stack(self) -> str:
        """Return where the loop is, as lines of a traceback: the innermost frames."""
        frame = sys._current_frames().get(self._loop_thread)
        return "" if frame is None else "".join(traceback.format_list(_frames_of_task(frame)))

    def start(self) -> None:
        """Begin to watch, in a thread; call it in the loop."""
        self._due_at = monotonic() + _EVERY_S
        trio.lowlevel.spawn_system_task(self._run_in_loop, self._turn, self._turning)
        trio.lowlevel.spawn_system_task(self._run_in_loop, share_interpreter, self._sharing)
        self._thread = threading.Thread(target=self._run, name="trio-ticks-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for its end; call it in the loop."""
        self._stopped.set()
        self._turning.cancel()
        self._sharing.cancel()
        if self._thread is not None:
            # It may be writing to a log that the application has made slow.
            self._thread.join(1.0)

    async def _run_in_loop(
        self, run: Callable[[], Awaitable[None]], scope: trio.CancelScope
    ) -> None:
        """Run *run* until *scope* is cancelled."""
        with scope:
            while True:
                try:
                    await run()
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    # A signal handler of the application's has raised in here, and trio
                    # would take it for a fault of its own. Other pipelines may go on.
                    if not self.failing:
                        raise
                    self.failing[0](error)

    async def _turn(self) -> None:
        """Write down ten times a second that the loop turns."""
        while True:
            used_s = time.process_time()
            await trio.sleep(_EVERY_S)
            self._turned(time.process_time() - used_s)

    def _turned(self, used_s: float) -> None:
        """Write down that the loop has turned.

        Args:
            used_s: for how long the process used a processor since the last turn.
        """
        now = monotonic()
        late_s = max(0.0, now - self._due_at)
        self.delays.record(late_s, now)
        # The thread could not see it if C code kept the interpreter to itself.
        if self._stood_in == self._turns or (late_s >= _STILL_S and used_s >= _HELD_S):
            self._note(late_s)
        for beat in self.beats:
            try:
                beat()
            except Exception as error:
                # trio would end the whole loop by it.
                if times := self._limit.due("beat"):
                    log_event(logger, logging.ERROR, "loop.beat", times=times, exc_info=error)
        self._due_at = monotonic() + _EVERY_S
        self._turns += 1

    # In the thread

    def _run(self) -> None:
        turns, still_s, tell_at_s = -1, 0.0, 0.0
        while True:
            timer = _Timer()
            if self._stopped.wait(_SLICE_S):
                return
            if turns != self._turns:
                turns, still_s, tell_at_s = self._turns, 0.0, 0.0
                continue
            late_s = monotonic() - self._due_at
            # Of this slice, only what is after the turn was due.
            still_s += max(0.0, min(late_s, timer.kept_s(_SLICE_S)))
            if still_s >= _STILL_S:
                is_new, self._stood_in = self._stood_in != turns, turns
                tell_at_s = self._tell(late_s, tell_at_s, is_new=is_new)
                for guard in self.guards:
                    guard(late_s)

    def _note(self, delay_s: float) -> None:
        self.blocks += 1
        if times := self._limit.due("moved"):
            text = (
                "after %.1f s; all tasks of the event loop stood still meanwhile. Where it "
                "was could not be seen if no line has said so: C code may have kept the "
                "interpreter to itself"
            )
            facts = {"seconds": delay_s, "times": times}
            log_event(logger, logging.WARNING, "loop.moved", text, delay_s, **facts)

    def _tell(self, since_s: float, tell_at_s: float, *, is_new: bool) -> float:
        """Log where the loop is if that is due; return when to log it again.

        A line that is not due yet is tried again: the loop may never go on. And so it
        is told of again after much longer: it may be elsewhere by then.

        Args:
            since_s: for how long it has stood still.
            tell_at_s: for how long it is to have; 0: it was not told of yet.
            is_new: whether it is asked for the first time.
        """
        if since_s < tell_at_s:
            return tell_at_s
        if tell_at_s:
            times = min(1, self._limit.due("still"))
        else:
            times = self._limit.due("blocked", 1 if is_new else 0)
        if not times:
            return tell_at_s
        log_event(
            logger,
            logging.WARNING,
            "loop.blocked",
            "for %.1f s so far: no task of the event loop runs, the feed's socket is not "
            "read. Code that blocks belongs into a plain def (it runs in a thread), or "
            "behind trio.to_thread.run_sync. The loop is here:\n%s",
            since_s,
            Lines(self.stack()),
            seconds=since_s,
            times=times,
        )
        return AGAIN * since_s


class _Timer:
    """Compares how long a wait of this thread took with how long it should."""

    def __init__(self) -> None:
        self._began, self._used = monotonic(), time.process_time()

    def is_punctual(self, seconds: float) -> bool:
        """Whether the wait took *seconds*, or little longer."""
        return monotonic() - self._began <= seconds + _LATE_S

    def kept_s(self, seconds: float) -> float:
        """Return for how long others have had the time to run, in seconds.

        That is *seconds*, or all of a longer wait in which the process has used a
        processor: another thread held the interpreter then. If the process got no
        processor, or was stopped, the answer is 0.
        """
        if self.is_punctual(seconds):
            return seconds
        if time.process_time() - self._used < _HELD_S:
            return 0.0
        return monotonic() - self._began


_running: trio.lowlevel.RunVar[LoopWatch] = trio.lowlevel.RunVar("trio_ticks.loop_watch")


@contextmanager
@uninterrupted
def watch_loop(
    clock: Clock,
    beat: Callable[[], None],
    fail: Callable[[BaseException], object] = log_second,
) -> Iterator[LoopWatch]:
    """Watch this event loop while the block lasts; call it in trio.

    Args:
        clock: the pipeline's; if it is virtual, nothing is watched.
        beat: called in the loop ten times a second, as long as that runs.
        fail: told what a signal handler of the application's raises here.
    """
    watch = None
    with suppress(LookupError):
        watch = _running.get()
    if watch is None or not watch.users:
        watch = LoopWatch(threading.get_ident())
        _running.set(watch)
        if not clock.is_virtual:
            watch.start()
    watch.users += 1
    watch.beats += (beat,)
    watch.failing += (fail,)
    try:
        yield watch
    finally:
        watch.users -= 1
        watch.beats = tuple(each for each in watch.beats if each is not beat)
        watch.failing = tuple(each for each in watch.failing if each is not fail)
        if not watch.users:
            watch.stop()


def _frames_of_task(frame: FrameType) -> list[traceback.FrameSummary]:
    """Return the innermost frames of the running task, without those of trio's loop."""
    stack = traceback.extract_stack(frame)
    loop = [
        index
        for index, line in enumerate(stack)
        if line.filename.replace("\\", "/").endswith("trio/_core/_run.py")
    ]
    return stack[loop[-1] + 1 if loop and loop[-1] + 1 < len(stack) else 0 :][-_FRAMES:]
