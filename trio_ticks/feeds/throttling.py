"""How a feed over a connection gets less: asks the venue, or pauses symbols, or reads later. Decides; the feed does it.

Rules: sans-I/O. Level-triggered: what should hold is compared with what was sent, so that neither a reconnect nor a lost answer leaves a
limit in force that nobody wants any more. Reading is never put off for so long that a ping would be answered late.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, final

from .reports import log_event

__all__ = ["SourceThrottle", "ThrottledCodec", "Way"]

logger = logging.getLogger(__name__)

Way = Literal["request", "pause", "read"]

_ANSWER_WITHIN_S: Final = 5.0
"""A venue that has not answered a request until then never will. Longer than our reader may be behind the wire."""
_SETTLE_S: Final = 1.0
"""What is in the sockets still comes after symbols were paused or resumed: look again when it has gone by."""
_MEASURE_S: Final = 0.5
_ENOUGH_TICKS: Final = 50
_ENOUGH_SPAN_S: Final = 0.05
_HALVED_S: Final = 20.0
"""The rate of a paused symbol is not known any more: it is taken for half of what it was so long ago, so that its turn comes again."""
_LONGEST_WAIT_S: Final = 0.25
"""How long one read may be put off."""
_BEHIND_S: Final = 0.5
"""How far reading may be behind the wire, whoever kept it, to be put off: far less than any venue's patience for a pong."""
_ON_TIME_S: Final = 0.1
"""A tick that is no later than this, compared with the least that has been, proves that reading is not behind the wire."""


class ThrottledCodec(Protocol):
    """What is used of a codec; see :class:`~trio_ticks.feeds.venues.base.Codec`. ``throttle`` may be missing."""

    def subscribe(self, symbols: Sequence[str]) -> list[str | bytes]: ...

    def unsubscribe(self, symbols: Sequence[str]) -> list[str | bytes]: ...


