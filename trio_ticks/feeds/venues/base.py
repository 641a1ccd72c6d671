"""What a feed needs to know about a venue: how to subscribe, and what its messages mean. One class a venue, in a module of its own.

Rules: sans-I/O, no trio; a codec never raises for what a venue sent, it counts it; venue quirks never leave the venue's module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from ..base import FeedStats
from ..reports import BadMessages, Redactor

__all__ = ["Codec", "CodecContext"]


@attrs.frozen(kw_only=True)
class CodecContext:
    """What a codec is given by the feed that owns it."""

    stats: FeedStats
    """The feed's counters; the codec counts ``malformed`` and ``ignored``."""
    bad: BadMessages
    """Told about each malformed message."""
    redactor: Redactor
    """Takes the secrets out of what a codec wants to log."""
    on_answer: Callable[[str, bool], object] = lambda _method, _accepted: None
    """To be called with what the venue answered to a request: ``"throttle"`` or ``"unsubscribe"``, and whether it accepts."""


class Codec(Protocol):
    """A venue's language. It is constructed with a :class:`CodecContext`, and used for one feed.

    Where the venue can be asked for less, the codec has a method ``throttle(max_rate)`` as well, which returns the messages that ask for
    at most so many ticks a second (``None``: all there are), and it reports each answer to ``on_answer``.
    """

    def subscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        """Return the messages that ask for *symbols*; sent after each connect, so it also begins a new connection."""
        ...

    def unsubscribe(self, symbols: Sequence[str]) -> list[str | bytes]:
        """Return the messages that stop *symbols*."""
        ...

    def decode(self, payloads: list[bytes]) -> list[Any]:
        """Return what *payloads* say, in their order.

        Each payload ends as market data, as ``malformed`` or as ``ignored``; a bad one never costs a good one.
        """
        ...
