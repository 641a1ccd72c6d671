"""An order book, kept from the updates of one symbol.

Plan: each side has a dict from price to size, and a sorted list of the prices with the
best one at the end. Most changes are near the best price, so that inserting there moves
few entries. The prices of asks are negated in the list, which puts the lowest one last.

Rules: the book has levels only while it is known to be right. An update that shows it
to be wrong empties it, and everything up to the next snapshot is held back: nobody
trades on a level that may not exist. Numbered updates that come before their snapshot
are kept, within a bound, and applied after it. Numbers that are too large by mistake,
or that begin anew, must not freeze a book for ever: it is wrong when all that comes is
old for too long. Sync; no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias, final

from .checks import check_callable, check_count
from .errors import ConfigError
from .ticks import BookUpdate, Level

__all__ = ["Applied", "Behind", "Book", "BookState", "Checksum", "first_number"]

BookState = Literal["empty", "valid", "stale"]
"""``empty``: no snapshot has come yet; ``stale``: the book was found wrong, or may be,
and waits for a snapshot."""

Applied = Literal["applied", "old", "buffered", "held", "wrong"]
"""What became of an update; :meth:`Book.apply` explains each."""

Checksum: TypeAlias = "Callable[[Book, BookUpdate], bool]"
"""Tells whether a book is right after an update, by the venue's own checksum.

