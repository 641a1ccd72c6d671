"""``trio-ticks exchange``: a local exchange that serves until it is told to stop."""

from __future__ import annotations

import math
import signal
from typing import Any

import click
import trio

from ..exchange import ClientLimits, Exchange, ExchangeConfig, open_exchange
from .child import Hello, end_with_parent, say
from .options import Number, log_options, market_options, option, set_up_logging

__all__ = ["exchange"]

_DAY_S = 86_400.0
_WHOLE_BURSTS = 1 << 26
"""Bytes: hundreds of thousands of ticks."""


@click.command(short_help="Serve realistic ticks on a local WebSocket.")
@market_options(rate=1000)
@option(
    "--burst", type=Number("share", below=1.0), default=0.5, help="Share of the ticks that earlier ones set off: 0 is even, 0.9 is wild."
)
@option("--loop", is_flag=True, help="Begin the capture anew when it ends.")
@option("--port", type=Number("port", whole=True, below=65536), default=0, help="Port on 127.0.0.1; 0 takes a free one.")
@option("--api-key", help="Let in only who sends this as X-API-Key. Better set it in the environment.")
@option("--ping-interval", type=Number("seconds", positive=True), help="Ping clients this often, in seconds.  [default: never]")
@option("--ping-timeout", type=Number("seconds", positive=True), default=5, help="Disconnect who does not answer a ping, in seconds.")
@click.option("--child", is_flag=True, hidden=True)
@log_options
def exchange(*, child: bool, **parameters: Any) -> int:
    """Serve realistic ticks on a local WebSocket, until Ctrl-C.

    The address is the only line on standard output. It speaks the flat protocol: subscribe with
    {"method": "subscribe", "params": {"symbols": ["SPY"]}, "id": 1}; each tick is one JSON message.

    \b
    Examples:
      trio-ticks exchange --port 8765 --rate 5000 --symbols AAPL,MSFT
      trio-ticks exchange --capture quotes.gz --speed 10 --loop
      trio-ticks run --url ws://127.0.0.1:8765 --symbols AAPL \\
                     --handler mine:on_tick
    """  # noqa: D301 - click wants the very character
    set_up_logging(parameters, secrets=(parameters["api_key"],) if parameters["api_key"] else ())
    if child:
        # Its one client is welcome to take its time: it may be blocked on purpose. And a demo of a recording is to see all of it, though
        # the pipeline's patience leaves it unread for a second at the height of a burst.
        paced = parameters["capture"] is not None and math.isfinite(parameters["speed"])
        size = _WHOLE_BURSTS if paced else ClientLimits().buffer_bytes
        parameters["limits"] = ClientLimits(buffer_bytes=size, slow_timeout_s=None, close_timeout_s=_DAY_S)
    return trio.run(_serve, ExchangeConfig(**parameters), child)


async def _serve(config: ExchangeConfig, child: bool) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_exchange(config) as served, trio.open_nursery() as nursery:
            if child:
                say(Hello(served.url, list(served.symbols)))
                nursery.start_soon(_tell_finished, served)
                nursery.start_soon(_end_with_parent, nursery.cancel_scope)
            else:
                click.echo(served.url)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()
    return 0


async def _tell_finished(served: Exchange) -> None:
    await served.finished.wait()
    say("finished")


async def _end_with_parent(scope: trio.CancelScope) -> None:
    await end_with_parent()
    scope.cancel()
