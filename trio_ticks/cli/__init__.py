"""The command line ``trio-ticks``: a module for each of its commands.

Rules: a bad setting is one line on standard error and exit code 2, and a run that fails
is one line and exit code 1, never a traceback. With ``--json``, standard output carries
one JSON object and nothing else. No secret is ever shown.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version

import click

from ..errors import ConfigError, TickError
from ..logs import one_line
from ..version import __version__
from .commands import COMMANDS, LazyGroup

__all__ = ["cli", "main"]

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def _show_version(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        python, trio = platform.python_version(), version("trio")
        click.echo(f"trio-ticks {__version__} (Python {python}, trio {trio})")
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Bounded, accountable pipelines between fast market-data feeds and slow
    strategies.

    \b
    Begin with:
      trio-ticks demo                   a feed too fast for its strategy
      trio-ticks demo --strategy-ms 0   a strategy that keeps up

    \b
    Then, with your strategy in mine.py (async def on_tick(tick): ...):
      trio-ticks run --url wss://... --symbols AAPL --handler mine:on_tick

    \b
    Or as two programs with a buffer between them, on any machines:
      trio-ticks ingest --url wss://... --symbols AAPL --buffer 'redis://host?name=ticks'
      trio-ticks work --buffer 'redis://host?name=ticks' --handler mine:on_tick
      trio-ticks lag 'redis://host?name=ticks'

    \b
    Record a feed, see what is in the files, and play them, on a clock that jumps:
      trio-ticks record --venue binance --symbols BTCUSDT --out recordings
      trio-ticks inspect recordings
      trio-ticks replay recordings --handler mine:on_tick --virtual

    \b
    Bars of the past, as CSV or Parquet:
      trio-ticks history BTCUSDT --interval 1h --from 2026-01-01 --venue binance

    \b
    From a recording to the settings of a pipeline:
      trio-ticks plan RECORDING --handler mine:on_tick

    \b
    See whether this machine is ready, and check settings before they run:
      trio-ticks doctor
      trio-ticks run --config ticks.toml --dry-run

    \b
    Watch one that runs with --metrics-port 9464:
      trio-ticks top

    Every option can also be set in the environment: its name is shown in brackets in
    the command's --help.
    """  # noqa: D301 - click needs the very character
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the arguments after the program's name; ``sys.argv[1:]`` unless
            given.
    """
    _open_what_is_closed()
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = f"trio-ticks {words[0]}" if words and words[0] in COMMANDS else "trio-ticks"
    try:
        result = cli.main(
            words,
            prog_name="trio-ticks",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.Abort:
        return _complain("interrupted", EXIT_INTERRUPTED, command)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        named = context.command_path if context is not None else "trio-ticks"
        return _complain(error.format_message() + _variable(error), error.exit_code, named)
    except ConfigError as error:
        return _complain(str(error), EXIT_USAGE, command)
    except TickError as error:
        return _complain(str(error), EXIT_FAILED, command)
    except OSError as error:
        if error.errno != errno.EPIPE:
            return _complain(str(error), EXIT_FAILED, command)
        return EXIT_FAILED
    finally:
        _drop_unwritable()
    return result if isinstance(result, int) else 0


def _open_what_is_closed() -> None:
    """Let standard input and outputs that are closed (``>&-``) lead nowhere.

    Python has ``None`` in their place, and the next file or socket that is opened would
    get the number of one: what a library or a child process writes would go there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the end


def _drop_unwritable() -> None:
    """Drop what an output still holds that has no reader or no room any more.

    Without this, Python would report that once more when it flushes at exit, and end
    with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _variable(error: click.ClickException) -> str:
    """Name the environment variable that a bad value came from, or return ``""``."""
    if not (
        isinstance(error, click.BadParameter)
        and error.ctx is not None
        and error.param is not None
        and error.param.name is not None
    ):
        return ""
    if (
        error.ctx.get_parameter_source(error.param.name)
        is not click.core.ParameterSource.ENVIRONMENT
    ):
        return ""
    names = (
        [error.param.envvar] if isinstance(error.param.envvar, str) else error.param.envvar or ()
    )
    return "".join(f" It was set by {name}." for name in names if os.environ.get(name))


def _complain(message: str, code: int, command: str) -> int:
    more = f" (see {command} --help)" if code == EXIT_USAGE else ""
    with suppress(OSError):  # a closed terminal takes no more
        click.echo(f"{command}: error: {one_line(' '.join(message.split()))}{more}", err=True)
    return code
