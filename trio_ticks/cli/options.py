"""The options that several commands share: their names, variables and values.

Rules: the environment variable of each option is ``TRIO_TICKS_`` and its name. No
message repeats a value that may hold a secret.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigError
from ..exchange.config import DEFAULT_SYMBOLS
from ..feeds.venues import VENUES
from ..feeds.websocket.connect import Target
from ..observability.logs import LEVELS, configure_logging

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic only since click 8.4
    ParamType = click.ParamType

__all__ = [
    "SECONDS",
    "GroupedCommand",
    "Names",
    "Number",
    "ParamType",
    "SocketUrl",
    "all_of",
    "grouped",
    "log_options",
    "market_options",
    "option",
    "output_options",
    "set_up_logging",
]

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_SYMBOLS = 5000
"""The most symbols that fit into a request to the exchange and a process's argument."""


def option(
    name: str, *, env: tuple[str, ...] = (), **settings: Any
) -> Callable[[Command], Command]:
    """Return a click option that the environment can set too.

    Its variables are ``TRIO_TICKS_<NAME>`` and those of *env*.
    """
    variable = "TRIO_TICKS_" + name.removeprefix("--").upper().replace("-", "_")
    settings.setdefault(
        "show_default", settings.get("default") is not None and not settings.get("is_flag")
    )
    return click.option(name, envvar=[variable, *env], show_envvar=True, **settings)


class GroupedCommand(click.Command):
    """A command whose help shows the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of each group under its title."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for title in sorted(groups, key=lambda title: title == "Options"):
            with formatter.section(title):
                formatter.write_dl(groups[title])


def grouped(title: str) -> type[click.Option]:
    """Return a class of options that a :class:`GroupedCommand` shows under *title*."""

    class Grouped(click.Option):
        group = title

    return Grouped


class Number(ParamType):
    """A number within bounds: never NaN, and infinite only if *infinite* is set."""

    def __init__(
        self,
        unit: str = "number",
        *,
        least: float = 0.0,
        below: float = math.inf,
        whole: bool = False,
        positive: bool = False,
        infinite: bool = False,
    ) -> None:
        self.name = unit
        self.least = least
        self.below = below
        self.whole = whole
        self.positive = positive
        self.infinite = infinite

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if value is True or value is False:  # of a configuration file: Python takes it for 1
            self.fail(f"{str(value).lower()} is not a number.", param, ctx)
        try:
            number: float = int(value) if self.whole else float(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a {'whole ' if self.whole else ''}number.", param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        if number < self.least or (self.positive and number <= 0):
            least = "more than 0" if self.positive else f"{self.least:g} or more"
            self.fail(f"{value!r} is too small: {least}.", param, ctx)
        if number >= self.below and not math.isinf(number):
            self.fail(f"{value!r} is too large: less than {self.below:g}.", param, ctx)
        return number


class Names(ParamType):
    """Symbols by name, separated by commas; with *counted*, also the number of them."""

    def __init__(self, *, counted: bool = False) -> None:
        self.name = "n|a,b,..." if counted else "a,b,..."
        self.counted = counted

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if not isinstance(value, str):
            if not (_is_list(value) and all(isinstance(name, str) and name for name in value)):
                self.fail('write names, at least one: ["AAPL", "MSFT"].', param, ctx)
            return tuple(dict.fromkeys(value))
        if self.counted and value.strip().lstrip("+-").isdecimal():
            number = int(value)
            if not 1 <= number <= MOST_SYMBOLS:
                self.fail(f"{value!r}: between 1 and {MOST_SYMBOLS} symbols.", param, ctx)
            return (
                *DEFAULT_SYMBOLS[:number],
                *(f"SYM{index:05}" for index in range(len(DEFAULT_SYMBOLS) + 1, number + 1)),
            )
        names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        if not all(names):
            self.fail("there is an empty name; write them like AAPL,MSFT.", param, ctx)
        return names


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value)


class SocketUrl(ParamType):
    """A ws:// or wss:// address. Errors do not repeat it: its query may hold a key."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            Target.parse(value)
        except ConfigError as error:
            self.fail(f"{error}; write it like wss://example.com/feed.", param, ctx)
        return str(value)


