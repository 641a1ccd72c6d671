"""The settings of a WebSocket feed that are rarely touched: what they mean, their defaults, and what values make sense.

Rules: durations are in seconds; ``None`` switches something off where that is allowed, and no number stands for "never".
"""

from __future__ import annotations

import math
from typing import Any, TypedDict, final

import attrs
import trio

from ..errors import ConfigError
from .backoff import BackoffPolicy
from .connect import OpenStream

__all__ = ["WebSocketKeywords", "WebSocketOptions"]


def _seconds(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{field.name} must be a positive number of seconds, got {value!r}")


def _count(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field.name} must be a whole number, 1 or more, got {value!r}")


def _policy(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, BackoffPolicy):
        raise ConfigError(f"{field.name} must be a BackoffPolicy, not {type(value).__name__}")


def _callable(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if not callable(value):
        raise ConfigError(f"{field.name} must be an async function of a host and a port, not {type(value).__name__}")


def _bool(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{field.name} must be True or False, got {value!r}")


def _optional_seconds(instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _seconds(instance, field, value)


@final
@attrs.frozen(kw_only=True)
class WebSocketOptions:
    """What :class:`WebSocketFeed` takes besides where and what; each is a keyword of it.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """

    stale_after: float | None = attrs.field(default=60.0, validator=_optional_seconds)
    """Connect anew when no message came for so many seconds; ``None``: never. Choose more than the longest silence that is normal."""
    ping_interval: float | None = attrs.field(default=20.0, validator=_optional_seconds)
    """Seconds from one ping to the next; ``None``: send none."""
    pong_timeout: float = attrs.field(default=10.0, validator=_seconds)
    """A connection is dead when a ping is not answered in so many seconds; those in which the channel made us wait do not count."""
    max_message_size: int = attrs.field(default=2**20, validator=_count)
    """In bytes. A larger message counts as malformed and closes the connection (1009); the feed connects anew."""
    connect_timeout: float = attrs.field(default=10.0, validator=_seconds)
    """Seconds for everything from looking up the host to the subscription."""
    backoff: BackoffPolicy = attrs.field(factory=BackoffPolicy, validator=_policy)
    """How long to wait before connecting again."""
    max_unknown_host_tries: int = attrs.field(default=5, validator=_count)
    """End with an error when the host's name could not be looked up so many times in a row."""
    max_tries: int | None = attrs.field(default=None, validator=attrs.validators.optional(_count))
    """End with an error after so many connections, made or not, in a row that brought no data; ``None``: try for ever."""
    reconnect: bool = attrs.field(default=True, validator=_bool)
    """Whether to connect anew when the venue closes in good order (1000 or 1001), as some do every day. False: that is the end of the
    data, and of the feed's ``run``. A connection that is lost in any other way is made anew whatever this says."""
    open_stream: OpenStream = attrs.field(default=trio.open_tcp_stream, validator=_callable, repr=False)
    """Opens the transport, given host and port: for proxies, and tests without a network. TLS is put on top of it."""


class WebSocketKeywords(TypedDict, total=False):
    """:class:`WebSocketOptions` once more, for type checkers."""

    stale_after: float | None
    ping_interval: float | None
    pong_timeout: float
    max_message_size: int
    connect_timeout: float
    backoff: BackoffPolicy
    max_unknown_host_tries: int
    max_tries: int | None
    reconnect: bool
    open_stream: OpenStream
