"""What Prometheus reads: every number is the ledger's own.

Pipelines share a registry, and leave nothing in it when they have gone.
"""

from __future__ import annotations

import gc
import shutil
import time
import weakref

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.observed import Altered
from tests.worlds.pipeline_world import Gate, Recorder, ScriptFeed, Send, listed, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.ledger import INTENTIONAL, REASONS
from trio_ticks.metrics.latency import LatencyWindow
from trio_ticks.observability.fetch import fetch
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.readings import BUCKETS_S, MOST_WORKERS

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(registry: CollectorRegistry) -> Samples:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = [
        ((s.name, frozenset(s.labels.items())), s.value)
        for family in families
        for s in family.samples
    ]
    assert len(found) == len(dict(found)), "a series was written twice"
    return dict(found)


def value(samples: Samples, name: str, pipeline: str = "main", **labels: str) -> float:
    return samples["trio_ticks_" + name, frozenset({"pipeline": pipeline, **labels}.items())]


async def test_every_counter_is_the_pipelines_own(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1.0)
        if tick.volume % 2:
            raise ValueError

    registry = CollectorRegistry()
    feed = sleepy_feed(make_ticks(20))
    async with open_pipeline(
        feed, handler, workers=1, maxsize=15, write_timeout=0, max_age=9.5, shutdown_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry):
            feed.stats = tt.FeedStats(
                True,
                reconnects=3,
                connect_failures=4,
                watchdog_trips=5,
                messages=6,
                malformed=7,
                ignored=8,
            )
            await trio.sleep(4.5)
            samples = scrape(registry)
            ledger = pipeline.ledger.snapshot()
            assert value(samples, "ticks_received_total") == ledger.produced == 20
            assert value(samples, "ticks_delivered_total") == ledger.delivered
            assert value(samples, "ticks_handled_total", result="success") == ledger.consumed == 2
            assert value(samples, "ticks_handled_total", result="failure") == ledger.failed == 2
            assert value(samples, "queue_items") == ledger.queued == 10
            assert value(samples, "in_flight_ticks") == ledger.in_flight == 1
            assert (
                value(samples, "queue_capacity_items") == value(samples, "queue_peak_items") == 15
            )
            assert value(samples, "queue_oldest_item_age_seconds") == 4.5
            assert value(samples, "pipeline_unaccounted_items") == 0
            for reason in REASONS:
                intentional = "true" if reason in INTENTIONAL else "false"
                count = value(
                    samples, "ticks_discarded_total", reason=reason, intentional=intentional
                )
                assert (
                    count == ledger.dropped_by_reason[reason] == (5 if reason == "overflow" else 0)
                )
            assert value(samples, "feed_connected") == 1
            assert value(samples, "feed_reconnects_total", result="success") == 3
            assert value(samples, "feed_reconnects_total", result="failure") == 4
            assert value(samples, "feed_watchdog_trips_total") == 5
            assert value(samples, "feed_messages_total") == 6
            assert value(samples, "feed_malformed_messages_total") == 7
            assert value(samples, "feed_ignored_messages_total") == 8
            assert value(samples, "workers", state="busy") == 1
            assert value(samples, "workers_busy_seconds_total") == 4.5
            assert value(samples, "workers_busy_ratio") == 1
            assert (
                value(samples, "handler_seconds_count")
                == value(samples, "handler_seconds_sum")
                == 4
            )
            # Four handlers of a second each: no bucket below it, all in the one above.
            assert value(samples, "handler_seconds_bucket", le="0.5") == 0
            assert value(samples, "handler_seconds_bucket", le="2.5") == 4
            await trio.sleep(6)
            samples = scrape(registry)
            assert (
                value(samples, "ticks_discarded_total", reason="stale", intentional="true")
                == pipeline.ledger.dropped_by_reason["stale"]
                > 0
            )


