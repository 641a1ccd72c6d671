"""``trio-ticks demo``: a local exchange, and a pipeline with too slow a strategy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from ..errors import FeedBrokenError, TickError
from ..exchange.recorded import Damage
from ..feeds.websocket.feed import WebSocketFeed
from ..logs import log_event
from ..ticks import Tick
from .child import ChildExchange, open_child_exchange
from .config_file import config_options
from .dry_run import dry_run
from .options import (
    SECONDS,
    GroupedCommand,
    Number,
    market_options,
    option,
    output_options,
    set_up_logging,
)
from .pipeline_options import PipelineOptions, pipeline_options
from .session import Display, run_session

__all__ = ["demo"]

logger = logging.getLogger("trio_ticks.feeds.captures")

_COUNTED_S = 10.0
_REASON_S = 1.0
"""How long to wait for the exchange's own reason after the connection has broken."""


async def _trivial(_tick: Tick) -> None:
    pass


async def _sleep(seconds: float, _tick: Tick) -> None:
    await trio.sleep(seconds)


def _block(seconds: float, _tick: Tick) -> None:
    if seconds:
        time.sleep(seconds)


def _strategy(milliseconds: float, executor: str) -> Callable[[Tick], Any]:
    """Return a strategy that takes *milliseconds* for a tick.

    It sleeps in the event loop, or blocks if *executor* asks for threads or
    processes.
    """
    if executor in ("thread", "process"):
        return partial(_block, milliseconds / 1e3)
    return partial(_sleep, milliseconds / 1e3) if milliseconds else _trivial


@click.command(
    cls=GroupedCommand,
    short_help="Run a pipeline against a local exchange that is too fast for it.",
)
@config_options
@market_options(rate=20_000)
@option(
    "--strategy-ms",
    type=Number("ms"),
    default=5,
    help="How long the strategy takes for a tick, in milliseconds; 0 is a trivial one.",
)
@option(
    "--duration",
    type=SECONDS,
    default=10,
    help="How long to run, in seconds; inf: until Ctrl-C. With --capture: until its end.",
)
@pipeline_options()
@output_options("live")
@click.pass_context
def demo(context: click.Context, /, **parameters: Any) -> int:
    """Run a pipeline against a local exchange that is too fast for its strategy, and
    show what becomes of every tick.

    The exchange runs in a process of its own and sends over a real WebSocket. The demo
    ends after --duration, or on Ctrl-C, with a report whose sum accounts for every
    tick.

    \b
    Examples:
      trio-ticks demo                               most ticks are dropped
      trio-ticks demo --strategy-ms 0               none: it keeps up
      trio-ticks demo --overflow drop-oldest        keep the newest instead
      trio-ticks demo --workers 64 --symbols 500    more in parallel
      trio-ticks demo --capture q.gz --speed 100    real bursts, 100 x as fast
      trio-ticks demo --json | jq .dropped          for programs

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: the queue is drained,
                for --shutdown-timeout at most
      130, 143  a second Ctrl-C or SIGTERM ended the draining at once
      1         the run failed
      2         a bad setting
      3         more ticks failed than --max-failure-rate allows
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters)
    only_check = parameters.pop("dry_run")
    options, milliseconds = PipelineOptions.take(parameters), parameters.pop("strategy_ms")
    capture = parameters["capture"]
    if capture and context.get_parameter_source("duration") is click.core.ParameterSource.DEFAULT:
        parameters["duration"] = math.inf
    what = (
        f"{Path(capture).name} x{parameters['speed']:g}"
        if capture
        else f"{parameters['rate']:,.0f}/s"
    )
    display = Display.take(parameters, subtitle=f"demo: {what}, {milliseconds:g} ms a tick")
    settings = options.settings(as_json=display.json)
    arguments = [
        f"--{name}={_text(value)}" for name, value in parameters.items() if value is not None
    ]
    strategy = _strategy(milliseconds, options.executor)
    if only_check:
        feed = WebSocketFeed("ws://127.0.0.1", ["DEMO"])
        return dry_run(
            feed, strategy, settings, (), subtitle=display.subtitle, as_json=display.json
        )
    return trio.run(_run, arguments, strategy, settings, display, capture)


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


class _Damaged:
    """Counts what the exchange cannot read of its recording as the feed's own.

    So a damaged recording is reported here as :class:`~trio_ticks.ReplayFeed` does.

    Args:
        child: the exchange.
        feed: the feed that reads from it.
        capture: the recording; ``None``: there is none.
    """

    def __init__(self, child: ChildExchange, feed: WebSocketFeed, capture: str | None) -> None:
        self._child = child
        self._feed = feed
        self._capture = capture
        self._counted = Damage()
        self._all = trio.Event()

    async def follow(self) -> None:
        """Count until the exchange has read all of it."""
        with suppress(TickError):
            await self._child.wait_finished(self._count)
        self._all.set()

    async def told_all(self) -> None:
        """Wait, for some seconds at most, until all has been counted."""
        if self._capture is not None:
            with trio.move_on_after(_COUNTED_S):
                await self._all.wait()

    def _count(self) -> None:
        before, now = self._counted, self._child.damage
        self._counted = now
        self._feed.stats.malformed += now.malformed - before.malformed
        if now.truncated and not before.truncated:
            event = "capture.truncated"
            log_event(logger, logging.WARNING, event, path=self._capture, lines=now.lines)


async def _run(
    arguments: list[str],
    strategy: Callable[[Tick], Any],
    settings: dict[str, Any],
    display: Display,
    capture: str | None,
) -> int:
    async with open_child_exchange(arguments) as child:
        feed = WebSocketFeed(
            child.hello.url, child.hello.symbols, stale_after=None, reconnect=False, give_up_after=0
        )
        damage = _Damaged(child, feed, capture)
        display = attrs.evolve(display, beside=damage.follow, before_report=damage.told_all)
        try:
            return await run_session(feed, strategy, settings, display)
        except FeedBrokenError:
            with trio.move_on_after(_REASON_S):
                # If the exchange has ended by itself, this raises its own reason.
                await child.wait_finished()  # noqa: ASYNC120
            raise
