"""One client of the local Coinbase: its subscriptions, its numbers, and its faults.

Rules: sans-I/O. What a client is to get are encoded messages, in order. Each message of
a dialect with numbers takes the next one of its connection when it is encoded.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, final

import attrs
import msgspec

from .faults import CoinbaseFaults, with_bad_price
from .market import Change, Match, Product
from .words import Message, Refusal, Tongue

__all__ = ["Ended", "RecordedMessage", "Session"]

_MOST_SUBSCRIPTIONS: Final = 10
"""How often a product may be subscribed to in one channel, in Exchange."""
_LATE_BY: Final = 5
_NUMBER: Final = re.compile(rb'("sequence_num"\s*:\s*)\d+')


@final
class Ended(Exception):
    """The connection is to end, without a Close, for this reason."""


@attrs.frozen(slots=True)
class RecordedMessage:
    """A message of a recording, with the channel and the products that it is about."""

    channel: str
    products: frozenset[str]
    payload: bytes


@final
class Session:
    """What one client gets.

    Args:
        tongue: the dialect.
        products: by their names.
        faults: of :data:`~.faults.FAULTS`.
        every: after how many messages a fault happens again.
        recorded: whether a recording is played, which brings its own snapshots.
    """

    def __init__(
        self,
        tongue: Tongue,
        products: Mapping[str, Product],
        *,
        faults: frozenset[str] = frozenset(),
        every: int = 50,
        recorded: bool = False,
    ) -> None:
        self._tongue = tongue
        self._products = products
        self._faults = CoinbaseFaults(faults, every)
        self._recorded = recorded
        self.subscriptions: dict[tuple[str, str], None] = {}
        """Channels and products."""
        self.refusals = 0
        """Requests that made no sense, or were refused."""
        self._asked: Counter[tuple[str, str]] = Counter()
        self._requests: deque[float] = deque(maxlen=tongue.messages_per_s)
        self._number = 0
        self._beats = 0
        self._previous: bytes | None = None
        self._late: dict[str, int] = {}
        """By product, after how many more updates its snapshot comes."""

    @property
    def has_data(self) -> bool:
        """Whether it has subscribed to market data."""
        return any(channel != self._tongue.heartbeats for channel, _ in self.subscriptions)

    # Requests

    def receive(self, text: str, now: datetime, clock: float) -> list[bytes]:
        """Return the answer to a message of the client, and what it gets first.

        Args:
            text: the message.
            now: the wall time.
            clock: the time of the event loop, in seconds.

        Raises:
            Ended: it has sent too many messages.
        """
        if len(self._requests) == self._requests.maxlen and clock - self._requests[0] < 1:
            raise Ended("rate")
        self._requests.append(clock)
        tongue = self._tongue
        try:
            request = tongue.read(text, self._products)
            if request.subscribes and not tongue.numbers:
                self._limit(request.pairs)
        except Refusal as refusal:
            self.refusals += 1
            return [self._encode(tongue.refuse(refusal))]
        opened: list[Message] = []
        for pair in request.pairs:
            if request.subscribes:
                self.subscriptions[pair] = None
                opened += self._opening(*pair, now)
            else:
                self.subscriptions.pop(pair, None)
                self._asked[pair] = 0
                self._late.pop(pair[1], None)
        acknowledgement = tongue.acknowledge(self.subscriptions, now)
        messages = (
            [*opened, acknowledgement]
            if "data-before-ack" in self._faults.names
            else [acknowledgement, *opened]
        )
        return [self._encode(message) for message in messages]

    def _limit(self, pairs: Iterable[tuple[str, str]]) -> None:
        for pair in pairs:
            if self._asked[pair] >= _MOST_SUBSCRIPTIONS:
                raise Refusal("Failed to subscribe", f"too many subscriptions to {pair[1]}")
        self._asked.update(pairs)

    def _opening(self, channel: str, name: str, now: datetime) -> list[Message]:
        if channel == self._tongue.heartbeats or self._recorded:
            return []
        if channel == self._tongue.book and "late-snapshot" in self._faults.names:
            self._late[name] = _LATE_BY
            return []
        opened = self._tongue.open(channel, self._products[name], now)
        if channel == "ticker":
            opened = [self._faults.spoil_quote(message) for message in opened]
        return opened

    # Market data

    def offer(self, event: Change | Match, now: datetime) -> list[bytes]:
        """Return what the client gets of *event*.

        Raises:
            Ended: the connection is cut.
        """
        name = event.product.name
        found: list[bytes] = []
        for channel, message in self._tongue.say(event, now):
            if (channel, name) not in self.subscriptions:
                continue
            found += self._spoilt(channel, event.product, message, now)
            found += self._late_snapshot(channel, event.product, now)
        return found

    def _spoilt(
        self, channel: str, product: Product, message: Message, now: datetime
    ) -> list[bytes]:
        """Return *message* as the client gets it, with the faults that are due."""
        faults, tongue = self._faults, self._tongue
        is_book, is_quote = channel == tongue.book, channel == "ticker"
        faults.silent = faults.silent or faults.due("silence")
        if faults.silent:
            return []
        if faults.due("cut"):
            raise Ended("cut")
        # In Exchange a book has no numbers: nobody could notice that one is missing.
        if (tongue.numbers or channel == "matches") and faults.due("dropped-message"):
            self._number += 1
            return []
        if is_quote:
            message = faults.spoil_quote(message)
        if is_book and faults.due("broken-update"):
            message = with_bad_price(message)
        found = [self._encode(message)]
        if faults.due("repeated-message"):
            found.append(found[0])
        if tongue.numbers or is_quote:
            if self._previous is not None and faults.due("lower-sequence"):
                found.append(self._previous)
            self._previous = found[0]
        if faults.due("unknown-message"):
            found.append(self._encode(tongue.surprise(now)))
        if is_book and faults.due("snapshot-in-mid-stream"):
            found += [self._encode(each) for each in tongue.open(channel, product, now)]
        return found

    def _late_snapshot(self, channel: str, product: Product, now: datetime) -> list[bytes]:
        left = self._late.get(product.name)
        if left is None or channel != self._tongue.book:
            return []
        self._late[product.name] = left - 1
        if left > 1:
            return []
        del self._late[product.name]
        return [self._encode(each) for each in self._tongue.open(channel, product, now)]

    def replay(self, message: RecordedMessage) -> list[bytes]:
        """Return what the client gets of a message of a recording: itself, or nothing.

        Where messages have numbers, it gets the next one of this connection, since the
        answers to the client's requests have had some already.
        """
        wanted = self.subscriptions
        if not any((message.channel, product) in wanted for product in message.products):
            return []
        if not self._tongue.numbers:
            return [message.payload]
        number = str(self._number).encode()
        self._number += 1
        return [_NUMBER.sub(rb"\g<1>" + number, message.payload, count=1)]

    def beat(self, now: datetime) -> list[bytes]:
        """Return the heartbeats that are due each second."""
        if "no-heartbeat" in self._faults.names or self._faults.silent:
            return []
        if self._recorded and not self._tongue.numbers:
            return []  # It would name a trade that the recording does not have.
        channel = self._tongue.heartbeats
        products = [name for each, name in self.subscriptions if each == channel]
        self._beats += 1
        return [
            self._encode(self._tongue.beat(self._products.get(name), self._beats, now))
            for name in products
        ]

    # Encoding

    def _encode(self, message: Message) -> bytes:
        if self._tongue.numbers and "channel" in message:
            message = {**message, "sequence_num": self._number}
            self._number += 1
        return msgspec.json.encode(message)
