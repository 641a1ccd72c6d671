"""What to do when the channel is full: the strategies, as small frozen values.

A strategy holds only its settings. How long the current pressure has lasted, and whose turn it is, are the channel's business.
"""

from __future__ import annotations

import math

import attrs

from .errors import ConfigError

__all__ = ["Block", "DropNewest", "DropOldest", "Fail", "OverflowStrategy"]


def _patience(_instance: object, field: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ConfigError(f"{field.name} must be a number of seconds, 0 or more, got {value!r}")


@attrs.frozen(slots=True)
class Block:
    """Wait for room, for as long as it takes. Nothing is dropped.

    The price: the socket is not read meanwhile. TCP's own backpressure reaches the exchange, what the workers get is as old as the
    sockets' buffers are deep, pings are answered late, and exchanges disconnect slow readers. Right for replays and
    back-tests; for a live feed only where every message counts more than its age. The time spent waiting is
    reported as ``blocked_s``.
    """


@attrs.frozen(slots=True)
class DropNewest:
    """Wait up to *timeout* seconds an episode of pressure, then drop what finds no room (reason ``overflow``). The default.

    The patience is counted per *episode*, not per tick: it begins when the channel is found full, all the waiting in it is charged to it,
    and it ends when the channel has drained below its low watermark (half of ``maxsize``). So the reader is never more than *timeout*
    behind the wire, however long the overload lasts. 0 never waits.

    Raises:
        ConfigError: *timeout* is negative or not a number.
    """

    timeout: float = attrs.field(default=1.0, validator=_patience)
    """Patience for an episode, in seconds."""


@attrs.frozen(slots=True)
class DropOldest:
    """Push out the oldest queued tick (reason ``evicted``) to make room for the new one. Never waits."""


@attrs.frozen(slots=True)
class Fail:
    """Raise :class:`~trio_ticks.errors.QueueFullError` at the sender: for feeds where an overload is a bug. What found no room is counted as ``overflow``."""


OverflowStrategy = Block | DropNewest | DropOldest | Fail
