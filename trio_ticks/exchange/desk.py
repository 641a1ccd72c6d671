"""What a venue answers over REST: the protocol of its desk, and faults that all have.

Rules: sans-I/O. What a client asks never raises. A desk says what the market says: its
quotes are those that are streamed, and its bars lead to them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Protocol, final

import attrs

from .http import Call, RestAnswer, json_answer
from .past import Past
from .venues import Venue
from .wire import FlatTick

__all__ = ["REST_FAULTS", "Desk", "NewDesk", "RestFaults", "Stock", "Window"]

_SLOW_S: Final = 0.5
_EVERY: Final = 3
_RECENT: Final = 10_000
"""How many ticks are kept for questions about trades, of all symbols together."""

REST_FAULTS: Final = MappingProxyType(
    {
        "rest-429": "every third REST request is refused: 429, Retry-After 1",
        "rest-500": "every third REST request fails: 500",
        "rest-slow": "REST answers take half a second",
        "rest-limit": "30 REST requests in 60 s are answered, others get 429 and Retry-After",
        "bar-forming": "the last bar over REST is the one that is not over yet",
        "keeps-newest": "of a range with more bars than fit the newest are kept",
        "exclusive-bounds": "the bounds of a range of bars do not belong to it",
    }
)


@final
@attrs.define
class Stock:
    """What a desk knows of its exchange."""

    symbols: tuple[str, ...]
    seed: object
    faults: frozenset[str]
    api_key: str | None
    opened: datetime
    """When the market opened."""
    quotes: Callable[[], Sequence[FlatTick]]
    """Returns the present quotes; empty while a recording has none."""
    venue: Venue | None = None
    """The :class:`~.venues.Venue` that streams; ``None``: a dialect does."""
    recent: deque[FlatTick] = attrs.field(factory=lambda: deque(maxlen=_RECENT))
    """The last ticks of all symbols, oldest first."""
    counts: Counter[str] = attrs.field(factory=Counter)
    """How many ticks of each symbol were streamed."""
    _first: dict[str, FlatTick] | None = None

    def __attrs_post_init__(self) -> None:
        self._first = {tick.symbol: tick for tick in self.quotes()}

    def observe(self, ticks: Sequence[FlatTick]) -> None:
        """Notice what was streamed."""
        self.recent.extend(ticks)
        self.counts.update([tick.symbol for tick in ticks])

    def quote(self, symbol: str) -> FlatTick | None:
        """Return the present quote of a symbol; ``None``: there was none yet."""
        for tick in self.quotes():
            if tick.symbol == symbol:
                return tick
        return next((tick for tick in reversed(self.recent) if tick.symbol == symbol), None)

    def trades(self, symbol: str, limit: int) -> list[FlatTick]:
        """Return the last ticks of a symbol, oldest first."""
        found = [tick for tick in self.recent if tick.symbol == symbol]
        return found[-limit:]

    def past(self, symbol: str, *, sessions: bool, dearer: float = 0.0) -> Past:
        """Return the past of a symbol.

        Args:
            symbol: one of the exchange's.
            sessions: whether it is traded in sessions only.
            dearer: by how much its price is more than that of the market.
        """
        first = (self._first or {}).get(symbol)
        price = dearer + (100.0 if first is None else first.bid)
        at_ms = round(self.opened.timestamp() * 1000)
        return Past(symbol, self.seed, price, at_ms, sessions=sessions)


class Desk(Protocol):
    """Answers what is asked over REST."""

    def answer(self, call: Call, now: datetime, clock: float) -> RestAnswer:
        """Return the answer.

        Args:
            call: the request.
            now: the wall time.
            clock: the time of the event loop, in seconds.
        """
        ...


NewDesk = Callable[[Stock], Desk]


@final
class Window:
    """Counts what was asked in the last minute.

    Args:
        limit: how much may be.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: deque[tuple[float, int]] = deque()

    def used(self, clock: float) -> int:
        """Return how much was asked in the minute before *clock*."""
        while self._taken and self._taken[0][0] <= clock - 60:
            self._taken.popleft()
        return sum(weight for _, weight in self._taken)

    def take(self, clock: float, weight: int = 1) -> int | None:
        """Count a request of *weight*; return for how many seconds it is too much.

        ``None``: it is not, and counts.
        """
        if self.used(clock) + weight <= self.limit:
            self._taken.append((clock, weight))
            return None
        return max(1, int(self._taken[0][0] + 60 - clock) + 1) if self._taken else 60


@final
class RestFaults:
    """The faults that are the same at all desks.

    Args:
        names: those to have.
        busy: the body of a 429, in the words of the venue.
        failed: the body of a 500.
    """

    def __init__(self, names: frozenset[str], busy: Mapping[str, object], failed: object) -> None:
        self.names = names
        self._busy = busy
        self._failed = failed
        self._count = 0
        self._window = Window(30)

    def strike(self, clock: float) -> RestAnswer | None:
        """Return the answer with which a request fails; ``None``: it does not."""
        self._count += 1
        if self._count % _EVERY == 0:
            if "rest-429" in self.names:
                return self.busy(1)
            if "rest-500" in self.names:
                return json_answer(500, self._failed)
        if "rest-limit" in self.names:
            wait_s = self._window.take(clock)
            if wait_s is not None:
                return self.busy(wait_s)
        return None

    def busy(self, wait_s: int) -> RestAnswer:
        """Return the refusal of a request that is one too many."""
        return json_answer(429, self._busy, [("Retry-After", str(wait_s))])

    @property
    def delay_s(self) -> float:
        """How long an answer takes."""
        return _SLOW_S if "rest-slow" in self.names else 0.0