async def test_the_pressure_is_one_of_its_states(autojump_clock: MockClock) -> None:
    registry, gate = CollectorRegistry(), Gate()

    def states() -> list[float]:
        samples = scrape(registry)
        return [value(samples, "pressure", state=state) for state in ("ok", "warn", "shed")]

    async with open_pipeline(
        sleepy_feed(make_ticks(12)), gate, workers=1, maxsize=10, lag_threshold=5, write_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry):
            assert states() == [1, 0, 0]
            await wait_all_tasks_blocked()
            assert states() == [0, 0, 1]
            gate.opened.set()
            await wait_all_tasks_blocked()
            assert states() == [1, 0, 0]


async def test_blocked_time_and_the_throttle(autojump_clock: MockClock) -> None:
    registry, gate = CollectorRegistry(), Gate()
    async with open_pipeline(
        sleepy_feed(make_ticks(12)), gate, workers=1, maxsize=5, overflow=tt.Block()
    ) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(7)
            assert value(scrape(registry), "queue_blocked_seconds_total") == 7
            gate.opened.set()
            await trio.sleep(7)
            assert value(scrape(registry), "queue_blocked_seconds_total") == 7


async def test_gaps_are_counted_by_reason_whether_or_not_anybody_is_told() -> None:
    registry = CollectorRegistry()

    async def script(send: Send) -> None:
        when = make_tick().timestamp
        for reason, count in (
            ("sequence", 3),
            ("sequence", 4),
            ("reconnect", 0),
            ("phase of the moon", 1),
            ("of the sun", 1),
        ):
            send.mark_gap(tt.Gap("A", when, reason, count, when))  # type: ignore[arg-type]  # a feed of the user's may say anything
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        with export_metrics(pipeline, registry):
            before = scrape(registry)
            await wait_all_tasks_blocked()
            after = scrape(registry)
    for reason, gaps, missed in (
        ("sequence", 2, 7),
        ("reconnect", 1, 0),
        ("malformed", 0, 0),
        ("breaker", 0, 0),
        ("throttle", 0, 0),
    ):
        assert value(before, "feed_gaps_total", reason=reason) == 0
        assert value(after, "feed_gaps_total", reason=reason) == gaps
        assert value(after, "feed_missed_items_total", reason=reason) == missed
    assert value(after, "feed_gaps_total", reason="other") == 2
    assert "phase of the moon" not in str(after)


async def test_restarts_and_timeouts_are_the_pools_own() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with export_metrics(pipeline, registry):
            assert value(scrape(registry), "breaker_open_symbols") == 0
        altered = Altered(pipeline, restarts=2, timeouts=3, symbols_set_aside=1)
        with export_metrics(altered, registry):
            samples = scrape(registry)
    assert value(samples, "worker_restarts_total") == 2
    assert value(samples, "handler_timeouts_total") == 3
    assert value(samples, "breaker_open_symbols") == 1


async def test_handing_over_to_a_thread_is_timed() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(
        listed(make_ticks(20)), lambda _tick: time.sleep(0.001), workers=1, executor="thread"
    ) as pipeline:
        await pipeline.wait()
        with export_metrics(pipeline, registry):
            samples = scrape(registry)
    assert value(samples, "hand_over_seconds_count") > 0
    assert 0 < value(samples, "hand_over_seconds_sum") < 20
    assert value(samples, "handler_seconds_count") > 0


async def test_end_to_end_is_from_the_timestamp_to_the_end_of_the_handling(
    autojump_clock: MockClock,
) -> None:
    registry = CollectorRegistry()
    async with open_pipeline(
        sleepy_feed([make_tick(age_s=3)]), Recorder(2.0), workers=1
    ) as pipeline:
        with export_metrics(pipeline, registry):
            assert not [name for name, _labels in scrape(registry) if "recent" in name], (
                "nothing was measured yet"
            )
            await trio.sleep(10)
            samples = scrape(registry)
    assert value(samples, "end_to_end_seconds_sum") == pytest.approx(3 + 2, abs=0.5)
    assert value(samples, "tick_lag_seconds_sum") == pytest.approx(3, abs=0.5)
    for statistic in ("mean", "p50", "p99", "p999", "max"):
        assert value(samples, "handler_recent_seconds", statistic=statistic) == pytest.approx(2.0)
        assert value(samples, "end_to_end_recent_seconds", statistic=statistic) == pytest.approx(
            5, abs=0.5
        )


