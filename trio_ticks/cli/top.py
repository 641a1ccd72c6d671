"""``trio-ticks top``: the live view of a pipeline elsewhere that serves its metrics.

Rules: without a first answer, it ends with an error. After that, a lost connection is
reported and tried again for ever. The terminal gets its settings back however it ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import click
import trio

from ..errors import ConfigError
from ..logs import one_line
from ..observability.fetch import FetchError, HttpAddress
from ..observability.readings import MOST_WORKERS
from ..observability.remote import MOST_LABEL, RemotePipeline, Watch
from ..pipeline.signals import hear_signals
from .closed_terminal import let_go_of_closed_terminal
from .options import Number, ParamType, option
from .report import json_line, progress_line
from .session import Display

__all__ = ["top"]

DEFAULT_URL = "http://127.0.0.1:9464/metrics"
_FIRST_POLLS_S = 0.5
"""The longest time between the first two polls.

Rates are differences between two polls, so nothing can be shown before the second.
"""
_FEW = 20
"""How many pipelines are listed where the one that is wanted is missing."""
_NEXT, _BACK, _QUIT = frozenset("\tn"), frozenset("p"), frozenset("qQ\x04")


class _Address(ParamType):
    """An address of metrics; ``http://`` and ``/metrics`` may be left out."""

    name = "url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> HttpAddress:
        if isinstance(value, HttpAddress):
            return value
        url = value if "://" in value else f"http://{value}"
        try:
            address = HttpAddress.parse(url)
        except ConfigError as error:
            self.fail(f"{error}; write it like {DEFAULT_URL}.", param, ctx)
        return address if address.target != "/" else HttpAddress.parse(f"{url.rstrip('/')}/metrics")


@click.command(short_help="Watch a running pipeline that serves its metrics.")
@click.argument("url", type=_Address(), default=DEFAULT_URL, envvar="TRIO_TICKS_METRICS_URL")
@option(
    "--pipeline",
    metavar="NAME",
    help="Which one, where several are served.  [default: all of them, one at a time]",
)
@option(
    "--interval",
    type=Number("seconds", least=0.1),
    default=1,
    help="How often to look, in seconds.",
)
@option(
    "--once",
    is_flag=True,
    help="Show one picture, of two looks that lie --interval apart, and end.",
)
@option(
    "--json",
    is_flag=True,
    help="Write one JSON object, of two looks as with --once, "
    "and nothing else, to standard output.",
)
def top(
    *, url: HttpAddress, pipeline: str | None, interval: float, once: bool, **parameters: Any
) -> int:
    """Watch a running pipeline that serves its metrics, as with --metrics-port or
    serve_metrics(): the view of the demo.

    URL is http://127.0.0.1:9464/metrics unless given, here or as
    TRIO_TICKS_METRICS_URL; http:// and /metrics may be left out. Without a terminal
    there is a line a look.

    \b
    Keys:
      Tab, n, p  the next or the previous pipeline, where several are served
      q, Ctrl-C  quit

    \b
    Examples:
      trio-ticks top
      trio-ticks top localhost:9465 --pipeline nyse
      trio-ticks top --json | jq '.pipelines.main.items_dropped'

    \b
    Exit codes:
      0  you quit, or the picture is shown
      1  the first answer did not come, or was none of a pipeline
      2  a bad setting
    """  # noqa: D301 - click needs the very character
    return trio.run(_top, url, pipeline, interval, once, parameters["json"])


async def _top(
    address: HttpAddress, name: str | None, interval: float, once: bool, as_json: bool
) -> int:
    name = None if name is None else one_line(name, MOST_LABEL)
    watch = Watch(address, name)
    await _begin(watch, name, interval if once or as_json else min(interval, _FIRST_POLLS_S))
    chosen = _Chosen(watch, name)
    if as_json:
        _write_json(watch, chosen)
    elif once:
        _write_picture(watch, chosen)
    else:
        await _show(chosen, interval)
    return 0


