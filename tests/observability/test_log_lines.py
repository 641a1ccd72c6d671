"""What every log line of the library keeps to: an event, its facts as fields.

At most one a second of each kind, and no secret.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.handlers.test_handler_timeout import hanging, until
from tests.observability.test_health import connect
from tests.observability.test_logs import records, root_logger_as_before  # noqa: F401 - a fixture
from tests.worlds.feed_venues import Collector, leave, memory_feed, quote, running, says, websocket
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import BodyError, Recorder, ScriptFeed, Send, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.logs import LogLimit, log_event
from trio_ticks.observability.health import Health
from trio_ticks.observability.logs import configure_logging

PACKAGE = Path(tt.__file__).parent
LOGGERS = ("logger", "self._logger", "logging.getLogger(__name__)")
METHODS = ("debug", "info", "warning", "error", "exception", "critical", "log")
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


@functools.cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (str(path.relative_to(PACKAGE)), ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


@functools.cache
def calls() -> tuple[tuple[str, ast.Call], ...]:
    """Every call of log_event, with where it is."""
    return tuple(
        (f"{name}:{node.lineno}", node)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "log_event"
    )


def constants(node: ast.expr) -> Iterator[str]:
    """Yield the texts that *node* may be: a constant, one of two, or a template."""
    if isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
        )


def test_there_are_calls() -> None:
    assert len(calls()) > 25


def test_every_line_goes_through_log_event() -> None:
    """It makes the event a field of the record, and lets a message begin with it."""
    direct = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        if name != "logs.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and ast.unparse(node.func.value) in LOGGERS
    ]
    assert direct == []


def test_no_logger_is_unused() -> None:
    unused = [
        name
        for name, tree in sources()
        if any(
            isinstance(target, ast.Name) and target.id == "logger"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
        )
        and not any(
            isinstance(node, ast.Name) and node.id == "logger" and isinstance(node.ctx, ast.Load)
            for node in ast.walk(tree)
        )
    ]
    assert unused == []


def test_facts_are_fields() -> None:
    """What is filled into a sentence is also in the record's fields, for JSON."""
    without = [
        where
        for where, node in calls()
        if len(node.args) > 4 and not {word.arg for word in node.keywords} - {"exc_info"}
    ]
    assert without == []


def test_no_sentence_is_put_together_before_it_is_known_to_be_logged() -> None:
    assert [
        where
        for where, node in calls()
        for argument in node.args[3:]
        if isinstance(argument, ast.JoinedStr)
    ] == []