async def test_each_worker_has_its_row_but_not_in_a_crowd(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()
    async with open_pipeline(
        sleepy_feed(make_ticks(3)), Recorder(4.0), workers=2, ordering="none", shutdown_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(6)
            samples = scrape(registry)
            # Which of them took the third tick is trio's to say.
            busy, idle = (
                ("loop-1", "loop-2")
                if value(samples, "worker_in_flight_ticks", worker="loop-1")
                else ("loop-2", "loop-1")
            )
            for worker, state in ((busy, "busy"), (idle, "idle")):
                assert (
                    value(samples, "worker_ticks_handled_total", worker=worker, result="success")
                    == 1
                )
                assert (
                    value(samples, "worker_ticks_handled_total", worker=worker, result="failure")
                    == 0
                )
                assert value(samples, "worker_state", worker=worker, state=state) == 1
                assert value(samples, "worker_state", worker=worker, state="ended") == 0
                assert value(samples, "worker_in_flight_ticks", worker=worker) == (state == "busy")
            assert value(samples, "worker_busy_ratio", worker=busy) == 1
            assert value(samples, "worker_busy_ratio", worker=idle) == pytest.approx(4 / 6)
    async with open_pipeline(sleepy_feed(), Recorder(), workers=MOST_WORKERS + 7) as pipeline:
        with export_metrics(pipeline, registry):
            await wait_all_tasks_blocked()
            samples = scrape(registry)
    assert (
        len({labels for name, labels in samples if name == "trio_ticks_worker_busy_ratio"})
        == MOST_WORKERS
    )
    assert value(samples, "workers", state="idle") == MOST_WORKERS + 7


async def test_lag_is_split_into_the_way_here_and_the_wait(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()
    old = [make_tick(n=n, age_s=40) for n in range(3)]
    async with open_pipeline(sleepy_feed(old), Recorder(2.0), workers=1) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(10)
            samples = scrape(registry)
            assert value(samples, "feed_lag_seconds") == pytest.approx(40, abs=5)
            assert value(samples, "queue_wait_seconds_sum") == 0 + 2 + 4
            assert value(samples, "tick_lag_seconds_bucket", le="25.0") == 0
            assert value(samples, "tick_lag_seconds_bucket", le="+Inf") == 3


async def test_pipelines_share_a_registry_and_leave_it_empty() -> None:
    registry = CollectorRegistry()
    async with (
        open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as one,
        open_pipeline(sleepy_feed(make_ticks(5)), Recorder()) as two,
    ):
        await wait_all_tasks_blocked()
        with export_metrics(one, registry, name="one"):
            with export_metrics(two, registry, name="two"):
                samples = scrape(registry)
                assert value(samples, "ticks_received_total", "one") == 3
                assert value(samples, "ticks_received_total", "two") == 5
                with (
                    pytest.raises(tt.ConfigError, match="'two' already"),
                    export_metrics(one, registry, name="two"),
                ):
                    pass
                assert value(scrape(registry), "ticks_received_total", "two") == 5
            assert {
                labels for _name, labels in scrape(registry) if ("pipeline", "two") in labels
            } == set()
            assert value(scrape(registry), "ticks_received_total", "one") == 3
        assert generate_latest(registry) == b""
        with export_metrics(two, registry, name="one"):
            assert value(scrape(registry), "ticks_received_total", "one") == 5
    assert generate_latest(registry) == b""


@pytest.mark.parametrize("served", [False, True])
async def test_a_pipeline_that_has_gone_is_kept_by_nobody(served: bool) -> None:
    registry = CollectorRegistry()

    async def run() -> weakref.ref[object]:
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
            if served:
                await pipeline.serve_metrics(0, registry=registry)
                assert b'"main"' in generate_latest(registry)
            else:
                with export_metrics(pipeline, registry):
                    assert b'"main"' in generate_latest(registry)
            return weakref.ref(pipeline)

    async with open_pipeline(sleepy_feed(), Recorder()) as another:
        with export_metrics(another, registry, name="another"):
            gone = await run()
            await wait_all_tasks_blocked()
            # On a busy machine the loop's watch looks at the frames of this thread, and
            # holds them for a moment.
            with trio.fail_after(20):
                while gc.collect() >= 0 and gone() is not None:  # noqa: ASYNC110 - a dead object has no event
                    await trio.sleep(0.01)
            assert value(scrape(registry), "ticks_received_total", "another") == 0


@pytest.mark.parametrize("name", ["", None, 3])
async def test_a_bad_name_is_refused(name: str) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with (
            pytest.raises(tt.ConfigError, match="name"),
            export_metrics(pipeline, CollectorRegistry(), name=name),
        ):
            pass


async def test_a_scrape_from_another_thread_reads_in_the_event_loop() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        with export_metrics(pipeline, registry):
            await wait_all_tasks_blocked()
            samples = await trio.to_thread.run_sync(scrape, registry)
            assert value(samples, "ticks_received_total") == 3
            assert value(samples, "event_loop_tasks") > 0


async def test_counters_never_fall(autojump_clock: MockClock) -> None:
    # The sum of a histogram is added up in another order when a slot expires: 0.1 + 0.2
    # + 0.3 is not 0.3 + 0.2 + 0.1.
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(), Recorder(), workers=3) as pipeline:
        with export_metrics(pipeline, registry):
            meters, last = pipeline.meters, 0.0
            for step in range(100):
                await trio.sleep(3.7)
                meters.handler.record(0.1 * (step % 7), trio.current_time())
                total = value(scrape(registry), "handler_seconds_sum")
                assert total >= last
                last = total


def test_buckets_begin_at_ten_microseconds() -> None:
    assert BUCKETS_S[0] == pytest.approx(10e-6)
    assert list(BUCKETS_S) == sorted(set(BUCKETS_S))
    window = LatencyWindow()
    window.record(20e-6, 0.0)
    assert window.cumulative(BUCKETS_S)[0][:2] == [0, 1]


async def test_openmetrics_has_the_same_numbers() -> None:
    registry = CollectorRegistry()
    async with open_pipeline(listed(make_ticks(3)), Recorder()) as pipeline:
        await pipeline.wait()
        with export_metrics(pipeline, registry):
            families = parse_openmetrics(generate_openmetrics(registry).decode())  # type: ignore[no-untyped-call]  # the library's
            open_samples = {
                (s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples
            }
            samples = scrape(registry)
            changing = {"trio_ticks_event_loop_runnable_tasks"}
            assert {k: v for k, v in open_samples.items() if k[0] not in changing} == {
                k: v for k, v in samples.items() if k[0] not in changing
            }


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)
async def test_promtool_has_nothing_to_say_about_what_is_served() -> None:
    def handler(tick: tt.Tick) -> None:
        if tick.volume % 2:
            raise ValueError

    registry = CollectorRegistry()
    with trio.fail_after(30):
        async with (
            open_pipeline(
                sleepy_feed(make_ticks(30)),
                handler,
                breaker=tt.Breaker(),
                overflow=tt.Throttle(tt.DropNewest()),
            ) as pipeline,
            open_pipeline(sleepy_feed(), Recorder()) as another,
        ):
            # Each in a registry of its own has the process's own metrics, too.
            texts = [await fetch(await pipeline.serve_metrics(0))]
            await pipeline.serve_metrics(0, registry=registry)
            texts.append(
                await fetch(await another.serve_metrics(0, name="another", registry=registry))
            )
    for text in texts:
        done = await trio.run_process(
            ["promtool", "check", "metrics"],
            stdin=text,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
