"""``trio-ticks doctor``: what is installed and missing, and what would trip a user."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import attrs
import click

from ..logs import one_line
from .doctor_checks import Finding, findings
from .options import option
from .report import json_line

__all__ = ["doctor"]

_MARKS: Final = {"ok": " ", "note": "-", "bad": "!"}
_FOUND_BAD: Final = 1


@click.command(short_help="Check this machine: packages, limits, clock, cores.")
@option("--json", is_flag=True, help="Write one JSON object to standard output.")
@click.pass_context
def doctor(context: click.Context, /, *, json: bool) -> int:
    """Look at what is installed and at this machine's limits, and say what may trip
    you, and what to do about it.

    Nothing is changed or connected. Please add what it says to a report of a bug.

    \b
    The first character of a line:
      -   may matter to you
      !   something will not work

    \b
    Examples:
      trio-ticks doctor
      trio-ticks doctor --json

    \b
    Exit codes:
      0  nothing marked with !
      1  something will not work
    """  # noqa: D301 - click needs the very character
    found = findings(_variables(context))
    bad = sum(each.state == "bad" for each in found)
    if json:
        click.echo(json_line({"ok": not bad, "findings": [attrs.asdict(each) for each in found]}))
    else:
        _write(found)
        notes = sum(each.state == "note" for each in found)
        click.echo(f"\n{bad} will not work, {notes} may matter to you.")
    return _FOUND_BAD if bad else 0


def _write(found: list[Finding]) -> None:
    width = max(len(each.name) for each in found)
    for topic, group in groupby(found, key=lambda each: each.topic):
        click.echo(f"{topic}:")
        for each in group:
            click.echo(
                f"{_MARKS[each.state]} {one_line(each.name):<{width}}  {one_line(each.value)}"
            )
            if each.advice:
                click.echo(f"  {'':<{width}}    {one_line(each.advice)}")


def _variables(context: click.Context) -> set[str]:
    """Return the environment variables that an option of any command reads."""
    group = None if context.parent is None else context.parent.command
    commands = (
        [group.get_command(context, name) for name in group.list_commands(context)]
        if isinstance(group, click.Group)
        else [context.command]
    )
    found: set[str] = set()
    for command in commands:
        for parameter in [] if command is None else command.params:
            names = parameter.envvar
            found.update([names] if isinstance(names, str) else names or ())
    return found
