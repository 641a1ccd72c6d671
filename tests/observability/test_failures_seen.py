"""Ticks that fail are seen: in numbers, by a probe, in the terminal, in the report.

The exit code and the answer of ``/readyz`` depend on them where that is asked for.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from trio.testing import MockClock

import trio_ticks as tt
from tests.observability.test_health import connect
from tests.worlds.command_line import run_cli
from tests.worlds.exchange_client import until
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted
from trio_ticks.cli.report import progress_line, report_text
from trio_ticks.cli.session import Display, run_session
from trio_ticks.clock import Clock
from trio_ticks.exchange import open_exchange
from trio_ticks.metrics import LastFailure
from trio_ticks.metrics.snapshots import Overdue
from trio_ticks.observability.failure_labels import MOST_FAILURES, FailureLabels
from trio_ticks.observability.health import Health
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import RemotePipeline, parse_metrics
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import render


class OutOfCashError(Exception):
    pass


def every(number: int) -> Any:
    """Return a handler that fails for each tick whose number *number* divides."""

    async def handler(tick: tt.Tick) -> None:
        if not tick.volume % number:
            raise OutOfCashError(tick.symbol)

    return handler


def steady(per_s: int = 1000) -> ScriptFeed:
    async def script(send: Send) -> None:
        for first in itertools.count(1, step=per_s // 10):
            await send.send_many(make_ticks(per_s // 10, "AB", first))
            await trio.sleep(0.1)

    return ScriptFeed(script)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hide the tracebacks of failures, which are the tests' own."""
    logger = logging.getLogger("trio_ticks.channel")
    logger.disabled = True
    yield
    logger.disabled = False


# In numbers


@pytest.mark.parametrize(("number", "share"), [(1, 1.0), (10, 0.1), (1000, 0.001)])
async def test_failures_have_a_rate_a_name_and_a_symbol(
    autojump_clock: MockClock, number: int, share: float
) -> None:
    async with tt.open_pipeline(steady(), every(number), shutdown_timeout=0) as pipeline:
        await trio.sleep(20.05)
        now = pipeline.metrics()
        assert now.failed_per_s == pytest.approx(1000 * share, rel=0.2)
        assert now.consumed_per_s == pytest.approx(1000 * (1 - share), rel=0.03, abs=1)
        assert now.failed_share == pytest.approx(share, rel=0.2)
        last = now.last_failure
        assert last is not None
        assert (last.error, last.symbol) == ("OutOfCashError", last.symbol)
        assert last.symbol in "AB"
        assert 0 <= (now.timestamp - last.at).total_seconds() <= 1.1
        # All of it can be written as JSON.
        assert json.loads(json.dumps(now.to_dict()))["last_failure"]["error"] == "OutOfCashError"
        pipeline.ledger.check()
    report = pipeline.report
    assert report.last_failure is not None
    assert report.failed_share == pytest.approx(share, rel=0.05)
    assert report.failed_per_s == pytest.approx(1000 * share, rel=0.1)
    assert json.loads(json.dumps(report.to_dict()))["last_failure"]["symbol"] in "AB"
    assert "the strategy raised, last OutOfCashError of" in report_text(report)
    assert_accounted(pipeline.report)


