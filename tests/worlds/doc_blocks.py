"""The code in README and docs: its blocks, and the marks that say how each is tried.

A mark is a comment of HTML right above the block, which no reader sees::

    <!-- doc-test: parsed only: needs a Redis server -->

=========================  =============================================================
``parsed only: REASON``    it is not run; Python is compiled, commands are looked up
``fragment``               no program: it is run among the names of doc_fragments
``then: CODE``             a fragment, behind which CODE is run too
``file: NAME``             the page's commands find it as that file
``continues``              it is run behind the program above it
``until Ctrl-C``           a command that gets a Ctrl-C once it has printed something
``output``                 what the program above prints, if text stands in between
``printed by: COMMAND``    text that the command prints among other lines
``figures differ``         numbers in the output are another machine's
=========================  =============================================================

Several are separated by a semicolon. Text right below a program is what it prints, and
so is what stands below a ``$`` line of a console. A line of it that says ``...`` stands
for any number of lines, and at the end of a line for any end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["PAGES", "ROOT", "Block", "Command", "blocks", "commands", "mismatch"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [page for page in PAGES if page.exists()]

_FENCE = re.compile(
    r"(?:^<!-- doc-test: (?P<marks>[^\n]*?) -->\n\n?)?^(?P<fence>`{3,})(?P<language>[^\n`]*)\n"
    r"(?P<text>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_FIGURE = re.compile(r"[-+]?\d(?:[\d,._:]*\d)?")


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    marks: Mapping[str, str]
    below: Block | None = None
    """The block of Python that this one stands below, if only blank lines or a mark are
    between."""
    above: Block | None = None
    """The last block of Python before this one."""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def program(self) -> str:
        """What is run for a block of Python."""
        if "continues" not in self.marks or self.above is None:
            return self.text
        return self.above.program + self.text

    @property
    def parsed_only(self) -> str | None:
        """Why it is not run."""
        return self.marks.get("parsed only")


@attrs.frozen
class Command:
    """A line of a console, and what it is said to print."""

    line: str
    output: str


def read_marks(text: str | None) -> dict[str, str]:
    """Return the marks by name; of one without a value it is ``""``.

    Raises:
        ValueError: there is no such mark.
    """
    marks: dict[str, str] = {}
    for part in (text or "").split(";"):
        mark = part.strip()
        name, colon, value = mark.partition(": ")
        if mark in ("continues", "figures differ", "fragment", "output", "until Ctrl-C"):
            marks[mark] = ""
        elif colon and name in ("file", "parsed only", "printed by", "then"):
            marks[name] = value
        elif mark:
            raise ValueError(f"no such mark: {mark}")
    return marks


def blocks(pages: Sequence[Path] = PAGES) -> Iterator[Block]:
    """Yield the fenced blocks of *pages*, but not MyST's directives."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        program: Block | None = None
        above: Block | None = None
        end = 0
        for match in _FENCE.finditer(text):
            language = match["language"].strip()
            marks = read_marks(match["marks"])
            line = text.count("\n", 0, match.start("fence")) + 1
            close = not text[end : match.start()].strip() or "output" in marks
            block = Block(
                page.relative_to(ROOT).as_posix(),
                line,
                language,
                match["text"],
                marks,
                program if close else None,
                above,
            )
            if language == "python":
                program = above = block
            elif not language.startswith("{"):
                program = program if "output" in marks else None
            end = match.end()
            if not language.startswith("{"):
                yield block


def commands(console: str) -> list[Command]:
    """Return the commands of a block of a console."""
    found: list[Command] = []
    for line in console.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Command(line[2:].rstrip("\n"), ""))
        elif not found:
            raise ValueError(f"a console begins with a command: {line!r}")
        else:
            found[-1] = Command(found[-1].line, found[-1].output + line)
    return found


def mismatch(shown: str, printed: str, *, figures_differ: bool = False) -> str | None:
    """Return how *printed* differs from what a page shows, or ``None``."""

    def plain(text: str) -> list[str]:
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        if figures_differ:
            lines = [" ".join(_FIGURE.sub("#", line).split()) for line in lines]
        return lines

    def pattern_of(line: str) -> str:
        if line == "...":
            return r"(?:.*\n)*?"
        start = line.removesuffix("...").rstrip()
        return re.escape(start) + (".*" if line.endswith("...") else "") + r"\n"

    pattern = "".join(map(pattern_of, plain(shown)))
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in plain(printed))):
        return None
    return f"the page shows\n{shown}\nand it printed\n{printed}"
