"""``trio-ticks run``: a strategy of yours on a real feed."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import reduce
from typing import Any
from urllib.parse import parse_qsl

import click
import trio

from ..errors import TickError
from ..feeds.connect import Target
from ..feeds.reports import Redactor
from ..feeds.websocket import WebSocketFeed
from .options import SECONDS, Names, PipelineOptions, SocketUrl, option, output_options, pipeline_options, set_up_logging
from .session import Display, run_session

__all__ = ["load_handler", "run"]


def load_handler(where: str) -> Callable[[Any], Any]:
    """Return the callable that *where*, ``module:function``, names; modules of the current directory are found too.

    Raises:
        click.BadParameter: there is none, or it cannot take a tick; the message says what to change.
    """
    module_name, colon, path = where.partition(":")
    if not (module_name and colon and path):
        raise click.BadParameter(f"{where!r} is not like module:function, for example mine:on_tick.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise click.BadParameter(f"there is no module {error.name!r}, neither installed nor in the current directory.") from error
        raise click.BadParameter(f"module {module_name!r} needs {error.name!r}, which is not installed.") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise click.BadParameter(f"module {module_name!r} fails when imported: {type(error).__name__}: {error}{place}.") from error
    try:
        handler = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise click.BadParameter(f"module {module_name!r} has no {path!r}.") from error
    if not callable(handler):
        raise click.BadParameter(f"{where!r} is a {type(handler).__name__}, not a function.")
    try:
        inspect.signature(handler).bind(None)
    except ValueError:
        pass  # written in C: it does not say what it takes
    except TypeError as error:
        raise click.BadParameter(f"{where!r} must take one argument, the tick: {error}.") from error
    return handler


@click.command(short_help="Run a strategy of yours on a real feed.")
@option("--url", type=SocketUrl(), required=True, help="The feed's address, ws:// or wss://.")
@option("--symbols", type=Names(), required=True, help="What to subscribe to.")
@option("--handler", metavar="MODULE:FUNCTION", required=True, help="Your strategy; the current directory is searched too.")
@option("--api-key", env=("TICKDB_API_KEY",), help="Sent as X-API-Key. Set it in the environment: other users can see command lines.")
@option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificates to trust, a PEM file.  [default: the system's]",
)
@option("--venue", default="flat", help="The protocol that the feed speaks.")
@option("--duration", type=SECONDS, help="End after so many seconds.  [default: when the feed ends, or on Ctrl-C]")
@pipeline_options
@output_options("lines")
def run(*, url: str, symbols: tuple[str, ...], handler: str, **parameters: Any) -> int:
    """Run a strategy of yours on a real feed until the feed ends, --duration is over, or Ctrl-C.

    The strategy is a function that takes one tick: async def runs in the event loop, a plain def in worker threads.

    \b
    Examples:
      trio-ticks run --url wss://... --symbols AAPL --handler mine:on_tick
      trio-ticks run ... --workers 8 --view live
      trio-ticks run ... --duration 60 --json > report.json
      TICKDB_API_KEY=... trio-ticks run ...

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: the queue is drained,
                for --shutdown-timeout at most
      130, 143  a second Ctrl-C or SIGTERM ended the draining at once
      1         the feed failed for good
      2         a bad setting
    """  # noqa: D301 - click wants the very character
    api_key, venue, ca = parameters.pop("api_key"), parameters.pop("venue"), parameters.pop("ca")
    secrets = _secrets(url, api_key)
    set_up_logging(parameters, secrets)
    duration = parameters.pop("duration")
    view, as_json, metrics_port = parameters.pop("view"), parameters.pop("json"), parameters.pop("metrics_port")
    dashboard_port, metrics_symbols = parameters.pop("dashboard_port"), parameters.pop("metrics_symbols")
    display = Display(
        view=view,
        json=as_json,
        metrics_port=metrics_port,
        metrics_symbols=metrics_symbols,
        dashboard_port=dashboard_port,
        subtitle=f"{Target.parse(url).host}, {len(symbols)} symbol{'s' * (len(symbols) != 1)}",
        duration_s=duration if duration is not None and math.isfinite(duration) else None,
        line_every_s=5.0,
    )
    settings = PipelineOptions.take(parameters).settings()
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a module may print when it is imported
        try:
            strategy = load_handler(handler)
        except click.BadParameter as error:
            raise click.BadParameter(error.message, click.get_current_context(), param_hint="'--handler'") from error
    try:
        return trio.run(run_session, WebSocketFeed(url, symbols, api_key, venue, ca=ca), strategy, settings, display)
    except TickError as error:
        # What a venue answered may repeat what we sent it.
        raise type(error)(Redactor(secrets).text(str(error))) from None


_TELLTALE = ("key", "token", "secret", "sign", "auth", "pass")


def _secrets(url: str, api_key: str | None) -> tuple[str, ...]:
    """Return what must never be written: the key, and what an address may hide in its query."""
    query = Target.parse(url).query
    hidden = [value for name, value in parse_qsl(query) if len(value) >= 16 or any(word in name.lower() for word in _TELLTALE)]
    return tuple(filter(None, (api_key, query, *hidden)))
