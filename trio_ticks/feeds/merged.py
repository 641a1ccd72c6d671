"""Several feeds as one: they run side by side, each with a send handle of its own.

Rules: the feeds do not know of each other. The first that fails ends all of them; the
merged feed ends when the last of them has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

import attrs
import trio

from ..channel.tapped import ItemTap, TappedSendChannel
from ..errors import ConfigError
from ..uninterrupted import await_theirs
from .base import MOST_NAMED, Feed, FeedStats, capabilities_of, plays_the_past, stats_of

__all__ = ["FeedStatistics", "MergedFeed", "MergedStats"]


@final
class MergedStats:
    """The sums of the counts of several feeds, as they are when they are read."""

    def __init__(self, parts: Sequence[FeedStats]) -> None:
        self._parts = parts

    @property
    def connected(self) -> bool:
        """Whether all feeds are connected."""
        return all(part.connected for part in self._parts)

    @property
    def expects_data(self) -> bool:
        """Whether any of the feeds expects data."""
        return any(part.expects_data for part in self._parts)

    @property
    def silent_names(self) -> tuple[str, ...]:
        """Some silent symbols of all feeds."""
        return tuple(name for part in self._parts for name in part.silent_names)[:MOST_NAMED]

    def __getattr__(self, name: str) -> Any:
        if name not in attrs.fields_dict(FeedStats):
            raise AttributeError(name)
        return sum(getattr(part, name) for part in self._parts)


@final
class MergedFeed:
    """Runs *feeds* side by side into one pipeline.

    Args:
        feeds: at least one feed; each has a name, by default that of its venue or
            class, made unique by a number.
        shared_symbols: whether two feeds may bring the same symbol. Order, conflation,
            gaps and breakers are kept by symbol.

    Raises:
        ConfigError: there is none, one is no feed or is there twice, two have the same
            name, or two would bring the same symbol.
    """

    def __init__(self, feeds: Sequence[Feed], *, shared_symbols: bool = False) -> None:
        if not feeds:
            raise ConfigError("feed must be a feed or a list of at least one feed")
        if len({id(feed) for feed in feeds}) != len(feeds):
            raise ConfigError("the same feed is in the list of feeds twice")
        self.feeds: Final = tuple(feeds)
        self.names: Final = _name(self.feeds)
        """The names of the feeds, in their order."""
        if not shared_symbols:
            _check_symbols(self.feeds, self.names)
        self._can = [capabilities_of(feed) for feed in self.feeds]
        self.taps: dict[str, ItemTap] = {}
        """By the name of a feed without raw messages, where its items are recorded."""
        self.replays: Final = any(map(plays_the_past, self.feeds))
        """Whether one of them plays a recording: the same handlers get its ticks."""
        self.stats: Final = MergedStats([stats_of(feed) for feed in self.feeds])
        if not any(can.throttle for can in self._can):
            self.throttle = None  # type: ignore[method-assign,assignment]
        if not any(can.request_snapshot for can in self._can):
            self.request_snapshot = None  # type: ignore[method-assign,assignment]
        if not all(can.suspend and can.resume for can in self._can):
            self.suspend = None  # type: ignore[method-assign,assignment]

    async def run(self, send: Any, /) -> None:
        """Run all feeds until the last of them has ended.

        Raises:
            Exception: of the first feed that fails, as it is; the others are cancelled.

        Cancellation: cancels all feeds.
        """
        error: Exception | None = None

        async def run_one(name: str, feed: Feed) -> None:
            nonlocal error
            # Each waits for room by itself, as senders do that have their own handle.
            tap = self.taps.get(name)
            if tap is not None:
                own = TappedSendChannel(send, tap)
            else:
                own = send.clone() if hasattr(send, "clone") else send
            try:
                await feed.run(own)
            except Exception as raised:
                error = error or raised
                nursery.cancel_scope.cancel()
            finally:
                if own is not send:
                    own.close()

        async with trio.open_nursery() as nursery:
            for name, feed in zip(self.names, self.feeds, strict=True):
                nursery.start_soon(run_one, name, feed)
        if error is not None:
            raise error

    async def throttle(
        self, max_rate: float | None, *, priorities: Mapping[str, float] | None = None
    ) -> None:
        """Limit the feeds to *max_rate* ticks a second in all, each to its share.

        A share is as large as the feed's part of the messages so far. A feed that
        cannot be limited keeps its rate.
        """
        weights = [1 + stats_of(feed).messages for feed in self.feeds]
        for can, weight in zip(self._can, weights, strict=True):
            if can.throttle is None:
                continue
            share = None if max_rate is None else max_rate * weight / sum(weights)
            options = {} if priorities is None else {"priorities": priorities}
            await await_theirs(partial(can.throttle, share, **options))

    async def request_snapshot(self, symbol: str) -> None:
        """Ask the feed that has *symbol* for the snapshot of its book."""
        for feed, can in zip(self.feeds, self._can, strict=True):
            if can.request_snapshot is None or not _may_have(feed, symbol):
                continue
            await await_theirs(can.request_snapshot, symbol)

    def suspend(self) -> None:
        """Suspend all feeds; ``None`` unless each of them can be suspended."""
        for can in self._can:
            if can.suspend is not None:
                can.suspend()

    def resume(self) -> None:
        """Resume all feeds."""
        for can in self._can:
            if can.resume is not None:
                can.resume()

    def __repr__(self) -> str:
        return f"MergedFeed({list(self.feeds)!r})"


@final
class FeedStatistics(Mapping[str, FeedStats]):
    """The counts of *feed*, or of each of the feeds that it merges, by name.

    They are those of the moment in which they are read.
    """

    def __init__(self, feed: Feed | None) -> None:
        self._feeds: dict[str, Feed] = {}
        if isinstance(feed, MergedFeed):
            self._feeds = dict(zip(feed.names, feed.feeds, strict=True))
        elif feed is not None:
            self._feeds = {getattr(feed, "name", None) or type(feed).__name__: feed}

    def __getitem__(self, name: str) -> FeedStats:
        return stats_of(self._feeds[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


def _may_have(feed: Feed, symbol: str) -> bool:
    symbols = getattr(feed, "symbols", None)
    return symbols is None or symbol in symbols


def _name(feeds: Sequence[Feed]) -> tuple[str, ...]:
    """Return a name for each feed, and tell it the feeds that can be named."""
    given = [
        feed.name if getattr(feed, "is_named", False) else None  # type: ignore[attr-defined]
        for feed in feeds
    ]
    double = [name for name, count in Counter(given).items() if name is not None and count > 1]
    if double:
        raise ConfigError(f"two feeds have the same name {double[0]!r}: give each its own name=")
    taken = {name for name in given if name is not None}
    names = []
    for feed, own in zip(feeds, given, strict=True):
        name = base = own or getattr(feed, "name", None) or type(feed).__name__
        number = 1
        while own is None and name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        names.append(name)
        use_name = getattr(feed, "use_name", None)
        if own is None and callable(use_name):
            use_name(name)
    return tuple(names)


def _check_symbols(feeds: Sequence[Feed], names: Sequence[str]) -> None:
    owners: dict[str, str] = {}
    for feed, name in zip(feeds, names, strict=True):
        symbols = getattr(feed, "symbols", None)
        if symbols is None or not isinstance(symbols, tuple | frozenset | set | list):
            continue
        for symbol in symbols:
            other = owners.setdefault(symbol, name)
            if other != name:
                raise ConfigError(
                    f"the feeds {other!r} and {name!r} would both bring the symbol {symbol!r}:"
                    " give one of them a mapping from the venue's name to yours"
                    ' (symbols={"' + symbol + f'": "{symbol}.{name}"' + "}),"
                    " or allow it by shared_symbols=True"
                )
