"""Bars of the past, over the venues' REST interfaces."""

from __future__ import annotations

from .bars import Bars, Progress, klines

__all__ = ["Bars", "Progress", "klines"]