def test_events_are_two_words_and_sentences_do_not_repeat_them() -> None:
    strange = []
    for where, node in calls():
        strange += [
            f"{where} {event}" for event in constants(node.args[2]) if not EVENT.fullmatch(event)
        ]
        strange += [
            f"{where} {text}"
            for argument in node.args[3:4]
            for text in constants(argument)
            if EVENT.match(text + ":") and text.split()[0].endswith(":")
        ]
    assert strange == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("%d of %d", 3, 4), "room.full: 3 of 4"),
        (("100 % of it",), "room.full: 100 % of it"),
        ((), "room.full queued=3 level=high"),
    ],
)
def test_a_line_begins_with_its_event_and_has_its_facts_as_fields(
    said: tuple[Any, ...], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_event(logging.getLogger("x"), logging.WARNING, "room.full", *said, queued=3, level="high")
    (record,) = caplog.records
    assert record.getMessage() == message
    facts = vars(record)
    assert (facts["event"], facts["queued"], facts["level"]) == ("room.full", 3, "high")
    assert record.filename == Path(__file__).name, (
        "the line of the caller is of use, not log_event's"
    )


def test_a_line_that_nobody_wants_costs_nothing() -> None:
    class Never:
        def __str__(self) -> str:
            raise AssertionError("it was written out")

    quiet = logging.getLogger("x.quiet")
    quiet.setLevel(logging.ERROR)
    log_event(quiet, logging.INFO, "room.full", what=Never())


OLD_NAMES = {
    f"trio_ticks.{name}"
    for name in (
        *("channel", "dead_letters", "exchange.server", "feeds.captures", "feeds.throttling"),
        *("observability.dashboard", "pipeline", "pressure", "scaling", "throttle", "workers"),
    )
}
"""Loggers that users' alerts rely on, wherever their modules are now."""


def test_loggers_are_their_modules_or_what_these_are_part_of() -> None:
    for name, tree in sources():
        module = "trio_ticks." + name.removesuffix(".py").replace("/", ".") + "."
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "logger":
                assert isinstance(node.value, ast.Call)
                argument = node.value.args[0]
                if ast.unparse(argument) != "__name__":
                    logger = ast.literal_eval(argument)
                    assert logger in OLD_NAMES or module.startswith(logger + "."), name


def test_the_library_never_configures_logging() -> None:
    configuring = re.compile(r"basicConfig|addHandler|setLevel|(?<=\w)\.handlers\b")
    assert [name for name, tree in sources() if configuring.search(ast.unparse(tree))] == [
        "cli/options.py",
        "cli/session.py",
        "observability/logs.py",
    ]


# The limit


def test_a_kind_has_a_line_a_second_that_counts_the_others() -> None:
    now = 100.0
    limit = LogLimit(lambda: now)
    assert [limit.due("a"), limit.due("a"), limit.due("b"), limit.due("a")] == [1, 0, 1, 0]
    now = 100.999
    assert limit.due("a") == 0
    now = 101.0
    assert [limit.due("a"), limit.due("a"), limit.due("b")] == [4, 0, 1]
    now = 200.0
    assert limit.due("a") == 2


def test_what_had_no_line_can_be_told_at_the_end() -> None:
    now = 100.0
    limit = LogLimit(lambda: now, interval_s=10.0)
    assert limit.flush("a") == 0
    assert [limit.due("a", 5), limit.due("a", 2), limit.due("a")] == [5, 0, 0]
    assert [limit.flush("a"), limit.flush("a"), limit.flush("b")] == [3, 0, 0]
    now = 109.9
    assert limit.due("a") == 0
    now = 110.0
    assert limit.due("a") == 2


def test_a_limit_takes_its_time_from_a_clock_that_is_given() -> None:
    with pytest.raises(TypeError):
        LogLimit()  # type: ignore[call-arg]  # that is the point


# Whole runs


def lines_by_kind(caplog: pytest.LogCaptureFixture) -> Counter[tuple[str, str, int]]:
    """Count the lines of each event and reason in each second of the virtual clock.

    The time is put on the records by the filter in the tests.
    """
    return Counter(
        (
            record.getMessage().split()[0],
            str(getattr(record, "reason", "")),
            int(time_of(record)),
        )
        for record in caplog.records
    )


def time_of(record: logging.LogRecord) -> float:
    time: float = vars(record)["virtual_time"]
    return time


@pytest.fixture
def stamped(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Log everything, each record with the clock's time."""

    def stamp(record: logging.LogRecord) -> bool:
        record.virtual_time = trio.current_time()
        return True

    caplog.set_level(logging.DEBUG, "trio_ticks")
    # All tests of a session share the handler, and not all of them have a clock.
    caplog.handler.addFilter(stamp)
    yield caplog
    caplog.handler.removeFilter(stamp)


async def test_an_overload_with_a_failing_strategy_floods_no_log(
    autojump_clock: MockClock, stamped: pytest.LogCaptureFixture
) -> None:
    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(0.001)
        raise BodyError

    async def script(send: Send) -> None:
        symbols = [f"S{number}" for number in range(100)]
        while True:
            await send.send_many(make_ticks(100, symbols))
            await trio.sleep(0.01)

    async with open_pipeline(
        ScriptFeed(script),
        handler,
        maxsize=50,
        overflow=tt.DropOldest(),
        max_age=0.004,
        breaker=tt.Breaker(failures=1, pause_s=0.02),
        shutdown_timeout=0,
    ):
        await trio.sleep(5)
    lines = lines_by_kind(stamped)
    assert {event for event, _reason, _second in lines} >= {
        "ticks.dropped:",
        "handler.failed:",
        "breaker.set_aside:",
        "pressure.shed:",
    }
    # A second of the clock and a second between two lines need not begin together.
    assert max(lines.values()) <= 2
    for event in {event for event, _reason, _second in lines}:
        reasons = {reason for each, reason, _second in lines if each == event}
        assert sum(count for (each, _, _), count in lines.items() if each == event) <= 6 * len(
            reasons
        ), event


async def test_a_storm_of_reconnects_is_a_line_a_second_that_counts_the_others(
    autojump_clock: MockClock, stamped: pytest.LogCaptureFixture
) -> None:
    send = Collector()
    quick = BackoffPolicy(initial_s=0.1, maximum_s=0.1, uniform=lambda: 1.0)
    scripts = [websocket(says(quote(volume=n), then=leave)) for n in range(60)]
    async with (
        memory_feed(*scripts, websocket(says(quote(volume=60))), backoff=quick) as (feed, _venue),
        running(feed, send),
    ):
        await send.wait_for(61)
        await trio.sleep(1)
    lines = lines_by_kind(stamped)
    assert {event for event, _reason, _second in lines} == {"feed.connected", "feed.disconnected"}
    assert max(lines.values()) <= 2
    told = [
        getattr(record, "times", 1)
        for record in stamped.records
        if record.getMessage().startswith("feed.disconnected")
    ]
    assert len(told) <= 8
    assert told[0] == 1
    # Ten a second come; the clock adds up with an error.
    assert set(told[1:]) <= {9, 10, 11}


def times_of(caplog: pytest.LogCaptureFixture, event: str) -> list[float]:
    return [time_of(record) for record in caplog.records if record.getMessage().startswith(event)]


async def test_a_pool_that_grows_step_by_step_tells_of_it_once_a_second(
    autojump_clock: MockClock, stamped: pytest.LogCaptureFixture
) -> None:
    sizes: set[int] = set()

    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(0.05)

    async def script(send: Send) -> None:
        symbols = [f"S{number}" for number in range(500)]
        for count in (1, 1, 1, 40, 40, 40):
            for _ in range(10):
                await send.send_many(make_ticks(count, symbols))
                await trio.sleep(0.1)
                sizes.add(len(pipeline.metrics().workers))

    async with open_pipeline(
        ScriptFeed(script), handler, workers=tt.AutoWorkers(1, 64), maxsize=5000
    ) as pipeline:
        await pipeline.wait()
    told = times_of(stamped, "workers.grown")
    assert len(sizes) > len(told) + 1, "it did not grow by more steps than it told of"
    assert len(told) >= 2
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(told))


async def test_threads_that_all_hang_are_told_of_one_after_the_other(
    mock_clock: MockClock, stamped: pytest.LogCaptureFixture
) -> None:
    with hanging(0, 1, 2, 3) as handler:
        ticks = [make_tick("ABCD"[number], number) for number in range(4)]
        async with open_pipeline(
            sleepy_feed(ticks), handler, workers=4, handler_timeout=4.0
        ) as pipeline:
            await until(lambda: len(handler.begun) == 4, mock_clock)
            await until(lambda: len(times_of(stamped, "handler.hangs")) == 4, mock_clock, 0.25)
            assert pipeline.metrics().handler_timeouts == 4
            handler.go_on.set()
            await until(lambda: pipeline.ledger.consumed == 4, mock_clock)
            await until(lambda: bool(times_of(stamped, "handler.returned")), mock_clock, 0.25)
    told = times_of(stamped, "handler.hangs")
    assert len(told) == 4
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(told))


