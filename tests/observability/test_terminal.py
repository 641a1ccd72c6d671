"""The terminal view: what it says, that it fits, that a slow terminal does no harm."""

from __future__ import annotations

import errno
import io
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("rich")

import trio.lowlevel
from rich.cells import cell_len
from rich.console import Console

from trio_ticks.ledger import REASONS
from trio_ticks.metrics.latency import LatencyStats
from trio_ticks.metrics.snapshots import PipelineMetrics, WorkerMetrics
from trio_ticks.observability.terminal.history import (
    ASCII_BLOCKS,
    BLOCKS,
    History,
    Rates,
    bar,
    sparkline,
)
from trio_ticks.observability.terminal.panels import clock, count, duration
from trio_ticks.observability.terminal.render import Scene, render, show_live


def make_worker(number: int = 0, **changes: Any) -> WorkerMetrics:
    worker = WorkerMetrics(
        name=f"worker-{number}",
        state="busy",
        consumed=1400 + number,
        failed=0,
        in_flight=5,
        busy_ratio=0.5,
        symbol=f"SYM{number:03}",
    )
    return attrs.evolve(worker, **changes)


def make_metrics(*, workers: int = 4, **changes: Any) -> PipelineMetrics:
    drops = {str(reason): 0 for reason in REASONS} | {"overflow": 137_381, "conflated": 42}
    metrics = PipelineMetrics(
        timestamp=datetime(2024, 8, 9, tzinfo=UTC),
        uptime_s=7.2,
        state="running",
        queue_size=983,
        queue_capacity=1000,
        queue_peak=999,
        queue_utilization_pct=98.3,
        items_produced=144_042,
        items_consumed=5_613,
        items_failed=3,
        items_dropped=137_423,
        dropped_by_reason=drops,
        in_flight=20,
        unaccounted=0,
        malformed=17,
        ignored=1,
        produced_per_s=20_012.0,
        consumed_per_s=781.0,
        dropped_per_s=19_000.0,
        drop_rate_per_min=1_154_000.0,
        processing_lag_ms=LatencyStats(1000, 1256.0, 1270.0, 1290.0, 1310.0),
        queue_wait_ms=LatencyStats(1000, 251.0, 250.0, 270.0, 271.0),
        handler_latency_ms=LatencyStats(),
        avg_processing_latency_ms=0.0,
        producer_connected=True,
        reconnects=2,
        blocked_s=1.5,
        pressure="shed",
        workers=tuple(make_worker(number) for number in range(workers)),
    )
    return attrs.evolve(metrics, **changes)


def make_history(steps: int = 40) -> History:
    history = History()
    for step in range(1, steps + 1):
        history.add(
            make_metrics(
                uptime_s=step / 2,
                items_produced=10_000 * step,
                items_consumed=400 * step,
                items_failed=0,
                items_dropped=9_500 * step,
            )
        )
    return history


