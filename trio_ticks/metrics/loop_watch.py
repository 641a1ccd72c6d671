"""Notices from a thread that the event loop stands still, and shows where.

A handler or a feed that blocks the loop stops all its tasks: the socket is not read,
pings are not answered, no metric can be asked for. So a thread of its own watches: it
has the loop call a function ten times a second, and waits for that.

Rules:

- One thread a loop, however many pipelines run in it. It ends with the last of them.
- On a virtual clock there is no thread: time does not pass there while code runs, and a
  call from a thread would disturb the order of the tasks.
- A process that got no processor, or was stopped, is not taken for a loop that blocks:
  the watch counts only the slices of its wait that took about as long as they should.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, final

import trio

from ..clock import Clock, monotonic
from ..logs import Lines, LogLimit, log_event
from .latency import LatencyWindow

__all__ = ["LoopWatch", "watch_loop"]

logger = logging.getLogger("trio_ticks.pipeline")

_EVERY_S: Final = 0.1
_SLICE_S: Final = 0.05
_SLICES: Final = 4
"""A loop that has not answered for so many slices in a row stands still: 0.2 s."""
_LATE_S: Final = 0.05
"""A wait that took so much longer says more about this thread than about the loop."""
_HELD_S: Final = 0.15
_LOG_EVERY_S: Final = 10.0
_WINDOW_S: Final = 10.0
_FRAMES: Final = 12

Guard = Callable[[float], None]
"""Called in the watch's thread, every 50 ms or so while the loop stands still, with how
long it has, in seconds."""


@final
class LoopWatch:
    """The watch of one event loop: ``pipeline.loop_watch``.

    Args:
        token: of the loop.
        thread: the identity of the loop's thread.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, thread: int) -> None:
        self.users = 0
        """How many pipelines of the loop want the watch."""
        self.blocks = 0
        """How often the loop has stood still for 0.2 s or longer."""
        self.delays = LatencyWindow(_WINDOW_S, 10)
        """How long the loop took to answer; ten times a second."""
        self.guards: tuple[Guard, ...] = ()
        """Replaced as a whole: the thread reads it."""
        self.beats: tuple[Callable[[], None], ...] = ()
        """Called in the loop ten times a second, whenever it answers."""
        self._token = token
        self._loop_thread = thread
        self._asked_at: float | None = None
        self._answered_at = 0.0
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._limit = LogLimit(monotonic, _LOG_EVERY_S)
        self._thread: threading.Thread | None = None

    def delay_s(self) -> float:
        """Return the longest that the loop took to answer in the last 10 s, in seconds.

        The wait that is going on counts. Call it in the loop.
        """
        now, asked_at = monotonic(), self._asked_at
        current = 0.0 if asked_at is None else now - asked_at
        return max(current, self.delays.stats(now).max / 1e3)

    def stack(self) -> str:
        """Return where the loop is, as lines of a traceback: the innermost frames."""
        frame = sys._current_frames().get(self._loop_thread)
        return "" if frame is None else "".join(traceback.format_list(_frames_of_task(frame)))

    def start(self) -> None:
        """Begin to watch, in a thread."""
        self._thread = threading.Thread(target=self._run, name="trio-ticks-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for its end; call it in the loop."""
        self._stopped.set()
        self._answered.set()
        if self._thread is not None:
            # It may be writing to a log that the application has made slow.
            self._thread.join(1.0)

    # In the thread

    def _run(self) -> None:
        while True:
            timer = _Timer()
            if self._stopped.wait(_EVERY_S):
                return
            try:
                self._ask(timer.held_s(_EVERY_S))
            except trio.RunFinishedError:
                return

    def _ask(self, held_s: float) -> None:
        """Ask the loop; *held_s*: for how long this thread was kept from asking."""
        self._answered.clear()
        if self._stopped.is_set():
            # stop() waits for this thread in the loop, which could not answer now.
            return
        self._asked_at = asked_at = monotonic() - held_s
        try:
            self._token.run_sync_soon(self._answer)
            still = self._wait(asked_at, held_s)
        finally:
            self._asked_at = None
        if still and not self._stopped.is_set():
            self._note(self._answered_at - asked_at)

    def _answer(self) -> None:
        """Called by the loop, so that :attr:`delays` is written there alone."""
        now, asked_at = monotonic(), self._asked_at
        if asked_at is not None:
            self.delays.record(now - asked_at, now)
        self._answered_at = now
        self._answered.set()
        for beat in self.beats:
            try:
                beat()
            except Exception as error:
                # trio would end the whole loop by it.
                if times := self._limit.due("beat"):
                    log_event(logger, logging.ERROR, "loop.beat", times=times, exc_info=error)

    def _wait(self, asked_at: float, held_s: float) -> bool:
        """Wait until the loop has answered; return whether it had stood still."""
        slices, still = 0, False
        while True:
            timer = _Timer()
            answered = self._answered.wait(_SLICE_S)
            held_s += timer.held_s(_SLICE_S)
            if answered:
                return still or held_s >= _SLICES * _SLICE_S
            slices += timer.is_punctual(_SLICE_S)
            if not still and (slices >= _SLICES or held_s >= _SLICES * _SLICE_S):
                still = True
                self._report(monotonic() - asked_at)
            if still:
                for guard in self.guards:
                    guard(monotonic() - asked_at)

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

    def _report(self, since_s: float) -> None:
        if not (times := self._limit.due("blocked")):
            return
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


class _Timer:
    """Compares how long a wait of this thread took with how long it should."""

    def __init__(self) -> None:
        self._began, self._used = monotonic(), time.process_time()

    def is_punctual(self, seconds: float) -> bool:
        """Whether the wait took *seconds*, or little longer."""
        return monotonic() - self._began <= seconds + _LATE_S

    def held_s(self, seconds: float) -> float:
        """Return how much longer it took since another thread held the interpreter.

        That is so if the process has used a processor for so long meanwhile: Python
        offers the interpreter to another thread every 5 ms, unless C code keeps it. If
        the process got no processor, or was stopped, the answer is 0.
        """
        if self.is_punctual(seconds) or time.process_time() - self._used < _HELD_S:
            return 0.0
        return monotonic() - self._began - seconds


_running: trio.lowlevel.RunVar[LoopWatch] = trio.lowlevel.RunVar("trio_ticks.loop_watch")


@contextmanager
def watch_loop(clock: Clock, beat: Callable[[], None]) -> Iterator[LoopWatch]:
    """Watch this event loop while the block lasts; call it in trio.

    Args:
        clock: the pipeline's; if it is virtual, nothing is watched.
        beat: called in the loop ten times a second, as long as that runs.
    """
    watch = None
    with suppress(LookupError):
        watch = _running.get()
    if watch is None or not watch.users:
        watch = LoopWatch(trio.lowlevel.current_trio_token(), threading.get_ident())
        _running.set(watch)
        if not clock.is_virtual:
            watch.start()
    watch.users += 1
    watch.beats += (beat,)
    try:
        yield watch
    finally:
        watch.users -= 1
        watch.beats = tuple(each for each in watch.beats if each is not beat)
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
