"""What a channel says of itself at one moment: the fields that trio has, and ours."""

from __future__ import annotations

import attrs

__all__ = ["ChannelStatistics"]


@attrs.frozen(slots=True, kw_only=True)
class ChannelStatistics:
    """A channel at one moment; as :class:`trio.MemoryChannelStatistics`, and more."""

    current_buffer_used: int
    """Ticks in the buffer and in the lanes; what waits for room is not among them."""
    max_buffer_size: int
    """How many ticks the channel holds at most."""
    peak_buffer_used: int
    """Most ticks that were ever in the buffer and the lanes at once."""
    open_send_channels: int
    """Handles of senders that are not closed."""
    open_receive_channels: int
    """Handles of receivers that are not closed."""
    tasks_waiting_send: int
    """Tasks that wait for room."""
    tasks_waiting_receive: int
    """Tasks and workers that wait for ticks."""
    parked: int
    """Ticks in the lanes, behind one of their symbol that is being handled."""
    waiting_for_room: int
    """Ticks that were brought, found no room, and wait for it.

    The ledger's ``queued`` counts them too.
    """
    ready: int
    """Ticks that a free worker could begin now: in the buffer, and one a ready lane."""
    blocked_s: float
    """How long something has waited for room, in seconds."""
    oldest_age_s: float
    """How long the oldest queued tick has waited, in seconds; 0 if there is none.

    For a tick that waits for room since it was brought, for others since they entered
    the buffer.
    """
    oldest_unparked_age_s: float = 0.0
    """The same of the ticks that are not in the lanes; 0 if there is none.

    What is older is parked: only the worker that has its symbol shortens that wait.
    """
    clock_offset_s: float | None = None
    """Our clock less the venue's plus the quickest delivery's delay, in seconds, as
    estimated; ``None`` unless ``max_age`` counts from the timestamp."""
    clock_jumps: int | None = None
    """How often that has jumped; ``None`` unless ``max_age`` counts from the
    timestamp."""
