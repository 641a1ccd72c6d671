"""``trio-ticks plan``: from a recording to the settings of a pipeline."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final, final

import click
import msgspec

from ..clock import monotonic
from ..errors import ConfigError
from ..foresight.planning import plan as make_plan
from .history import Moment
from .interrupts import ended_by_signals
from .loading import load_strategy, load_venue
from .options import Names, Number, ParamType, log_options, option, set_up_logging

__all__ = ["plan"]

_CELLS: Final = 24
_DRAW_EVERY_S: Final = 0.1


@final
class Duration(ParamType):
    """A duration, with its unit: 50ms, 0.05, 2s."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text, factor = str(value).strip(), 1.0
        for unit, seconds in (("ms", 1e-3), ("us", 1e-6), ("s", 1.0)):
            if text.endswith(unit):
                text, factor = text.removesuffix(unit).strip(), seconds
                break
        try:
            float(text)
        except ValueError:
            self.fail(f"{value!r} is no time like 50ms or 2s; 0.05 is in seconds.", param, ctx)
        return Number("seconds", positive=True).convert(text, param, ctx) * factor


@final
class Share(ParamType):
    """A share: 0.01, or 1%."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text, factor = str(value).strip(), 1.0
        if text.endswith("%"):
            text, factor = text.removesuffix("%").strip(), 0.01
        number = Number("share").convert(text, param, ctx) * factor
        if number >= 1:
            self.fail(f"{value!r} is too large: less than 1, or less than 100%.", param, ctx)
        return number


@final
class Counts(ParamType):
    """Whole numbers, separated by commas."""

    name = "n,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        number = Number("number", least=1, whole=True)
        return tuple(int(number.convert(each, param, ctx)) for each in str(value).split(","))


@click.command(short_help="Find the settings for a strategy, from a recording.")
@click.argument("recording", type=click.Path(exists=True, path_type=Path))
@option(
    "--handler",
    metavar="MODULE:NAME",
    required=True,
    help="Your strategy. It is called with ticks of the recording, thousands of times; "
    "trio_ticks.replaying() is true in it.",
)
@option("--max-drop-rate", type=Share(), default="0", help="Ticks that may be lost: 0.001 or 0.1%.")
@option(
    "--p99-lag",
    type=Duration(),
    default="50ms",
    help="How late the handling of all but one in a hundred ticks may begin: 50ms, 2s; a "
    "number alone is in seconds.",
)
@option(
    "--factor",
    type=Number("factor", positive=True),
    default=1,
    help="Plan for ticks that come so many times as fast as recorded.",
)
@option("--workers", type=Counts(), help="Numbers of workers to try.  [default: by the load]")
@option("--maxsize", type=Counts(), help="Sizes of the queue to try.  [default: by the load]")
@option(
    "--ordering",
    type=click.Choice(["symbol", "none"]),
    default="symbol",
    help="symbol: ticks of one symbol are handled one at a time, in order.",
)
@option(
    "--executor",
    type=click.Choice(["auto", "loop", "thread", "process"]),
    default="auto",
    help="Where the strategy runs; auto also compares the other places.",
)
@option("--symbols", type=Names(), help="Which symbols of the recording.  [default: all]")
@option("--venue", help="Whose messages the recording holds.  [default: found by itself]")
@option(
    "--channels", type=Names(), help="Which of its channels, or all.  [default: the usual ones]"
)
@option("--from", type=Moment(), help="Leave out what came before, like 2026-03-02T14:30.")
@option("--to", type=Moment(), help="Leave out what came from then on.")
@option(
    "--measure",
    type=Duration(),
    default="10s",
    help="How long to measure the strategy at most, each time.",
)
@option(
    "--verify",
    type=Number("runs", whole=True),
    default=0,
    help="Play the recording so many times through the real pipeline, and compare.",
)
@option("--verify-for", type=Duration(), default="30s", help="How much of it those runs play.")
@option("--busy-host", is_flag=True, help="Measure although this machine is busy.")
@option(
    "--processes",
    type=Number("n", least=1, whole=True),
    help="Simulations at once.  [default: one a core]",
)
@option("--seed", type=int, default=0, help="The same seed draws the same services.")
@option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write a page with plots, one file that stands alone.",
)
@option("--json", is_flag=True, help="Print one JSON object, and nothing else.")
@log_options
def plan(*, recording: Path, handler: str, **parameters: Any) -> int:
    """Find out how many workers and how long a queue your strategy needs.

    Your strategy is measured with the ticks of RECORDING, in a real pipeline with all
    workers busy. Then the recording is simulated with some thirty settings, with the
    pipeline's own channel. The answer: what to set, what will be lost and how late
    ticks will be, what 2, 5 and 10 times the rate would take, and how sure that is.

    RECORDING is what ReplayFeed plays: a file, or a folder of trio-ticks record; or a
    file of trio-ticks history (though bars have no bursts).

    \b
    IT CALLS YOUR STRATEGY WITH OLD DATA. Let it keep its orders to itself:
      if not trio_ticks.replaying():
          await send_order(...)

    \b
    Examples:
      trio-ticks plan tuesday.zst --handler mine:on_tick
      trio-ticks plan tuesday.zst --handler mine:on_tick --p99-lag 20ms --factor 3
      trio-ticks plan tuesday.zst --handler mine:on_tick --max-drop-rate 0.1%
      trio-ticks plan tuesday.zst --handler mine:on_tick --html plan.html
      trio-ticks plan tuesday.zst --handler mine:on_tick --verify 3

    \b
    Exit codes:
      0  a plan, and it meets the target
      1  a simulation failed
      2  a bad setting, or a busy machine
      4  a plan, but no setting that was tried meets the target
      130, 143  Ctrl-C or SIGTERM has ended it
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters, secrets=())
    as_json, page = parameters.pop("json"), parameters.pop("html")
    if page is not None:
        _check_page(page)
    strategy = load_strategy(handler, parameters["executor"], as_json=as_json)
    venue, channels = parameters.pop("venue"), parameters.pop("channels")
    show = _Progress() if sys.stderr.isatty() else None
    try:
        with ended_by_signals():
            found = make_plan(
                recording,
                strategy,
                venue=None if venue is None else load_venue(venue),
                channels="all" if channels == ("all",) else channels,
                start=parameters.pop("from"),
                end=parameters.pop("to"),
                measure_s=parameters.pop("measure"),
                verify_s=parameters.pop("verify_for"),
                progress=show,
                **parameters,
            )
    finally:
        if show is not None:
            show.clear()
    # First of all the answer: it took minutes, and the page may fail.
    if as_json:
        click.echo(msgspec.json.encode(found.to_dict()).decode())
    else:
        click.echo(str(found))
    if page is not None:
        found.save_html(page)
        click.echo(f"{page} has the plots", err=True)
    return 0 if found.advice.met else 4


