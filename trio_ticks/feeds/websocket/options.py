"""The settings of a WebSocket feed that most users leave alone, with their checks.

Rules: durations are in seconds; ``None`` switches a setting off where that is allowed,
and no number stands for "never".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict, final

import attrs
import trio

from ...checks import (
    check_callable,
    check_count,
    check_flag,
    check_instance,
    check_seconds,
    check_word,
    checked,
    is_whole,
)
from ...errors import ConfigError
from ..hours import ExpectData, check_expect_data
from .backoff import BackoffPolicy
from .connect import OpenStream
from .extensions import Compression

__all__ = ["WebSocketKeywords", "WebSocketOptions"]


def _close_codes(codes: object) -> frozenset[int]:
    if isinstance(codes, str | bytes) or not isinstance(codes, Iterable):
        raise ConfigError("final_close_codes must be a list of close codes")
    found = frozenset(codes)
    if not all(is_whole(code) and 1000 <= code < 5000 for code in found):
        raise ConfigError("final_close_codes must be whole numbers from 1000 to 4999")
    return found


@final
@attrs.frozen(kw_only=True)
class WebSocketOptions:
    """The settings of :class:`WebSocketFeed` besides its address, symbols and key.

    Each is a keyword argument of the feed.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """

    stale_after: float | None = attrs.field(
        default=60.0, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Reconnect when no market data has arrived for this many seconds; ``None``: never.

    Heartbeats and acknowledgements are no market data. Choose more than the longest
    silence that is normal for the symbols.
    """
    symbol_stale_after: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Report a symbol as silent when nothing of it has come for this many seconds.

    ``None``: after 20 times its own median interval of the last hour, at least 10 s,
    once it has come 20 times; before that after *stale_after*.
    """
    expect_data: ExpectData | None = attrs.field(default=None, validator=checked(check_expect_data))
    """When market data is expected: a :class:`MarketHours`, or a function of the time.

    Outside of it silence is no fault: nothing reconnects because of it, no symbol is
    reported as silent, and the pipeline counts as ready. ``None``: always. The function
    is called in the event loop every few seconds and must not wait; what it raises ends
    the feed.
    """
    newer_only: bool = attrs.field(default=False, validator=checked(check_flag))
    """Whether to leave out what a venue sends again after a reconnect.

    Left out and counted as ``duplicates`` is what has a sequence or trade number that
    was seen before, is older than the symbol's last item, or equals it in every field.
    """
    books: bool = attrs.field(default=False, validator=checked(check_flag))
    """Whether the feed keeps the order books itself.

    Book updates then stay in the feed (counted as ``booked``), and a :class:`Tick` is
    sent whenever the best bid or ask, or its size, has changed; its ``volume`` is NaN,
    since a book does not say it. A book is checked by what the venue gives: sequence
    numbers, checksums. A wrong one makes no tick, its symbol has a gap, and a snapshot
    is asked for; if the venue has no such request, the connection is made anew. The
    books are in the feed's attribute ``books``, by symbol.
    """
    rest_url: str | None = attrs.field(
        default=None, validator=checked(check_instance, kind=str, shown="a URL", or_none=True)
    )
    """Where the snapshots of books are had, of venues that give them over REST.

    ``None``: at the venue's own address, or, if the feed is given the address of
    another host, at that host. They need the extra ``rest``.
    """
    max_connection_age: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Replace each connection after about this many seconds, by an overlapping one.

    It is opened and subscribed to before the old one is closed, so that nothing is lost
    and nothing comes twice; a random part of 5 % less lets many feeds not come at once.
    ``None``: 98 % of what the venue allows, if it closes connections by their age.
    """
    ping_interval: float | None = attrs.field(
        default=20.0, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Seconds from one ping to the next; ``None``: send none."""
    pong_timeout: float = attrs.field(default=10.0, validator=checked(check_seconds, positive=True))
    """Give a connection up when a ping is unanswered for this many seconds.

    Time in which a full channel keeps the feed from reading does not count.
    """
    max_message_size: int = attrs.field(default=2**20, validator=checked(check_count))
    """The largest message taken, in bytes.

    A larger one counts as malformed and closes the connection (1009); the feed
    reconnects. A venue whose codec declares larger messages may send those.
    """
    connect_timeout: float = attrs.field(
        default=10.0, validator=checked(check_seconds, positive=True)
    )
    """Seconds for all steps from the look-up of the host to the subscription."""
    endpoint_timeout: float = attrs.field(
        default=10.0, validator=checked(check_seconds, positive=True)
    )
    """Seconds that the function given as ``endpoint`` may take to return an address."""
    backoff: BackoffPolicy = attrs.field(
        factory=BackoffPolicy,
        validator=checked(check_instance, kind=BackoffPolicy, shown="a BackoffPolicy"),
    )
    """The waits before the next connection."""
    give_up_after: float = attrs.field(
        default=math.inf, validator=checked(check_seconds, infinite=True)
    )
    """End with an error after an outage of so many seconds; 0: after the first failure.

    An outage lasts until a connection has lived as long as the longest wait of
    *backoff*, or was given up only because the venue is quiet.
    """
    final_close_codes: frozenset[int] = attrs.field(default=frozenset(), converter=_close_codes)
    """Codes of the venue's Close frame after which the feed ends with an error.

    They are added to those that the venue's codec declares. Examples: 4001, 4003, 1008.
    """
    reconnect: bool = attrs.field(default=True, validator=checked(check_flag))
    """Whether to reconnect when the venue closes in good order (1000 or 1001).

    Some venues do so every day. False: such a close ends the data, and the feed's
    ``run`` returns. After any other loss of the connection the feed reconnects in
    either case.
    """
    open_stream: OpenStream = attrs.field(
        default=trio.open_tcp_stream,
        validator=checked(check_callable, shown="an async function of a host and a port"),
        repr=False,
    )
    """Opens the transport to a host and port, for SOCKS and tests without a network.

    For ``wss://`` the feed runs TLS over the stream. With a ``proxy`` it opens the
    connection to that.
    """
    compression: Compression | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(checked(check_word, words=("permessage-deflate",))),
    )
    """Offer the server to compress its messages (RFC 7692); ``None``: offer nothing.

    The server decides; if it does not accept, its messages come as they are. Off by
    default, because it costs the most where ticks are many: a message of 160 bytes took
    4.4 µs with it and 0.45 µs without, for a quarter of the bytes (measured in
    ``FrameParser.feed`` with 500 quotes a read). A venue that demands compression gets
    the offer in any case.
    """


class WebSocketKeywords(TypedDict, total=False):
    """The fields of :class:`WebSocketOptions` again, for type checkers."""

    stale_after: float | None
    symbol_stale_after: float | None
    expect_data: ExpectData | None
    newer_only: bool
    books: bool
    rest_url: str | None
    max_connection_age: float | None
    ping_interval: float | None
    pong_timeout: float
    max_message_size: int
    connect_timeout: float
    endpoint_timeout: float
    backoff: BackoffPolicy
    give_up_after: float
    final_close_codes: Iterable[int]
    reconnect: bool
    open_stream: OpenStream
    compression: Compression | None
