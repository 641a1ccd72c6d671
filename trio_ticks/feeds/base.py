"""The feed protocol: its one method, its optional methods, and the counts of a feed.

A feed takes a send channel and pushes ticks into it until it ends, is cancelled, or
fails. It never closes the channel: the pipeline does.

Rules: only this module asks a feed or a send channel for its capabilities. They are
found by name, so the log warns of a method whose name only resembles one of them.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Any, Protocol, runtime_checkable

import attrs

from ..clock import Clock, new_random
from ..events import FeedEvent
from ..logs import log_event
from ..recordings.taps import About, Tap

__all__ = [
    "MOST_NAMED",
    "AsksForSnapshots",
    "Capabilities",
    "Feed",
    "FeedStats",
    "OpenTap",
    "Recordable",
    "SendCapabilities",
    "Suspendable",
    "Throttled",
    "WaitsForRoom",
    "capabilities_of",
    "clock_of",
    "plays_the_past",
    "random_of",
    "records_messages",
    "send_capabilities_of",
    "stats_of",
    "waits_for_room",
]

logger = logging.getLogger(__name__)

_RESEMBLES = 0.8
"""The least difflib ratio at which a name is taken for a misspelling of another."""


MOST_NAMED = 20
"""Silent symbols that are named; the others are only counted."""


@attrs.define(slots=True)
class FeedStats:
    """The counts of a feed. Only the feed changes them; exporters read them."""

    connected: bool = False
    reconnects: int = 0
    """Connections made after the first one."""
    connect_failures: int = 0
    watchdog_trips: int = 0
    """Connections given up because nothing had arrived for too long."""
    messages: int = 0
    """Complete data messages, with or without a tick in them."""
    malformed: int = 0
    """Messages that made no tick because they were bad."""
    ignored: int = 0
    """Messages that are no market data: acknowledgements, heartbeats, unknown kinds."""
    refused: int = 0
    """Subscriptions that the venue has refused."""
    unasked: int = 0
    """Items of symbols that were not asked for; they are left out."""
    duplicates: int = 0
    """Items that the venue had sent before; left out where only new ones are wanted."""
    skipped_polls: int = 0
    """Moments at which a feed that polls did not ask: the answer before was late."""
    booked: int = 0
    """Book updates that the feed has taken in, to keep the books itself.

    They stay in the feed; see ``books`` of :class:`~trio_ticks.WebSocketFeed`."""
    book_errors: int = 0
    """How often a book that the feed keeps was found to be wrong."""
    silent_symbols: int = 0
    """Symbols that are silent now for longer than they usually are."""
    silent_names: tuple[str, ...] = ()
    """Some of them by name: at most 20, those first that fell silent last."""
    expects_data: bool = True
    """Whether the market is open, as far as the feed was told."""


@runtime_checkable
class Feed(Protocol):
    """A source of ticks.

    It may also have a ``stats`` attribute, a :class:`FeedStats`, the attribute of
    :class:`~trio_ticks.feeds.base.WaitsForRoom`, and the methods of
    :class:`~trio_ticks.feeds.base.Throttled` and
    :class:`~trio_ticks.feeds.base.AsksForSnapshots`.
    """

    async def run(self, send: Any, /) -> None:
        """Push ticks into *send* until the feed ends.

        *send* is a :class:`~trio_ticks.TickSendChannel`. It and its clones are closed
        when this returns, whichever task holds them.

        Cancellation: the pipeline cancels this call to stop the feed; clean up and let
        the cancellation through.
        """
        ...


@runtime_checkable
class Throttled(Protocol):
    """A feed that can limit its rate."""

    def throttle(self, max_rate: float | None, /) -> Any:
        """Send at most *max_rate* ticks a second; ``None``: without a limit.

        Sync or async. If the strategy has priorities, they are passed as the keyword
        ``priorities``.
        """
        ...


@runtime_checkable
class AsksForSnapshots(Protocol):
    """A feed that can ask its venue for the snapshot of an order book."""

    def request_snapshot(self, symbol: str, /) -> Any:
        """Ask for a snapshot of the book of *symbol*. Sync or async."""
        ...


@runtime_checkable
class Suspendable(Protocol):
    """A feed that can be silent for a while: see ``Pipeline.pause``.

    Both methods are called in the event loop, also before and after the feed runs.
    """

    def suspend(self) -> object:
        """Send nothing more, and expect nothing, until :meth:`resume`. Sync."""
        ...

    def resume(self) -> object:
        """Send again, and mark a gap for each symbol. Sync."""
        ...


@runtime_checkable
class WaitsForRoom(Protocol):
    """A feed that says whether it can wait for room in the channel without harm.

    A file waits for its reader; a venue does not. Without an overflow strategy of the
    user's, the channel of a feed that can wait drops nothing (:class:`Block
    <trio_ticks.Block>`). The pipeline asks once, before it runs the feed.
    """

    @property
    def waits_for_room(self) -> bool:
        """True: it can wait. A feed that lacks the attribute cannot."""
        ...


OpenTap = Callable[[About], Tap]
"""Returns the tap of a recorder for a feed, which says what it is."""


@runtime_checkable
class Recordable(Protocol):
    """A feed that shows its raw messages to a recorder.

    Of a feed without this method, the items are recorded.
    """

    def record_to(self, open_tap: OpenTap | None, /) -> object:
        """Record what is received from the next :meth:`Feed.run` on.

        Args:
            open_tap: is called once, for the tap; ``None``: record no more.
        """
        ...


@attrs.frozen(slots=True, kw_only=True)
class Capabilities:
    """The optional methods of a feed; ``None``: the feed lacks the method."""

    throttle: Callable[..., Any] | None
    """The method of :class:`Throttled`, bound to the feed."""
    request_snapshot: Callable[[str], Any] | None
    """The method of :class:`AsksForSnapshots`, bound to the feed."""
    suspend: Callable[[], Any] | None = None
    """The method of :class:`Suspendable`, bound to the feed."""
    resume: Callable[[], Any] | None = None
    """The other method of :class:`Suspendable`, bound to the feed."""


def capabilities_of(feed: object) -> Capabilities:
    """Return the optional methods of *feed*, and warn in the log of misspelt ones.

    Taken for misspelt is a method whose name resembles that of a method that the feed
    lacks, such as ``request_snapshots``, and an attribute of the right name that is not
    callable. Call this once for each pipeline.
    """
    methods: dict[str, Callable[..., Any] | None] = {}
    for field in attrs.fields(Capabilities):
        # Not isinstance(feed, Throttled): since Python 3.12 it does not find methods
        # that a wrapper passes on by __getattr__.
        method = getattr(feed, field.name, None)
        methods[field.name] = method if callable(method) else None
        if method is None:
            for name in _resembling(field.name, feed):
                _warn_misspelt(feed, name, field.name, "is never called")
        elif not callable(method):
            _warn_misspelt(feed, field.name, field.name, "cannot be called")
    return Capabilities(**methods)


def _resembling(wanted: str, feed: object) -> Iterator[str]:
    """Yield the names of the methods of *feed* that resemble *wanted*."""
    for name in dir(type(feed)):
        if name == wanted or name.startswith("_") or not callable(getattr(type(feed), name, None)):
            continue
        if name == wanted:
            # A method of the class that this object has switched off.
            continue
        plain = name.replace("_", "").lower()
        ratio = difflib.SequenceMatcher(None, plain, wanted.replace("_", "")).ratio()
        if ratio >= _RESEMBLES:
            yield name


def _warn_misspelt(feed: object, name: str, wanted: str, what: str) -> None:
    log_event(
        logger,
        logging.WARNING,
        "feed.misspelt",
        "%s.%s %s; is it meant to be the method %s of a feed?",
        type(feed).__name__,
        name,
        what,
        wanted,
        feed=type(feed).__name__,
        method=name,
        meant=wanted,
    )


def records_messages(feed: object) -> Callable[[OpenTap | None], object] | None:
    """Return the method of :class:`Recordable`; ``None``: *feed* lacks it."""
    method = getattr(feed, "record_to", None)
    return method if callable(method) else None


def waits_for_room(feed: object) -> bool:
    """Tell whether *feed* can wait for room in the channel without harm."""
    return getattr(feed, "waits_for_room", False) is True


def plays_the_past(feed: object) -> bool:
    """Tell whether *feed* brings ticks of the past: its ``replays`` is True."""
    return getattr(feed, "replays", False) is True


def stats_of(feed: object) -> FeedStats:
    """Return the feed's own statistics, or empty ones for a feed that keeps none."""
    stats: Any = getattr(feed, "stats", None)
    fields = attrs.fields_dict(FeedStats)
    whole = stats is not None and all(hasattr(stats, field) for field in fields)
    return stats if whole else FeedStats(connected=True)


@attrs.frozen(slots=True, kw_only=True)
class SendCapabilities:
    """The methods of the send channel that a feed is given, besides ``send_many``.

    The pipeline's own channel has all of them. A feed may be given another one: in a
    test, or a wrapper that inspects the ticks.
    """

    deliver: Callable[[Sequence[Any]], Awaitable[None] | None]
    """Takes ticks at once if there is room, else returns an awaitable that does."""
    mark_gap: Callable[..., Any] | None
    """Records ticks that were lost before they reached the channel."""
    report_event: Callable[[FeedEvent], Any] | None
    """Tells the strategy what happens to the feed."""
    takes_events: bool
    """Whether the strategy takes events of symbols in the symbol's line."""
    watches: list[Any] | None
    """Holds the sockets that an idle worker may wait for in a reader's place."""


def send_capabilities_of(send: Any) -> SendCapabilities:
    """Return the methods of *send*, with ``send_many`` in place of ``deliver``."""
    return SendCapabilities(
        deliver=getattr(send, "deliver", send.send_many),
        mark_gap=getattr(send, "mark_gap", None),
        report_event=getattr(send, "report_event", None),
        takes_events=getattr(send, "takes_events", False),
        watches=getattr(send, "watches", None),
    )


def clock_of(send: object) -> Clock:
    """Return the clock of the pipeline that *send* leads to.

    If *send* is a substitute without a clock, it is a new clock on trio's time.
    """
    clock = getattr(send, "clock", None)
    return clock if isinstance(clock, Clock) else Clock()


def random_of(send: object) -> Random:
    """Return the source of chance of the pipeline that *send* leads to.

    If *send* is a substitute without one, it is a new one.
    """
    random = getattr(send, "random", None)
    return random if isinstance(random, Random) else new_random()
