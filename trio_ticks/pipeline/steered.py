"""What the user of a running pipeline may ask of it: pause, another size, the end.

Plan: a wish is written down by the thread that has it, and the event loop is told to
act on all that is written down. So wishes of several threads have one order, the last
one counts, and what waits for the loop is bounded.

Rules: each call is sync, returns at once, and works in any thread and in a signal
handler. A call that comes when the pipeline is stopping changes nothing and raises
nothing.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ..checks import check_count, check_word
from ..control.scaling import AutoWorkers
from ..errors import ConfigError
from ..loop import LoopHandle
from ..metrics.observed import Half, Pausing
from ..settings import Settings
from ..ticks import MarketData
from .phases import Phases

__all__ = ["Steered"]

T = TypeVar("T", bound=MarketData)


class Steered(Generic[T]):
    """The part of a pipeline that is told what to do.

    Args:
        phases: run the pipeline.
        settings: of the pipeline.
        half: of a pipeline with a ``buffer``.
        ingest: the other half, if it runs here.
    """

    def __init__(
        self, phases: Phases[T], settings: Settings, half: Half, ingest: Steered[Any] | None
    ) -> None:
        self._loop = LoopHandle(phases.fail)
        self._phases = phases
        self._settings = settings
        self._half = half
        self._other = ingest
        self._stop_asked = False
        self._asked_pause: Pausing = None
        self._asked_size: int | None = None

    @property
    def stopping(self) -> bool:
        """Whether a shutdown or a cancellation has begun, or was asked for."""
        return self._stop_asked or self._phases.stopping.is_set()

    @property
    def paused(self) -> Pausing:
        """``"queue"`` or ``"unsubscribe"`` while it is paused so; else ``None``.

        Safe in any thread; :meth:`pause` and :meth:`resume` are seen here at once.
        """
        if self.stopping or self._phases.phase == "stopped":
            return None
        return self._asked_pause

    def shutdown(self) -> None:
        """Begin a graceful shutdown.

        The feed is stopped, the workers drain the queue for ``shutdown_timeout``, then
        they are cancelled. Returns at once; :meth:`wait` tells when it is done. Calling
        it again changes nothing, and neither does a call after the end. A pause ends
        here. With a ``buffer`` nothing more is fetched, and what no worker has begun in
        that time goes back into it; if both halves run here, the ingest ends first, for
        half of ``shutdown_timeout`` at most. Safe in any thread.
        """
        self._stop_asked = True
        if self._other is not None:
            self._other.shutdown()
        self._loop.call(self._phases.shutdown)

    def cancel(self) -> None:
        """Stop at once: what is queued or in flight is counted as dropped at shutdown.

        Returns before it is done. Safe in any thread; a call after the end changes
        nothing.
        """
        self._stop_asked = True
        if self._other is not None:
            self._other.cancel()
        self._loop.call(self._phases.cancel)

    def pause(self, feed: str = "queue") -> None:
        """Have no more ticks handled until :meth:`resume`, or a shutdown.

        Returns at once. Each worker finishes the tick in its hands, and takes no other:
        a process finishes the batch that it was given, which is 20 ms of work or one
        tick. A second call only changes what becomes of the feed. With a ``buffer`` the
        workers' half also gives back what no worker has begun, and its shards, which
        are other programs' then; an ingest appends nothing. While it is paused, the
        pipeline is not ready, and its state is ``"paused"``; :meth:`wait` waits for
        what is queued, too. Safe in any thread.

        Args:
            feed: ``"queue"``: it goes on, and the overflow strategy decides what
                becomes of ticks that find no room. ``"unsubscribe"``: nothing is
                subscribed to meanwhile, though the connection stays; no silence is
                noticed. The strategy is told of a gap before each symbol's next item.
                What the feed's ``suspend`` or ``resume`` raises fails the pipeline.

        Raises:
            ConfigError: *feed* is another word, or the feed cannot unsubscribe.
        """
        check_word("feed", feed, ("queue", "unsubscribe"))
        if feed == "unsubscribe":
            bringing = self if self._other is None else self._other
            bringing._phases.check_suspendable()
        self._ask("unsubscribe" if feed == "unsubscribe" else "queue")
        if self._other is not None and feed == "unsubscribe":
            self._other._ask("feed only")
        elif self._other is not None:
            self._other._ask(None)

    def resume(self) -> None:
        """Have ticks handled again, from where it was paused. Returns at once.

        With a ``buffer``, shards are taken again. If it is not paused, nothing happens.
        Safe in any thread.
        """
        self._ask(None)
        if self._other is not None:
            self._other._ask(None)

    def resize(self, workers: int) -> None:
        """Have so many workers from now on; returns at once.

        Each worker that leaves finishes the tick in its hands first. In processes with
        ``ordering="symbol"`` a symbol stays with its process: new ones get symbols that
        have not come yet, and those of processes that leave. Counters go on. Safe in
        any thread; the last call counts.

        Args:
            workers: how many ticks are handled at once, at most.

        Raises:
            ConfigError: it is no number of at least 1; the pool sizes itself
                (``workers="auto"``); there are no workers here.
        """
        check_count("workers", workers, of="workers")
        if self._half == "ingest":
            raise ConfigError("an ingest has no workers: resize the program that handles the ticks")
        if isinstance(self._settings.pool_size, AutoWorkers):
            raise ConfigError(
                'a pool with workers="auto" sizes itself: give open_pipeline a number to resize it,'
                " or other bounds (AutoWorkers)"
            )
        self._asked_size = workers
        self._loop.call(self._act)

    def _ask(self, pause: Pausing) -> None:
        self._asked_pause = pause
        self._loop.call(self._act)

    def _act(self) -> None:
        """Do what was asked for last, in the event loop."""
        if not self._stop_asked:
            self._phases.steer(self._asked_pause, self._asked_size)
