"""Dead letters: whole lines in bounded files, and no worker waits for them.

What cannot be written to the disk is counted, and raises nowhere.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import (
    EPOCH,
    make_book,
    make_tick,
    make_ticks,
    make_trade,
    number,
    numbers,
)
from tests.worlds.pipeline_world import ScriptFeed, assert_accounted, listed
from trio_ticks.clock import Clock
from trio_ticks.handlers.dead_letters import DeadLetter


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def write(
    path: Path, items: Sequence[Any], error: Exception | None = None, **settings: int
) -> tt.DeadLetterFile:
    with tt.DeadLetterFile(path, **settings) as letters:
        for item in items:
            letters(item, ValueError("x") if error is None else error)
    return letters


def read(path: Path) -> list[DeadLetter]:
    return list(tt.read_dead_letters(path))


GAP = tt.Gap("A", EPOCH, "overflow", 3, EPOCH)
BAR = tt.Bar("A", EPOCH, 60.0, 1.0, 2.0, 0.5, 1.5, 7.0)


# What is in a letter


@pytest.mark.parametrize(
    "item",
    [make_tick(), make_trade(), make_book(snapshot=True), BAR, GAP],
    ids=lambda item: type(item).__name__,
)
def test_items_come_back_as_they_were(item: Any, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    letters = write(tmp_path / "x", [item])
    (letter,) = read(tmp_path / "x")
    assert letter.item == item
    assert type(letter.item) is type(item)
    assert before <= letter.failed_at <= datetime.now(UTC)
    assert (letters.written, letters.lost) == (1, 0)


@pytest.mark.parametrize(
    "item",
    [
        tt.Tick("A", EPOCH, 1.0, 2.0, math.nan, 3.0, math.nan),
        tt.Bar("A", EPOCH, 60.0, 1.0, 2.0, 0.5, 1.5),
    ],
    ids=["tick", "bar"],
)
def test_absent_quantities_come_back_absent(item: Any, tmp_path: Path) -> None:
    write(tmp_path / "x", [item])
    (letter,) = read(tmp_path / "x")
    assert letter.item == item


def test_letters_have_the_time_of_a_clock_that_is_handed_over(tmp_path: Path) -> None:
    with tt.DeadLetterFile(tmp_path / "x") as letters:
        letters.use_clock(Clock(lambda: 5.0, wall_s=EPOCH.timestamp()))
        letters(make_tick(), ValueError("x"))
    assert [letter.failed_at for letter in read(tmp_path / "x")] == [EPOCH]


async def test_a_pipeline_hands_over_its_own(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def script(send: Any) -> None:
        send.clock.begin_at(EPOCH.timestamp())
        await send.send(make_tick(n=1))
        await trio.sleep(7200)
        await send.send(make_tick(n=2))

    async def handler(_tick: tt.Tick) -> None:
        raise ValueError("x")

    await tt.run_pipeline(ScriptFeed(script), handler, on_error=tt.DeadLetterFile(tmp_path / "x"))
    assert [letter.failed_at for letter in read(tmp_path / "x")] == [
        EPOCH,
        EPOCH + timedelta(hours=2),
    ]


_finite = st.floats(allow_nan=False, allow_infinity=False)
_size = st.floats(0, allow_nan=False, allow_infinity=False)
_texts = st.text(min_size=1)


@given(
    st.builds(
        tt.Tick, _texts, st.datetimes(timezones=st.just(UTC)), _finite, _finite, _size, _size, _size
    ),
    st.text(),
)
def test_any_tick_and_any_message_come_back(
    tmp_path_factory: pytest.TempPathFactory, tick: tt.Tick, message: str
) -> None:
    path = tmp_path_factory.mktemp("letters") / "x"
    write(path, [tick], ValueError(message))
    (letter,) = read(path)
    assert letter.item == tick
    assert letter.message == message.encode(errors="backslashreplace").decode()


def test_one_line_each_of_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "x", make_ticks(3))
    lines = (tmp_path / "x").read_text().splitlines()
    assert [json.loads(line)["item"]["volume"] for line in lines] == [0, 1, 2]
    assert set(json.loads(lines[0])) == {
        "failed_at",
        "kind",
        "item",
        "error",
        "message",
        "traceback",
    }


def test_the_traceback_says_where_and_what_caused_it(tmp_path: Path) -> None:
    def lookup() -> None:
        raise KeyError("no such symbol")

    def strategy() -> None:
        try:
            lookup()
        except KeyError as error:
            raise tt.QueueFullError("bad", maxsize=3) from error

    for _ in range(2):
        try:
            strategy()
        except tt.QueueFullError as error:
            write(tmp_path / "x", [make_tick()], error)
    first, again = read(tmp_path / "x")
    assert (first.error, first.message) == ("trio_ticks.errors.QueueFullError", "bad")
    assert first.traceback == again.traceback
    places = [
        first.traceback.rindex(text)
        for text in (
            "in lookup",
            "KeyError: 'no such symbol'",
            "in strategy",
            "QueueFullError: bad",
        )
    ]
    assert places == sorted(places)


def test_one_stack_with_two_messages(tmp_path: Path) -> None:
    """The text of a stack is kept, the message is not."""
    with tt.DeadLetterFile(tmp_path / "x") as letters:
        for n in range(3):
            letters(make_tick(), raised(ValueError(f"message {n}")))
    assert [letter.traceback.splitlines()[-1] for letter in read(tmp_path / "x")] == [
        f"ValueError: message {n}" for n in range(3)
    ]


def test_frames_of_the_library_are_left_out_and_a_groups_members_are_not(tmp_path: Path) -> None:
    async def handler(tick: tt.Tick) -> None:
        raise ExceptionGroup("several", [raised(OSError("one")), raised(OSError("two"))])

    trio.run(
        lambda: tt.run_pipeline(
            listed(make_ticks(1)), handler, on_error=tt.DeadLetterFile(tmp_path / "x")
        )
    )
    (letter,) = read(tmp_path / "x")
    assert letter.traceback.startswith(f'  File "{__file__}"')
    assert "OSError: one" in letter.traceback
    assert "OSError: two" in letter.traceback


def taken_out_of_its_group() -> None:
    try:
        raise ExceptionGroup("several", [ValueError("one"), ValueError("two")])
    except ExceptionGroup as group:
        raise group.exceptions[0]  # noqa: B904 - the group is its context, and holds it


def deep_in_groups() -> None:
    error: Exception = ValueError("one")
    for _ in range(5000):
        error = ExceptionGroup("several", [error])
    raise error


def caused_by_itself() -> None:
    one, other = ValueError("one"), KeyError("other")
    other.__cause__ = one
    raise one from other


@pytest.mark.parametrize("fail", [taken_out_of_its_group, deep_in_groups, caused_by_itself])
async def test_errors_that_hold_each_other_are_written(
    fail: Callable[[], None], tmp_path: Path
) -> None:
    async def handler(tick: tt.Tick) -> None:
        fail()

    letters = tt.DeadLetterFile(tmp_path / "x")
    report = await tt.run_pipeline(listed(make_ticks(3)), handler, on_error=letters)
    assert (report.failed, letters.lost) == (3, 0)
    assert all(fail.__name__ in letter.traceback for letter in read(tmp_path / "x"))


def test_a_wide_tree_of_groups_is_cut_short(tmp_path: Path) -> None:
    def grown(levels: int) -> Exception:
        if not levels:
            return ValueError("leaf")
        return ExceptionGroup("several", [grown(levels - 1) for _ in range(8)])

    write(tmp_path / "x", make_ticks(1), grown(4))
    assert read(tmp_path / "x")[0].traceback.count("ValueError: leaf") < 500


def test_a_name_that_has_no_encoding_is_escaped(tmp_path: Path) -> None:
    class OddError(Exception):
        __module__ = "half\ud800"

    assert write(tmp_path / "x", make_ticks(1), OddError()).lost == 0
    assert read(tmp_path / "x")[0].error.startswith("half\\ud800")


def test_without_a_thread_letters_are_lost_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with tt.DeadLetterFile(tmp_path / "x") as letters:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            letters(make_tick(n=1), ValueError("x"))
            letters(make_tick(n=2), ValueError("x"))
        assert letters.lost == 2
        letters(make_tick(n=3), ValueError("x"))
    assert numbers([letter.item for letter in read(tmp_path / "x")]) == [3]
    assert "can't start new thread" in caplog.text


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@attrs.frozen
class Odd:
    symbol: str
    timestamp: datetime
    payload: Any

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "payload",
    [1 << 100, object(), "\ud800", threading.Lock()],
    ids=["int", "object", "surrogate", "lock"],
)
def test_what_cannot_be_written_down_is_named(payload: object, tmp_path: Path) -> None:
    letters = write(tmp_path / "x", [Odd("A", EPOCH, payload)], Unspeakable())
    (letter,) = read(tmp_path / "x")
    assert letters.lost == 0
    assert letter.error == f"{__name__}.Unspeakable"
    assert letter.message
    assert letter.item


def test_kinds_of_ones_own(tmp_path: Path) -> None:
    @attrs.frozen
    class News:
        symbol: str
        timestamp: datetime
        headline: str

    news = News("A", EPOCH, "up")
    write(tmp_path / "x", [news])
    assert read(tmp_path / "x")[0].item["headline"] == "up"
    # As msgspec does it: a class made in a function cannot resolve the names in its
    # annotations.
    News.__annotations__.update(symbol=str, timestamp=datetime, headline=str)
    assert [letter.item for letter in tt.read_dead_letters(tmp_path / "x", kinds=[News])] == [news]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    with tt.DeadLetterFile(tmp_path / "x", max_bytes=10_000) as letters:
        letters(make_tick(), raised(ValueError("\x00" * 100_000)))
        letters(make_tick(), raised(ValueError("short")))
    assert [len(letter.message) < 1000 for letter in read(tmp_path / "x")] == [True, True]
    assert letters.lost == 0


# Bounds


def test_full_files_are_renamed_and_the_oldest_deleted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    letters = write(path, make_ticks(1000), max_bytes=10_000, backups=2)
    assert {entry.name for entry in tmp_path.iterdir()} == {"x", "x.1", "x.2"}
    assert all(entry.stat().st_size <= 10_000 for entry in tmp_path.iterdir())
    kept = [number(letter.item) for letter in read(path)]
    # The newest, in order and without a hole.
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) > 50
    assert (letters.written, letters.lost) == (1000, 0)


def test_without_backups_a_full_file_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / "x", make_ticks(100), max_bytes=5000, backups=0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").stat().st_size <= 5000
    assert number(read(tmp_path / "x")[-1].item) == 99


def test_letters_are_added_to_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "x", make_ticks(2))
    write(tmp_path / "x", make_ticks(2, first=2))
    assert [number(letter.item) for letter in read(tmp_path / "x")] == [0, 1, 2, 3]


def test_a_letter_that_is_too_large_is_lost_alone(tmp_path: Path) -> None:
    with tt.DeadLetterFile(tmp_path / "x", max_bytes=4096) as letters:
        letters(make_tick("A" * 5000), ValueError())
        letters(make_tick("B"), ValueError())
    assert (letters.written, letters.lost) == (1, 1)
    assert [letter.item.symbol for letter in read(tmp_path / "x")] == ["B"]


# Faults


def test_a_line_that_a_crash_cut_short_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x"
    write(path, make_ticks(2))
    path.write_bytes(path.read_bytes()[:-10])
    write(path, make_ticks(1, first=2))
    assert [number(letter.item) for letter in read(path)] == [0, 2]
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b"3", b'{"kind": "Tick"}', b"\xff", b'{"kind": [], "item": 1}']
)
def test_lines_that_make_no_sense_are_skipped(line: bytes, tmp_path: Path) -> None:
    write(tmp_path / "x", make_ticks(1))
    with (tmp_path / "x").open("ab") as file:
        file.write(line + b"\n")
    write(tmp_path / "x", make_ticks(1, first=1))
    assert [number(letter.item) for letter in read(tmp_path / "x")] == [0, 1]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    if not Path("/dev/full").exists():
        pytest.skip("no device here that is always full")
    path = tmp_path / "x"
    path.symlink_to("/dev/full")
    return path


def test_a_full_disk_is_counted_told_once_and_gets_well(
    full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tt.DeadLetterFile(full) as letters:
        for tick in make_ticks(5):
            letters(tick, ValueError())
            assert letters.flush(30)
        assert (letters.written, letters.lost) == (0, 5)
        full.unlink()
        letters(make_tick("A", 5), ValueError())
    assert (letters.written, letters.lost) == (1, 5)
    assert [number(letter.item) for letter in read(full)] == [5]
    lines = [(record.levelno, record.message.split(":")[0]) for record in caplog.records]
    assert lines == [(logging.ERROR, "dead_letters.lost"), (logging.WARNING, "dead_letters.well")]


async def test_a_full_disk_is_no_concern_of_the_pipeline(full: Path) -> None:
    letters = tt.DeadLetterFile(full)
    report = await tt.run_pipeline(listed(make_ticks(100)), _fail, on_error=letters)
    assert_accounted(report, failed=100)
    assert letters.lost == 100


def test_a_disk_that_hangs_holds_up_nobody_and_memory_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_ticks.handlers.dead_letters.PENDING_BYTES", 20_000)
    works, open_now = threading.Event(), Path.open

    def slow(path: Path, *args: Any, **options: Any) -> Any:
        assert works.wait(30)
        return open_now(path, *args, **options)

    monkeypatch.setattr(Path, "open", slow)
    letters = tt.DeadLetterFile(tmp_path / "x")
    for tick in make_ticks(1000):
        letters(tick, ValueError())
    assert not letters.flush(0.01)
    lost = letters.lost
    assert lost > 800
    works.set()
    assert letters.flush(30)
    assert (letters.written, letters.lost) == (1000 - lost, lost)
    assert [number(letter.item) for letter in read(tmp_path / "x")] == list(range(1000 - lost))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "dead_letters.lost",
        "dead_letters.well",
    ]


@pytest.mark.parametrize(
    "settings", [{"max_bytes": 100}, {"max_bytes": 1e6}, {"backups": -1}, {"backups": True}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(tt.ConfigError, match=next(iter(settings))):
        tt.DeadLetterFile(tmp_path / "x", **settings)


async def test_a_place_where_no_file_can_be_is_told_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "x"):
        with pytest.raises(tt.ConfigError, match="path must be"):
            tt.DeadLetterFile(path)
    with pytest.raises(tt.ConfigError, match="no dead letters"):
        tt.read_dead_letters(tmp_path / "x")
    # If it cannot be written, the pipeline raises at its start, not at its first
    # failure.
    path = tmp_path / "later"
    letters = tt.DeadLetterFile(path)
    path.mkdir()
    with pytest.raises(tt.ConfigError, match="path must be"):
        await tt.run_pipeline(listed(make_ticks(1)), _fail, on_error=letters)


# In a pipeline


async def _fail(tick: tt.Tick) -> None:
    raise ArithmeticError(number(tick))


def _fail_in_thread(tick: tt.Tick) -> None:
    raise ArithmeticError(number(tick))


@pytest.mark.parametrize("handler", [_fail, _fail_in_thread])
async def test_it_is_flushed_when_the_pipeline_ends(handler: Any, tmp_path: Path) -> None:
    report = await tt.run_pipeline(
        listed(make_ticks(500, "ABC")), handler, on_error=tt.DeadLetterFile(tmp_path / "x")
    )
    assert_accounted(report, failed=500)
    letters = read(tmp_path / "x")
    assert sorted(number(letter.item) for letter in letters) == list(range(500))
    assert all(letter.message == str(number(letter.item)) for letter in letters)


async def test_it_is_flushed_when_the_pipeline_is_cancelled(tmp_path: Path) -> None:
    async def handler(tick: tt.Tick) -> None:
        if number(tick) == 3:
            await trio.sleep_forever()
        raise ArithmeticError

    with trio.move_on_after(30) as scope:
        async with tt.open_pipeline(
            listed(make_ticks(5)), handler, on_error=tt.DeadLetterFile(tmp_path / "x"), workers=1
        ) as pipeline:
            while pipeline.ledger.failed < 3:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert [number(letter.item) for letter in read(tmp_path / "x")] == [0, 1, 2]
    assert_accounted(pipeline.report, failed=3, shutdown=2)


async def test_two_pipelines_may_share_one(tmp_path: Path) -> None:
    letters = tt.DeadLetterFile(tmp_path / "x")

    async def run(first: int) -> None:
        await tt.run_pipeline(listed(make_ticks(100, first=first)), _fail, on_error=letters)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 0)
        nursery.start_soon(run, 100)
    assert sorted(number(letter.item) for letter in read(tmp_path / "x")) == list(range(200))


async def test_a_letter_has_the_time_of_the_pipelines_clock(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def failing(_tick: tt.Tick) -> None:
        pipeline.clock.begin_at(1_700_000_000.0)
        await trio.sleep(60)
        raise ValueError

    letters = tt.DeadLetterFile(tmp_path / "letters")
    async with tt.open_pipeline(listed(make_ticks(1)), failing, on_error=letters) as pipeline:
        await pipeline.wait()
    # Virtual time runs ahead of threads: the pipeline may not have waited for this.
    assert letters.flush()
    (letter,) = read(letters.path)
    assert letter.failed_at.timestamp() == pytest.approx(1_700_000_060.0)


async def test_they_can_be_replayed(tmp_path: Path) -> None:
    ticks = [tt.Tick("A", EPOCH + timedelta(seconds=n), 1.0, 2.0, 3.0, 4.0, n) for n in range(10)]
    await tt.run_pipeline(tt.IterableFeed(ticks), _fail, on_error=tt.DeadLetterFile(tmp_path / "x"))
    again: list[tt.Tick] = []

    async def handler(tick: tt.Tick) -> None:
        again.append(tick)

    await tt.run_pipeline(
        tt.IterableFeed(letter.item for letter in tt.read_dead_letters(tmp_path / "x")), handler
    )
    assert again == ticks
    assert numbers(again) == list(range(10))
