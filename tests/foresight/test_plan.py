"""From a recording and a handler to settings: measured and simulated for real."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.recordings import T0, flat, write
from trio_ticks.foresight.host import OthersLoad
from trio_ticks.foresight.past import read_past
from trio_ticks.history.tables import COLUMNS

QUICKLY: dict[str, Any] = {"measure_s": 0.5, "busy_host": True, "processes": 1}
seen_replaying: set[bool] = set()


async def waits(tick: tt.Tick) -> None:
    seen_replaying.add(tt.replaying())
    await trio.sleep(0.002)


def blocks(tick: tt.Tick) -> None:
    seen_replaying.add(tt.replaying())
    time.sleep(0.002)


async def computes(tick: tt.Tick) -> None:
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass


async def raises(tick: tt.Tick) -> None:
    raise ValueError("<b>no</b>")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a recording of 2,000 ticks in 4 s, of four symbols, with a burst."""
    lines = []
    for n in range(2000):
        at_ns = T0 + (n * 2_000_000 if n < 1000 else 2_000_000_000 + (n - 1000) * 2_000_000)
        if 1000 <= n < 1100:
            at_ns = T0 + 2_000_000_000
        lines.append(f"{at_ns} {flat('ABCD'[n % 4], volume=n)}")
    return write(tmp_path / "recording", *lines)


def test_settings_are_found_that_meet_the_target(recording: Path) -> None:
    seen_replaying.clear()
    told: list[str] = []
    plan = tt.plan(
        recording,
        waits,
        p99_lag=0.2,
        executor="loop",
        progress=lambda what, _done, _all: told.append(what),
        **QUICKLY,
    )
    assert seen_replaying == {True}
    assert not tt.replaying()
    assert {"reading", "looking at the machine", "simulating settings"} <= set(told)
    assert plan.advice.met
    assert plan.predicted.drop_rate == 0
    assert plan.predicted.p99_lag_s <= 0.2
    assert plan.ticks == 2000
    assert plan.symbols == dict.fromkeys("ABCD", 500)
    (measured,) = {each.executor for each in plan.measured}
    assert measured == "loop"
    assert plan.measured[0].mean_s >= 0.002
    assert not plan.measured[0].failed
    # The burst has to fit.
    assert plan.advice.maxsize > 50
    assert plan.lag_interval.low <= plan.predicted.p99_lag_s <= plan.lag_interval.high
    assert [each.factor for each in plan.growth] == [1.0, 2.0, 5.0, 10.0]
    assert plan.growth[3].unchanged.p99_lag_s > plan.growth[0].unchanged.p99_lag_s
    assert plan.losers_factor == 10
    assert set(plan.losers) == set("ABCD")
    assert plan.classic_maxsize == pytest.approx(5 * 2 * plan.rate, rel=0.01)


def test_a_higher_rate_takes_no_workers_that_could_not_be_busy(tmp_path: Path) -> None:
    # One symbol has two ticks for each that a worker gets through in its order.
    lines = [f"{T0 + n * 1_000_000} {flat('A' if n % 8 else 'B', volume=n)}" for n in range(3000)]
    recording = write(tmp_path / "hot", *lines)
    plan = tt.plan(recording, waits, p99_lag=0.2, executor="loop", **QUICKLY)
    assert plan.advice.overflow == tt.Conflate()
    assert plan.advice.met
    # In order by symbol, two symbols keep two workers busy at most.
    assert max(row.workers for row in plan.table) <= 2
    for each in plan.growth:
        assert each.unchanged.meets(plan.target)
        # The settings that are advised do: so it takes no others.
        assert (each.workers, each.maxsize) == (plan.advice.workers, plan.advice.maxsize)


def test_the_advice_can_be_given_to_a_pipeline(recording: Path) -> None:
    plan = tt.plan(recording, blocks, p99_lag=0.5, executor="thread", workers=4, **QUICKLY)
    assert plan.measured[0].executor == "thread"
    assert seen_replaying == {True}

    async def main() -> tt.PipelineReport:
        feed = tt.IterableFeed(())
        return await tt.run_pipeline(feed, blocks, signals=False, **plan.advice.settings())

    assert trio.run(main).produced == 0


def test_a_handler_that_computes_is_found_out(recording: Path) -> None:
    plan = tt.plan(recording, computes, executor="loop", factor=10, workers=(1, 4), **QUICKLY)
    assert plan.measured[0].computes
    assert any("The handler computes" in note for note in plan.notes)
    # It cannot keep up with ten times the rate: the newest quotes are what it can do.
    assert plan.strategies[0].drop_rate > 0
    assert plan.advice.overflow == tt.Conflate()
    assert plan.predicted.conflated_rate > 0
    # Four workers are no better than one.
    lags = {(row.workers, row.maxsize): row.p99_lag_s for row in plan.table}
    for (workers, size), lag_s in lags.items():
        assert lag_s == pytest.approx(lags[1, size], rel=0.05), (workers, size)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href")
            assert value is None or "http" not in value
        if tag not in ("meta", "line", "circle", "polygon", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "circle", "polygon", "polyline"):
            return
        assert self.open.pop() == tag


def test_texts_json_and_page_say_the_same(recording: Path, tmp_path: Path) -> None:
    plan = tt.plan(recording, waits, executor="loop", verify=2, verify_s=0.5, **QUICKLY)
    text, plain = str(plan), json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert f"workers={plan.advice.workers}," in text
    assert plain["advice"]["workers"] == plan.advice.workers
    assert plain["measured"][0]["timed"] == plan.measured[0].timed
    assert "busy" not in plain["measured"][0]
    assert len(plan.verified) == 2
    # Of 251, but for the first of as many of the four symbols as there are workers.
    played = 251 - min(plan.advice.workers, 4)
    assert all(run.ticks == played for run in plan.verified)
    assert "run 2" in text
    plan.save_html(tmp_path / "plan.html")
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert {"svg", "table", "figure"} <= tags.seen
    assert "script" not in tags.seen
    assert f"maxsize={plan.advice.maxsize}," in page


