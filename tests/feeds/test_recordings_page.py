"""The page on recordings is true: its lines are read, its limits are the code's.

test_doc_blocks.py runs its programs.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.worlds.doc_blocks import ROOT
from tests.worlds.recordings import read_all, write
from trio_ticks.feeds.captures import HEAD_LINES
from trio_ticks.recordings.files import MAX_LINE

PAGE = (ROOT / "docs" / "recordings.md").read_text()


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