def all_of(options: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """Return one decorator for several *options*, in the order of the help."""

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


SECONDS = Number("seconds", infinite=True)


def market_options(*, rate: int) -> Callable[[Command], Command]:
    """Return the options of what a local exchange sends; *rate* is the default rate."""
    return all_of(
        [
            option(
                "--rate",
                type=Number("ticks/s", positive=True, infinite=True),
                default=rate,
                help="Ticks a second, of all symbols together.",
            ),
            option(
                "--symbols",
                type=Names(counted=True),
                help="How many symbols, or which ones.  [default: 8, or all of the capture]",
            ),
            option("--seed", type=int, default=0, help="The same seed gives the same ticks."),
            option(
                "--capture",
                type=click.Path(exists=True, dir_okay=False, readable=True),
                help="Play the quotes of this recording instead: messages of a venue, "
                "one a line, gzipped or not.",
            ),
            option(
                "--venue",
                type=click.Choice(list(VENUES)),
                help="Whose protocol to speak, and whose messages the capture holds.  "
                "[default: flat; found from the capture's first lines]",
            ),
            option(
                "--speed",
                type=Number("factor", positive=True, infinite=True),
                default=1,
                help="The capture's own pace times this.",
            ),
        ]
    )


log_options = all_of(
    [
        option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            help="Log lines on standard error, as text or JSON.",
        ),
        option(
            "--log-level",
            type=click.Choice(LEVELS, case_sensitive=False),
            default="warning",
            help="The least important level logged.",
        ),
    ]
)


failure_rate_option = option(
    "--max-failure-rate",
    type=Number("share", below=1),
    help="The share of the handled ticks that may fail, such as 0.01. Beyond it /readyz "
    "answers 503 (by the last 5 s), and the exit code is 3 (by the whole run).  "
    "[default: failures change neither]",
)


def output_options(
    view: str, *, failures: bool = True, more: tuple[tuple[str, str], ...] = ()
) -> Callable[[Command], Command]:
    """Return the options of the output.

    Args:
        view: the default view.
        more: further views, each with what it is.
        failures: whether ticks are handled here, so that their handler may fail.
    """
    return all_of(
        [
            option(
                "--view",
                type=click.Choice([*(name for name, _ in more), "live", "lines", "none"]),
                default=view,
                help=", ".join([*(what for _, what in more), "A live view"]).capitalize()
                + ", lines on standard error, or nothing. Without a terminal, live is lines.",
            ),
            option(
                "--metrics-port",
                type=Number("port", below=65536, whole=True),
                help="Serve /metrics, /healthz and /readyz on this port; "
                "0: any free one.  [default: none]",
            ),
            option(
                "--metrics-symbols",
                type=Number("n", below=1001, whole=True),
                default=0,
                help="How many symbols have metrics of their own, the first to come; "
                "the others are one.",
            ),
            *([failure_rate_option] if failures else []),
            option(
                "--dashboard-port",
                type=Number("port", below=65536, whole=True),
                help="Serve a live page for a browser on this port; 0: any free one.  "
                "[default: none]",
            ),
            option(
                "--bind",
                metavar="ADDRESS",
                default="127.0.0.1",
                help="The address that these ports listen on; 0.0.0.0 in a container, so that "
                "others reach them. They have no password.",
            ),
            option(
                "--allow-host",
                metavar="NAME",
                multiple=True,
                help="A name by which these ports may be reached, such as a proxy's; may be "
                "given again.  [default: those of this machine; with another --bind any]",
            ),
            option(
                "--json",
                is_flag=True,
                help="Write the report as one JSON object, and nothing else, to standard output.",
            ),
            log_options,
        ]
    )


def set_up_logging(parameters: dict[str, Any], secrets: tuple[str, ...] = ()) -> None:
    """Configure logging by the log options, which are taken out of *parameters*."""
    configure_logging(parameters.pop("log_format"), parameters.pop("log_level"), secrets=secrets)
    # At DEBUG, trio-websocket logs addresses with their queries, and requests with
    # their headers: both may hold keys.
    logging.getLogger("trio-websocket").setLevel(logging.INFO)
