"""``trio-ticks exchange``: a local exchange that serves until it gets a signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click
import trio

from ..errors import ConfigError
from ..exchange import ClientLimits, Exchange, ExchangeConfig, open_exchange
from ..exchange.coinbase import CoinbaseConfig, open_coinbase_exchange
from ..exchange.recorded import Damage
from ..exchange.registry import fault_list
from ..logs import one_line
from ..pipeline.signals import hear_signals
from .child import Hello, end_with_parent, say
from .options import Number, log_options, market_options, option, set_up_logging
from .ports import naming

__all__ = ["exchange"]

_DAY_S = 86_400.0
_REPORT_EVERY_S = 0.25
_NAMED = 8
"""How many symbols are named at the start."""
_WHOLE_BURSTS = 1 << 26
"""Buffer size in bytes, for hundreds of thousands of ticks."""


def _show_faults(
    ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    if "list" in value:
        click.echo(fault_list())
        ctx.exit()
    return value


@click.command(short_help="Serve realistic ticks on a local WebSocket.")
@market_options(rate=1000)
@option(
    "--burst",
    type=Number("share", below=1.0),
    default=0.5,
    help="Share of the ticks that earlier ones set off: 0 is even, 0.9 is wild.",
)
@option("--loop", is_flag=True, help="Begin the capture anew when it ends.")
@option(
    "--port",
    type=Number("port", whole=True, below=65536),
    default=0,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@option(
    "--api-key", help="Let in only who sends this as X-API-Key. Better set it in the environment."
)
@option(
    "--fault-every",
    type=Number("n", whole=True, positive=True),
    default=50,
    help="A fault of Kraken or Coinbase that comes now and then comes every so many messages.",
)
@option(
    "--ping-interval",
    type=Number("seconds", positive=True),
    help="Ping clients this often, in seconds.  [default: never]",
)
@option(
    "--ping-timeout",
    type=Number("seconds", positive=True),
    default=5,
    help="Disconnect who does not answer a ping, in seconds.",
)
@option(
    "--fault",
    multiple=True,
    help="A fault that the venue is to have; may be given again. list shows them.",
    callback=_show_faults,
    is_eager=True,
)
@click.option("--child", is_flag=True, hidden=True)
@log_options
def exchange(*, child: bool, fault: tuple[str, ...], **parameters: Any) -> int:
    """Serve realistic ticks on a local WebSocket, until Ctrl-C.

    The address is the only line on standard output; the symbols are on standard error.
    Unless told otherwise by --venue,
    it speaks the flat protocol: subscribe with
    {"method": "subscribe", "params": {"symbols": ["SPY"]}, "id": 1}; each tick is one
    JSON message. With --venue, a capture of Binance, Kraken, TickDB or Coinbase is
    played message by message, in the venue's own words. TickDB and Binance answer over
    REST, too: http:// with the same host and port.

    \b
    Examples:
      trio-ticks exchange --port 8765 --rate 5000 --symbols AAPL,MSFT
      trio-ticks exchange --capture quotes.gz --speed 10 --loop
      trio-ticks exchange --venue kraken --capture kraken.jsonl --speed inf
      trio-ticks exchange --venue tickdb --fault partial --symbols AAPL.US,EURUSD
      trio-ticks exchange --venue kraken --fault wrong-checksum
      trio-ticks run --url ws://127.0.0.1:8765 --symbols AAPL \\
                     --handler mine:on_tick
      trio-ticks exchange --venue coinbase-advanced --fault dropped-message
      trio-ticks exchange --venue binance --port 8765
      trio-ticks history BTCUSDT --venue binance --url http://127.0.0.1:8765 \\
                         --from 2026-03-02
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters, secrets=(parameters["api_key"],) if parameters["api_key"] else ())
    if child and parameters["capture"] is None:
        # The demo's feed speaks the flat protocol.
        parameters["venue"] = None
    if parameters["venue"] in ("coinbase", "coinbase-advanced") and not child:
        return trio.run(_serve_coinbase, _coinbase_config(parameters, fault))
    parameters["faults"] = fault
    if child:
        # The demo's feed speaks the flat protocol.
        parameters["own_words"] = False
        # The demo's client may take its time: its strategy may block on purpose. A
        # recording is to reach it as a whole, though its pipeline may leave the stream
        # unread for a second at the height of a burst.
        paced = parameters["capture"] is not None and math.isfinite(parameters["speed"])
        size = _WHOLE_BURSTS if paced else ClientLimits().buffer_bytes
        parameters["limits"] = ClientLimits(
            buffer_bytes=size, slow_timeout_s=None, close_timeout_s=_DAY_S
        )
    return trio.run(_serve, ExchangeConfig(**parameters), child)


def _coinbase_config(parameters: dict[str, Any], fault: tuple[str, ...]) -> CoinbaseConfig:
    for name in ("loop", "api_key", "ping_interval"):
        if parameters[name]:
            raise ConfigError(f"--{name.replace('_', '-')} is not for --venue coinbase")
    names = ("venue", "rate", "burst", "seed", "capture", "speed", "port", "fault_every")
    settings = {name: parameters[name] for name in names}
    if parameters["symbols"] is not None:
        settings["symbols"] = parameters["symbols"]
    return CoinbaseConfig(**settings, faults=fault)


async def _serve_coinbase(config: CoinbaseConfig) -> int:
    stop = trio.Event()
    with hear_signals(lambda _number, _again: stop.set()):
        async with AsyncExitStack() as stack:
            with naming("--port", config.port):
                served = await stack.enter_async_context(open_coinbase_exchange(config))
            _introduce(served.url, served.symbols, served.config.venue)
            await stop.wait()
    return 0


def _introduce(url: str, symbols: Sequence[str], venue: str) -> None:
    """Write the address, and to standard error how to use it."""
    click.echo(url)
    some = ",".join(map(one_line, symbols[:_NAMED]))
    more = f", and {len(symbols) - _NAMED:,} more" if len(symbols) > _NAMED else ""
    spoken = "" if venue == "flat" else f" --venue {venue}"
    click.echo(
        f"it has {some.replace(',', ', ')}{more}; until Ctrl-C, in another terminal:\n"
        f"  trio-ticks run --url {url}{spoken} --symbols {some} --handler mine:on_tick",
        err=True,
    )


async def _serve(config: ExchangeConfig, child: bool) -> int:
    stop = trio.Event()
    with hear_signals(lambda _number, _again: stop.set()):
        async with AsyncExitStack() as stack:
            with naming("--port", config.port):
                served = await stack.enter_async_context(open_exchange(config))
            nursery = await stack.enter_async_context(trio.open_nursery())
            if child:
                say(Hello(served.url, list(served.symbols)))
                nursery.start_soon(_report_finished, served)
                nursery.start_soon(_end_with_parent, nursery.cancel_scope)
            else:
                _introduce(served.url, served.symbols, served.config.protocol)
            await stop.wait()
            nursery.cancel_scope.cancel()
    return 0


async def _report_finished(served: Exchange) -> None:
    """Tell the parent what of the recording could not be read, and when it is over."""
    told = Damage()
    while not served.finished.is_set():
        with trio.move_on_after(_REPORT_EVERY_S):
            await served.finished.wait()
        if served.damage != told:
            told = served.damage
            say(told)
    say("finished")


async def _end_with_parent(scope: trio.CancelScope) -> None:
    await end_with_parent()
    scope.cancel()
