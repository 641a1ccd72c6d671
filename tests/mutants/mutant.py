"""One deliberate bug: a piece of text in one file, and what stands there instead."""

from __future__ import annotations

from pathlib import Path
from typing import final

import attrs

__all__ = ["Mutant", "Stale", "planted"]


class Stale(Exception):
    """The text of a mutant is not in its file, or is there more than once."""


@final
@attrs.frozen(kw_only=True)
class Mutant:
    """A deliberate bug.

    Raises:
        ValueError: nothing is changed, or no tests are named.
    """

    name: str
    """By which it is chosen and reported."""
    file: str
    """The path below ``trio_ticks/``."""
    before: str
    """Text that is in the file exactly once."""
    after: str
    """What stands in its place."""
    breaks: str
    """What goes wrong with it, for a user."""
    tests: tuple[str, ...]
    """Arguments for pytest: the tests that reach the line."""

    def __attrs_post_init__(self) -> None:
        if self.before == self.after or not self.tests:
            raise ValueError(f"the mutant {self.name!r} changes nothing, or names no tests")

    @property
    def path(self) -> Path:
        """The path of the file in a checkout."""
        return Path("trio_ticks", self.file)


def planted(mutant: Mutant, text: str) -> str:
    """Return *text*, the whole file, with the bug in it.

    Raises:
        Stale: the text to replace is not there exactly once.
    """
    count = text.count(mutant.before)
    if count != 1:
        raise Stale(
            f"the text of the mutant {mutant.name!r} is {count} times in {mutant.path}, and must "
            "be there once: write it anew"
        )
    return text.replace(mutant.before, mutant.after)
