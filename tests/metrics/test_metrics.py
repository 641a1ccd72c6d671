"""The moving windows behind the percentiles, against exact percentiles.

And what snapshots and reports turn into.
"""

from __future__ import annotations

import json
import math
import tracemalloc
from datetime import UTC, datetime
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.ledger import REASONS, LedgerSnapshot
from trio_ticks.metrics.latency import BOUNDS_S, LatencyStats, LatencyWindow, quantiles_s
from trio_ticks.metrics.snapshots import PipelineMetrics, PipelineReport, WorkerMetrics
from trio_ticks.observability.dashboard.history import quantiles_ms

DAY = 86_400.0
durations = st.floats(min_value=1e-7, max_value=DAY)
# Samples as they come: most near each other, some far out.
clustered = st.tuples(durations, st.lists(st.floats(0.9, 1.1), min_size=1, max_size=40)).map(
    lambda c: [min(c[0] * x, DAY) for x in c[1]]
)
samples = st.one_of(
    st.lists(durations, min_size=1, max_size=200),
    clustered,
    st.builds(list.__add__, clustered, clustered),
)


def exact(values: list[float], fraction: float) -> float:
    """Return the nearest-rank percentile.

    It is the smallest value that at least this share of all do not exceed.
    """
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def recorded(
    values: list[float], window: LatencyWindow | None = None, now: float = 0.0
) -> LatencyWindow:
    window = LatencyWindow() if window is None else window
    for value in values:
        window.record(value, now)
    return window


@given(samples)
def test_percentiles_are_within_five_per_cent_of_the_exact_ones(values: list[float]) -> None:
    stats = recorded(values).stats(0.0)
    assert stats.count == len(values)
    for found, fraction in ((stats.p50, 0.5), (stats.p99, 0.99), (stats.p999, 0.999)):
        # Below 100 ns there is one bucket only.
        assert found / 1e3 == pytest.approx(exact(values, fraction), rel=0.05, abs=1e-7)
    assert stats.mean / 1e3 == pytest.approx(sum(values) / len(values))
    assert stats.max / 1e3 == pytest.approx(max(values))


@given(samples)
def test_percentiles_are_in_order_and_within_what_was_measured(values: list[float]) -> None:
    stats = recorded(values).stats(0.0)
    smallest = min(values) * 1e3
    assert smallest <= stats.p50 * (1 + 1e-12)
    assert stats.p50 <= stats.p99 <= stats.p999 <= stats.max


@given(st.floats(min_value=-10, max_value=1e6), st.integers(1, 50))
def test_one_value_is_told_exactly(value: float, times: int) -> None:
    stats = recorded([value] * times).stats(0.0)
    for found in (stats.p50, stats.p99, stats.p999, stats.max):
        assert found == value * 1e3
    assert stats.mean == pytest.approx(value * 1e3)


@given(st.lists(st.floats(min_value=-3600, max_value=3600), min_size=1, max_size=50))
def test_negative_lags_of_a_clock_ahead_of_ours_stay_within_what_was_measured(
    values: list[float],
) -> None:
    stats = recorded(values).stats(0.0)
    for found in (stats.p50, stats.p99):
        assert min(values) * 1e3 - 1e-6 <= found <= max(values) * 1e3 + 1e-6
    if exact(values, 0.5) < 0:
        assert stats.p50 <= 1e-4 + 1e-9
    assert stats.mean == pytest.approx(sum(values) / len(values) * 1e3, abs=1e-6)


def test_nothing_measured_is_all_zero() -> None:
    assert LatencyWindow().stats(5.0) == LatencyWindow().total() == LatencyStats()
    assert LatencyStats() == LatencyStats(count=0, mean=0.0, p50=0.0, p99=0.0, max=0.0, p999=0.0)


# Forgetting


def test_the_window_forgets_and_the_run_does_not() -> None:
    window = recorded([1.0], now=0.0)
    recorded([3.0], window, now=30.0)
    assert window.stats(59.9).count == 2
    assert window.stats(60.0) == recorded([3.0]).stats(0.0)
    assert window.stats(90.0).count == 0
    assert window.total().count == 2
    assert window.total().max == 3000.0