async def _show(chosen: _Chosen, interval: float) -> None:
    """Show the pipelines until the user quits.

    Raises:
        OSError: the output has no reader any more.
    """
    live, failure = Display(view="live", json=False).choose() == "live", None
    async with trio.open_nursery() as nursery:
        with hear_signals(
            lambda _number, _again: nursery.cancel_scope.cancel(),
            at_once=lambda _number: let_go_of_closed_terminal(),
        ):
            try:
                await (
                    _show_live(chosen, interval, nursery) if live else _show_lines(chosen, interval)
                )
            except OSError as error:
                # A write to a closed terminal may fail before its signal is heard.
                if not let_go_of_closed_terminal():
                    failure = error
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _begin(watch: Watch, name: str | None, apart_s: float) -> None:
    """Poll twice, *apart_s* seconds apart.

    Raises:
        FetchError: no answer, or none of a pipeline.
        ConfigError: there is no pipeline of that name.
    """
    for pause in (0.0, apart_s):
        await trio.sleep(pause)
        await watch.poll()
        if watch.failure is not None:
            hint = (
                " (a pipeline serves them with --metrics-port, or serve_metrics())"
                if not watch.pipelines
                else ""
            )
            raise FetchError(
                f"no metrics from {watch.address.shown}: {watch.failure}{hint}"
            ) from watch.failure
        if name is not None and name not in watch.pipelines:
            more = len(watch.pipelines) - _FEW + watch.more
            known = ", ".join(islice(watch.pipelines, _FEW)) + (f" and {more:,} more" * (more > 0))
            raise ConfigError(f"{watch.address.shown} has no pipeline {name!r}, only {known}")


