"""The option ``--dry-run``: check what would run, and say where each setting is from.

Rules: nothing is connected, opened or started. No secret is shown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import click
import trio
from click.core import ParameterSource

from ..feeds.base import Feed
from ..handlers.kinds import Handler
from ..logs import Redactor, one_line
from ..pipeline.opening import check_pipeline
from .buffer_options import BufferAt
from .report import json_line

__all__ = ["dry_run"]

_WORDS: Final = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.DEFAULT_MAP: "configuration file",
}
_MOST_TEXT: Final = 60


def dry_run(
    feed: Feed | None,
    handler: Handler[Any] | None,
    settings: dict[str, Any],
    secrets: Sequence[str],
    *,
    subtitle: str,
    as_json: bool,
) -> int:
    """Check what a command would run, and write its settings to standard output.

    Args:
        feed: as for :func:`~trio_ticks.open_pipeline`.
        handler: as there.
        settings: its further arguments.
        secrets: what must not be shown.
        subtitle: a few words about the run.
        as_json: whether to write one JSON object.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: it would not run; the message says what to change.
    """
    trio.run(_check, feed, handler, settings)
    context = click.get_current_context()
    redact = Redactor(secrets).text
    rows = [
        (parameter.opts[0], redact(_shown(parameter, value)), source)
        for parameter, value, source in _values(context)
    ]
    if as_json:
        shown = {
            "command": context.command.name,
            "runs": redact(subtitle),
            "options": {
                name.removeprefix("--"): {"value": value, "from": source}
                for name, value, source in rows
            },
        }
        click.echo(json_line(shown))
        return 0
    click.echo(f"{context.command_path} would run: {one_line(redact(subtitle))}")
    given = [row for row in rows if row[2] != "default"]
    width = max([len(name) for name, _value, _source in given], default=0)
    wide = max([len(value) for _name, value, _source in given], default=0)
    for name, value, source in given:
        click.echo(f"  {name:<{width}}  {value:<{wide}}  ({source})")
    rest = len(rows) - len(given)
    click.echo(f"  {rest} other options have their defaults (see {context.command_path} --help)")
    click.echo("All of it fits together. Nothing was connected or started.")
    return 0


async def _check(feed: Feed | None, handler: Handler[Any] | None, settings: dict[str, Any]) -> None:
    check_pipeline(feed, handler, **settings)


def _values(context: click.Context) -> list[tuple[click.Option, Any, str]]:
    """Return the options with their values, and where each value is from."""
    found = []
    for parameter in context.command.params:
        name = parameter.name
        if not isinstance(parameter, click.Option) or name is None or parameter.hidden:
            continue
        if parameter.opts[0] in ("--dry-run", "--config", "--help"):
            continue
        source = context.get_parameter_source(name)
        word = "default" if source is None else _WORDS.get(source, "default")
        if source is ParameterSource.ENVIRONMENT:
            word = _variable(parameter)
        found.append((parameter, context.params.get(name), word))
    return found


def _variable(parameter: click.Option) -> str:
    """Return the name of the environment variable that *parameter* was read from."""
    names = parameter.envvar if isinstance(parameter.envvar, list | tuple) else ()
    return next((name for name in names if os.environ.get(name)), "environment")


def _shown(parameter: click.Option, value: Any) -> str:
    if isinstance(value, BufferAt):
        return one_line(value.shown)
    if isinstance(value, tuple | list):
        text = ",".join(":".join(each) if isinstance(each, tuple) else str(each) for each in value)
    elif isinstance(value, dict):
        text = ",".join(f"{key}={each}" for key, each in value.items())
    else:
        text = "" if value is None else str(value)
    text = one_line(text)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."