@given(
    gaps=st.lists(st.floats(0, 40), min_size=1, max_size=60),
    span=st.sampled_from([1.0, 6.0, 60.0]),
    slots=st.integers(2, 12),
    later=st.floats(0, 80),
    start=st.floats(0, 1e6),
)
def test_what_is_in_the_window_is_young_and_what_is_young_is_in_it(
    gaps: list[float], span: float, slots: int, later: float, start: float
) -> None:
    window = LatencyWindow(span, slots)
    now, moments = start, []
    for gap in gaps:
        now += gap
        moments.append(now)
        window.record(1.0, now)
    now += later
    step = span / slots
    surely = sum(now - moment < span - step - 1e-6 for moment in moments)
    perhaps = sum(now - moment < span + 1e-6 for moment in moments)
    assert surely <= window.stats(now).count <= perhaps
    assert window.total().count == len(moments)


@given(st.lists(st.tuples(st.floats(0, 30), durations), min_size=1, max_size=80))
def test_the_whole_run_is_the_same_however_it_was_spread_over_time(
    events: list[tuple[float, float]],
) -> None:
    window, now = LatencyWindow(), 0.0
    for gap, value in events:
        now += gap
        window.record(value, now)
    spread, at_once = window.total(), recorded([value for _, value in events]).total()
    assert attrs.evolve(spread, mean=0) == attrs.evolve(at_once, mean=0)
    assert spread.mean == pytest.approx(at_once.mean)


def test_memory_is_bounded() -> None:
    window = LatencyWindow()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(50_000):
            window.record(1e-6 * (n % 5000 + 1), n * 0.1)
        assert window.total().count == 50_000
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # A list of as many floats would hold 1.5 MB; the buckets' counts are ints, which
    # grow a little.
    assert grown < 300_000


@given(samples, st.lists(durations, min_size=1, max_size=6).map(sorted))
def test_cumulative_counts_are_within_a_bucket(values: list[float], bounds: list[float]) -> None:
    counts, total = recorded(values).cumulative(tuple(bounds))
    assert counts[-1] == len(values)
    assert all(a <= b for a, b in pairwise(counts))
    assert total == pytest.approx(sum(values))
    for bound, count in zip(bounds, counts, strict=False):
        assert (
            sum(value <= bound / 1.0501 for value in values)
            <= count
            <= sum(value <= bound for value in values)
        )


# Snapshots


def snapshot() -> LedgerSnapshot:
    drops: dict[str, int] = {**dict.fromkeys(REASONS, 0), "overflow": 3, "conflated": 1}
    return LedgerSnapshot(
        produced=110,
        delivered=100,
        consumed=95,
        failed=2,
        dropped=4,
        queued=6,
        in_flight=3,
        dropped_by_reason=drops,
    )


def report(ledger: LedgerSnapshot) -> PipelineReport:
    stats = LatencyStats(count=9, mean=1.0, p50=1.0, p99=2.0, max=3.0)
    return PipelineReport(
        ledger=ledger,
        malformed=7,
        ignored=1,
        duration_s=2.0,
        produced_per_s=55.0,
        consumed_per_s=47.5,
        processing_lag_ms=stats,
        queue_wait_ms=stats,
        handler_latency_ms=stats,
        queue_peak=9,
        reconnects=0,
        blocked_s=0.5,
    )


def test_the_report_hands_the_ledger_through() -> None:
    made = report(snapshot())
    for name in (
        "produced",
        "consumed",
        "failed",
        "dropped",
        "queued",
        "in_flight",
        "dropped_by_reason",
    ):
        assert getattr(made, name) == getattr(made.ledger, name)


def test_the_report_is_ready_for_json_with_the_counters_on_top() -> None:
    plain = json.loads(json.dumps(report(snapshot()).to_dict()))
    outcomes = ["consumed", "failed", "dropped", "queued", "in_flight"]
    assert {"produced", *outcomes, "dropped_by_reason", "malformed", "duration_s"} <= set(plain)
    assert "ledger" not in plain
    assert plain["produced"] == sum(plain[key] for key in outcomes)
    assert plain["dropped"] == sum(plain["dropped_by_reason"].values())
    assert plain["handler_latency_ms"]["p99"] == 2.0