def draw(
    metrics: PipelineMetrics,
    *,
    width: int = 80,
    height: int = 24,
    history: History | None = None,
    **scene: Any,
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(
            render(
                metrics,
                history=history or make_history(),
                width=width,
                height=height,
                scene=Scene(**scene),
            )
        )
    return capture.get().splitlines()


SIZES = [
    (80, 24),
    (72, 24),
    (71, 50),
    (60, 20),
    (40, 12),
    (120, 40),
    (200, 60),
    (24, 6),
    (10, 3),
    (1, 1),
]


class TestRender:
    def test_a_standard_terminal_shows_everything(self) -> None:
        text = "\n".join(
            draw(
                make_metrics(),
                subtitle="demo: 20,000/s",
                duration_s=10,
                messages=["the queue is full"],
                hint="Ctrl-C ends",
            )
        )
        for expected in (
            "connected, 2 reconnects",
            "RUNNING 0:07 of 0:10",
            "demo: 20,000/s",
            "983 of 1,000   98.3 %  high",
            "SHED",
            "peak 999",
            "waited 1.50 s",
            "20,012/s",
            "781/s",
            "19,000/s",
            "malformed 17, ignored 1",
            "250 ms 270 ms 271 ms",
            "1.27 s 1.29 s 1.31 s",
            "produced            144,042",
            "= consumed              5,613   3.9%",
            "+ failed                    3",
            "+ dropped             137,423  95.4%",
            "+ queued                  983",
            "+ in flight                20",
            "the sums agree",
            "lost      overflow  137,381  95.4%",
            "by design conflated      42",
            "workers (4)",
            "worker-3",
            "1,403",
            "the queue is full",
            "Ctrl-C ends",
        ):
            assert expected in text

    @pytest.mark.parametrize("workers", [0, 1, 4, 5, 64, 1000])
    @pytest.mark.parametrize(
        ("width", "height"),
        [
            (80, 24),
            (72, 24),
            (71, 50),
            (60, 20),
            (40, 12),
            (120, 40),
            (200, 60),
            (24, 6),
            (10, 3),
            (1, 1),
        ],
    )
    @pytest.mark.parametrize("plain", [False, True])
    def test_it_never_overflows(self, width: int, height: int, workers: int, plain: bool) -> None:
        lines = draw(
            make_metrics(workers=workers),
            width=width,
            height=height,
            plain=plain,
            messages=["x" * 300] * 9,
            hint="y" * 300,
        )
        assert len(lines) <= height
        assert max(map(cell_len, lines)) <= width

    def test_huge_numbers_fit_the_panels(self) -> None:
        big = 10**15
        metrics = make_metrics(
            items_produced=big,
            items_consumed=big,
            items_dropped=big,
            produced_per_s=1e9,
            queue_size=10**7,
            queue_capacity=10**7,
            uptime_s=1e6,
        )
        lines = draw(
            attrs.evolve(
                metrics,
                queue_size=10**7,
                queue_capacity=10**7,
                dropped_by_reason=dict.fromkeys(REASONS, big),
            )
        )
        assert len(lines) == 23  # no message to show
        assert all(cell_len(line) <= 80 for line in lines)
        assert "1,000,000.00 G" in "\n".join(lines)

    @pytest.mark.parametrize("number", [999_999, 1_292_903, 123_456_789])
    def test_a_number_of_drops_is_never_cut_off(self, number: int) -> None:
        drops = {str(reason): 0 for reason in REASONS} | {"conflated": number}
        (line,) = (
            line for line in draw(make_metrics(dropped_by_reason=drops)) if "conflated" in line
        )
        assert f"conflated {number:,}" in re.sub(" +", " ", line)

    def test_an_alarm_stands_in_the_place_of_the_connection(self) -> None:
        first = draw(make_metrics(), alarm="NO ANSWER FOR 7 s")[0]
        assert "NO ANSWER FOR 7 s" in first
        assert "connected" not in first
        assert "!! NO ANSWER" in draw(make_metrics(), alarm="NO ANSWER", plain=True)[0]

    def test_many_workers_are_summed_up(self) -> None:
        workers = [
            make_worker(
                number,
                busy_ratio=number / 63,
                state="idle" if number % 4 == 0 else "busy",
                failed=1,
            )
            for number in range(64)
        ]
        text = "\n".join(draw(attrs.evolve(make_metrics(), workers=tuple(workers))))
        assert "workers (64)" in text
        assert "48 busy" in text
        assert "16 idle" in text
        assert "busy 50% on average" in text
        assert f"handled {sum(worker.consumed for worker in workers):,}" in text
        assert "failed 64" in text
        assert "worker-0" not in text

    def test_a_tall_terminal_has_a_row_a_worker_and_the_outcomes(self) -> None:
        lines = draw(make_metrics(workers=6), width=120, height=44)
        assert sum("worker-" in line for line in lines) == 6
        assert any("SYM005" in line for line in lines)
        text = "\n".join(lines)
        assert "outcomes" in text
        assert "full height 20,000/s" in text
        assert text.count("░") > 100

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"producer_connected": False}, "NOT CONNECTED"),
            ({"state": "draining"}, "DRAINING"),
            ({"state": "stopped"}, "feed stopped"),
            ({"state": "draining", "produced_per_s": 15_817.0}, "in      ended"),
            ({"sheds": False}, "FULL, the feed waits"),
            ({"unaccounted": 3}, "3 UNACCOUNTED"),
            ({"pressure": "warn"}, "WARN"),
            ({"pressure": "ok"}, "ok"),
            ({"queue_size": 1000, "queue_utilization_pct": 100.0}, "FULL"),
            ({"queue_size": 0, "queue_utilization_pct": 0.0}, "0 of 1,000    0.0 %  ok"),
            ({"queue_capacity": 0, "queue_size": 0}, "0 of 0"),
            ({"reconnects": 1}, "1 reconnect "),
        ],
    )
    def test_every_state_has_a_word(self, changes: dict[str, Any], word: str) -> None:
        assert word in "\n".join(draw(make_metrics(**changes)))

    def test_a_failing_worker_says_so(self) -> None:
        text = "\n".join(
            draw(attrs.evolve(make_metrics(), workers=(make_worker(failed=7, state="ended"),)))
        )
        assert "7 failed" in text
        assert "ended" in text

    def test_plain_is_ascii(self) -> None:
        text = "\n".join(
            draw(make_metrics(workers=64), width=120, height=44, plain=True, messages=["m"])
        )
        assert text.isascii()
        assert "ok: the sums agree" in text

    def test_nothing_measured_yet(self) -> None:
        empty = make_metrics(
            uptime_s=0.0,
            queue_size=0,
            items_produced=0,
            items_consumed=0,
            items_failed=0,
            items_dropped=0,
            in_flight=0,
            workers=0,
        )
        text = "\n".join(
            draw(
                attrs.evolve(empty, dropped_by_reason={}, queue_wait_ms=LatencyStats()),
                history=History(),
            )
        )
        assert re.search(r"produced +0 ", text)

    def test_no_color_leaves_no_colour_codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        out = io.StringIO()
        console = Console(file=out, width=80, height=24, force_terminal=True)
        console.print(render(make_metrics(), history=make_history()))
        assert "connected" in out.getvalue()
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", out.getvalue())


