"""Checks for what you write yourself to stand in the place of a part of trio_ticks.

Rules: each check is one function that raises an AssertionError with the steps that show
the fault. It runs trio itself, so that it can be called from any plain test function;
only :func:`check_buffer` is async, since a real buffer needs a broker that runs.
:func:`check_channel` needs ``pip install 'trio-ticks[testing]'``.
"""

from __future__ import annotations

from .buffer import check_buffer
from .channel import check_channel
from .codec import CodecProbe, check_codec

__all__ = ["CodecProbe", "check_buffer", "check_channel", "check_codec"]
