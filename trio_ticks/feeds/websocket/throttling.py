"""The limit on a feed's rate: ask the venue, pause symbols, or delay reads.

Goals: hold a limit with the least loss. A venue that sends less costs nothing; a paused
symbol loses its ticks, but no other symbol's; a delayed read holds up all symbols.

Plan: :class:`SourceThrottle` starts with the best way that the codec supports and falls
back to the next one when the venue refuses. The feed calls ``due`` for the requests to
send and ``delivered`` after each batch, and does the sending and sleeping.

Rules: sans-I/O. The wanted limit is compared with the limit last sent, each time, so
that neither a reconnect nor a lost answer leaves an old limit in force. A read is never
delayed for so long that a ping would be answered late.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, final

from ...logs import log_event
from ...offsets import ClockOffset
from ..venues.base import RateCodec

__all__ = ["SourceThrottle", "ThrottledCodec", "Way"]

logger = logging.getLogger("trio_ticks.feeds.throttling")

Way = Literal["request", "pause", "read"]

_ANSWER_WITHIN_S: Final = 5.0
"""A venue that has not answered a request after this time is taken never to answer.

Longer than our reader may be behind the wire.
"""
_SETTLE_S: Final = 1.0
"""No rate is measured for this long after symbols were paused or resumed.

Until then, ticks of the old subscriptions still arrive from the sockets.
"""
_MEASURE_S: Final = 0.5
"""The shortest time over which rates are measured."""
_ENOUGH_TICKS: Final = 50
"""With fewer ticks, rates are measured by our clock, not by the venue's timestamps."""
_AHEAD_S: Final = 1.0
"""A timestamp farther ahead of the venue's clock than this, in seconds, is wrong.

No rate is measured by it.
"""
_ENOUGH_SPAN_S: Final = 0.05
"""If the timestamps span less, rates are measured by our clock."""
_HALVED_S: Final = 20.0
"""The estimated rate of a paused symbol halves in this time.

Its true rate cannot be measured while it is paused; with a falling estimate it is
resumed at some time.
"""
_LONGEST_WAIT_S: Final = 0.25
"""The longest delay of one read."""
_BEHIND_S: Final = 0.5
"""Reads are not delayed while reading may be further behind the wire than this.

Far less than the time that any venue waits for a pong.
"""
_ON_TIME_S: Final = 0.1
"""A tick whose lag is above the least lag so far by less than this is on time.

It proves that reading is not behind the wire.
"""


class ThrottledCodec(Protocol):
    """The methods used here of a :class:`~trio_ticks.feeds.venues.base.Codec`."""

    def subscribe(self, symbols: Sequence[str], /) -> Sequence[Any]: ...

    def unsubscribe(self, symbols: Sequence[str], /) -> Sequence[Any]: ...


