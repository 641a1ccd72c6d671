"""How much memory and time a client of a local exchange may take.

Rules: it knows no venue, so that the settings of each can have it.
"""

from __future__ import annotations

import attrs

from ..checks import check_count, check_seconds, checked

__all__ = ["ClientLimits"]


@attrs.frozen(slots=True, kw_only=True)
class ClientLimits:
    """How many clients there may be, and how much one of them may cost the exchange.

    Raises:
        ConfigError: a value is out of range.
    """

    clients: int = attrs.field(default=500, validator=checked(check_count))
    """How many clients may be connected at once; others are refused (503)."""
    buffer_bytes: int = attrs.field(default=1 << 20, validator=checked(check_count, least=4096))
    """Bytes of frames that may wait for one client.

    Frames beyond that are skipped, counted and logged. The system's socket buffer comes
    on top. A recording skips nothing: it stands still until its clients have room
    again.
    """
    slow_timeout_s: float | None = attrs.field(
        default=10.0, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """How long a client may be too slow before it is disconnected, in seconds.

    It is too slow while its buffer has not been empty since something was skipped, or
    while a recording waits for it and it takes nothing. ``None``: never.
    """
    socket_buffer_bytes: int | None = attrs.field(
        default=None, validator=checked(check_count, or_none=True)
    )
    """Size of the system's send buffer (``SO_SNDBUF``), in bytes.

    ``None`` leaves it to the system, which takes megabytes.
    """
    close_timeout_s: float = attrs.field(default=2.0, validator=checked(check_seconds))
    """How long a client may take to answer our Close, in seconds.

    When the exchange shuts down, also to take the frames that wait for it.
    """
    handshake_timeout_s: float = attrs.field(
        default=10.0, validator=checked(check_seconds, positive=True)
    )