class TestHistory:
    def test_rates_are_differences_of_counters(self) -> None:
        history = make_history(4)
        assert history.rates == (Rates(20_000.0, 800.0, 19_000.0),) * 4
        assert history.recent() == Rates(20_000.0, 800.0, 19_000.0)

    def test_it_may_begin_with_a_pipeline_that_has_been_running(self) -> None:
        history = History(step_s=0.5)
        history.begin(
            make_metrics(
                uptime_s=1000.0,
                items_produced=10**6,
                items_consumed=0,
                items_failed=0,
                items_dropped=10**6,
            )
        )
        assert not history.rates
        history.add(
            make_metrics(
                uptime_s=1000.5,
                items_produced=10**6 + 50,
                items_consumed=20,
                items_failed=5,
                items_dropped=10**6,
            )
        )
        assert history.rates == (Rates(100.0, 40.0, 0.0, 10.0),)

    def test_snapshots_within_a_step_wait_for_the_next(self) -> None:
        history = History(step_s=0.5)
        for moment, produced in ((0.2, 100), (0.4, 200), (0.5, 250), (0.6, 9999)):
            history.add(
                make_metrics(
                    uptime_s=moment,
                    items_produced=produced,
                    items_consumed=0,
                    items_failed=0,
                    items_dropped=0,
                )
            )
        assert history.rates == (Rates(500.0, 0.0, 0.0),)

    def test_a_late_snapshot_stands_for_what_was_missed(self) -> None:
        history = History(step_s=0.5, steps=10)
        history.add(
            make_metrics(
                uptime_s=2.0, items_produced=400, items_consumed=0, items_failed=0, items_dropped=0
            )
        )
        assert history.rates == (Rates(200.0, 0.0, 0.0),) * 4
        history.add(
            make_metrics(
                uptime_s=1e6, items_produced=400, items_consumed=0, items_failed=0, items_dropped=0
            )
        )
        assert len(history.rates) == 10

    def test_it_is_bounded_and_begins_anew_with_another_pipeline(self) -> None:
        history = History(steps=5)
        for step in range(1, 100):
            history.add(make_metrics(uptime_s=step, items_produced=step))
        assert len(history.rates) == 5
        history.add(make_metrics(uptime_s=0.1))
        assert not history.rates
        assert history.recent() == Rates(0.0, 0.0, 0.0)


