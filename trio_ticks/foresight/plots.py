"""Plots as SVG for the page of a plan: lines over a logarithmic axis. Sans-I/O.

Rules: marker and label tell lines apart, never colour alone; each line bears its own
label. Colours are variables of the page's style, which has a light and a dark set.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Final, final

import attrs

__all__ = ["Line", "chart"]

_W: Final = 640
_H: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 110, 18, 44
_MARKERS: Final = ("circle", "square", "diamond", "triangle", "cross", "ring")


@final
@attrs.frozen(slots=True)
class Line:
    """One line of a plot."""

    label: str
    points: Sequence[tuple[float, float]]


@attrs.frozen(slots=True)
class _Axis:
    """Places values between two ends, by their logarithms or as they are."""

    low: float
    high: float
    begin: float
    end: float
    by_log: bool

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.by_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        part = (value - low) / (high - low) if high > low else 0.5
        return self.begin + (self.end - self.begin) * min(max(part, 0.0), 1.0)

    def marks(self) -> list[float]:
        if not self.by_log:
            step = _step(self.high - self.low)
            count = int((self.high - self.low) / step + 1e-9)
            return [self.low + step * number for number in range(count + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1,) if last - first > 2 else (1, 2, 5)
        found = [
            factor * 10.0**exponent for exponent in range(first, last + 1) for factor in factors
        ]
        return [each for each in found if self.low * 0.999 <= each <= self.high * 1.001]


def _step(span: float) -> float:
    """Return a round step of which about five make *span*."""
    if span <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(span / 5))
    return next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 6)


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_log: bool = True,
    y_log: bool = False,
    limit: float | None = None,
    limit_label: str = "",
    mark: tuple[float, str] | None = None,
) -> str:
    """Return a plot as an ``svg`` element; an empty text if there is nothing to plot.

    Args:
        title: for those who cannot see it.
        lines: what to plot, from left to right; values that are no numbers are left
            out.
        x_label: what is on the horizontal axis.
        y_label: what is on the vertical axis.
        x_text: writes a value of the horizontal axis.
        y_text: writes a value of the vertical axis.
        x_log: whether the horizontal axis is logarithmic.
        y_log: whether the vertical axis is.
        limit: where to draw a line across, if anywhere.
        limit_label: what that line is.
        mark: where to draw a line from top to bottom, and what it is.
    """
    kept = [
        Line(
            line.label,
            [(x, y) for x, y in line.points if (x > 0 or not x_log) and math.isfinite(y)],
        )
        for line in lines
    ]
    kept = [line for line in kept if line.points]
    if not kept:
        return ""
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points] + ([] if limit is None else [limit])
    across = _Axis(min(xs), max(max(xs), min(xs) * 1.01), _LEFT, _W - _RIGHT, by_log=x_log)
    if y_log:
        positive = [y for y in ys if y > 0] or [1.0]
        low, high = min(positive) / 1.2, max(positive) * 1.2
    else:
        low, high = 0.0, max(ys) * 1.05 or 1.0
    up = _Axis(low, high, _H - _BOTTOM, _TOP, by_log=y_log)
    parts = [*_grid(across, up, x_text, y_text), *_labels(x_label, y_label)]
    if limit is not None:
        y = up.place(limit)
        parts.append(
            f'<line class="limit" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_W - _RIGHT + 6, y + 4, limit_label, "soft"))
    if mark is not None:
        x = across.place(mark[0])
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>'
        )
        parts.append(_text(x + 4, _TOP + 10, mark[1], "soft"))
    parts += _curves(kept, across, up, [] if limit is None else [up.place(limit)])
    name = html.escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{name}"><title>{name}</title>'
        + "".join(parts)
        + "</svg>"
    )


def _grid(
    across: _Axis, up: _Axis, x_text: Callable[[float], str], y_text: Callable[[float], str]
) -> list[str]:
    parts = []
    for value in up.marks():
        y = up.place(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 8, y + 4, y_text(value), "soft", "end"))
    for value in across.marks():
        x = across.place(value)
        parts.append(_text(x, _H - _BOTTOM + 18, x_text(value), "soft", "middle"))
    return parts


def _labels(x_label: str, y_label: str) -> list[str]:
    return [
        _text((_LEFT + _W - _RIGHT) / 2, _H - 6, x_label, "soft", "middle"),
        _text(4, 12, y_label, "soft"),
    ]


def _curves(lines: Sequence[Line], across: _Axis, up: _Axis, taken: list[float]) -> list[str]:
    parts: list[str] = []
    ends: list[tuple[float, int, str]] = []
    for number, line in enumerate(lines):
        colour = f"c{number % len(_MARKERS)}"
        points = [(across.place(x), up.place(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts += (_marker(x, y, number, colour) for x, y in points)
        ends.append((points[-1][1], number, line.label))
    used = list(taken)
    for y, number, label in sorted(ends):
        while any(abs(y - other) < 13 for other in used):
            y += 3
        used.append(y)
        parts.append(_text(_W - _RIGHT + 10, y + 4, label, f"label c{number % len(_MARKERS)}"))
    return parts


def _marker(x: float, y: float, number: int, colour: str) -> str:
    kind = _MARKERS[number % len(_MARKERS)]
    if kind == "circle":
        return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    if kind == "ring":
        return f'<circle class="ring {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    shapes = {
        "square": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        "diamond": ((0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)),
        "triangle": ((0, -4), (4, 3.5), (-4, 3.5)),
        "cross": ((-4, -1), (4, -1), (4, 1), (-4, 1)),
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[kind])
    return f'<polygon class="dot {colour}" points="{points}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )
