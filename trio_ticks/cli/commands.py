"""The commands of ``trio-ticks``, each imported when it is asked for.

Rules: the table has what ``trio-ticks --help`` shows, so that it imports no command and
with it no feed, broker or pipeline. A test compares it with the commands.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, Final, final

import click

__all__ = ["COMMANDS", "LazyGroup"]

COMMANDS: Final[dict[str, str]] = {
    "convert": "Make Parquet files of recordings.",
    "demo": "Run a pipeline against a local exchange that is too fast for it.",
    "doctor": "Check this machine: packages, limits, clock, cores.",
    "exchange": "Serve realistic ticks on a local WebSocket.",
    "history": "Fetch bars of the past, as CSV or Parquet.",
    "ingest": "Bring a feed into a buffer between processes.",
    "inspect": "Show what is in recordings, and what is missing.",
    "lag": "Show how far the workers of a buffer are behind.",
    "plan": "Find the settings for a strategy, from a recording.",
    "record": "Record a feed, to play it again.",
    "replay": "Run a strategy of yours on a recording.",
    "retire": "Keep nothing more for a group of workers that is gone for good.",
    "run": "Run a strategy of yours on a real feed.",
    "top": "Watch a running pipeline that serves its metrics.",
    "work": "Run a strategy of yours on a buffer between processes.",
}
"""Each command with its short help; the module and the function have the same name."""


@final
class _Commands(MutableMapping[str, click.Command]):
    """The commands by name; one is imported when it is read."""

    def __init__(self) -> None:
        self._more: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._more:
            if name not in COMMANDS:
                raise KeyError(name)
            module = import_module(f".{name}", __package__)
            self._more[name] = getattr(module, name)
        return self._more[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._more[name] = command

    def __delitem__(self, name: str) -> None:
        del self._more[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**COMMANDS, **self._more})

    def __len__(self) -> int:
        return len({**COMMANDS, **self._more})


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and none to show its help."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.commands = _Commands()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in sorted(COMMANDS)])