class TestCharacters:
    def test_a_sparkline_never_shows_something_as_nothing(self) -> None:
        assert sparkline([0, 0.001, 50, 100], 6, 100) == "   ▁▄█"
        assert sparkline([0, 0.001, 50, 100], 4, 100, blocks=ASCII_BLOCKS) == " .=@"
        assert sparkline([1, 2], 0, 2) == ""
        assert sparkline([0.0], 1, 0.0) == " "
        assert len(BLOCKS) == len(ASCII_BLOCKS)

    @pytest.mark.parametrize(
        ("fraction", "expected", "plain"),
        [
            (0, "    ", "...."),
            (1, "████", "####"),
            (2, "████", "####"),
            (0.5, "██  ", "##.."),
            (0.0001, "▏   ", "#..."),
            (-1, "    ", "...."),
        ],
    )
    def test_a_bar(self, fraction: float, expected: str, plain: str) -> None:
        assert bar(fraction, 4) == expected
        assert bar(fraction, 4, plain=True) == plain

    @pytest.mark.parametrize(
        ("milliseconds", "expected"),
        [
            (0.0005, "0 µs"),
            (0.0123, "12 µs"),
            (0.9996, "1.00 ms"),
            (1.5, "1.50 ms"),
            (9.996, "10.0 ms"),
            (99.96, "100 ms"),
            (999.6, "1.00 s"),
            (12_345, "12.35 s"),
            (123_456, "123 s"),
            (1e9, "277.8 h"),
            (-3.0, "-3.00 ms"),
        ],
    )
    def test_a_duration_has_the_unit_that_fits(self, milliseconds: float, expected: str) -> None:
        assert duration(milliseconds) == expected

    def test_counts_and_clocks(self) -> None:
        assert [count(number) for number in (0, 1234, 999_999_999, 1e9)] == [
            "0",
            "1,234",
            "999,999,999",
            "1.00 G",
        ]
        assert [clock(seconds) for seconds in (0, 61.9, 3600)] == ["0:00", "1:01", "1:00:00"]


class _Screen(io.StringIO):
    """A terminal that can be stopped, as by Ctrl-S."""

    encoding = "utf-8"

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._on_write = on_write

    def write(self, text: str) -> int:
        self._on_write()
        return super().write(text)


async def test_the_live_view_draws_snapshots_and_gives_the_screen_back() -> None:
    screen = _Screen()
    console = Console(file=screen, force_terminal=True, width=80, height=24, color_system=None)
    seen = 0
    async with trio.open_nursery() as nursery:

        def get_metrics() -> PipelineMetrics:
            nonlocal seen
            seen += 1
            if seen == 4:
                nursery.cancel_scope.cancel()
            return make_metrics(uptime_s=seen * 60.0)

        async def run() -> None:
            await show_live(
                get_metrics,
                console=console,
                interval_s=0.001,
                get_scene=lambda: Scene(hint=f"hint {seen}"),
            )

        nursery.start_soon(run)
    text = screen.getvalue()
    assert text.startswith("\x1b[?1049h")
    assert text.index("RUNNING 1:00") < text.index("RUNNING 3:00")
    assert "hint 2" in text
    # The cursor is shown again, and the other screen left, after the last frame.
    last = text.rindex("RUNNING")
    assert "\x1b[?1049l" in text[last:]
    assert "\x1b[?25h" in text[last:]


@pytest.mark.parametrize("writes", [0, 5])
async def test_a_terminal_that_is_stuck_holds_up_nobody(writes: int) -> None:
    release = threading.Event()
    stuck, token = trio.Event(), trio.lowlevel.current_trio_token()
    left = writes

    def write() -> None:
        nonlocal left
        left -= 1
        if left < 0 and not release.is_set():
            token.run_sync_soon(stuck.set)
            release.wait()

    console = Console(file=_Screen(write), force_terminal=True, width=80, height=24)
    try:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await show_live(make_metrics, console=console, interval_s=0.001)

            nursery.start_soon(run)
            await stuck.wait()
            nursery.cancel_scope.cancel()
        # We came here although the terminal still takes nothing.
        assert not release.is_set()
    finally:
        release.set()


@pytest.mark.parametrize("writes", range(4))
async def test_a_terminal_that_is_closed_ends_the_view_with_its_own_error(writes: int) -> None:
    left = writes

    def write() -> None:
        nonlocal left
        left -= 1
        if left == -1:  # from then on the command line sends it nowhere
            raise OSError(errno.EIO, "Input/output error")

    console = Console(file=_Screen(write), force_terminal=True, width=80, height=24)
    with pytest.raises(OSError, match="Input/output"):
        await show_live(make_metrics, console=console, interval_s=0.001)
