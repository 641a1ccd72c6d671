"""Two connections for the same symbols, of which one is to replace the other. Sans-I/O.

Plan: the new connection is opened and subscribed to while the old one still delivers.
Its market data waits. As soon as the old one has delivered something of each stream
that the new one has too, none can be missing between them: then the new one takes over.
What the old one has delivered already is left out, by the numbers of the messages.

Rules: the numbers come from :meth:`~trio_ticks.Codec.place_of`. A new connection that
says what the old one said long ago does not take over. What waits is bounded, in number
and in bytes, and so are the streams that are known; a venue that exceeds a bound is not
trusted to be replaced. Nothing here decides what is done about that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, final

from ..base import FeedStats
from ..venues import Codec

__all__ = ["Overlap"]

_SETTLE_S: Final = 1.0
"""What the venue may take to act on our last request, in seconds."""
_QUIET_S: Final = 10.0
"""A new connection is trusted after so long where nothing comes on the old one either.
Before that, an acknowledgement alone proves nothing: its subscriptions may be refused,
or silent."""
_FILTER_S: Final = 60.0
"""How long after the change messages are still compared; a stream whose numbers begin
anew is not lost for longer."""


@final
class Overlap:
    """Compares the messages of the old connection and of the new one.

    Args:
        stats: of the feed; it counts as duplicates what the old one has delivered.
    """

    most_waiting = 50_000
    """Messages of the new connection that wait."""
    most_bytes = 64 << 20
    """Bytes of these."""
    most_streams = 50_000

    def __init__(self, stats: FeedStats) -> None:
        self.changed_at = math.inf
        """When the new connection took over; ``math.inf``: it has not."""
        self._stats = stats
        self._asked_at = math.inf
        self._settled = False
        self._heard = False
        self._old: dict[str, int] = {}
        """The last number of each stream on the old connection."""
        self._since: dict[str, int] = {}
        """The streams of the old connection since the new one has settled, each with
        its first number since then."""
        self._first: dict[str, int] = {}
        """The first number of each stream on the new connection."""
        self._last: dict[str, int] = {}
        """The highest number of each stream on the new connection."""
        self._waiting: deque[tuple[str, int, bytes]] = deque()
        self._bytes = 0
        self._too_much = False

    def asked(self, now: float) -> None:
        """Notice that all requests of the new connection are on their way at *now*."""
        self._asked_at = min(self._asked_at, now)
        self._settled = now >= self._asked_at + _SETTLE_S

    def note_old(self, codec: Codec, payloads: Sequence[bytes]) -> None:
        """Notice what the old connection delivers."""
        for payload in payloads:
            place = codec.place_of(payload)
            if place is None:
                continue
            stream, number = place
            if stream not in self._old and len(self._old) >= self.most_streams:
                self._too_much = True
                continue
            self._old[stream] = max(number, self._old.get(stream, number))
            if self._settled:
                self._since.setdefault(stream, number)

    def keep_new(self, codec: Codec, payloads: Sequence[bytes]) -> list[bytes]:
        """Keep the market data of the new connection; return its other messages."""
        others: list[bytes] = []
        self._heard = True
        for payload in payloads:
            place = codec.place_of(payload)
            if place is None:
                others.append(payload)
                continue
            if self._too_much:
                # The old connection delivers it, and the new one never will.
                self._stats.duplicates += 1
                continue
            stream, number = place
            if stream not in self._first and len(self._first) >= self.most_streams:
                self._give_up()
                continue
            self._first.setdefault(stream, number)
            self._last[stream] = max(number, self._last.get(stream, number))
            self._waiting.append((stream, number, payload))
            self._bytes += len(payload)
            if self._is_full:
                self._prune()
                if self._is_full:
                    self._give_up()
        return others

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) > self.most_waiting or self._bytes > self.most_bytes

    def _give_up(self) -> None:
        """Keep nothing any more: the new connection cannot take over."""
        self._too_much = True
        self._stats.duplicates += len(self._waiting)
        self._waiting.clear()

    def _prune(self) -> None:
        """Leave out what waits and was delivered meanwhile."""
        old, before = self._old, len(self._waiting)
        kept = [each for each in self._waiting if each[1] > old.get(each[0], -math.inf)]
        self._waiting = deque(kept)
        self._bytes = sum(len(payload) for _stream, _number, payload in kept)
        self._stats.duplicates += before - len(kept)

    def may_change(self, now: float, *, is_lost: bool = False) -> bool:
        """Return whether nothing is missing if the new connection takes over now.

        Args:
            now: the present time.
            is_lost: whether the old connection is lost. Then a new one may lag, and in
                a quiet market any answer on it is proof enough.
        """
        if not self._settled or self._too_much:
            return False
        has_proof = self._heard if is_lost else bool(self._since)
        if not has_proof and now < self._asked_at + _QUIET_S:
            return False
        first, last, old = self._first, self._last, self._old
        # Where both have the same message, none is missing between them. A stream that
        # the old one alone has is one that the new one is not subscribed to, or has not
        # come to yet; one that is behind what the old one had when the new one had
        # settled is late, and would have nothing new to say for a while.
        has_come_up = all(
            stream in last and (is_lost or number <= last[stream])
            for stream, number in self._since.items()
        )
        return has_come_up and all(
            number <= old.get(stream, -math.inf) for stream, number in first.items()
        )

    def change(self, now: float) -> list[bytes]:
        """Let the new connection take over; return what to deliver of it now."""
        self.changed_at = now
        self._prune()
        newer = [payload for _stream, _number, payload in self._waiting]
        for stream, number, _payload in self._waiting:
            self._old[stream] = max(number, self._old.get(stream, number))
        self._waiting.clear()
        return newer

    def newer(self, codec: Codec, payloads: Sequence[bytes], now: float) -> list[bytes]:
        """Return those of the new connection's *payloads* that were not delivered."""
        if now >= self.changed_at + _FILTER_S:
            self._old.clear()
            return list(payloads)
        kept: list[bytes] = []
        for payload in payloads:
            place = codec.place_of(payload)
            last = None if place is None else self._old.get(place[0])
            if place is not None and last is not None:
                if place[1] <= last:
                    self._stats.duplicates += 1
                    continue
                del self._old[place[0]]
            kept.append(payload)
        return kept

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be compared any more."""
        return self.changed_at < math.inf and not self._old
