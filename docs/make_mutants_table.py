"""Write the table of the deliberate bugs into ``docs/mutants.md``.

Run it in a checkout: ``python docs/make_mutants_table.py``. The results are those that
``python -m tests.mutants`` has written down in ``docs/_static``. A test fails while the
table is out of date.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.mutants.__main__ import RECORDS, known  # noqa: E402
from tests.mutants.catalogue import MUTANTS  # noqa: E402

PAGE = Path(__file__).parent / "mutants.md"
BEGIN, END = "<!-- begin: written by docs/make_mutants_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """Return the table: each bug, where it is, and the test that found it."""
    found = known(RECORDS)
    rows = ["| what goes wrong | planted in | found by | after |", "| --- | --- | --- | --- |"]
    for mutant in MUTANTS:
        result = found.get(mutant.name, {"verdict": "not planted yet", "by": "", "seconds": 0})
        file, _, test = str(result["by"]).partition("::")
        by = f"`{file}::{test.partition('[')[0]}`" if test else f"**{result['verdict']}**"
        rows.append(
            f"| {mutant.breaks} | `{mutant.file}` | {by} | {float(result['seconds']):.0f} s |"
        )
    caught = sum(found.get(each.name, {}).get("verdict") == "found" for each in MUTANTS)
    head = f"{caught} of {len(MUTANTS)} were found.\n"
    return "\n".join([head, *rows]) + "\n"


def written(page: str) -> str:
    """Return *page* with the table as it is now."""
    before, rest = page.split(BEGIN)
    _old, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
