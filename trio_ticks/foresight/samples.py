"""Handlings that were timed one by one, and how well their mean is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import final

import attrs

__all__ = ["Handling", "Spread", "time_within", "whole_passes"]


@final
@attrs.frozen(slots=True)
class Handling:
    """One handling of a tick of the sample."""

    place: int
    """Of the tick in the sample."""
    began: float
    elapsed_s: float
    ran_s: float
    """How long the worker's task ran in it."""


@final
class Spread:
    """How well the mean of handlings is known."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = self._squares = 0.0

    def add(self, handlings: Sequence[Handling]) -> None:
        """Take those of *handlings* that are new since the last call."""
        for place in range(self.count, len(handlings)):
            elapsed_s = handlings[place].elapsed_s
            self._sum += elapsed_s
            self._squares += elapsed_s * elapsed_s
        self.count = len(handlings)

    @property
    def error(self) -> float:
        """The standard error of their mean, as a share of it."""
        if self._sum <= 0:
            return 0.0
        mean = self._sum / self.count
        variance = max(0.0, self._squares / self.count - mean * mean)
        return math.sqrt(variance / self.count) / mean


def time_within(handlings: Iterable[Handling], begin: float, end: float) -> float:
    """Return how much of *handlings* lies between two moments, in seconds."""
    return math.fsum(
        max(0.0, min(end, each.began + each.elapsed_s) - max(begin, each.began))
        for each in handlings
    )


def whole_passes(handlings: Sequence[Handling], size: int) -> list[Handling]:
    """Return those of the passes that were complete through a sample of *size* ticks.

    The ticks at its beginning would count more than the others. All of them, if not
    even the first pass was.
    """
    passes = len(handlings) // size
    if not passes:
        return list(handlings)
    times = Counter[int]()
    kept: list[Handling] = []
    for each in handlings:
        times[each.place] += 1
        if times[each.place] <= passes:
            kept.append(each)
    return kept
