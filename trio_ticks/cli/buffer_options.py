"""The option ``--buffer``: which buffer between processes, by its URL.

Rules: whatever holds a password is shown without it. The environment variable exists so
that no password need stand where other users can see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import click

from ..brokers import from_url, secrets_of, shown
from ..buffer import Buffer
from ..errors import ConfigError
from ..logs import Redactor
from .options import ParamType, option

__all__ = ["BufferAt", "BufferUrl", "buffer_argument", "buffer_option", "warn_of_password"]


@attrs.frozen
class BufferAt:
    """A buffer, and what of its URL may be shown."""

    buffer: Buffer = attrs.field(repr=False)
    shown: str
    secrets: tuple[str, ...] = attrs.field(repr=False)


class BufferUrl(ParamType):
    """The URL of a buffer. Errors do not repeat it: it may hold a password."""

    name = "url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BufferAt:
        if isinstance(value, BufferAt):
            return value
        url = str(value)
        secrets = secrets_of(url)
        try:
            return BufferAt(from_url(url), shown(url), secrets)
        except ConfigError as error:
            self.fail(f"{Redactor(secrets).text(str(error))}.", param, ctx)


def buffer_option(*, required: bool) -> Callable[[Any], Any]:
    """Return the option; without it, if it is not *required*, there is no buffer."""
    return option(
        "--buffer",
        type=BufferUrl(),
        required=required,
        help="The buffer between processes: redis://host:6379/0?name=ticks, "
        "kafka://host:9092/ticks or zmq+tcp://host:5555. Set it in the environment if it "
        "holds a password: other users can see command lines."
        + ("" if required else "  [default: none, ticks stay in this process]"),
    )


def buffer_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the buffer's URL, for a command that is about a buffer and nothing else."""

    def given(_ctx: click.Context, _param: click.Parameter, value: BufferAt | None) -> BufferAt:
        if value is None:
            raise click.UsageError(
                "say which buffer: give its URL, such as redis://host:6379/0?name=ticks in "
                "quotes, or set TRIO_TICKS_BUFFER"
            )
        return value

    return click.argument(
        "buffer",
        type=BufferUrl(),
        required=False,
        envvar="TRIO_TICKS_BUFFER",
        metavar="[URL]",
        callback=given,
    )(command)


def warn_of_password(buffer: BufferAt) -> None:
    """Warn if the password of *buffer* stands on the command line."""
    source = click.get_current_context().get_parameter_source("buffer")
    if buffer.secrets and source is click.core.ParameterSource.COMMANDLINE:
        click.echo(
            "warning: other users of this machine can see the password in --buffer; "
            "set TRIO_TICKS_BUFFER in the environment instead",
            err=True,
        )