def _check_page(page: Path) -> None:
    """Raise now if *page* cannot be written, rather than when the plan is made.

    Raises:
        ConfigError: its folder is not there, or it is not for us to write.
    """
    if not page.parent.is_dir():
        raise ConfigError(f"--html: there is no folder {str(page.parent)!r} for the page")
    if not os.access(page if page.exists() else page.parent, os.W_OK):
        raise ConfigError(f"--html: {str(page)!r} cannot be written")


@final
class _Progress:
    """One line on standard error that says what is being done, and how far it is."""

    def __init__(self) -> None:
        self._width = 0
        self._drawn_at = 0.0
        self._what = ""

    def __call__(self, what: str, done: float, whole: float | None) -> None:
        now = monotonic()
        if what == self._what and now - self._drawn_at < _DRAW_EVERY_S and done != whole:
            return
        self._what, self._drawn_at = what, now
        if whole:
            part = min(done / whole, 1.0)
            cells = round(part * _CELLS)
            line = f"[{'#' * cells}{'.' * (_CELLS - cells)}] {part:4.0%}  {what}"
        else:
            line = f"{what}: {done:,.0f} ticks"
        click.echo(f"\r{line:<{self._width}}", nl=False, err=True)
        self._width = len(line)

    def clear(self) -> None:
        """Take the line away."""
        click.echo(f"\r{'':<{self._width}}\r", nl=False, err=True)
