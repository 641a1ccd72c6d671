"""The page "Write a buffer": its buffer passes check_buffer, and is short."""

from __future__ import annotations

from pathlib import Path

from tests.handlers.test_handlers_page import assert_prints, programs

PAGE = (Path(__file__).parents[2] / "docs" / "buffers.md").read_text()


def test_the_buffer_of_the_page_passes_and_is_short(tmp_path: Path) -> None:
    ((program, shown),) = programs(PAGE)
    assert_prints(program, shown, tmp_path)
    buffer = program[program.index("class InProcess") : program.index("async def main")]
    assert len(buffer.strip().splitlines()) < 80
