"""Write what the tests reach into ``docs/promises.md`` and ``_static/coverage.txt``.

``nox -s coverage`` runs it: ``python docs/make_coverage_table.py REPORT``, with the
report that ``coverage json`` has written. The page gets a row for each room; the text
file names each line and branch that no test has reached.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "promises.md"
LIST = DOCS / "_static" / "coverage.txt"
BEGIN, END = "<!-- begin: written by docs/make_coverage_table.py -->\n", "<!-- end: coverage -->\n"


def room_of(path: str) -> str:
    """Return the room that the file at *path* is in."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 else "(modules of the package itself)"


def stretches(lines: Sequence[int]) -> str:
    """Return *lines* as text, those that follow each other as one."""
    parts = []
    for _, pairs in groupby(enumerate(lines), lambda pair: pair[1] - pair[0]):
        run = [line for _, line in pairs]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def branches(missing: Iterable[tuple[int, int]], lines: Iterable[int]) -> str:
    """Return the branches that start in a line that was reached, as text."""
    unseen = set(lines)
    return ", ".join(
        f"{begin}->{'exit' if end < 0 else end}"
        for begin, end in missing
        if begin not in unseen and end not in unseen
    )


def unreached(files: Mapping[str, Any]) -> str:
    """Return a line for each of *files* with something that no test has reached."""
    rows = []
    for path, file in sorted(files.items()):
        lines = file["missing_lines"]
        parts = [stretches(lines), branches(file["missing_branches"], lines)]
        if text := ", ".join(filter(None, parts)):
            rows.append(f"{path}: {text}\n")
    return "".join(rows)


def table(report: Mapping[str, Any]) -> str:
    """Return a table with a row for each room, and one for all."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    names = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    for path, file in report["files"].items():
        for place, name in enumerate(names):
            counts[room_of(path)][place] += file["summary"][name]
    rows = ["| room | lines | of them run | branches | of them taken |", "|---|---|---|---|---|"]
    whole = [sum(column) for column in zip(*counts.values(), strict=True)]
    for room, (run, lines, taken, ways) in [*sorted(counts.items()), ("**all**", whole)]:
        share = f"{taken / ways:.1%}" if ways else ""
        rows.append(f"| {room} | {lines:,} | {run / lines:.1%} | {ways:,} | {share} |")
    return "\n".join(rows) + "\n"


def written(page: str, report: Mapping[str, Any]) -> str:
    """Return *page* with the table as *report* has it."""
    before, rest = page.split(BEGIN)
    _old, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(report)}\n{END}{after}"


def main(path: Path) -> None:
    """Write both, from the report at *path*."""
    report = json.loads(path.read_text())
    LIST.write_text(unreached(report["files"]))
    PAGE.write_text(written(PAGE.read_text(), report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
