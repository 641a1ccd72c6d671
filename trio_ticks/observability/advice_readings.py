"""Reads what other settings would have lost. Sans-I/O."""

from __future__ import annotations

from collections.abc import Mapping

from ..metrics.advice import NOW
from .sink import Sink

__all__ = ["read_advice"]


def read_advice(sink: Sink, advised: Mapping[str, float]) -> None:
    """Give *sink* the shares of *advised*; without advice, a gauge without a number."""
    shares: Mapping[str, float | None] = advised or {NOW: None}
    for change, share in shares.items():
        sink.gauge(
            "advised_drop_ratio",
            "Share of the ticks that would have been lost with another setting, simulated on "
            "what was lost last; now: with the settings as they are.",
            share,
            change=change,
        )
