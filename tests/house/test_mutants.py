"""Each deliberate bug can be planted as the code is now, and was found.

``python -m tests.mutants`` plants them; that takes its time, so it is no test of the
suite.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs.make_mutants_table import PAGE, written
from tests.mutants.__main__ import RECORDS, known
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, Stale, planted
from tests.mutants.running import ROOT, Copy

LEAST = 40
by_name = pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTANTS) >= LEAST
    assert [name for name, n in Counter(each.name for each in MUTANTS).items() if n > 1] == []


@by_name
def test_it_can_be_planted(mutant: Mutant) -> None:
    """Its text is in the file once, and what comes of it is Python."""
    compile(planted(mutant, (ROOT / mutant.path).read_text()), mutant.file, "exec")


@by_name
def test_its_tests_exist(mutant: Mutant) -> None:
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert not name or re.search(rf"^(?:async )?def {name}\b", text, re.MULTILINE), test


def test_each_was_found_when_it_was_planted_last() -> None:
    results = known(RECORDS)
    verdicts = {each.name: results.get(each.name, {}).get("verdict") for each in MUTANTS}
    missed = {name: verdict for name, verdict in verdicts.items() if verdict != "found"}
    assert missed == {}, "python -m tests.mutants plants them; what survives needs a test"


def test_the_table_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert written(page) == page, "run python docs/make_mutants_table.py"


def example(text: str, after: str = "b") -> Mutant:
    return Mutant(
        name="example",
        file="ledger.py",
        before=text,
        after=after,
        breaks="something",
        tests=("tests/vocabulary/test_ledger.py",),
    )


@pytest.mark.parametrize("text", ["aa", "c"])
def test_a_text_that_is_not_there_once_is_refused(text: str) -> None:
    with pytest.raises(Stale, match="example"):
        planted(example(text), "aa aa")


def test_a_bug_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="changes nothing"):
        example("a", "a")


def test_a_bug_is_planted_found_and_taken_out_again(tmp_path: Path) -> None:
    """The checkout stays as it is, and a bug that no test reaches survives."""
    before = (ROOT / "trio_ticks/ledger.py").read_text()
    copy = Copy(tmp_path / "copy")
    wrong = example("return self.in_channel.total + self.in_pool.total", "return 0")
    tests = ("tests/vocabulary/test_ledger.py",)
    found = copy.run(wrong, tests, 60)
    assert (found.verdict, found.by.partition("::")[0]) == ("found", tests[0]), found.output
    assert copy.run(wrong, ("tests/vocabulary/test_checks.py",), 60).verdict == "survived"
    assert copy.run(None, tests, 60).verdict == "survived"
    assert copy.run(wrong, ("tests/vocabulary/no_such_file.py",), 60).verdict == "broken"
    assert (copy.folder / "trio_ticks/ledger.py").read_text() == before
    assert (ROOT / "trio_ticks/ledger.py").read_text() == before


def test_a_bug_at_which_the_tests_hang_is_not_found(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    hangs = copy.folder / "tests/vocabulary/test_hanging.py"
    hangs.write_text("import time\n\n\ndef test_it() -> None:\n    time.sleep(600)\n")
    outcome = copy.run(example("class Ledger:", "class Ledger: "), (str(hangs),), 5)
    assert (outcome.verdict, outcome.by) == ("hung", "")
