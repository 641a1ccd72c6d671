"""Finds the user's own functions and classes, ``module:name``."""

from __future__ import annotations

import builtins
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from difflib import get_close_matches
from functools import reduce
from typing import Any

import click

from ..errors import ConfigError
from ..feeds.venues import VENUES, find_language
from ..handlers.kinds import resolve_executor

__all__ = [
    "load_callback",
    "load_exceptions",
    "load_handler",
    "load_strategy",
    "load_venue",
    "venue_list",
]


def _load(where: str, example: str) -> Any:
    """Return the object at *where*; modules of the current directory are found too.

    Raises:
        click.BadParameter: there is none; the message says what to change.
    """
    module_name, colon, path = where.partition(":")
    if not (module_name and colon and path):
        raise click.BadParameter(f"{where!r} is not like {example}.")
    if "/" in module_name:
        raise click.BadParameter(f"{module_name!r} is no name of a module{_written_as(where)}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (
            module_name == error.name or module_name.startswith(f"{error.name}.")
        ):
            raise click.BadParameter(
                f"there is no module {error.name!r}, "
                f"neither installed nor in the current directory{_written_as(where)}."
            ) from error
        raise click.BadParameter(
            f"module {module_name!r} needs {error.name!r}, which is not installed."
        ) from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise click.BadParameter(
            f"module {module_name!r} fails when imported: {type(error).__name__}: {error}{place}."
        ) from error
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError as error:
        names = [name for name in vars(module) if not name.startswith("_")]
        close = get_close_matches(path, names, n=1)
        meant = f"; did you mean {module_name}:{close[0]}?" if close else "."
        raise click.BadParameter(f"module {module_name!r} has no {path!r}{meant}") from error


def _written_as(where: str) -> str:
    """Return how to write *where*, if it is the path of a file."""
    file, _, path = where.partition(":")
    module = file.removeprefix("./").removesuffix(".py").replace("/", ".")
    if module == file or not all(map(str.isidentifier, module.split("."))):
        return ""
    return f": of a file take its name as a module, {module}:{path}"


def load_handler(where: str, executor: str = "auto") -> Callable[..., Any]:
    """Return the handler at *where*, ``module:name``: a function, a class, an object.

    Modules of the current directory are found too.

    Raises:
        click.BadParameter: there is none, or it cannot be a handler with *executor*;
            the message says what to change.
    """
    handler: Callable[..., Any] = _load(
        where, "module:function or module:Class, for example mine:on_tick"
    )
    try:
        resolve_executor(executor, handler)
    except ConfigError as error:
        raise click.BadParameter(f"{where!r}: {error}.") from error
    return handler


def load_strategy(where: str, executor: str, *, as_json: bool) -> Callable[..., Any]:
    """Return the handler of the option ``--handler``.

    Args:
        where: as for :func:`load_handler`.
        executor: as there.
        as_json: whether standard output is for a report, so that what the module
            prints when it is imported must not go there.

    Raises:
        click.BadParameter: as there, with the option's name.
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        try:
            return load_handler(where, executor)
        except click.BadParameter as error:
            raise _bad(error.message, "--handler") from error


def load_callback(where: str, option: str, *, as_json: bool) -> Callable[..., Any]:
    """Return the function at *where*, ``module:name``, for another *option*.

    Args:
        where: as for :func:`load_handler`.
        option: its name, for errors.
        as_json: as for :func:`load_strategy`.

    Raises:
        click.BadParameter: there is none; the message says what to change.
    """
    found = _load_for(option, where, "module:function, for example mine:on_gap", as_json=as_json)
    if not callable(found):
        raise _bad(f"{where!r} is no function.", option)
    function: Callable[..., Any] = found
    return function


def load_exceptions(
    names: Sequence[str], option: str, *, as_json: bool
) -> tuple[type[Exception], ...]:
    """Return the classes of exceptions with these *names*.

    Args:
        names: those of Python, such as ``TimeoutError``, or ``module:Name``.
        option: which one they stand in, for errors.
        as_json: as for :func:`load_strategy`.

    Raises:
        click.BadParameter: one is none; the message says what to change.
    """
    found: list[Any] = [
        _load_for(option, name, "module:Class", as_json=as_json)
        if ":" in name
        else getattr(builtins, name, None)
        for name in names
    ]
    for name, kind in zip(names, found, strict=True):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise _bad(
                f"{name!r} is no class of exceptions: write TimeoutError or another one of "
                "Python's, or module:Class, for example mine:Busy.",
                option,
            )
    return tuple(found)


def _load_for(option: str, where: str, example: str, *, as_json: bool) -> Any:
    """Return the object at *where*; what its module prints does not spoil a report."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        try:
            return _load(where, example)
        except click.BadParameter as error:
            raise _bad(error.message, option) from error


def _bad(message: str, option: str) -> click.BadParameter:
    context = click.get_current_context(silent=True)
    return click.BadParameter(message, context, param_hint=f"'{option}'")


def load_venue(where: str) -> Any:
    """Return the venue *where*: a known name, or a codec class, ``module:name``.

    Raises:
        click.BadParameter: there is none; the message says what to change.
    """
    venue = where
    if ":" in where:
        venue = _load(where, "a venue's name or module:Class, for example mine:MyCodec")
    try:
        find_language(venue)
    except ConfigError as error:
        raise click.BadParameter(f"{error}; --venue list shows all.") from error
    return venue


def venue_list() -> str:
    """Return the known venues, a line each: name, channels, and what it is."""
    lines = []
    width = max(10, *map(len, VENUES))
    for name in sorted(VENUES):
        language = find_language(name)
        about = (VENUES[name].__doc__ or "").strip().partition("\n")[0]
        channels = ", ".join(language.all_channels)
        lines.append(f"{name:<{width}} {about}" + (f" Channels: {channels}." if channels else ""))
    return "\n".join(lines)
