"""Handlers for worker processes, which import them by name. They tell the tests what happened there by appending to files."""

from __future__ import annotations

import time

import trio_ticks as tt


def nothing(tick: tt.Tick) -> None:
    """Do nothing."""


def burn(tick: tt.Tick) -> float:
    """Compute for about 200 microseconds, in pure Python."""
    return spin(200e-6)


def spin(seconds: float) -> float:
    """Compute until *seconds* have passed."""
    end = time.perf_counter() + seconds
    total = 0.0
    while time.perf_counter() < end:
        total += 1.5
    return total
