"""A dead-letter file that cannot be rotated keeps what it has."""

from __future__ import annotations

from pathlib import Path

import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_tick


def test_what_was_written_before_the_disk_was_full_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tt.DeadLetterFile(tmp_path / "f.jsonl", max_bytes=4096, backups=1)

    def no_rotation(_path: Path, _target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", no_rotation)
    with dead:
        for n in range(40):
            dead(make_tick("A", n), ValueError("x"))
        dead.flush()
    lines = len((tmp_path / "f.jsonl").read_bytes().splitlines())
    assert 0 < lines < 40
    assert (dead.written, dead.lost) == (lines, 40 - lines)