def test_one_seed_gives_one_prediction(recording: Path) -> None:
    """All chance after the measuring comes from the seed."""
    past = read_past(recording, seed=3)
    again = read_past(recording, seed=3)
    assert past == again


def of(count: int, tmp_path: Path) -> Path:
    lines = [f"{T0 + n * 1_000_000} {flat('ABC'[n % 3], volume=n)}" for n in range(count)]
    return write(tmp_path / "many", *lines)


def test_the_sample_is_bounded_and_in_stretches(tmp_path: Path) -> None:
    past = read_past(of(12_345, tmp_path))
    assert len(past.load) == 12_345
    assert len(past.sample) == 8000
    numbers = [int(tick.volume) for tick in past.sample]
    assert numbers == sorted(numbers)
    assert numbers[:500] == list(range(numbers[0], numbers[0] + 500))
    assert past.load.names == ("A", "B", "C")
    assert past.load.rate == pytest.approx(1000)
    assert len(read_past(of(700, tmp_path)).sample) == 700


def test_times_never_go_back(tmp_path: Path) -> None:
    lines = [
        f"{T0 + at} {flat(volume=n)}" for n, at in enumerate((0, 5_000_000, 1_000_000, 9_000_000))
    ]
    past = read_past(write(tmp_path / "stepped", *lines))
    assert list(past.load.times) == [0.0, 0.005, 0.005, 0.009]


def bars(path: Path, rows: int = 3) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for n in range(rows):
            writer.writerow(
                ("BTC", f"2026-03-02T00:0{n}:00Z", "60", "1", "2", "0.5", "1.5", "", "true")
            )
        writer.writerow(("BTC", "no time", "60", "1", "2", "0.5", "1.5", "", "true"))
    return path


def test_bars_come_when_they_close_and_have_no_bursts(tmp_path: Path) -> None:
    path = bars(tmp_path / "bars.csv")
    past = read_past(path)
    assert past.bars
    assert past.unreadable == 1
    assert list(past.load.times) == [0.0, 60.0, 120.0]
    assert all(isinstance(item, tt.Bar) for item in past.sample)

    async def on_bar(bar: tt.Bar) -> None:
        await trio.sleep(0.001)

    plan = tt.plan(path, on_bar, executor="loop", **QUICKLY)
    assert plan.bars
    assert plan.advice.met
    assert any("bars have no bursts" in note for note in plan.notes)


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from trio_ticks.history.tables import open_table

    past = read_past(bars(tmp_path / "bars.csv"))
    with open_table(tmp_path / "bars.parquet") as table:
        for bar in past.sample:
            table.write(bar)
    assert read_past(tmp_path / "bars.parquet").sample == past.sample
    parquet.write_table(arrow.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(tt.ConfigError, match="other columns"):
        read_past(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(tt.ConfigError, match="cannot be read as Parquet"):
        read_past(tmp_path / "broken.parquet")


def a_batch_handler() -> Callable[..., Any]:
    @tt.batch_handler(max_size=10)
    async def handle(ticks: list[tt.Tick]) -> None:
        pass

    return handle


@pytest.mark.parametrize(
    ("handler", "settings", "message"),
    [
        (waits, {"max_drop_rate": 1.5}, "max_drop_rate must be"),
        (waits, {"p99_lag": 0}, "p99_lag must be"),
        (waits, {"factor": 0}, "factor must be"),
        (waits, {"workers": 0}, "workers must be"),
        (waits, {"workers": ()}, "at least one"),
        (waits, {"workers": [1, 10**8]}, "workers must be .* less than"),
        (waits, {"maxsize": [10, 1.5]}, "maxsize must be"),
        (waits, {"ordering": "price"}, "ordering must be"),
        (waits, {"verify": -1}, "verify must be"),
        (waits, {"executor": "thread"}, "async handler"),
        (a_batch_handler(), {}, "batch handler cannot be planned"),
        (3, {}, "handler must be"),
        (raises, {}, "raised for each tick"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_planned_is_one_clear_error(
    recording: Path, handler: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(tt.ConfigError, match=message):
        tt.plan(recording, handler, **{**QUICKLY, **settings})


def test_a_recording_without_ticks_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one", f"{T0} {flat()}")
    with pytest.raises(tt.ConfigError, match="too few for a plan"):
        read_past(one)
    with pytest.raises(tt.ConfigError, match=r"0 ticks of NOT, THERE from 2030-01-01: .* inspect"):
        read_past(one, symbols=["THERE", "NOT"], start="2030-01-01")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(tt.ConfigError, match="no file of trio-ticks history"):
        read_past(tmp_path / "other.csv")
    with pytest.raises(tt.ConfigError, match="cannot open"):
        read_past(tmp_path / "none.csv")


def test_a_busy_machine_is_refused_unless_told(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OthersLoad, "cores", lambda _self, _now: 1.5)
    with pytest.raises(tt.ConfigError, match="other programs used"):
        tt.plan(recording, waits, **{**QUICKLY, "busy_host": False})


async def test_in_trio_it_says_how_to_call_it(recording: Path) -> None:
    with pytest.raises(tt.ConfigError, match="to_thread"):
        tt.plan(recording, waits)