async def _keep_polling(watch: Watch, chosen: _Chosen, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        await watch.poll(keep=(chosen.name,))


class _Chosen:
    """The pipeline that is shown now, of those that are served."""

    def __init__(self, watch: Watch, name: str | None) -> None:
        self.watch = watch
        self._pinned = name is not None
        self._name = name if name is not None else next(iter(watch.pipelines))

    @property
    def names(self) -> list[str]:
        """The pipelines that can be shown.

        Those that are no longer served are left out, except the one that is shown now.
        """
        if self._pinned:
            return [self._name]
        return [
            name
            for name in self.watch.pipelines
            if name not in self.watch.gone or name == self._name
        ]

    @property
    def name(self) -> str:
        return self._name

    @property
    def pipeline(self) -> RemotePipeline:
        return self.watch.pipelines[self._name]

    def step(self, by: int) -> None:
        names = self.names
        self._name = names[(names.index(self._name) + by) % len(names)]

    @property
    def alarm(self) -> str:
        """Why the numbers are out of date, or ``""`` if they are not."""
        if self.watch.failure is not None:
            return f"NO ANSWER FOR {trio.current_time() - self.watch.answered_at:.0f} s"
        return "NOT SERVED ANY MORE" if self._name in self.watch.gone else ""


def _write_json(watch: Watch, chosen: _Chosen) -> None:
    pipelines = {name: watch.pipelines[name].metrics.to_dict() for name in chosen.names}
    click.echo(json_line({"url": watch.address.shown, "pipelines": pipelines}))


def _write_picture(watch: Watch, chosen: _Chosen) -> None:
    """Write a picture of each pipeline, or a line if rich is not installed."""
    try:
        from rich.console import Console

        from ..observability.terminal.render import Scene, render
    except ImportError:
        click.echo("for a picture: pip install 'trio-ticks[cli]'", err=True)
        for name in chosen.names:
            click.echo(_line(chosen, name))
        return
    console = Console()
    plain = not console.encoding.lower().startswith("utf")
    for name in chosen.names:
        pipeline = watch.pipelines[name]
        scene = Scene(
            title=f"trio-ticks {name}",
            subtitle=watch.address.shown,
            hint="",
            plain=plain,
        )
        height = max(24, console.height - 1)
        console.print(
            render(
                pipeline.metrics,
                history=pipeline.history,
                width=console.width,
                height=height,
                scene=scene,
            )
        )
        # Below the picture: in it an alert may take the line of a message.
        for message in _crowd(watch, pipeline):
            console.print(message, style="yellow", highlight=False, markup=False)


def _line(chosen: _Chosen, name: str) -> str:
    return (f"{name}  " if len(chosen.names) > 1 else "") + progress_line(
        chosen.watch.pipelines[name].metrics
    )


async def _show_lines(chosen: _Chosen, interval: float) -> NoReturn:
    """Write a line for each pipeline after each poll.

    A failure is written once, to standard error.
    """
    watch, said = chosen.watch, ""
    while True:
        problem = f"no answer: {watch.failure}; trying again" if watch.failure is not None else ""
        if problem and problem != said:
            click.echo(problem, err=True)
        said = problem
        for name in chosen.names if not problem else ():
            if name not in watch.gone:
                await trio.to_thread.run_sync(
                    partial(_echo, _line(chosen, name)), abandon_on_cancel=True
                )
        await trio.sleep(interval)
        await watch.poll(keep=(chosen.name,))


def _echo(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


async def _show_live(chosen: _Chosen, interval: float, nursery: trio.Nursery) -> NoReturn:
    from ..observability.terminal.render import Scene, show_live

    watch = chosen.watch

    def scene() -> Scene:
        messages = _crowd(watch, chosen.pipeline)
        if watch.failure is not None:
            messages = (f"no answer: {watch.failure}; trying again every {interval:g} s",)
        names = chosen.names
        several = (
            f"pipeline {names.index(chosen.name) + 1} of {len(names)}, Tab for the next; "
            if len(names) > 1
            else ""
        )
        return Scene(
            title=f"trio-ticks {chosen.name}",
            subtitle=watch.address.shown,
            alarm=chosen.alarm,
            messages=messages,
            hint=f"{several}q quits",
        )

    nursery.start_soon(_keep_polling, watch, chosen, interval)
    with _keys() as keys:
        if keys is not None:
            nursery.start_soon(_obey_keys, keys, chosen, nursery.cancel_scope)
        await show_live(
            lambda: chosen.pipeline.metrics,
            get_scene=scene,
            get_history=lambda: chosen.pipeline.history,
        )


def _crowd(watch: Watch, pipeline: RemotePipeline) -> tuple[str, ...]:
    """Return a message if there are more workers than rows, or more pipelines than are
    watched.
    """
    messages = []
    if watch.more:
        messages.append(
            f"{watch.more:,} more pipelines are served there: choose one with --pipeline NAME"
        )
    if pipeline.workers > len(pipeline.metrics.workers):
        messages.append(f"there are more than {MOST_WORKERS} workers, and only the first have rows")
    return tuple(messages)


async def _obey_keys(keys: int, chosen: _Chosen, scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(keys)
        try:
            pressed = os.read(keys, 64).decode("utf-8", "replace")
        except OSError:
            pressed = ""  # The terminal has gone.
        if not pressed or not _QUIT.isdisjoint(pressed):
            scope.cancel()
            return
        chosen.step(sum((key in _NEXT) - (key in _BACK) for key in pressed))


@contextmanager
def _keys() -> Iterator[int | None]:
    """Let the terminal pass on each key at once, without showing it.

    The block gets the terminal's file descriptor, or ``None`` if there is no terminal.
    """
    try:
        import termios
        import tty

        keys = sys.stdin.fileno()
        before = termios.tcgetattr(keys)
    except (ImportError, OSError, ValueError, AttributeError):
        yield None  # no terminal, or no Unix: Ctrl-C is left
        return
    except termios.error:
        yield None
        return
    tty.setcbreak(keys)
    try:
        yield keys
    finally:
        with suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
