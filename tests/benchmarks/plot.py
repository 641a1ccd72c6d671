"""Draws results as SVG for the documentation: dark ink on a light ground.

Place, label, hatch and marker distinguish the series, never colour alone. Every bar and
line carries its own label, so that no colour has to be matched with a legend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw"]

_INK, _SOFT, _GROUND = "#1a1a1a", "#6b6b6b", "#ffffff"
_OURS, _THEIRS = "#00529b", "#c9d3dc"
_SHORT = {
    "a": "(a) classic asyncio",
    "b": "(b) best asyncio",
    "c": "(c) picows",
    "d": "(d) literal trio",
    "e": "(e) trio_ticks",
    "f": "(f) floor: decode + handler",
}
_HATCH = {"a": "", "b": "//", "c": "xx", "d": "..", "e": "", "f": "\\\\"}
_LINE: dict[str, tuple[str, str, str]] = {
    "a": (_SOFT, "s", ":"),
    "b": ("#b35900", "^", "--"),
    "e": (_OURS, "o", "-"),
}
_STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": _GROUND,
    "axes.facecolor": _GROUND,
    "savefig.facecolor": _GROUND,
    "svg.fonttype": "none",
    "svg.hashsalt": "trio_ticks",
    "hatch.linewidth": 0.6,
}


def _bars(axes: Axes, section: dict[str, Any], title: str) -> None:
    contenders = section["contenders"]
    letters = sorted(contenders, key=lambda letter: -float(contenders[letter]["us_per_tick"]))
    times = [contenders[letter]["us_per_tick"] for letter in letters]
    bars = axes.barh(
        [_SHORT[letter] for letter in letters],
        times,
        color=[_OURS if letter == "e" else _THEIRS for letter in letters],
    )
    for bar, letter, time in zip(bars, letters, times, strict=True):
        bar.set_hatch(_HATCH[letter])
        bar.set_edgecolor(_INK)
        bar.set_linewidth(0.6)
        ratio = section["ratios"].get(letter, {}).get("median")
        dropped = contenders[letter]["dropped_share"]
        note = f"{time:.1f} µs" if time >= 10 else f"{time:.2f} µs"
        if dropped:
            note += f", drops {dropped:.0%}"
        elif ratio:
            note += f"  ({ratio:.1f}x)"
        axes.annotate(
            note,
            (time, bar.get_y() + bar.get_height() / 2),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xlim(0, max(times) * 1.3)
    axes.set_xlabel("microseconds a tick (shorter is better)")
    axes.set_title(title, loc="left")


def _latency(axes: Axes, section: dict[str, Any], key: str, title: str) -> None:
    rates = sorted(section, key=int)
    ends: list[tuple[float, str]] = []
    for letter, (colour, marker, style) in _LINE.items():
        points = [
            (int(rate), section[rate][letter][key]) for rate in rates if letter in section[rate]
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                linestyle=style,
                linewidth=1.8,
                markersize=6,
            )
            ends.append((points[-1][1], letter))
    axes.set_xscale("log")
    axes.set_yscale("log")
    above = 0.0
    for value, letter in sorted(ends):
        above = max(value, above * 1.7)
        axes.annotate(
            _SHORT[letter],
            (int(rates[-1]), above),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=_LINE[letter][0],
        )
    axes.set_xticks([int(rate) for rate in rates], [f"{int(rate):,}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("ticks a second")
    axes.set_ylabel("µs")
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.7)
    axes.set_title(title, loc="left")


def _scaling(axes: Axes, group: str, variants: dict[str, Any]) -> None:
    def grown(label: str) -> float:
        digits = "".join(character for character in label if character.isdigit())
        return float(digits) if digits else 0.0

    labels = sorted(variants, key=grown)
    rates = [variants[label]["ticks_per_s"] / 1e3 for label in labels]
    first = next(iter(variants))
    bars = axes.bar(
        labels,
        rates,
        color=[_OURS if label == first else _THEIRS for label in labels],
        edgecolor=_INK,
        linewidth=0.6,
    )
    for bar, rate in zip(bars, rates, strict=True):
        axes.annotate(
            f"{rate:.0f}",
            (bar.get_x() + bar.get_width() / 2, rate),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
        )
    axes.set_ylim(0, max(rates) * 1.18)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(group, loc="left")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path


def draw(results: dict[str, Any], path: Path) -> list[Path]:
    """Draw *results*: comparisons to *path*, scaling beside it (``-scaling``).

    Returns the files that were written.
    """
    drawn: list[Path] = []
    with plt.rc_context(_STYLE):
        bars = [
            (results[key], title)
            for key, title in (("throughput", "Throughput"), ("tls", "Throughput over TLS"))
            if key in results
        ]
        lines = (
            [("p50_us", "Latency, median"), ("p99_us", "Latency, 99th percentile")]
            if "latency" in results
            else []
        )
        if bars or lines:
            heights = [max(1.0, 0.42 * len(section["contenders"]) + 0.5) for section, _ in bars]
            figure = plt.figure(
                figsize=(10, sum(heights) + len(heights) * 0.7 + 3.2 * bool(lines)),
                layout="constrained",
            )
            grid = figure.add_gridspec(
                len(bars) + bool(lines), 2, height_ratios=[*heights, *([3.2] * bool(lines))]
            )
            for row, (section, title) in enumerate(bars):
                _bars(figure.add_subplot(grid[row, :]), section, title)
            for column, (key, title) in enumerate(lines):
                _latency(
                    figure.add_subplot(grid[len(bars), column]), results["latency"], key, title
                )
            drawn.append(_save(figure, path))
        if results.get("scaling"):
            groups = results["scaling"]
            rows = (len(groups) + 1) // 2
            figure, panels = plt.subplots(
                rows, 2, figsize=(10, 2.6 * rows), layout="constrained", squeeze=False
            )
            for axes, (group, variants) in zip(panels.flat, groups.items(), strict=False):
                _scaling(axes, group, variants)
            for axes in list(panels.flat)[len(groups) :]:
                axes.set_visible(False)
            figure.supylabel("thousand ticks a second")
            drawn.append(_save(figure, path.with_name(f"{path.stem}-scaling{path.suffix}")))
    return drawn