def test_the_report_as_text_says_whether_the_law_holds() -> None:
    text = str(report(snapshot()))
    assert "produced 110 = consumed 95 + failed 2 + dropped 4 + queued 6 + in flight 3" in text
    assert "the law holds" in text
    assert "overflow 3, conflated 1; malformed: 7" in text
    broken = str(report(attrs.evolve(snapshot(), produced=112, unaccounted=2)))
    assert "2 UNACCOUNTED" in broken
    assert "the law holds" not in broken
    quiet = attrs.evolve(
        snapshot(), dropped=0, produced=106, dropped_by_reason=dict.fromkeys(REASONS, 0)
    )
    assert "dropped: none" in str(report(quiet))


@pytest.mark.parametrize(
    ("half", "text"),
    [
        ("ingest", "produced 110 = appended 95 + failed 2 + dropped 4 + queued 6 + in doubt 3"),
        ("work", "received 110 = consumed 95 + failed 2 + dropped 4 + queued 6 + in flight 3"),
    ],
)
def test_the_report_of_a_half_has_its_words(half: str, text: str) -> None:
    assert text in str(attrs.evolve(report(snapshot()), half=half))


def test_metrics_are_ready_for_json() -> None:
    worker = WorkerMetrics(
        name="loop-1", state="busy", consumed=1, failed=0, in_flight=1, busy_ratio=0.5, symbol="A"
    )
    numbers = {
        field.name: 0
        for field in attrs.fields(PipelineMetrics)
        if field.name
        not in {
            "timestamp",
            "state",
            "dropped_by_reason",
            "processing_lag_ms",
            "queue_wait_ms",
            "handler_latency_ms",
            "workers",
        }
    }
    metrics = PipelineMetrics(
        timestamp=datetime(2024, 8, 8, tzinfo=UTC),
        state="running",
        dropped_by_reason={"overflow": 1},
        processing_lag_ms=LatencyStats(),
        queue_wait_ms=LatencyStats(),
        handler_latency_ms=LatencyStats(),
        workers=(worker,),
        **numbers,  # type: ignore[arg-type]  # zero will do for every other field
    )
    plain = json.loads(json.dumps(metrics.to_dict()))
    assert plain["timestamp"] == "2024-08-08T00:00:00+00:00"
    assert plain["workers"][0]["symbol"] == "A"
    assert plain["dropped_by_reason"] == {"overflow": 1}
    assert plain["queue_wait_ms"]["count"] == 0


# Quantiles


def test_quantiles_of_one_bucket_lie_evenly_in_it() -> None:
    counts = [0, 0, 4]
    low, high = BOUNDS_S[1], BOUNDS_S[2]
    assert quantiles_s(counts, (0.0, 0.25, 0.5, 1.0)) == pytest.approx(
        (low, low + (high - low) / 4, (low + high) / 2, high)
    )


def test_quantiles_at_the_ends() -> None:
    assert quantiles_s([2], (0.5, 1.0)) == pytest.approx((BOUNDS_S[0] / 2, BOUNDS_S[0]))
    assert quantiles_s([2], (0.5,), minimum=-4.0) == pytest.approx(((-4.0 + BOUNDS_S[0]) / 2,))
    above = [0] * len(BOUNDS_S) + [1]
    assert quantiles_s(above, (0.5, 1.0)) == (BOUNDS_S[-1],) * 2
    assert quantiles_s(above, (1.0,), maximum=1e9) == pytest.approx((1e9,))


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_no_samples_have_no_quantiles(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantiles_s(counts, (0.5,))
    assert quantiles_ms([], counts, [0.5, 0.99]) == (None, None)


@given(samples)
def test_the_dashboard_and_the_metrics_have_the_same_quantiles(values: list[float]) -> None:
    """Both use the same counts; only the metrics know the smallest, largest sample."""
    window = LatencyWindow()
    for value in values:
        window.record(value, 0.0)
    total = window.total()
    shown = quantiles_ms([], window.counts(), (0.5, 0.99))
    for mine, theirs in zip(shown, (total.p50, total.p99), strict=True):
        assert mine is not None
        within = min(max(mine, min(values) * 1e3), max(values) * 1e3)
        assert within == pytest.approx(theirs, rel=0.006)