@final
class SourceThrottle:
    """Turns a wanted rate into requests, paused symbols, and delayed reads.

    It takes the first of these ways that works: ``"request"``, if the codec has a rate
    request, until the venue refuses it or leaves it unanswered; ``"pause"``, if there
    is more than one symbol and a way to unsubscribe, until the venue refuses to
    unsubscribe; ``"read"``.

    Args:
        codec: makes the requests to the venue; what they are is its own affair.
        symbols: the symbols that the feed subscribes to, the most important first.
        pauses: whether the venue takes requests to unsubscribe.
    """

    def __init__(
        self, codec: ThrottledCodec, symbols: Sequence[str], *, pauses: bool = True
    ) -> None:
        self._codec = codec
        self._pauses = pauses
        self._symbols = tuple(symbols)
        self._rank = {symbol: rank for rank, symbol in enumerate(self._symbols)}
        self._request = codec.throttle if isinstance(codec, RateCodec) else None
        self.way: Way = (
            "request" if self._request is not None else _second_best(self._pauses, self._symbols)
        )
        self.max_rate: float | None = None
        """The wanted limit, in ticks a second; ``None``: no limit."""
        self.paused: dict[str, float] = {}
        """Symbols that are unsubscribed from, with the time since when."""
        self.resumed: list[tuple[str, float]] = []
        """Symbols that were resumed, with the time since when they had been paused.

        The feed clears it when it reports the gaps.
        """
        self.waited_s = 0.0
        """The sum of all delays of reads, in seconds."""
        self.armed = False
        """Whether :meth:`limit` was ever called; until then skip :meth:`delivered`."""

        # Asking: the limit that the venue was last sent; when an unanswered request was
        # sent; whether the venue has ever accepted one.
        self._sent: float | None = None
        self._unanswered_since = math.inf
        self._proven = False
        # After giving up on requests: the request that lifts the limit, until it is
        # sent.
        self._release: list[Any] = []

        # Pausing: ticks by symbol since _counted_since, with the first and last
        # timestamp of the venue; the last known rates; when the effect of the last
        # change is complete.
        self._counts: Counter[str] = Counter()
        self._counted_since = math.inf
        self._stamps: tuple[float, float] | None = None
        self._rates: dict[str, float] = {}
        self._settled_at = -math.inf

        # Delaying reads: when the limit allows the next read; an upper bound of how far
        # reading is behind the wire; the estimated least difference of our clock and a
        # timestamp. It is never forgotten: only a jump of a clock may raise it, or a
        # lasting backlog would look like none.
        self._read_at = -math.inf
        self._behind_s = 0.0
        self._least_lag = ClockOffset(window_s=math.inf)

    def restart(self, now: float) -> None:
        """Begin anew at *now*; call it before a run, whose clock may be another one.

        The limit stays, and so do the paused symbols.
        """
        self._unanswered_since = self._counted_since = math.inf
        self._settled_at = self._read_at = -math.inf
        self._behind_s = 0.0
        self._least_lag = ClockOffset(window_s=math.inf)
        self.paused = dict.fromkeys(self.paused, now)
        self.resumed = []

    def limit(self, max_rate: float | None, priorities: Mapping[str, float] | None = None) -> None:
        """Set the limit that holds from now on.

        Args:
            max_rate: in ticks a second; ``None``: no limit.
            priorities: by symbol; symbols with greater ones are paused later. A symbol
                that is not listed has 0. ``None`` keeps the order.
        """
        self.max_rate = max_rate
        self.armed = True
        if priorities is not None:
            ranked = sorted(self._symbols, key=lambda symbol: -priorities.get(symbol, 0))
            self._rank = {symbol: rank for rank, symbol in enumerate(ranked)}

    def replace_symbols(self, symbols: Sequence[str]) -> None:
        """Take *symbols* for those of the feed from now on; new ones rank last."""
        self._symbols = tuple(symbols)
        least = max(self._rank.values(), default=-1) + 1
        new = {symbol: least + n for n, symbol in enumerate(self._symbols)}
        self._rank = {symbol: self._rank.get(symbol, rank) for symbol, rank in new.items()}
        for table in (self.paused, self._rates):
            for symbol in [symbol for symbol in table if symbol not in self._rank]:
                del table[symbol]

    def opening(self, now: float) -> list[Any]:
        """Return the first requests of a new connection.

        They are the limit, if the venue takes one, and the subscription without the
        paused symbols. Each connection starts without a limit, so the record of
        requests starts anew too.
        """
        self._sent = None
        self._unanswered_since = math.inf
        self._release = []
        self._counted_since = math.inf
        self._settled_at = now + _SETTLE_S
        active = [symbol for symbol in self._symbols if symbol not in self.paused]
        return [*self._rate_request(now), *self._codec.subscribe(active)]

    def due(self, now: float) -> list[Any]:
        """Return the requests to send now."""
        if now >= self._unanswered_since + _ANSWER_WITHIN_S:
            self._unanswered_since = math.inf
            if self._proven:
                # Which limit the venue now applies is unknown. NaN equals no limit, so
                # that the wanted one is sent again.
                self._sent = math.nan
            else:
                self._give_up_requests()
        if self.way == "request":
            return self._rate_request(now)
        release, self._release = self._release, []
        return release + self._plan(now)

    def next_due_at(self, now: float) -> float:
        """Return when to call :meth:`due` again, if nothing else happens before."""
        if self._unanswered_since < math.inf:
            return self._unanswered_since + _ANSWER_WITHIN_S
        if self.way == "pause" and (self.paused or self.max_rate is not None):
            return max(self._settled_at, now + _MEASURE_S)
        return math.inf

    def answered(self, method: str, accepted: bool) -> None:
        """Apply the venue's answer to a request of the kind *method*."""
        if method == "throttle" and self.way == "request":
            if accepted:
                self._proven = True
                self._unanswered_since = math.inf
            elif not self._proven:
                self._unanswered_since = math.inf
                self._give_up_requests()
            # A venue that has accepted a request before still applies some limit. So a
            # refusal does not end this way: due() repeats the request once the time for
            # an answer is over.
        elif method == "unsubscribe" and not accepted and self.way == "pause":
            # Which symbols the venue goes on sending is unknown, so "read" subscribes
            # to all of them again at once; to subscribe to one twice does no harm.
            self._settled_at = -math.inf
            self._fall_back("read")

    def _give_up_requests(self) -> None:
        assert self._request is not None
        # The venue may apply the limit without having answered: lift it there.
        self._release = list(self._request(None))
        self._fall_back(_second_best(self._pauses, self._symbols))

    def _fall_back(self, way: Way) -> None:
        log_event(logger, logging.WARNING, "feed.throttle_way", way=way, instead_of=self.way)
        self.way = way

    def delivered(self, now: float, wall: float, items: Sequence[Any], took_s: float) -> float:
        """Count the ticks of a read; return how long to delay the next one.

        The delay is in seconds.

        Args:
            now: the time on trio's clock.
            wall: the wall time, to compare the venue's timestamps with, in seconds.
            items: the ticks that were read.
            took_s: for how long their delivery has kept the feed from reading.
        """
        lag = wall - items[-1].timestamp.timestamp()
        self._least_lag.observe(lag, now)
        if self.max_rate is None or self.way == "request":
            return 0.0
        if self.way == "pause":
            self._counts.update([item.symbol for item in items])
            if lag > self._least_lag.offset_s - _AHEAD_S:
                last = wall - lag
                first = items[0].timestamp.timestamp() if self._stamps is None else self._stamps[0]
                self._stamps = (min(first, last), last)
            if len(self._symbols) - len(self.paused) > 1:
                return 0.0
        # How much lies unread in the sockets cannot be measured here; a short read does
        # not prove that it is little, since the TCP window may be closed. The age of
        # the ticks proves it: with respect to the least age so far, it does not depend
        # on the difference between the venue's clock and ours. A single timestamp from
        # the future does not count as the least age.
        on_time = lag - self._least_lag.offset_s < _ON_TIME_S
        self._behind_s = took_s + (0.0 if on_time else self._behind_s)
        return self._delay(now, len(items))

    # Asking

    def _rate_request(self, now: float) -> list[Any]:
        if (
            self.way != "request"
            or self._request is None
            or self._unanswered_since < math.inf
            or self._sent == self.max_rate
        ):
            return []
        self._sent = self.max_rate
        self._unanswered_since = now
        return list(self._request(self.max_rate))

    # Pausing

    def _plan(self, now: float) -> list[Any]:
        """Pause symbols to keep the limit, or resume those that fit into it again."""
        if self.way == "read":
            return self._resume(list(self.paused), now)
        if self.max_rate is None:
            return self._resume_some(now)
        if self._counted_since == math.inf:
            self._begin_to_count(now)
        passed = now - self._counted_since
        if now < self._settled_at or passed < _MEASURE_S:
            return []
        active = sorted(
            (symbol for symbol in self._symbols if symbol not in self.paused),
            key=self._rank.__getitem__,
        )
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
        """Return how long the venue took to produce the counted ticks, in seconds.

        It is measured by the venue's timestamps if there are enough: by our clock,
        ticks that a full queue held up would arrive later, and their rate would look
        lower.
        """
        if self._stamps is not None and self._counts.total() >= _ENOUGH_TICKS:
            span = self._stamps[1] - self._stamps[0]
            if span >= _ENOUGH_SPAN_S:
                return span
        return passed

    def _fit(self, active: list[str], max_rate: float, now: float) -> list[Any]:
        total = sum(self._rates[symbol] for symbol in active)
        stopped = []
        # The most important symbol is never paused: without any ticks the pipeline
        # could not observe that the load has gone, and would never lift the limit.
        while total > max_rate and len(active) > 1:
            stopped.append(active.pop())
            total -= self._rates[stopped[-1]]
        if stopped:
            for symbol in stopped:
                self.paused[symbol] = now
            self._settle(now, "feed.symbols_paused", stopped)
            return list(self._codec.unsubscribe(stopped))
        restarted = []
        for symbol in sorted(self.paused, key=self._rank.__getitem__):
            total += self._rates.get(symbol, 0.0)
            if total > max_rate:
                break
            restarted.append(symbol)
        return self._resume(restarted, now)

    def _resume_some(self, now: float) -> list[Any]:
        """Resume as many symbols as are active now: each step doubles their number.

        To resume all of them in one step could bring the overload back at once.
        """
        if now < self._settled_at:
            return []
        count = len(self._symbols) - len(self.paused)
        return self._resume(sorted(self.paused, key=self._rank.__getitem__)[:count], now)

    def _resume(self, symbols: list[str], now: float) -> list[Any]:
        if not symbols:
            return []
        self.resumed += [(symbol, self.paused.pop(symbol)) for symbol in symbols]
        self._settle(now, "feed.symbols_resumed", symbols)
        return list(self._codec.subscribe(symbols))

    def _settle(self, now: float, event: str, symbols: Sequence[str]) -> None:
        self._settled_at = now + _SETTLE_S
        self._counted_since = math.inf
        log_event(
            logger,
            logging.INFO,
            event,
            symbols=len(symbols),
            paused=len(self.paused),
            max_rate=self.max_rate,
        )

    # Reading later

    def _delay(self, now: float, count: int) -> float:
        """Return how long to delay the next read after *count* ticks, in seconds.

        A delay that the bounds do not allow is dropped, not made up for later.
        """
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


def _second_best(pauses: bool, symbols: Sequence[str]) -> Way:
    return "pause" if pauses and len(symbols) > 1 else "read"
