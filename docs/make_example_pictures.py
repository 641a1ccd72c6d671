"""Draw what the examples show, into ``docs/_static/example-*.svg``.

An example with a function ``run`` is run, and what it returns is plotted; of the others
the picture is what they print. Run it in a checkout with the group ``examples`` and the
extras ``cli`` and ``zeromq`` installed, on a machine that has nothing else to do:
``python docs/make_example_pictures.py [name ...]``.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import trio
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "docs" / "_static"
NOTEBOOK = "strategy_on_a_recording"
BLUE, ORANGE, GREEN, RED, GREY = "#1f6fb4", "#d9730d", "#2b8a3e", "#c92a2a", "#868e96"


def axes(count: int = 1, height: float = 2.6) -> Any:
    """Return *count* plots, one above the other, that share their time."""
    figure, made = plt.subplots(
        count, 1, figsize=(7.6, height * count), sharex=True, squeeze=False, layout="constrained"
    )
    figure.patch.set_facecolor("white")
    for each in made[:, 0]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.25)
        each.ticklabel_format(axis="y", useOffset=False)
    return made[:, 0]


def market_making(result: Any) -> None:
    maker, _ = result
    (plot,) = axes()
    begin = maker.seen[0][0]
    times = [(at - begin).total_seconds() for at, _, _ in maker.seen]
    plot.step(times, [count for _, count, _ in maker.seen], where="post", color=BLUE)
    lost = [at for at, (_, _, blind) in zip(times, maker.seen, strict=True) if blind]
    back = min(at for at in times if lost and at > lost[-1])
    plot.axvspan(lost[0], back, color=RED, alpha=0.15, label="the feed is lost")
    plot.set(xlabel="seconds", ylabel="quotes that stand", ylim=(0, 3.4))
    plot.legend(frameon=False, loc="lower right")


def book_imbalance(result: Any) -> None:
    strategy, _ = result
    symbol, seen = max(strategy.seen.items(), key=lambda item: len(item[1]))
    above, below = axes(2, 1.9)
    above.plot([middle for middle, _ in seen], color=BLUE)
    above.set(ylabel=f"{symbol}, middle")
    imbalance = [value for _, value in seen]
    below.fill_between(
        range(len(seen)), imbalance, where=[v > 0 for v in imbalance], color=GREEN, step="mid"
    )
    below.fill_between(
        range(len(seen)), imbalance, where=[v < 0 for v in imbalance], color=RED, step="mid"
    )
    below.set(xlabel="updates of the book", ylabel="imbalance", ylim=(-1, 1))


def candles(result: Any) -> None:
    made, _ = result
    symbol, bars = sorted(made.of.items())[0]
    (plot,) = axes()
    for at, bar in enumerate(bars):
        color = GREEN if bar.close >= bar.open else RED
        plot.vlines(at, bar.low, bar.high, color=color, linewidth=1)
        plot.bar(
            at,
            max(abs(bar.close - bar.open), (plot.get_ylim()[1] - plot.get_ylim()[0]) * 0.002),
            bottom=min(bar.open, bar.close),
            color=color,
            width=0.6,
        )
    plot.set_ylim(min(bar.low for bar in bars), max(bar.high for bar in bars))
    plot.set(xlabel="quarters of a second", ylabel=symbol)


def numpy_batches(result: Any) -> None:
    strategy, report = result
    (plot,) = axes()
    plot.hist(strategy.sizes, bins=40, color=BLUE)
    plot.set(xlabel="ticks in a batch", ylabel="batches")
    plot.set_title(
        f"{report.consumed:,} ticks in {len(strategy.sizes):,} calls", fontsize=10, loc="left"
    )


def spread_of_two_venues(result: Any) -> None:
    spread, _ = result
    (plot,) = axes()
    begin = spread.seen[0][0]
    times = [(at - begin).total_seconds() for at, _ in spread.seen]
    plot.plot(times, [value for _, value in spread.seen], color=BLUE)
    for at, (_, value) in zip(times, spread.seen, strict=True):
        if math.isnan(value):
            following = [t for t in times if t > at]
            plot.axvspan(
                at, min(following), color=RED, alpha=0.15, label="a venue is lost: no spread"
            )
    plot.axhline(0, color=GREY, linewidth=0.8)
    plot.set(xlabel="seconds", ylabel="spread")
    plot.legend(frameon=False)


def alerts(result: Any) -> None:
    watch, _ = result
    above, below = axes(2, 1.9)
    times = [at for at, _, _ in watch.rows]
    above.plot(times, [fill for _, fill, _ in watch.rows], color=BLUE)
    above.set(ylabel="queue, %", ylim=(0, 105))
    below.plot(times, [lost for _, _, lost in watch.rows], color=ORANGE)
    below.set(xlabel="seconds", ylabel="lost a second")
    for what, begin, end in watch.past:
        for plot in (above, below):
            plot.axvspan(begin, end, color=RED, alpha=0.12)
        above.text(begin, 92, f" {what}", fontsize=8, color=RED)


def ingest_and_work(result: Any) -> None:
    works, seen, _ = result
    (plot,) = axes(height=3.0)
    begin = seen[0][0]
    symbols = sorted({symbol for _, _, symbol in seen})
    for work, color in zip(works, (BLUE, ORANGE), strict=True):
        rows = [(at - begin, symbols.index(s)) for at, name, s in seen if name == work.name]
        plot.scatter(
            [at for at, _ in rows],
            [row for _, row in rows],
            s=3,
            color=color,
            label=f"{work.name} work",
            rasterized=True,
        )
    plot.set_yticks(range(len(symbols)), symbols)
    plot.set(xlabel="seconds")
    plot.legend(frameon=False, loc="upper right", ncols=2, bbox_to_anchor=(1, 1.14))


def record_and_replay(result: Any) -> None:
    (plot,) = axes(height=2.8)
    names = [name for name, _ in result]
    handled = [report.consumed for _, report in result]
    dropped = [report.dropped for _, report in result]
    plot.barh(names, handled, color=BLUE, label="handled")
    plot.barh(names, dropped, left=handled, color=ORANGE, label="dropped")
    plot.invert_yaxis()
    plot.set(xlabel="ticks of the same recording")
    plot.legend(frameon=False, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))


PLOTS: dict[str, Callable[[Any], None]] = {
    each.__name__: each
    for each in (
        alerts,
        book_imbalance,
        candles,
        ingest_and_work,
        market_making,
        numpy_batches,
        record_and_replay,
        spread_of_two_venues,
    )
}


def draw(name: str) -> None:
    """Run an example with a function ``run``, and plot what it returns."""
    module = importlib.import_module(name)
    result = trio.run(module.run) if inspect.iscoroutinefunction(module.run) else module.run()
    PLOTS[name](result)
    plt.savefig(STATIC / f"example-{name}.svg", metadata={"Date": None})
    plt.close()


def photograph(name: str) -> None:
    """Run an example, and make a picture of what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / f"{name}.py")],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    console = Console(width=134, record=True, file=StringIO())
    console.print(Text(done.stdout.rstrip()))
    picture = console.export_svg(title=f"python {name}.py", unique_id=name)
    (STATIC / f"example-{name}.svg").write_text(picture)


def run_notebook() -> None:
    """Run the notebook, keep its outputs in it, and take out its last plot."""
    path = ROOT / "examples" / f"{NOTEBOOK}.ipynb"
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # the times at which it ran
    book.metadata["language_info"] = {"name": "python"}
    nbformat.write(book, path)
    plots = [
        output.data["image/png"]
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    (STATIC / f"example-{NOTEBOOK}.png").write_bytes(base64.b64decode(plots[-1]))


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "trio_ticks"
    mpl.rcParams["font.size"] = 9
    sys.path.insert(0, str(ROOT / "examples"))
    names = sys.argv[1:] or sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    for name in names:
        print(name)
        (draw if name in PLOTS else photograph)(name)
    if not sys.argv[1:]:
        run_notebook()


if __name__ == "__main__":
    main()
