"""What ``inspect`` finds in recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.worlds.recorded import HEAD, frames_of, write_frames
from tests.worlds.recordings import (
    COINBASE,
    REAL,
    T0,
    book,
    busy_day,
    flat,
    needs_real,
    trade,
    write,
)
from trio_ticks import ConfigError
from trio_ticks.cli.survey_text import folder_text, plot, survey_text
from trio_ticks.history import surveys
from trio_ticks.history.surveys import Curve, Silence, survey

SECOND = 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def test_a_file_of_any_program(path: Path) -> None:
    found = survey(write(path, book(0), trade(500, "1"), "junk", book(2500, symbol="ETHUSDT")))
    assert found.venue == "binance"
    assert found.items == {"Tick": 2, "Trade": 1}
    assert found.symbols == {"BTCUSDT": 2, "ETHUSDT": 1}
    assert (found.first_ns, found.last_ns) == (T0, T0 + 2_500_000_000)
    assert found.span_s == 2.5
    assert found.rate == pytest.approx(1.2)
    assert found.curve.peak == 2
    assert found.silences[0] == Silence(2 * SECOND, T0 + SECOND // 2)
    assert (found.lines, found.malformed) == (4, 1)
    assert found.is_whole
    assert not found.is_own


def own(*events: bytes, ended: bool = True) -> list[bytes]:
    lines = [book(n).encode() + b"\n" for n in range(0, 3000, 10)]
    pieces = [HEAD, *(b"".join(lines[at : at + 100]) for at in (0, 100, 200))]
    pieces[2] += b"".join(b"%d %s\n" % (T0 + 2 * SECOND, event) for event in events)
    end = [b'%d #closed {"messages":300}\n' % (T0 + 3 * SECOND)] if ended else []
    return frames_of([*pieces, *end])


def test_a_recording_of_our_own_that_is_whole(path: Path) -> None:
    found = survey(write_frames(path, *own(b'#opened {"connection":1}')))
    assert found.is_own
    assert found.closed
    assert found.is_whole
    assert found.count == 300
    text = survey_text(found, top=3, plain=False)
    assert "connection 1 opened" in text
    assert "nothing is damaged or missing" in text


def test_all_that_is_missing_is_said(path: Path) -> None:
    frames = own(
        b'#lost {"connection":1,"reason":"gone \\u001b[31m"}',
        b'#opened {"connection":1,"again":true}',
        b'#dropped {"messages":7,"reason":"buffer"}',
        b'#clock {"step_s":2.5}',
        ended=False,
    )
    frames[1] = frames[1][:50] + b"x" * 50 + frames[1][100:]
    found = survey(write_frames(path, *frames, b"\x28\xb5\x2f\xfd torn"))
    assert not found.is_whole
    assert (found.damages, found.unrecorded, found.truncated, found.closed) == (1, 7, True, False)
    assert found.count == 200
    text = survey_text(found, top=3, plain=True)
    for expected in (
        "DAMAGED in 1 place",
        "CUT OFF",
        "7 messages COULD NOT BE RECORDED",
        r"connection 1 lost: gone \x1b[31m",
        "the wall clock was set by 2.5 s",
    ):
        assert expected in text
    assert text.isascii()
    assert json.loads(json.dumps(found.to_dict()))["whole"] is False


def test_a_recorder_that_was_killed_is_said(path: Path) -> None:
    found = survey(write_frames(path, *own(ended=False)))
    assert not found.is_whole
    assert "NOT CLOSED" in survey_text(found, top=1, plain=True)


def test_several_files_are_a_table_with_sums(tmp_path: Path) -> None:
    first = survey(write_frames(tmp_path / "a", *own()))
    second = survey(write_frames(tmp_path / "b\x1b", *own(ended=False)))
    text = folder_text([second, first], plain=True)
    assert "2 files" in text
    assert "600 items, 1 symbols" in text
    assert text.count("INCOMPLETE") == 1
    assert r"b\x1b:" in text


def test_what_is_no_recording_is_one_clear_error(path: Path) -> None:
    with pytest.raises(ConfigError, match="not a recording"):
        survey(write(path, "no", "messages"))


def test_symbols_beyond_the_most_are_counted_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "MOST_SYMBOLS", 3)
    found = survey(write(path, *(flat(f"S{n}") for n in range(10))))
    assert len(found.symbols) == 3
    assert found.other_symbols == 7
    assert found.count == 10


def test_progress_goes_up_to_the_end(path: Path) -> None:
    seen: list[int] = []
    write(path, *busy_day(20_000))
    survey(path, progress=lambda done, size: seen.append(done * 100 // size))
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_a_curve_has_a_bounded_number_of_points_and_keeps_the_sum() -> None:
    curve = Curve()
    for n in range(20_000):
        curve.add(T0 + n * SECOND, 2)
    assert len(curve.counts) <= 4096
    assert sum(curve.counts.values()) == 40_000
    assert curve.peak == 2
    points = curve.points(64, T0, T0 + 19_999 * SECOND)
    assert len(points) == 64
    assert all(1.8 < point < 2.2 for point in points)
    other = Curve()
    other.add(T0, 5)
    assert sum(Curve.of([curve, other]).counts.values()) == 40_005


@pytest.mark.parametrize("plain", [True, False])
def test_a_plot_is_as_high_as_its_highest_point(plain: bool) -> None:
    rows = plot([0.0, 0.001, 50.0, 100.0], height=4, plain=plain)
    assert len(rows) == 4
    full = "#" if plain else "█"
    assert rows[0] == f"   {full}"
    assert rows[-1][0] == " "
    assert rows[-1][1] not in f" {full}"
    assert rows[-1][2:] == full * 2
    assert plot([], plain=plain) == [""] * 6


@needs_real
@pytest.mark.parametrize(("path", "count", "symbols"), [(REAL, 41_248, 1), (COINBASE, 9_933, 10)])
def test_real_recordings(path: Path, count: int, symbols: int) -> None:
    found = survey(path)
    assert found.count == count
    assert len(found.symbols) == symbols
    assert found.malformed == 0
    assert found.is_whole