def test_letters_that_fit_and_letters_that_do_not_are_not_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LogLimit, "interval_s", 3600.0)
    with tt.DeadLetterFile(tmp_path / "letters", max_bytes=4096) as letters:
        for _ in range(10):
            letters("x" * 9999, BodyError())
            letters("x", BodyError())
            assert letters.flush()
    assert (letters.lost, letters.written) == (10, 10)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "dead_letters.lost",
        "dead_letters.well",
    ]


async def test_drops_are_logged_with_all_that_there_is_to_know(autojump_clock: MockClock) -> None:
    out = io.StringIO()
    configure_logging("json", stream=out)
    async with open_pipeline(
        sleepy_feed(make_ticks(30)),
        Recorder(9.0),
        workers=1,
        maxsize=10,
        write_timeout=0,
        shutdown_timeout=0,
    ):
        await trio.sleep(1)
    dropped = [record for record in records(out) if record.get("event") == "ticks.dropped"]
    assert dropped[0].pop("time")
    assert dropped[0] == {
        "level": "warning",
        "logger": "trio_ticks.channel",
        "event": "ticks.dropped",
        "message": "ticks.dropped: 20 overflow (10 of 10 queued, "
        + repr(tt.DropNewest(timeout=0))
        + ")",
        "dropped": 20,
        "reason": "overflow",
        "queued": 10,
        "maxsize": 10,
        "strategy": repr(tt.DropNewest(timeout=0)),
    }
    assert [record["reason"] for record in dropped] == ["overflow", "shutdown", "shutdown"][
        : len(dropped)
    ]


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ("ticks.dropped: 5", "ticks.dropped"),
        ("feed.connected url=x", "feed.connected"),
        ("metrics.server_failed", "metrics.server_failed"),
        ("see example.com/a", None),
        ("v1.2", None),
        ("nothing", None),
    ],
)
def test_json_tells_the_event(message: str, event: str | None) -> None:
    out = io.StringIO()
    configure_logging("json", stream=out)
    logging.getLogger("x").warning(message)
    (record,) = records(out)
    assert record.get("event") == event


def test_the_command_line_logs_json_on_request() -> None:
    command = [
        sys.executable,
        "-m",
        "trio_ticks",
        "demo",
        "--rate=5000",
        "--duration=1",
        "--strategy-ms=20",
        "--maxsize=50",
    ]
    command += ["--write-timeout=0", "--shutdown-timeout=1", "--view=none", "--log-format=json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TICKS_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=kept, check=True)
    lines = records(io.StringIO(done.stderr))
    dropped = [line for line in lines if line["event"] == "ticks.dropped"]
    assert {line["reason"] for line in dropped} >= {"overflow"}
    assert dropped[0].keys() >= {
        "time",
        "level",
        "logger",
        "message",
        "dropped",
        "queued",
        "maxsize",
        "strategy",
    }
    assert dropped[0]["strategy"].startswith("DropNewest(")


async def test_a_route_that_fails_again_and_again_is_one_line_without_its_query(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: Health) -> Any:
        raise BodyError

    monkeypatch.setattr(Health, "alive", fail)
    monkeypatch.setattr(LogLimit, "interval_s", 3600.0)
    with trio.fail_after(30):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            client = await connect(await pipeline.serve_metrics(0))
            async with client.stream:
                for _ in range(3):
                    assert (await client.ask("/healthz?token=sesame"))[0] == 500
    (record,) = [
        record for record in caplog.records if record.name == "trio_ticks.observability.web"
    ]
    assert record.getMessage() == "web.route_failed: /healthz"
    assert "sesame" not in json.dumps(vars(record), default=str)
