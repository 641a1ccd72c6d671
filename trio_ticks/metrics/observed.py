"""What an observer (metrics, health, a live page) may read of a pipeline.

Rules: an observer reads and never writes, with one exception: it may listen to what
comes into the channel and what is dropped there. All that is read between two
checkpoints of the pipeline's event loop belongs together, so that its sums agree. What
belongs to rooms above this one (the feed, the channel, the workers) is described here
by protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

from ..buffer import BufferStatistics
from ..clock import Clock
from ..ledger import DropReason, Ledger
from .loop_watch import LoopWatch
from .meters import Meters
from .snapshots import LastFailure, Overdue, RecorderMetrics, WorkerMetrics

__all__ = [
    "ChannelNumbers",
    "FeedCounts",
    "GapCounts",
    "Half",
    "ItemListener",
    "ItemListeners",
    "Observed",
    "Pausing",
    "Phase",
    "PressureLevel",
    "ThrottleSteps",
    "WorkerRow",
    "WorkerStatistics",
]

Half = Literal["ingest", "work"] | None
"""Which half of a pipeline with a buffer between processes; ``None`` without one."""

Phase = Literal["running", "paused", "draining", "stopped"]
"""``paused``: it runs, and by the user's wish nothing is handled. ``draining``: the
feed has ended or was stopped, and its channel is closed."""

Pausing = Literal["queue", "unsubscribe", "feed only"] | None
"""How a pipeline is paused, and its feed; ``"feed only"``: as the ingest of a pipeline
that is paused by ``"unsubscribe"``. ``None``: it is not."""

ItemListener = Callable[[Sequence[Any], DropReason | None], None]
"""Called once a batch: with accepted items, or with dropped items and the reason."""


class FeedCounts(Protocol):
    """What a feed counts; see :class:`~trio_ticks.FeedStats`."""

    @property
    def connected(self) -> bool: ...
    @property
    def reconnects(self) -> int: ...
    @property
    def connect_failures(self) -> int: ...
    @property
    def watchdog_trips(self) -> int: ...
    @property
    def messages(self) -> int: ...
    @property
    def malformed(self) -> int: ...
    @property
    def ignored(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def unasked(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def skipped_polls(self) -> int: ...
    @property
    def booked(self) -> int: ...
    @property
    def book_errors(self) -> int: ...
    @property
    def silent_symbols(self) -> int: ...
    @property
    def silent_names(self) -> tuple[str, ...]: ...
    @property
    def expects_data(self) -> bool: ...


class ChannelNumbers(Protocol):
    """The channel at one moment: trio's fields by trio's names, and ours."""

    @property
    def current_buffer_used(self) -> int: ...
    @property
    def max_buffer_size(self) -> int: ...
    @property
    def peak_buffer_used(self) -> int: ...
    @property
    def open_send_channels(self) -> int: ...
    @property
    def open_receive_channels(self) -> int: ...
    @property
    def tasks_waiting_send(self) -> int: ...
    @property
    def tasks_waiting_receive(self) -> int: ...
    @property
    def parked(self) -> int:
        """Queued items behind an item of their symbol that is being handled."""

    @property
    def waiting_for_room(self) -> int:
        """Items of a delivery that has not found room yet."""

    @property
    def blocked_s(self) -> float:
        """How long at least one sender has waited for room, in seconds."""

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest item has waited, in seconds; 0 if none waits."""

    @property
    def clock_offset_s(self) -> float | None:
        """Our clock less the venue's, in seconds; ``None`` if it is not estimated."""

    @property
    def clock_jumps(self) -> int | None:
        """How often that has jumped; ``None`` if it is not estimated."""


class GapCounts(Protocol):
    """Losses that happened before the channel, by reason."""

    @property
    def found(self) -> Mapping[str, int]:
        """How many gaps there were."""

    @property
    def missed(self) -> Mapping[str, int]:
        """How many items were lost in them, as far as it is known."""


class PressureLevel(Protocol):
    """How full the channel is; see :class:`~trio_ticks.Pressure`."""

    @property
    def state(self) -> str: ...
    @property
    def changes(self) -> int: ...
    @property
    def sheds(self) -> bool:
        """Whether a full channel discards ticks, rather than let the feed wait."""