async def test_without_failures_nothing_is_said(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(steady(), every(10**9), shutdown_timeout=0) as pipeline:
        await trio.sleep(9)
        now = pipeline.metrics()
        assert now.failed_per_s == now.failed_share == 0
        assert "last" not in progress_line(now)
        assert "FAILING" not in "\n".join(drawn(now))


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
async def test_the_name_is_the_users_wherever_the_handler_runs(executor: str) -> None:
    handler: Any = fails_async if executor == "loop" else fails
    feed = tt.IterableFeed([make_tick("A", 1)])
    async with tt.open_pipeline(feed, handler, executor=executor, workers=1) as pipeline:
        await pipeline.wait()
        pipeline.ledger.check()
    last = pipeline.report.last_failure
    assert last is not None
    assert (last.error, last.symbol) == ("StubbornError", "A")


class StubbornError(Exception):
    """An exception that no other process can rebuild."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__("stubborn")


def fails(_tick: tt.Tick) -> None:
    raise StubbornError(1, 2)


async def fails_async(_tick: tt.Tick) -> None:
    raise StubbornError(1, 2)


# By a probe


async def test_readiness_depends_on_failures_only_where_it_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    failing = True

    async def handler(tick: tt.Tick) -> None:
        if failing and tick.volume % 2:
            raise OutOfCashError

    async with tt.open_pipeline(steady(), handler, shutdown_timeout=0) as pipeline:
        any_, some, few = Health(pipeline), Health(pipeline, 30, 0.6), Health(pipeline, 30, 0.4)
        await trio.sleep(2)  # seen within two seconds
        now = trio.current_time()
        for health in (any_, some):
            report = health.ready(now)
            assert report.ok
            assert "reason" not in report.facts
            assert report.facts["failures"]["share"] == pytest.approx(0.5, abs=0.05)
            assert report.facts["failures"]["last_error"] == "OutOfCashError"
            assert report.facts["failures"]["last_symbol"] == "B"
            assert 0 <= report.facts["failures"]["last_age_s"] <= 0.2
        report = few.ready(now)
        assert not report.ok
        assert report.facts["not_failing"] is False
        assert "more than 40.0%; the last by OutOfCashError, of B" in report.facts["reason"]
        assert few.alive().ok, "a restart cures no strategy"
        failing = False
        for _ in range(7):
            await trio.sleep(1)
            few.refresh(trio.current_time())
        report = few.ready(trio.current_time())
        assert report.ok
        assert report.facts["failures"]["per_s"] == 0
        assert report.facts["failures"]["last_error"] == "OutOfCashError"


async def test_the_probe_tells_it_over_http() -> None:
    feed = steady()
    async with tt.open_pipeline(feed, every(1), shutdown_timeout=0) as pipeline:
        url = await pipeline.serve_metrics(0, max_failure_rate=0)
        client = await connect(url)
        with trio.fail_after(30):
            await until(lambda: pipeline.metrics().failed_per_s > 0)
            status, _headers, body = await client.ask("/readyz")
        await client.stream.aclose()
    answer = json.loads(body)
    assert status == 503
    assert answer["status"] == "unavailable"
    assert answer["failures"]["max_share"] == 0
    assert answer["reason"].startswith("100.0% of the handled ticks fail, more than 0.0%")
    assert_accounted(pipeline.report)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), "0.1", True])
async def test_a_share_that_is_none_is_refused(rate: Any) -> None:
    async with tt.open_pipeline(steady(), every(1), shutdown_timeout=0) as pipeline:
        with pytest.raises(tt.ConfigError, match="max_failure_rate must be a number"):
            await pipeline.serve_metrics(0, max_failure_rate=rate)


# Elsewhere


async def test_top_sees_failures_of_another_process(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()

    def samples() -> Any:
        return parse_metrics(generate_latest(registry).decode())["main"]

    async with tt.open_pipeline(steady(), every(1), shutdown_timeout=0) as pipeline:
        with export_metrics(pipeline, registry):
            assert not samples().has("handler_last_failure_timestamp_seconds")
            seen = RemotePipeline(samples(), Clock())
            assert seen.metrics.last_failure is None
            for _ in range(4):
                await trio.sleep(0.5)
                seen.update(samples())
            now = seen.metrics
            assert now.last_failure == pipeline.metrics().last_failure
    assert now.failed_per_s == pytest.approx(1000, rel=0.1)
    assert now.consumed_per_s == 0
    text = "\n".join(drawn(now, seen.history))
    assert "FAILING 1,0" in text
    assert "100% of the handled" in text
    assert "last OutOfCashError of " in text
    assert "▒ failed" in "\n".join(drawn(now, seen.history, height=40))


def test_labels_are_bounded() -> None:
    labels, seen = FailureLabels(), set()
    at = make_tick("A", 1).timestamp
    for number in range(500):
        failure = LastFailure(error=f"Error{number % 100}", symbol=f"S{number}", at=at)
        seen.add(tuple(labels.of(failure).items()))
    assert len(seen) <= 2 * MOST_FAILURES + 1
    again = LastFailure(error="Error0", symbol="S0", at=at)
    assert labels.of(again) == {"error": "Error0", "symbol": "S0"}


# In the terminal


def drawn(
    metrics: tt.PipelineMetrics, history: History | None = None, width: int = 80, height: int = 24
) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(render(metrics, history=history or History(), width=width, height=height))
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    return lines


async def test_80_columns_show_failures_and_no_green(autojump_clock: MockClock) -> None:
    history = History()
    async with tt.open_pipeline(steady(), every(1), shutdown_timeout=0) as pipeline:
        for _ in range(10):
            await trio.sleep(0.5)
            now = pipeline.metrics()
            history.add(now)
    assert all(step.handled == 0 and step.failed > 0 for step in history.rates)
    lines = drawn(now, history)
    assert "FAILING" in lines[1]
    assert "OutOfCashError of" in lines[1]
    out = next(line for line in lines if "│ out " in line)
    assert not set("▁▂▃▄▅▆▇█") & set(out[:40]), "the line of handled ticks is empty"
    fail = next(line for line in lines if "│ fail " in line)
    assert "█" in fail[:40]
    assert any("workers (4)" in line for line in lines), "the workers have their place"


async def test_a_loop_that_stands_still_is_shown(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(steady(), every(10**9), shutdown_timeout=0) as pipeline:
        await trio.sleep(9)
        now = attrs.evolve(pipeline.metrics(), loop_delay_ms=412.0, loop_blocks=3)
    assert "LOOP BLOCKED for 412 ms, 3 in all" in drawn(now)[1]
    assert progress_line(now).endswith("LOOP BLOCKED 3x")
    over = attrs.evolve(now, loop_delay_ms=5.0)
    lines = drawn(over)
    assert "LOOP BLOCKED" not in lines[1]
    assert any("loop blocked 3x" in line for line in lines), "the count stays"


async def test_a_handler_that_does_not_return_is_shown(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()

    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep_forever()

    feed = tt.IterableFeed([make_tick("A\x1b[31m\n", 1)])
    async with tt.open_pipeline(feed, handler, shutdown_timeout=0) as pipeline:
        with export_metrics(pipeline, registry):
            for _ in range(4):
                await trio.sleep(1)
                now = pipeline.metrics()
            samples = parse_metrics(generate_latest(registry).decode())["main"]
            elsewhere = RemotePipeline(samples, Clock()).metrics
    assert now.overdue is not None
    for shown in (now, elsewhere):
        assert "NO RETURN from a handler for 3.0 s, of A" in drawn(shown)[1]
    line = progress_line(now)
    assert "NO RETURN from a handler for 3.0 s, of A" in line
    assert line.isprintable()


def test_symbols_of_what_is_overdue_are_bounded() -> None:
    labels, seen = FailureLabels(), Counter[str]()

    class Symbols:
        def gauge(self, _name: str, _help: str, _value: object, **labels: str) -> None:
            seen.update(labels.values())

    for number in range(500):
        overdue = Overdue(workers=1, for_s=2.0, symbol=f"S{number}")
        labels.read_overdue(cast(Any, Symbols()), overdue)
    assert len(seen) == MOST_FAILURES + 1
    assert seen["other"] == 500 - MOST_FAILURES


async def test_the_progress_line_and_the_report_name_it(autojump_clock: MockClock) -> None:
    ticks = [make_tick("A\x1b[31m\n", number) for number in range(1, 21)]
    feed = tt.IterableFeed(ticks)
    async with tt.open_pipeline(feed, every(1), shutdown_timeout=0) as pipeline:
        await trio.sleep(1)
        line = progress_line(pipeline.metrics())
        await pipeline.wait()
    assert "failed 20 (20/s, last OutOfCashError of A" in line
    assert line.isprintable()
    assert report_text(pipeline.report).replace("\n", "").isprintable()


# The exit code


@pytest.mark.parametrize(("most", "code"), [(None, 0), (0.6, 0), (0.5, 0), (0.49, 3), (0.0, 3)])
async def test_the_exit_code_depends_on_it(
    most: float | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(view="none", json=False, max_failure_rate=most)
    feed = tt.IterableFeed(make_ticks(100, first=1))
    assert await run_session(feed, every(2), {}, display) == code
    out, err = capsys.readouterr()
    assert "failed            50   50.0%  the strategy raised, last OutOfCashError of" in out
    assert ("50.0% of the handled ticks failed, more than" in err) is bool(code)


async def test_the_command_line_has_the_option(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def broken(tick):\n    raise ValueError('no bid')\n")
    async with open_exchange(rate=500, symbols=["A"]) as exchange:
        done = await trio.to_thread.run_sync(
            lambda: run_cli(
                *("run", "--url", exchange.url, "--symbols", "A", "--handler", "mine:broken"),
                *("--duration", "0.5", "--max-failure-rate", "0.01", "--json", "--view", "none"),
                cwd=tmp_path,
            )
        )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["last_failure"]["error"] == "ValueError"
    assert "more than --max-failure-rate 0.01" in done.stderr


def test_a_wrong_share_is_said_at_once() -> None:
    done = run_cli("demo", "--max-failure-rate", "1")
    assert done.returncode == 2
    assert "'1' is too large" in done.stderr
    assert "Traceback" not in done.stderr
