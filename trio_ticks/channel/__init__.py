"""The buffer in memory: two handles, and what they share."""

from .ends import TickReceiveChannel, TickSendChannel, open_tick_channel

__all__ = ["TickReceiveChannel", "TickSendChannel", "open_tick_channel"]
