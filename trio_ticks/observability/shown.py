"""Names from outside as they may be shown: in a terminal, in a label, on a page.

A symbol is whatever a venue sent, and a state whatever another process serves. Here
they lose what could command a terminal, turn the text around or break an encoding.

Rules: what is shown is bounded. Only what is shown changes, never a key to anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ..logs import one_line
from ..metrics.snapshots import Overdue, PipelineMetrics

__all__ = ["MOST_CHARS", "merged", "overdue_words", "shown", "shown_metrics"]

MOST_CHARS: Final = 120
"""The longest name that is shown."""


def shown(text: str, *, plain: bool = False) -> str:
    """Return *text* on one line, without control characters, at most 120 characters.

    Args:
        text: of any origin.
        plain: also without anything but ASCII.
    """
    line = one_line(text, MOST_CHARS)
    if not plain or line.isascii():
        return line
    return line.encode("ascii", "backslashreplace").decode("ascii")


def merged(counts: Mapping[str, int]) -> dict[str, int]:
    """Return *counts* by what is shown of their keys.

    Keys that are shown alike are added up: two series must not have the same labels.
    """
    result: dict[str, int] = {}
    for key, count in counts.items():
        name = shown(key)
        result[name] = result.get(name, 0) + count
    return result


def _is_fit(texts: Iterable[str], plain: bool) -> bool:
    return all(
        text.isprintable() and len(text) <= MOST_CHARS and (not plain or text.isascii())
        for text in texts
    )


def shown_metrics(metrics: PipelineMetrics, *, plain: bool = False) -> PipelineMetrics:
    """Return *metrics* with all names and states as they may be shown.

    Args:
        metrics: of a pipeline here or elsewhere.
        plain: for a terminal that has only ASCII.
    """
    workers = metrics.workers
    if not _is_fit((f"{each.name}{each.state}{each.symbol or ''}" for each in workers), plain):
        workers = tuple(
            attrs.evolve(
                each,
                name=shown(each.name, plain=plain),
                state=shown(each.state, plain=plain),
                symbol=None if each.symbol is None else shown(each.symbol, plain=plain),
            )
            for each in workers
        )
    return attrs.evolve(
        metrics,
        state=shown(metrics.state, plain=plain),
        pressure=shown(metrics.pressure, plain=plain),
        last_failure=None
        if metrics.last_failure is None
        else attrs.evolve(
            metrics.last_failure,
            error=shown(metrics.last_failure.error, plain=plain),
            symbol=shown(metrics.last_failure.symbol, plain=plain),
        ),
        overdue=None
        if metrics.overdue is None
        else attrs.evolve(metrics.overdue, symbol=shown(metrics.overdue.symbol, plain=plain)),
        advice=None if metrics.advice is None else shown(metrics.advice, plain=plain),
        silent_names=tuple(shown(name, plain=plain) for name in metrics.silent_names),
        feeds=tuple(
            attrs.evolve(each, name=shown(each.name, plain=plain)) for each in metrics.feeds
        ),
        workers=workers,
    )


def overdue_words(overdue: Overdue) -> str:
    """Return *overdue* in words, for a line of a terminal."""
    count = "a handler" if overdue.workers == 1 else f"{overdue.workers:,} handlers"
    return f"NO RETURN from {count} for {overdue.for_s:,.1f} s, of {shown(overdue.symbol)}"
