"""The page on recordings is true: its lines are read, its programs print what it
says.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.handlers.test_handlers_page import DOCS, assert_prints, programs
from tests.worlds.recordings import read_all, write
from trio_ticks.feeds.captures import HEAD_LINES
from trio_ticks.recordings.files import MAX_LINE

PAGE = (DOCS / "recordings.md").read_text()
PROGRAMS = programs(PAGE)


def test_the_lines_that_are_shown_are_quotes(tmp_path: Path) -> None:
    (shown,) = re.findall(r"for example:\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    quotes, reader = read_all(write(tmp_path / "recording", *shown.splitlines()))
    received_ns = 1_723_161_254_000_000_000
    assert [(ns, quote.symbol) for ns, quote in quotes] == [
        (received_ns, "BTCUSDT"),
        (received_ns, "ETHUSDT"),
    ]
    assert (reader.malformed, reader.ignored) == (0, 0)


def test_the_limits_are_those_of_the_code() -> None:
    assert f"first {HEAD_LINES:,} lines" in PAGE
    assert f"more than {MAX_LINE >> 20} MB" in PAGE


@pytest.mark.parametrize(("program", "shown"), PROGRAMS, ids=["pace", "virtual"])
def test_program_prints_what_is_shown(program: str, shown: str, tmp_path: Path) -> None:
    assert_prints(program, shown, tmp_path)
