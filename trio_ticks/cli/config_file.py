"""The option ``--config``: a file in TOML with the values of other options.

Rules: the environment and the command line win over the file. A file with a key or a
value that is wrong is one error, which names the file and the key and repeats no value
that may be a secret. Nothing in a file is silently without effect: a key is an option
of the command, or of another command that takes ``--config``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from .feed_options import Codes
from .options import Names, option
from .pipeline_options import OverflowName

__all__ = ["config_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_BYTES: Final = 1 << 20
_NOT_IN_FILE: Final = frozenset(("config", "dry-run", "help"))


def config_options(command: Command) -> Command:
    """Give *command* the options ``--config`` and ``--dry-run``.

    It has to be the first decorator below that of the command: options are read in the
    order of the decorators, and what is read before the file does not see it.
    """
    command = option(
        "--dry-run",
        is_flag=True,
        help="Only check: say what would run, with which settings and where each is from.",
    )(command)
    return option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE",
        help="A TOML file with options: maxsize = 5000. A table [run] is for that command "
        "alone. Environment and command line win.",
    )(command)


def _read(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Make what *path* says the default of the command's options."""
    if path is None:
        return
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise click.UsageError(f"{path}: larger than {_MOST_BYTES:,} bytes.", ctx)
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}.", ctx) from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: no UTF-8, at byte {error.start}.", ctx) from error
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{path}: no TOML: {error}.", ctx) from error
    options = _options_of(ctx.command)
    values: dict[str, Any] = {}
    for name, (key, value) in _for_this_command(ctx, path, content).items():
        parameter = options.get(name)
        if parameter is not None and parameter.name is not None:
            _check(ctx, path, key, parameter, value)
            values[parameter.name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _spelled(key: str) -> str:
    """Return *key* as the option spells it: ``max_age`` is ``max-age``."""
    return key.replace("_", "-")


def _options_of(command: click.Command) -> dict[str, click.Option]:
    return {
        name: each
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden
        for name in [each.opts[0].removeprefix("--")]
        if name not in _NOT_IN_FILE
    }


def _for_this_command(
    ctx: click.Context, path: Path, content: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """Return what of *content* is for this command: its own table wins.

    By the option's name: the key as it is written, and the value.

    Raises:
        click.UsageError: a key or a table is for no command.
    """
    own = str(ctx.command.name)
    others = {own: _options_of(ctx.command)} | _other_commands(ctx)
    common = {key: value for key, value in content.items() if key not in others}
    everyone = {name for options in others.values() for name in options}
    _check_keys(ctx, path, "", common, everyone, others)
    for name, options in others.items():
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name} is a command, so write a table: [{name}].", ctx)
        _check_keys(ctx, path, f"[{name}] ", table, options, ())
    found = [*common.items(), *content.get(own, {}).items()]
    return {_spelled(key): (key, value) for key, value in found}


def _other_commands(ctx: click.Context) -> dict[str, dict[str, click.Option]]:
    """Return the options of every command that takes ``--config``, by its name."""
    group = None if ctx.parent is None else ctx.parent.command
    if not isinstance(group, click.Group):
        return {}
    found = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and any("--config" in each.opts for each in command.params):
            found[name] = _options_of(command)
    return found


def _check_keys(
    ctx: click.Context,
    path: Path,
    where: str,
    table: Mapping[str, Any],
    known: Iterable[str],
    commands: Iterable[str],
) -> None:
    known = set(known)
    for key in table:
        if _spelled(key) in known:
            continue
        close = get_close_matches(_spelled(key), [*known, *commands], n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise click.UsageError(f"{path}: {where}there is no option '{key[:60]}'{hint}", ctx)


def _check(ctx: click.Context, path: Path, key: str, parameter: click.Option, value: Any) -> None:
    """Check one value as the command line would.

    Raises:
        click.UsageError: it is wrong; the message names the file and the key.
    """
    problem: str | None = None
    is_truth = value is True or value is False
    takes_lists = parameter.multiple or isinstance(parameter.type, Names | Codes)
    if parameter.is_flag != is_truth:
        problem = "write true or false." if parameter.is_flag else "true and false are no values."
    elif parameter.multiple and not isinstance(value, list):
        problem = 'write a list: ["...", "..."].'
    elif isinstance(value, list) and not takes_lists:
        problem = "write one value, not a list."
    elif isinstance(value, dict) and not isinstance(parameter.type, OverflowName):
        problem = "write one value, not a table."
    elif parameter.type is click.STRING and not isinstance(value, str | list):
        problem = 'write a text, in quotes: "...".'
    else:
        try:
            parameter.type_cast_value(ctx, value)
        except click.BadParameter as error:
            problem = error.message
    if problem is not None:
        raise click.UsageError(f"{path}: {key}: {problem}", ctx)
