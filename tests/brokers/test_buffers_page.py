"""The page "Write a buffer": its buffer is short. test_doc_blocks.py runs it."""

from __future__ import annotations

from tests.worlds.doc_blocks import ROOT, blocks


def test_the_buffer_of_the_page_is_short() -> None:
    (program,) = [
        block.text for block in blocks([ROOT / "docs" / "buffers.md"]) if block.language == "python"
    ]
    assert "check_buffer" in program
    buffer = program[program.index("class InProcess") : program.index("async def main")]
    assert len(buffer.strip().splitlines()) < 80