It is called for each update that is applied, in their order, so it may keep a state."""

MOST_LEVELS: Final = 100_000
"""Levels of a side that are kept where the venue names no depth; those farthest from
the best price are left out."""
_MANY: Final = 1000
"""Changes of one update from which on sorting all prices anew costs less than inserting
each. Measured: 20,000 changes in 100,000 levels took 2 s, and take 0.1 s."""
_MOST_BEHIND: Final = 1000
_LONGEST_BEHIND: Final = timedelta(seconds=10)


@final
class Behind:
    """How long all updates of a book have been older than the book.

    A snapshot may be ahead of the stream by a moment. If it is for longer, its number
    is wrong, or the venue has begun to count anew; then the book would stand still for
    ever, and look right.
    """

    __slots__ = ("_since", "count")

    def __init__(self) -> None:
        self.count = 0
        """Old updates since the book went on."""
        self._since: datetime | None = None

    def end(self) -> None:
        """Notice that the book goes on."""
        self.count = 0

    def is_too_long(self, timestamp: datetime) -> bool:
        """Take in an old update of that time; return whether the numbers are wrong.

        They are after 1,000 such updates, or when these have come for 10 seconds. The
        time is the venue's, compared with that of other updates only.
        """
        if self.count == 0 or self._since is None:
            self._since = timestamp
        self.count += 1
        return self.count > _MOST_BEHIND or timestamp - self._since > _LONGEST_BEHIND


@final
class _Side:
    """One side of a book: its sizes by price, and its prices in order."""

    __slots__ = ("keys", "sign", "sizes")

    def __init__(self, sign: float) -> None:
        self.sign = sign
        """1.0 for bids, -1.0 for asks: a price times this is its key."""
        self.sizes: dict[float, float] = {}
        self.keys: list[float] = []
        """Ascending, so that the best price is the last one."""

    def replace(self, levels: Iterable[Level]) -> None:
        """Have exactly *levels*; a size of 0 is no level."""
        sizes = dict(levels)
        self.sizes = {price: size for price, size in sizes.items() if size}
        sign = self.sign
        self.keys = sorted([sign * price for price in self.sizes])

    def change(self, levels: Sequence[Level]) -> None:
        """Set the sizes of *levels*, one after the other; 0 removes a level."""
        sizes, keys, sign = self.sizes, self.keys, self.sign
        if len(levels) > _MANY:
            self.replace([*sizes.items(), *levels])
            return
        for price, size in levels:
            if size:
                if price not in sizes:
                    key = sign * price
                    keys.insert(bisect_left(keys, key), key)
                sizes[price] = size
            elif sizes.pop(price, None) is not None:
                del keys[bisect_left(keys, sign * price)]

    def cut(self, depth: int) -> None:
        """Leave out all but the best *depth* levels."""
        excess = len(self.keys) - depth
        if excess > 0:
            for key in self.keys[:excess]:
                del self.sizes[self.sign * key]
            del self.keys[:excess]

    def clear(self) -> None:
        """Have no levels."""
        self.sizes = {}
        self.keys = []

    def best(self) -> Level | None:
        """Return the best level."""
        if not self.keys:
            return None
        price = self.sign * self.keys[-1]
        return price, self.sizes[price]

    def levels(self, count: int | None) -> tuple[Level, ...]:
        """Return the best *count* levels, the best one first; ``None``: all."""
        sizes, sign = self.sizes, self.sign
        keys = self.keys if count is None else self.keys[max(0, len(self.keys) - count) :]
        return tuple([(price := sign * key, sizes[price]) for key in reversed(keys)])


@final
class Book:
    """An order book of one symbol, kept from its updates (:class:`BookUpdate`).

    It begins with a snapshot. Then it checks with each update that none is missing
    (where the venue numbers them), that bid and ask have not crossed, and the venue's
    checksum (where there is one). A wrong book says so by its ``state`` and
    :attr:`reason`; it is without levels until a snapshot has come. Memory is bounded by
    the depth, or by 100,000 levels a side, and by *most_buffered* updates.

    Args:
        symbol: whose book it is.
        depth: how many levels a side the venue keeps up to date; ``None``: all, or as
            many as the snapshot says. A level that is pushed out of such a depth is
            never removed by the venue, so the book leaves it out by itself. To *see*
            fewer levels, ask :meth:`bids` for fewer: a book that is cut to less than
            the venue's depth would lack levels that come back.
        checksum: tells whether the book is right after an update; ``None``: no check.
            Each book needs one of its own.
        most_buffered: numbered updates that are kept until their snapshot comes. If
            more come, the oldest one is left out, and another snapshot will be needed.

    Raises:
        ConfigError: an argument makes no sense.
    """

    __slots__ = (
        "_asks",
        "_behind",
        "_bids",
        "_buffer",
        "_checksum",
        "applied",
        "depth",
        "errors",
        "held",
        "old",
        "reason",
        "sequence",
        "state",
        "symbol",
        "timestamp",
    )

    def __init__(
        self,
        symbol: str,
        depth: int | None = None,
        *,
        checksum: Checksum | None = None,
        most_buffered: int = 1000,
    ) -> None:
        if not isinstance(symbol, str) or not symbol:
            raise ConfigError(f"symbol must be a str that is not empty, not {symbol!r}")
        check_count("depth", depth, or_none=True)
        check_count("most_buffered", most_buffered)
        check_callable(
            "checksum", checksum, shown="a function of a book and an update", or_none=True
        )
        self.symbol: Final = symbol
        self.depth = depth
        """Levels a side that the venue keeps up to date; ``None``: all."""
        self.state: BookState = "empty"
        self.reason: str | None = None
        """Why the book is not valid, for people to read; ``None`` while it is."""
        self.sequence: int | None = None
        """Number of the last change in the book, where the venue numbers them."""
        self.timestamp: datetime | None = None
        """Of the last update that was applied."""
        self.applied = 0
        """Updates that were applied, snapshots among them."""
        self.old = 0
        """Updates and snapshots that the book was ahead of already."""
        self.held = 0
        """Updates that were left out, since no snapshot had come before them."""
        self.errors = 0
        """How often an update or a snapshot has shown the book to be wrong."""
        self._bids = _Side(1.0)
        self._asks = _Side(-1.0)
        self._checksum = checksum
        self._behind = Behind()
        self._buffer: deque[BookUpdate] = deque(maxlen=most_buffered)

    def __repr__(self) -> str:
        return (
            f"<Book {self.symbol} {self.state} bid={self.bid} ask={self.ask}"
            f" levels={len(self._bids.keys)}+{len(self._asks.keys)}>"
        )

    @property
    def bid(self) -> Level | None:
        """Price and size of the best bid; ``None`` without one, or if not valid."""
        return self._bids.best()

    @property
    def ask(self) -> Level | None:
        """Price and size of the best ask; ``None`` without one, or if not valid."""
        return self._asks.best()

    @property
    def best(self) -> tuple[Level, Level] | None:
        """Best bid and best ask; ``None`` if one of them is missing, or not valid."""
        bid, ask = self._bids.best(), self._asks.best()
        return None if bid is None or ask is None else (bid, ask)

    def bids(self, count: int | None = None) -> tuple[Level, ...]:
        """Return the best *count* bids, the highest first; ``None``: all."""
        return self._bids.levels(count)

    def asks(self, count: int | None = None) -> tuple[Level, ...]:
        """Return the best *count* asks, the lowest first; ``None``: all."""
        return self._asks.levels(count)

    @property
    def buffered(self) -> int:
        """How many updates wait for their snapshot."""
        return len(self._buffer)

    def apply(self, update: BookUpdate) -> Applied:
        """Take in *update*, and return what became of it.

        - ``"applied"``: the book is right, and has it. A snapshot replaces the book.
        - ``"old"``: the book was ahead of it. A snapshot that ends before the buffered
          updates begin is old too: then another one is needed. If all that comes is
          older than the book for 10 s, or 1,000 times, the book is wrong.
        - ``"buffered"``: it is kept until its snapshot comes.
        - ``"held"``: it came before a snapshot and has no number, so whether a snapshot
          includes it cannot be known; the book leaves it out.
        - ``"wrong"``: it has shown that the book is wrong; :attr:`reason` says how.

        Raises:
            ValueError: it is of another symbol.
        """
        if update.symbol != self.symbol:
            raise ValueError(f"an update of {update.symbol!r} for the book of {self.symbol!r}")
        if update.snapshot:
            return self._restart(update)
        if self.state != "valid":
            return self._hold(update)
        return self._follow(update)

    def mark_stale(self, reason: str) -> None:
        """Empty the book until its next snapshot: updates may have been lost.

        Call it after a reconnect, for example. A book that is still empty stays so.

        Args:
            reason: for people to read.
        """
        self._clear()
        self._buffer.clear()
        self.reason = reason

    def _clear(self) -> None:
        if self.state != "empty":
            self.state = "stale"
        self.sequence = None
        self._bids.clear()
        self._asks.clear()
        self._behind.end()

    def _hold(self, update: BookUpdate) -> Applied:
        if update.last_sequence is None:
            self.held += 1
            return "held"
        if self._buffer and update.last_sequence < first_number(self._buffer[0]):
            # The numbers go back behind all that waits. A snapshot could never fit
            # between the two, so that one wrong number would keep the book empty.
            self.held += len(self._buffer)
            self._buffer.clear()
        self.held += len(self._buffer) == self._buffer.maxlen
        self._buffer.append(update)
        return "buffered"

    def _follow(self, update: BookUpdate) -> Applied:
        """Apply an update that is no snapshot to a valid book."""
        last, known = update.last_sequence, self.sequence
        if last is not None and known is not None:
            if last <= known:
                return self._pass_over(update)
            first = last if update.first_sequence is None else update.first_sequence
            if first > known + 1:
                return self._fail(update, f"the changes {known + 1} to {first - 1} are missing")
        bids, asks = self._bids, self._asks
        bids.change(update.bids)
        asks.change(update.asks)
        return self._check(update)

    def _restart(self, snapshot: BookUpdate) -> Applied:
        """Replace the book by *snapshot*, and apply what was buffered after it."""
        last = snapshot.last_sequence
        if last is not None:
            if self.sequence is not None and last < self.sequence:
                return self._pass_over(snapshot)
            while self._buffer and (self._buffer[0].last_sequence or 0) <= last:
                self._buffer.popleft()
                self.old += 1
            first = self._buffer[0].first_sequence if self._buffer else None
            if first is not None and first > last + 1:
                self.old += 1
                self.reason = f"the snapshot ends with {last}, and updates begin with {first}"
                return "old"
        later, self._buffer = self._buffer, deque(maxlen=self._buffer.maxlen)
        if snapshot.depth is not None:
            self.depth = snapshot.depth
        self._bids.replace(snapshot.bids)
        self._asks.replace(snapshot.asks)
        levels = max(len(self._bids.keys), len(self._asks.keys))
        if self.depth is not None and levels > self.depth:
            return self._fail(snapshot, f"a snapshot of {levels} levels, not of {self.depth}")
        self.state, self.reason = "valid", None
        self.sequence = None
        outcome = self._check(snapshot)
        if last is None:
            # Without a number nobody knows what the snapshot includes.
            self.held += len(later)
            return outcome
        for update in later:
            if self.state == "valid":
                outcome = self._follow(update)
            else:
                self._hold(update)
        return "applied" if self.state == "valid" else outcome

    def _check(self, update: BookUpdate) -> Applied:
        """Check the book after *update* has changed it."""
        bids, asks = self._bids, self._asks
        depth = MOST_LEVELS if self.depth is None else self.depth
        if len(bids.keys) > depth:
            bids.cut(depth)
        if len(asks.keys) > depth:
            asks.cut(depth)
        if bids.keys and asks.keys and bids.keys[-1] >= -asks.keys[-1]:
            return self._fail(
                update, f"the bid {bids.keys[-1]!r} is not below the ask {-asks.keys[-1]!r}"
            )
        if self._checksum is not None and not self._checksum(self, update):
            return self._fail(update, f"the venue's checksum {update.checksum} is another one")
        if update.last_sequence is not None:
            self.sequence = update.last_sequence
            self._behind.count = 0  # end(), without its call: each update comes here.
        self.timestamp = update.timestamp
        self.applied += 1
        return "applied"

    def _pass_over(self, update: BookUpdate) -> Applied:
        """Leave out an update that the book is ahead of."""
        # The last update once more, as of a quiet market, shows nothing.
        again = update.last_sequence == self.sequence
        if not again and self._behind.is_too_long(update.timestamp):
            reason = f"updates end with {update.last_sequence}, and the book with {self.sequence}"
            return self._fail(update, reason)
        self.old += 1
        return "old"

    def _fail(self, update: BookUpdate, reason: str) -> Applied:
        """Empty the book because of *update*, and keep that if it has a number."""
        self.state = "stale"
        self._clear()
        self.errors += 1
        self.reason = reason
        if not update.snapshot:
            self._hold(update)
        return "wrong"


def first_number(update: BookUpdate) -> int:
    """Return the number of the first change in an *update* that has numbers."""
    first = update.first_sequence
    return (update.last_sequence or 0) if first is None else first