@final
class SourceThrottle:
    """Turns the rate that is wanted into messages to the venue, symbols to pause, and waits before the next read.

    The best way that works is taken: ``"request"`` where the codec knows a rate request, until the venue refuses it or leaves it
    unanswered; then ``"pause"``, until it refuses to unsubscribe, and only where there is more than one symbol; then ``"read"``.

    Args:
        codec: the venue's language.
        symbols: what the feed subscribes to, the most important first.
    """

    def __init__(self, codec: ThrottledCodec, symbols: Sequence[str]) -> None:
        self._codec = codec
        self._symbols = tuple(symbols)
        self._rank = {symbol: rank for rank, symbol in enumerate(self._symbols)}
        self._request = getattr(codec, "throttle", None)
        self.way: Way = "request" if self._request is not None else self._second_best
        self.max_rate: float | None = None
        """What is wanted, in ticks a second."""
        self.paused: dict[str, float] = {}
        """Symbols that were unsubscribed from, and since when."""
        self.resumed: list[tuple[str, float]] = []
        """Symbols that were subscribed to again, and since when they had been paused; whoever tells of them clears it."""
        self.waited_s = 0.0
        """For how long reading was put off."""
        self._sent: float | None = None
        self._unanswered_since = math.inf
        self._proven = False
        self._farewell: list[str | bytes] = []
        self._counts: Counter[str] = Counter()
        self._counted_since = math.inf
        self._stamps: tuple[float, float] | None = None
        self._rates: dict[str, float] = {}
        self._settled_at = -math.inf
        self._read_at = -math.inf
        self._behind_s = 0.0
        self._least_lag_s = math.inf
        self.armed = False
        """Whether anybody has ever said what is wanted: if not, nobody need call :meth:`delivered`."""

    @property
    def _second_best(self) -> Way:
        return "pause" if len(self._symbols) > 1 else "read"

    def limit(self, max_rate: float | None, priorities: Mapping[str, float] | None = None) -> None:
        """Say what is wanted from now on. *priorities*: the greater, the later a symbol is paused; one that is not listed has 0."""
        self.max_rate = max_rate
        self.armed = True
        if priorities is not None:
            ranked = sorted(self._symbols, key=lambda symbol: -priorities.get(symbol, 0))
            self._rank = {symbol: rank for rank, symbol in enumerate(ranked)}

    def opening(self, now: float) -> list[str | bytes]:
        """Return what to send first on a new connection: the limit, and the subscription without what is paused."""
        self._sent = None
        self._unanswered_since = math.inf
        self._farewell = []
        self._counted_since = math.inf
        self._settled_at = now + _SETTLE_S
        active = [symbol for symbol in self._symbols if symbol not in self.paused]
        return [*self._rate_request(now), *self._codec.subscribe(active)]

    def due(self, now: float) -> list[str | bytes]:
        """Return what to send now."""
        if now >= self._unanswered_since + _ANSWER_WITHIN_S:
            self._unanswered_since = math.inf
            if self._proven:
                self._sent = math.nan  # what holds there is not known: say it again
            else:
                self._give_up_requests()
        if self.way == "request":
            return self._rate_request(now)
        farewell, self._farewell = self._farewell, []
        return farewell + self._plan(now)

    def look_again_at(self, now: float) -> float:
        """Return when :meth:`due` has to be asked again, should nothing else happen until then."""
        if self._unanswered_since < math.inf:
            return self._unanswered_since + _ANSWER_WITHIN_S
        if self.way == "pause" and (self.paused or self.max_rate is not None):
            return max(self._settled_at, now + _MEASURE_S)
        return math.inf

    def answered(self, method: str, accepted: bool) -> None:
        """Take note of what the venue answered to a request of the kind *method*."""
        if method == "throttle" and self.way == "request":
            if accepted:
                self._proven = True
                self._unanswered_since = math.inf
            elif not self._proven:
                self._unanswered_since = math.inf
                self._give_up_requests()
            # One that has taken such requests before, and keeps to one of them, is asked again when the time for an answer is over.
        elif method == "unsubscribe" and not accepted and self.way == "pause":
            # Those that it goes on sending are not paused; asking for one again that it has paused does no harm.
            self._settled_at = -math.inf
            self._fall_back("read")

    def _give_up_requests(self) -> None:
        assert self._request is not None
        # Should the venue have heard us and just not have said so, it must not go on holding back.
        self._farewell = list(self._request(None))
        self._fall_back(self._second_best)

    def _fall_back(self, way: Way) -> None:
        log_event(logger, logging.WARNING, "feed.throttle_way", way=way, instead_of=self.way)
        self.way = way

    def delivered(self, now: float, wall: float, items: Sequence[Any], took_s: float) -> float:
        """Take note of what was read; return how long to wait before the next read, in seconds.

        Args:
            now: the clock.
            wall: the clock that the venue's timestamps are compared with, in seconds.
            items: what came.
            took_s: how long handing them on has kept us from reading.
        """
        lag = wall - items[-1].timestamp.timestamp()
        self._least_lag_s = min(self._least_lag_s, lag)
        if self.max_rate is None or self.way == "request":
            return 0.0
        if self.way == "pause":
            self._counts.update([item.symbol for item in items])
            first = items[0].timestamp.timestamp() if self._stamps is None else self._stamps[0]
            self._stamps = (first, items[-1].timestamp.timestamp())
            if len(self._symbols) - len(self.paused) > 1:
                return 0.0
        # What lies in the sockets cannot be seen from here, nor does a short read prove that it is little: the window may be closed. How
        # old the ticks are tells, whatever the difference between the clocks.
        self._behind_s = took_s + (0.0 if lag - self._least_lag_s < _ON_TIME_S else self._behind_s)
        return self._delay(now, len(items))

    # Asking

    def _rate_request(self, now: float) -> list[str | bytes]:
        if self.way != "request" or self._request is None or self._unanswered_since < math.inf or self._sent == self.max_rate:
            return []
        self._sent = self.max_rate
        self._unanswered_since = now
        return list(self._request(self.max_rate))

    # Pausing

    def _plan(self, now: float) -> list[str | bytes]:
        """Pause what is too much, or resume what has room again."""
        if self.way == "read":
            return self._resume(list(self.paused), now)
        if self.max_rate is None:
            return self._resume_some(now)
        if self._counted_since == math.inf:
            self._begin_to_count(now)
        passed = now - self._counted_since
        if now < self._settled_at or passed < _MEASURE_S:
            return []
        active = sorted((symbol for symbol in self._symbols if symbol not in self.paused), key=self._rank.__getitem__)
        for symbol in self.paused:
            self._rates[symbol] = self._rates.get(symbol, 0.0) * 0.5 ** (passed / _HALVED_S)
        span = self._span(passed)
        for symbol in active:
            self._rates[symbol] = self._counts[symbol] / span
        self._begin_to_count(now)
        return self._fit(active, self.max_rate, now)

    def _begin_to_count(self, now: float) -> None:
        self._counts.clear()
        self._stamps = None
        self._counted_since = now

    def _span(self, passed: float) -> float:
        """Return the time in which the venue made what was counted: by its own clock, since ours counts what a full queue holds up."""
        if self._stamps is not None and self._counts.total() >= _ENOUGH_TICKS:
            span = self._stamps[1] - self._stamps[0]
            if span >= _ENOUGH_SPAN_S:
                return span
        return passed

    def _fit(self, active: list[str], max_rate: float, now: float) -> list[str | bytes]:
        total = sum(self._rates[symbol] for symbol in active)
        stopped = []
        # The most important one stays: a feed that brings nothing at all would never show that the load has gone.
        while total > max_rate and len(active) > 1:
            stopped.append(active.pop())
            total -= self._rates[stopped[-1]]
        if stopped:
            for symbol in stopped:
                self.paused[symbol] = now
            self._settle(now, "feed.symbols_paused", stopped)
            return self._codec.unsubscribe(stopped)
        restarted = []
        for symbol in sorted(self.paused, key=self._rank.__getitem__):
            total += self._rates.get(symbol, 0.0)
            if total > max_rate:
                break
            restarted.append(symbol)
        return self._resume(restarted, now)

    def _resume_some(self, now: float) -> list[str | bytes]:
        """Resume as many as there are, again and again: all at once would bring back at once what was too much."""
        if now < self._settled_at:
            return []
        count = len(self._symbols) - len(self.paused)
        return self._resume(sorted(self.paused, key=self._rank.__getitem__)[:count], now)

    def _resume(self, symbols: list[str], now: float) -> list[str | bytes]:
        if not symbols:
            return []
        self.resumed += [(symbol, self.paused.pop(symbol)) for symbol in symbols]
        self._settle(now, "feed.symbols_resumed", symbols)
        return self._codec.subscribe(symbols)

    def _settle(self, now: float, event: str, symbols: Sequence[str]) -> None:
        self._settled_at = now + _SETTLE_S
        self._counted_since = math.inf
        log_event(logger, logging.INFO, event, symbols=len(symbols), paused=len(self.paused), max_rate=self.max_rate)

    # Reading later

    def _delay(self, now: float, count: int) -> float:
        assert self.max_rate is not None
        self._read_at = max(self._read_at, now) + count / self.max_rate
        wait = min(self._read_at - now, _LONGEST_WAIT_S, _BEHIND_S - self._behind_s)
        if wait < self._read_at - now:
            self._read_at = now + max(wait, 0.0)
        if wait <= 0:
            return 0.0
        self._behind_s += wait
        self.waited_s += wait
        return wait
