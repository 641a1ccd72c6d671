"""Write what is in recordings as plain text, with a small plot of the rates.

Rules: no colours and no control codes, whatever the recordings hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

from ..history.surveys import Curve, Survey
from ..observability.shown import shown
from .report import size_text

__all__ = ["folder_text", "plot", "survey_text"]

_WIDTH: Final = 64
_HEIGHT: Final = 6
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN: Final = " ...:::##"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SILENCE_S: Final = 1.0
"""A shorter silence is not worth a line."""
_MOST_EVENTS: Final = 8


def survey_text(found: Survey, *, top: int, plain: bool) -> str:
    """Return what is in one recording.

    Args:
        found: what is in it.
        top: how many symbols to list.
        plain: use ASCII only.
    """
    lines = [
        shown(str(found.path), plain=plain),
        *(f"  {line}" for line in _about(found, plain)),
        "",
        *(f"  {line}" for line in _content(found)),
    ]
    if found.count:
        lines += ["", *_symbols(found, top, plain)]
        lines += ["", *_plot_of([found], plain)]
    events = _events(found, plain)
    if events:
        lines += ["", *(f"  {line}" for line in events)]
    lines += ["", *(f"  {line}" for line in _missing(found))]
    return "\n".join(lines)


def folder_text(found: Sequence[Survey], *, plain: bool) -> str:
    """Return what is in several recordings: a line each, and the sums."""
    rows = [("file", "begins (UTC)", "span", "items", "a second", "symbols", "")]
    for each in sorted(found, key=lambda one: (one.first_ns or 0, str(one.path))):
        state = "" if each.is_whole else "INCOMPLETE"
        rows.append(
            (
                shown(each.path.name, plain=plain),
                _moment(each.first_ns),
                _duration(each.span_s),
                f"{each.count:,}",
                f"{each.rate:,.0f}",
                f"{len(each.symbols):,}",
                "growing" if each.growing else state,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index in (0, 1, 6) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    symbols = {symbol for each in found for symbol in each.symbols}
    count, size = sum(each.count for each in found), sum(each.size for each in found)
    lines += [
        "",
        f"{len(found):,} files, {size_text(size)}, {count:,} items, {len(symbols):,} symbols",
    ]
    if count:
        lines += ["", *_plot_of(found, plain)]
    for each in found:
        if not each.is_whole:
            name = shown(each.path.name, plain=plain)
            lines += ["", f"{name}:", *(f"  {line}" for line in _missing(each))]
    return "\n".join(lines)


def plot(points: Sequence[float], *, height: int = _HEIGHT, plain: bool = False) -> list[str]:
    """Return *points* as columns of characters, the highest as high as the plot.

    Args:
        points: none of them negative.
        height: in lines.
        plain: use ASCII only.
    """
    glyphs = _PLAIN if plain else _BLOCKS
    steps, most = len(glyphs) - 1, max(points, default=0.0)
    # What is not 0 is to be seen, however small it is.
    filled = [max(1, round(point / most * height * steps)) if point > 0 else 0 for point in points]
    return [
        "".join(glyphs[min(steps, max(0, each - row * steps))] for each in filled).rstrip()
        for row in reversed(range(height))
    ]


def _plot_of(found: Sequence[Survey], plain: bool) -> list[str]:
    """Return the plot of items a second over the time of all of *found*."""
    curve = Curve.of([each.curve for each in found])
    first = min(each.first_ns for each in found if each.first_ns is not None)
    last = max(each.last_ns for each in found if each.last_ns is not None)
    points = curve.points(_WIDTH, first, last)
    most = f"{max(points):,.0f}/s"
    margin = len(most) + 2
    rows = plot(points, plain=plain)
    bar = "|" if plain else "│"
    lines = [
        f"  {most if not index else '':>{margin - 2}} {bar}{row}" for index, row in enumerate(rows)
    ]
    begin, end = _moment(first), _moment(last)
    width = max(len(points), len(begin) + len(end) + 2)
    return [*lines, f"  {'':{margin - 1}}{begin}{end:>{width - len(begin) + 1}}"]


def _about(found: Survey, plain: bool) -> list[str]:
    def word(key: str) -> str:
        return shown(str(found.head.get(key, "")), plain=plain)

    channels = found.head.get("channels") or ()
    venue = shown(found.venue, plain=plain)
    if isinstance(channels, list) and channels:
        venue += f" ({', '.join(shown(str(each), plain=plain) for each in channels[:20])})"
    lines = [f"venue {venue}" + (f", {word('url')}" if found.head.get("url") else "")]
    if found.is_own:
        lines.append(f"feed {word('feed')}, part {word('part')} of a run, by {word('by')}")
    begin, end = _moment(found.first_ns, exact=True), _moment(found.last_ns, exact=True)
    if found.first_ns is not None:
        lines.append(f"{begin} to {end} UTC, {_duration(found.span_s)}")
    state = "a recorder writes to it now" if found.growing else ""
    return [*lines, f"{size_text(found.size)}{', ' + state if state else ''}"]


def _content(found: Survey) -> list[str]:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.items.most_common())
    lines = [f"{found.count:,} items" + (f": {kinds}" if kinds else "")]
    if found.rate:
        lines.append(f"{found.rate:,.1f} a second, at most {found.curve.peak:,} in one")
    lines.append(
        f"{found.lines:,} lines: {found.malformed:,} malformed, {found.ignored:,} without market"
        " data"
    )
    if found.unasked:
        lines.append(f"{found.unasked:,} items of symbols that were not asked for")
    return lines


def _symbols(found: Survey, top: int, plain: bool) -> list[str]:
    rows = found.symbols.most_common(top)
    names = [shown(symbol, plain=plain) for symbol, _ in rows]
    width = max(map(len, names), default=0)
    lines = [
        f"  {name:{width}}  {count:>12,}  {count / found.count:6.1%}"
        for name, (_, count) in zip(names, rows, strict=True)
    ]
    others = found.count - sum(count for _, count in rows)
    number = len(found.symbols) - len(rows)
    if number > 0 or found.other_symbols:
        lines.append(f"  {number:,} other symbols, {others:,} items")
    return lines


def _events(found: Survey, plain: bool) -> list[str]:
    lines: list[str] = []
    for word, group in groupby(found.events[:_MOST_EVENTS], key=lambda event: event[1]):
        for ns, _, facts in group:
            lines.append(f"{_moment(ns, exact=True)}  {_event(word, facts, plain)}")
    more = len(found.events) - _MOST_EVENTS
    if more > 0:
        counts = Counter(word for _, word, _ in found.events[_MOST_EVENTS:])
        lines.append("and " + ", ".join(f"{word} {count:,}x" for word, count in counts.items()))
    return lines


def _event(word: str, facts: dict[str, Any], plain: bool) -> str:
    number = facts.get("connection", 1)
    if word == "opened":
        return f"connection {number} opened"
    if word == "lost":
        return f"connection {number} lost: {shown(str(facts.get('reason', '?')), plain=plain)}"
    if word == "clock":
        return f"the wall clock was set by {facts.get('step_s')} s"
    return f"damaged: {facts.get('bytes')} bytes cannot be read"


def _missing(found: Survey) -> list[str]:
    """Say what is missing, or that nothing is."""
    lines: list[str] = []
    if found.damages:
        places = f"{found.damages:,} place{'s' * (found.damages != 1)}"
        lines.append(f"DAMAGED in {places}, {size_text(found.lost_bytes)} cannot be read")
    if found.truncated:
        lines.append("CUT OFF: it ends in the middle")
    elif found.is_own and not found.closed and not found.growing:
        lines.append("NOT CLOSED: its recorder was killed; its last second may be missing")
    if found.unrecorded:
        lines.append(f"{found.unrecorded:,} messages COULD NOT BE RECORDED")
    if not lines:
        lines.append("nothing is damaged or missing")
    if found.gaps:
        gaps = ", ".join(f"{reason} {count:,}" for reason, count in found.gaps.most_common())
        lines.append(f"gaps that a strategy is told of: {gaps}")
    return lines + [
        f"silence of {_duration(each.ns / 1e9)} from {_moment(each.begin_ns)} on"
        for each in found.silences
        if each.ns >= _SILENCE_S * 1e9 and each.ns * found.rate > 5e9
    ]


def _moment(ns: int | None, *, exact: bool = False) -> str:
    if ns is None:
        return "?"
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    return f"{moment:%Y-%m-%d %H:%M:%S}" + (f".{moment.microsecond // 1000:03}" if exact else "")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