class ThrottleSteps(Protocol):
    """The rate that the feed was asked to keep to, and how often it changed."""

    @property
    def rate(self) -> float | None: ...
    @property
    def steps_up(self) -> int: ...
    @property
    def steps_down(self) -> int: ...


class ItemListeners(Protocol):
    """Who is called with the channel's items. Without listeners it costs nothing."""

    def add(self, listener: ItemListener, /) -> None:
        """Have *listener* called from now on, beside all others."""

    def remove(self, listener: ItemListener, /) -> None:
        """Have *listener* called no more; nothing happens if it is not."""

    def __len__(self) -> int: ...


@attrs.frozen(slots=True, kw_only=True)
class WorkerRow:
    """One worker's row, and the two times whose ratio is its load."""

    metrics: WorkerMetrics
    busy_s: float
    life_s: float


@attrs.frozen(slots=True, kw_only=True)
class WorkerStatistics:
    """The workers at one moment. Counters include workers that have left."""

    rows: tuple[WorkerRow, ...]
    busy_s: float
    """How long the workers did not wait for ticks, summed over workers."""
    life_s: float
    """How long the workers have existed, summed over workers."""
    timeouts: int
    """Handlings that took longer than ``handler_timeout``."""
    retries: int
    """Further tries of handlers that raised."""
    restarts: int
    """Workers that were replaced because their process had ended."""
    symbols_forgotten: int
    """Symbols whose gap, home or failures were forgotten, because others came."""
    symbols_set_aside: int
    """Symbols that the breaker has set aside, or that wait for their trial."""
    sizes_itself: bool
    """Whether the pool sizes itself; if not, ``wanted`` and ``limit`` are ``None``."""
    wanted: int | None
    """How many workers the load asks for."""
    limit: str | None
    """What keeps the pool from growing to ``wanted``."""
    last_failure: LastFailure | None = None
    """What the handler raised last; ``None``: nothing yet."""
    overdue: Overdue | None = None
    """Ticks whose handler does not return; ``None``: there are none."""
    results_written: int = 0
    """Results that were written."""
    results_failed: int = 0
    """Results that could not be written, so that their ticks failed."""
    results_waiting: int | None = None
    """Results that are being written, or wait for a store that is away; ``None``
    without ``results``."""
    results_waiting_s: float = 0.0
    """How long workers have waited for results to be written, summed over workers."""


class Observed(Protocol):
    """A pipeline as its observers see it."""

    @property
    def clock(self) -> Clock: ...
    @property
    def began_at(self) -> float:
        """When it began, on its clock."""

    @property
    def half(self) -> Half: ...
    @property
    def buffer_statistics(self) -> BufferStatistics | None: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def paused(self) -> Pausing:
        """How it is paused; ``None``: it is not."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def ingest(self) -> Observed | None:
        """The half that brings the ticks into the buffer, if both halves run here."""

    @property
    def feed_stats(self) -> FeedCounts: ...
    @property
    def feed_statistics(self) -> Mapping[str, FeedCounts]:
        """The counts of each feed by its name; empty if a buffer is in its place."""

    @property
    def gap_counts(self) -> GapCounts: ...
    @property
    def pressure(self) -> PressureLevel: ...
    @property
    def warn_at(self) -> int:
        """How many queued items raise the pressure to ``"warn"``."""

    @property
    def throttle(self) -> ThrottleSteps | None: ...
    @property
    def meters(self) -> Meters: ...
    @property
    def item_listeners(self) -> ItemListeners: ...
    @property
    def loop_watch(self) -> LoopWatch | None:
        """How late the event loop is; ``None`` before the pipeline's block."""

    @property
    def recording(self) -> Callable[[], RecorderMetrics] | None:
        """Tells what is recorded of the feed; ``None``: nothing is."""

    def statistics(self) -> ChannelNumbers:
        """Return the channel's numbers as they are now."""

    def worker_statistics(self) -> WorkerStatistics:
        """Return the workers' numbers as they are now."""
