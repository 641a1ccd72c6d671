"""The pipeline as its user holds it: what it does, what it shows, how it is stopped.

Rules: no task outlives the block; each phase of the shutdown is bounded; one error of
the user's comes out as itself, several at once in a group; every tick has an outcome
when the report is made. What it is told to do is in steered.py; that, ``metrics`` and
``report`` work in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

import trio

from ..buffer import BufferStatistics, Sink
from ..channel.statistics import ChannelStatistics
from ..clock import Clock
from ..feeds.base import Feed, FeedStats, plays_the_past, stats_of
from ..feeds.merged import FeedStatistics
from ..handlers.kinds import Handler
from ..metrics.loop_watch import LoopWatch
from ..metrics.observed import Half, Phase, WorkerStatistics
from ..metrics.rates import Rates
from ..metrics.reporting import make_metrics, make_report
from ..metrics.snapshots import PipelineMetrics, PipelineReport, RecorderMetrics
from ..settings import Settings
from ..ticks import MarketData
from .phases import Phases
from .sink_end import SinkOf
from .source_feed import SourceFeed
from .steered import Steered

__all__ = ["Pipeline"]

T = TypeVar("T", bound=MarketData)


class Pipeline(Steered[T]):
    """A running pipeline; made by :func:`open_pipeline`.

    :meth:`shutdown`, :meth:`cancel`, :meth:`pause`, :meth:`resume`, :meth:`resize`,
    :meth:`metrics` and :attr:`report` may be used in any thread, at any time, also
    after the block: in a plain handler, for example, which runs in a worker thread. It
    is :class:`~trio_ticks.metrics.observed.Observed`.
    """

    recording: Callable[[], RecorderMetrics] | None = None
    """Tells what is recorded of the feed; ``None`` without ``record``."""

    def __init__(
        self,
        feed: Feed,
        handler: Handler[T] | SinkOf,
        settings: Settings,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        ingest: Pipeline[Any] | None = None,
    ) -> None:
        self.ingest = ingest
        """The other half, which brings the feed's ticks into the buffer, if both halves
        of a pipeline with a ``buffer`` run here; else ``None``."""
        self.half: Half = None
        """``"ingest"``: from the feed into a buffer; ``"work"``: from the buffer to the
        handler; ``None``: there is no buffer between processes."""
        self._broker_end: Sink | SourceFeed | None = None
        if isinstance(handler, SinkOf):
            self.half, self._broker_end = "ingest", handler.sink
        elif isinstance(feed, SourceFeed):
            self.half, self._broker_end = "work", feed
        self.clock = Clock() if clock is None else clock
        """The pipeline's time."""
        self.began_at = self.clock.now()
        """When it began, on its clock."""
        self._feed = feed
        self._replays: bool = plays_the_past(feed) or (ingest is not None and ingest._replays)
        self.feed_statistics: Mapping[str, FeedStats] = FeedStatistics(
            None if self.half == "work" else feed
        )
        """What each feed counts, by the feed's name; ``feed_stats`` has the sums. Empty
        at the workers' half of a pipeline with a ``buffer``, which has no feed: if both
        halves run here, ask ``pipeline.ingest``."""
        first = None if ingest is None else ingest._phases.ended
        phases: Phases[T] = Phases(feed, handler, settings, self.clock, random, first)
        super().__init__(phases, settings, self.half, ingest)
        self._rates = Rates(self.began_at)
        parts = self._phases.parts
        self.ledger = parts.ledger
        """The counters, and the law that they obey."""
        self.meters = parts.meters
        """The latencies."""
        self.pressure = parts.pressure
        """How full the channel is: readable, and awaitable by ``wait_for``."""
        self.warn_at = min(settings.lag_threshold, settings.maxsize)
        """How many queued ticks raise the pressure to ``"warn"``."""
        self.throttle = parts.throttle
        """The rate and the steps of a :class:`Throttle`; ``None`` without one."""
        self.gap_counts = parts.gap_counts
        """Losses before the channel, by reason."""
        self.item_listeners = parts.listeners
        """Who is told what comes into the channel, and what is dropped there."""
        self.loop_watch: LoopWatch | None = None
        """Whether the event loop stands still; ``None`` before the block."""
        self._block: trio.Nursery | None = None
        self._report: PipelineReport | None = None
        # These five are for the module that opens pipelines.
        self._poll, self._run, self._fail = parts.poll, self._phases.run, self._phases.fail
        self._stopping = self._phases.stopping
        self._make_report = partial(make_report, self)

    @property
    def buffer_statistics(self) -> BufferStatistics | None:
        """What this half knows of the buffer; ``None`` without one."""
        return None if self._broker_end is None else self._broker_end.statistics()

    @property
    def feed_stats(self) -> FeedStats:
        """What the feed counts; of several feeds, the sums."""
        return stats_of(self._feed)

    @property
    def phase(self) -> Phase:
        """``"running"``, ``"paused"``, ``"draining"`` or ``"stopped"``.

        It drains once the feed has ended or was stopped.
        """
        return self._phases.phase

    @property
    def failure(self) -> BaseException | None:
        """The first error of the feed, of a handler's life or of a callback, if any."""
        return self._phases.failure

    @property
    def report(self) -> PipelineReport:
        """What the pipeline did; final once its block has been left.

        Safe in any thread.
        """
        return self._report if self._report is not None else self._loop.read(self._make_report)

    async def wait(self) -> None:
        """Wait until the feed has ended and the queue is drained, or a shutdown ends.

        If both halves of a pipeline with a ``buffer`` run here: until both have ended.

        Cancellation: the pipeline goes on. Always a checkpoint.
        """
        if self.ingest is not None:
            await self.ingest.wait()
        await self._phases.ended.wait()

    def metrics(self) -> PipelineMetrics:
        """Return a snapshot of all that an operator may want to know.

        Cheap enough for several a second. Safe in any thread: a thread other than the
        event loop's has the loop make the snapshot, waits for that for a second at
        most, and makes it itself if there is no answer.
        """
        return self._loop.read(partial(make_metrics, self, self._rates))

    def statistics(self) -> ChannelStatistics:
        """Return the channel's numbers as they are now; call it in the event loop."""
        return self._phases.parts.statistics()

    def worker_statistics(self) -> WorkerStatistics:
        """Return the workers' numbers as they are now; call it in the event loop."""
        return self._phases.parts.worker_statistics()

    async def serve_metrics(
        self,
        port: int = 9464,
        host: str = "127.0.0.1",
        *,
        name: str = "main",
        registry: Any = None,
        fresh_s: float = 30.0,
        symbols: int | Sequence[str] = 0,
        allow_hosts: Iterable[str] = (),
        max_failure_rate: float | None = None,
    ) -> str:
        """Serve ``/metrics``, ``/healthz`` and ``/readyz`` until the block is left.

        Returns the URL of ``/metrics``.

        Args:
            port: 0 takes any free one.
            host: the address to listen on.
            name: the value of the label ``pipeline``.
            registry: a ``prometheus_client.CollectorRegistry`` to share with others;
                one of its own unless given.
            fresh_s: how long after a message the feed counts as fresh for ``/readyz``,
                in seconds.
            symbols: which symbols have series of their own, or how many (the first to
                come); all others are counted as ``other``.
            allow_hosts: names by which the port may be reached, besides those of this
                machine: the name that a proxy before it has. On a *host* that is no
                loopback address every name is answered, unless some are given here.
            max_failure_rate: ``/readyz`` answers 503 while a greater share of the ticks
                handled in the last 5 seconds failed: from 0 up to but not 1. Unless
                given, failing ticks do not change its status; its body always tells of
                them.

        Raises:
            ConfigError: a setting cannot work, or is in use.

        Cancellation: nothing is served.
        """
        from ..observability.serving import serve_pipeline

        assert self._block is not None
        url: str = await self._block.start(
            serve_pipeline,
            self,
            port,
            host,
            name,
            registry,
            fresh_s,
            symbols,
            allow_hosts,
            max_failure_rate,
        )
        return url

    async def serve_dashboard(
        self,
        port: int = 9465,
        host: str = "127.0.0.1",
        *,
        title: str = "pipeline",
        allow_hosts: Iterable[str] = (),
    ) -> str:
        """Serve a live page for a browser until the pipeline's block is left.

        Returns its URL.

        Args:
            port: 0 takes any free one.
            host: the address to listen on. The page has no password, so leave it on
                this machine, or put a proxy with a password before it.
            title: what stands at the top of the page.
            allow_hosts: as for :meth:`serve_metrics`.

        Raises:
            ConfigError: a setting cannot work, or is in use.

        Cancellation: nothing is served.
        """
        from ..observability.dashboard.serve import serve_dashboard

        assert self._block is not None
        url: str = await self._block.start(serve_dashboard, self, port, host, title, allow_hosts)
        return url
