"""The command line, mostly as a user meets it: real processes and real signals.

Also real terminals and real WebSockets.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import logging
import math
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import trio

import trio_ticks
from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli
from tests.worlds.helpers import make_ticks
from trio_ticks.cli import cli, main
from trio_ticks.cli.child import open_child_exchange
from trio_ticks.cli.loading import load_handler
from trio_ticks.cli.pipeline_options import STRATEGIES
from trio_ticks.cli.report import progress_line, report_text
from trio_ticks.errors import TickError
from trio_ticks.ledger import REASONS

KEY = "sesame-0123456789"


@contextmanager
def started(arguments: Sequence[str], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone, whatever happens, when the block is left."""
    settings = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(),
        "text": True,
        **settings,
    }
    with subprocess.Popen(arguments, **settings) as process:
        try:
            yield process
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for_line(stream: Any, pattern: str) -> str:
    """Read lines until one matches; the end of the stream is a failure."""
    seen = []
    for line in stream:
        seen.append(line)
        if re.search(pattern, line):
            return str(line)
    raise AssertionError(f"no line matches {pattern!r} in {seen}")


def assert_law(report: dict[str, Any]) -> None:
    outcomes = ("consumed", "failed", "dropped", "queued", "in_flight")
    assert report["produced"] == sum(report[name] for name in outcomes)
    assert report["dropped"] == sum(report["dropped_by_reason"].values())
    assert set(report["dropped_by_reason"]) == set(REASONS)


def only_json(stdout: str) -> dict[str, Any]:
    assert stdout.endswith("}\n")
    assert stdout.count("\n") == 1
    report: dict[str, Any] = json.loads(stdout)
    assert_law(report)
    return report


# Cheap enough to run in this process.


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    loggers = (logging.getLogger(), logging.getLogger("trio-websocket"))
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


class TestHelp:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith(f"trio-ticks {trio_ticks.__version__} (Python 3.")

    def test_no_command_shows_the_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in ("demo", "run", "exchange", "Begin with:"))

    @pytest.mark.parametrize("name", ["demo", "run", "exchange"])
    def test_each_option_is_in_the_help_with_its_variable(
        self, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TICKDB_API_KEY", KEY)
        monkeypatch.setenv("TRIO_TICKS_API_KEY", KEY)
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert f"  Examples:\n    trio-ticks {name} " in out
        assert KEY not in out
        options = [
            each
            for each in cli.commands[name].params
            if isinstance(each, click.Option) and not each.hidden
        ]
        assert len(options) > 8
        for option in options:
            variable = "TRIO_TICKS_" + option.opts[0].removeprefix("--").upper().replace("-", "_")
            assert option.envvar is not None
            assert variable in option.envvar
            assert f"{option.opts[0]} " in out
            assert variable in re.sub(r"\s", "", out)

    def test_the_variables_that_other_tools_use(self) -> None:
        variables = {option.opts[0]: option.envvar for option in cli.commands["run"].params}
        assert "WORKER_COUNT" in (variables["--workers"] or ())
        assert "TICKDB_API_KEY" in (variables["--api-key"] or ())


RUN = ["run", "--url", "ws://127.0.0.1:9", "--symbols", "A", "--handler", "builtins:print"]

BAD_SETTINGS = [
    (["demo", "--workers", "0"], "1 or more"),
    (["demo", "--workers", "four"], "not a whole number"),
    (["demo", "--workers", "1.5"], "not a whole number"),
    (["demo", "--maxsize", "-3"], "1 or more"),
    (["demo", "--rate", "0"], "more than 0"),
    (["demo", "--rate", "nan"], "not a finite number"),
    (["demo", "--shutdown-timeout", "inf"], "not a finite number"),
    (["demo", "--write-timeout", "-1"], "0 or more"),
    (["demo", "--duration", "soon"], "not a number"),
    (["demo", "--strategy-ms", "-1"], "0 or more"),
    (["demo", "--overflow", "explode"], "explode"),
    (["demo", "--symbols", ""], "empty name"),
    (["demo", "--symbols", "A,,B"], "empty name"),
    (["demo", "--symbols", "0"], "between 1 and"),
    (["demo", "--symbols", "9999999"], "between 1 and"),
    (["demo", "--capture", "/no/such/file"], "does not exist"),
    (["demo", "--max-age", "0"], "more than 0"),
    (["demo", "--colour"], "--colour"),
    (["demo", "extra"], "extra"),
    (["fly"], "fly"),
    (["run"], "--symbols"),
    (["run", "--symbols", "A", "--handler", "builtins:print"], "has no address of its own"),
    ([*RUN, "--url", "http://127.0.0.1"], "must begin with ws://"),
    ([*RUN, "--url", "example.com"], "must begin with ws://"),
    ([*RUN, "--url", "ws://"], "must have a host"),
    ([*RUN, "--url", "ws://host:99999"], "not a valid URL"),
    ([*RUN, "--symbols", ","], "empty name"),
    ([*RUN, "--handler", "print"], "module:function"),
    ([*RUN, "--handler", "no_such_module_here:f"], "no module 'no_such_module_here'"),
    ([*RUN, "--handler", "json:no_such_function"], "has no 'no_such_function'."),
    ([*RUN, "--handler", "json:load_"], "has no 'load_'; did you mean json:load"),
    ([*RUN, "--handler", "mine.py:f"], "take its name as a module, mine:f."),
    ([*RUN, "--handler", "./sub/no.py:f"], "take its name as a module, sub.no:f."),
    ([*RUN, "--handler", "sys:path"], "'sys:path': handler must be a function"),
    (
        [*RUN, "--handler", "os:getcwdb"],
        "'os:getcwdb': handler is called with one tick, which it cannot take",
    ),
    ([*RUN, "--venue", "klingon"], "klingon"),
    ([*RUN, "--ca", "/no/such/file"], "does not exist"),
    (["exchange", "--burst", "1"], "less than 1"),
    (["exchange", "--port", "70000"], "less than 65536"),
    (["exchange", "--speed", "0"], "more than 0"),
]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    BAD_SETTINGS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_setting_is_one_clear_line(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err
    assert err.startswith("trio-ticks")
    assert "--help" in err


def test_a_bad_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_COUNT", "many\x1b[31m")
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert "It was set by WORKER_COUNT." in err
    assert "set by TRIO_TICKS_WORKERS" not in err
    assert "\x1b" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", f"http://example.com/?api_key={KEY}"],
        ["--url", f"ws://user:{KEY}@example.com"],
        ["--url", f"ws://example.com:0/?api_key={KEY}"],
        ["--handler", "nothing"],
        ["--api-key", f" {KEY}\n"],
    ],
)
def test_no_complaint_shows_a_key(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKDB_API_KEY", KEY)
    assert main([*RUN, *arguments]) == 2
    out, err = capsys.readouterr()
    assert KEY not in out + err


def test_an_interrupt_before_the_start_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_context: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands["demo"], "invoke", interrupt)
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


HANDLERS = """
import functools
from unittest.mock import AsyncMock
import trio_ticks

class Klass:
    def __call__(self, tick): ...
    async def method(self, tick): ...

class Async:
    async def __aenter__(self): return self
    async def __aexit__(self, *exc): ...
    async def __call__(self, tick): ...

class NeedsMore:
    def __init__(self, limit): ...
    def __call__(self, tick): ...

class NoCall: ...

@trio_ticks.batch_handler(max_size=2)
def batch(ticks): ...

def yields(tick):
    yield

@functools.wraps(object.__init__)
def wrapped(tick): ...

object_ = Klass()
partial = functools.partial(lambda limit, tick: None, 3)
of_class = functools.partial(Klass)
mock = AsyncMock()
"""


class TestLoadHandler:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", sys.path[:])

    def test_from_the_current_directory(self, tmp_path: Path) -> None:
        (tmp_path / "strategy_here.py").write_text(
            "class Book:\n    @staticmethod\n    def on_tick(tick): return tick\n"
        )
        assert load_handler("strategy_here:Book.on_tick")("x") == "x"

    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [
            (
                "broken_one",
                "1 / 0",
                r"fails when imported: ZeroDivisionError: division by zero "
                r"\(.*broken_one\.py, line 1\)",
            ),
            ("broken_two", "import no_such_thing", "needs 'no_such_thing', which is not installed"),
            ("broken_three", "raise SystemExit(3)", "fails when imported: SystemExit: 3"),
            ("broken_four", "def f(:", "fails when imported: SyntaxError"),
        ],
    )
    def test_what_cannot_be_imported(
        self, tmp_path: Path, name: str, text: str, reason: str
    ) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(click.BadParameter, match=reason):
            load_handler(f"{name}:f")

    def test_what_takes_no_tick(self, tmp_path: Path) -> None:
        (tmp_path / "strategy_two.py").write_text(
            "def f(tick, more): ...\ndef g(tick, more=1): ...\n"
        )
        with pytest.raises(click.BadParameter, match="one tick, which it cannot take"):
            load_handler("strategy_two:f")
        assert load_handler("strategy_two:g").__name__ == "g"

    @pytest.mark.parametrize(
        ("name", "executor", "reason"),
        [
            ("NeedsMore", "auto", "called without arguments, once per worker"),
            ("NoCall", "auto", r"needs a method __call__"),
            ("of_class", "auto", "a partial of the class Klass"),
            ("yields", "auto", "must not have a yield"),
            ("Async", "thread", "runs in the event loop"),
            ("batch", "loop", "would stop the event loop"),
        ],
    )
    def test_what_no_pipeline_would_take(
        self, tmp_path: Path, name: str, executor: str, reason: str
    ) -> None:
        (tmp_path / "strategy_three.py").write_text(HANDLERS)
        with pytest.raises(click.BadParameter, match=f"strategy_three:{name}.*{reason}"):
            load_handler(f"strategy_three:{name}", executor)

    @pytest.mark.parametrize(
        "name",
        ["Klass", "Async", "object_", "object_.method", "partial", "batch", "wrapped", "mock"],
    )
    async def test_what_a_pipeline_takes(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "strategy_four.py").write_text(HANDLERS)
        handler = load_handler(f"strategy_four:{name}")
        report = await trio_ticks.run_pipeline(trio_ticks.IterableFeed(make_ticks(5)), handler)
        assert (report.consumed, report.failed) == (5, 0)

    def test_what_does_not_say_what_it_takes(self) -> None:
        assert load_handler("builtins:max") is max


async def test_reports_as_text() -> None:
    async def handler(tick: trio_ticks.Tick) -> None:
        if tick.volume == 3:
            raise ValueError

    async with trio_ticks.open_pipeline(
        trio_ticks.IterableFeed(make_ticks(10)), handler
    ) as pipeline:
        await pipeline.wait()
        line = progress_line(pipeline.metrics())
    text = report_text(pipeline.report)
    assert "10 = 9 + 1 + 0 + 0 + 0: every tick is accounted for" in text
    assert re.search(r"\+ failed +1 +10\.0%  the strategy raised", text)
    assert "feed stopped" in line
    assert "failed 1" in line
    assert max(map(len, text.splitlines())) < 80
    assert "\n" not in line


# Real processes.


def test_demo_json_is_one_object_and_the_law_is_exact() -> None:
    done = run_cli(
        *(
            "demo",
            "--rate",
            "20000",
            "--strategy-ms",
            "5",
            "--duration",
            "1.2",
            "--write-timeout",
            "0.1",
            "--shutdown-timeout",
            "0.1",
            "--json",
        ),
        # Neither is for the exchange that the demo starts.
        TRIO_TICKS_PORT="1",
        TRIO_TICKS_API_KEY=KEY,
    )
    assert done.returncode == 0
    report = only_json(done.stdout)
    assert report["produced"] > 0
    assert report["dropped_by_reason"]["overflow"] > 0
    assert {"consumed", "failed", "queued", "in_flight", "malformed", "duration_s"} <= set(report)
    assert report["queued"] == report["in_flight"] == 0
    # Progress, without a terminal: lines, and no control codes.
    assert re.search(r"^ +1\.\d s  connected  in [\d,]+/s", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_without_a_terminal_prints_a_plain_report() -> None:
    done = run_cli(
        "demo",
        "--rate",
        "200",
        "--strategy-ms",
        "0",
        "--duration",
        "0.5",
        "--symbols",
        "3",
        "--view",
        "none",
    )
    assert done.returncode == 0
    assert "every tick is accounted for" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if name not in ("fail", "drop-newest")]
)
def test_demo_takes_every_strategy(name: str) -> None:
    done = run_cli(
        *(
            "demo",
            "--rate",
            "5000",
            "--duration",
            "0.4",
            "--overflow",
            name,
            "--maxsize",
            "20",
            "--shutdown-timeout",
            "0.1",
            "--json",
        )
    )
    assert done.returncode == 0
    dropped = only_json(done.stdout)["dropped_by_reason"]
    expected = {"block": None, "drop-oldest": "evicted", "conflate": "conflated"}[name]
    assert expected is None or dropped[expected] > 0


def test_overflow_fail_ends_with_a_report_and_one_line() -> None:
    done = run_cli(
        "demo",
        "--rate",
        "20000",
        "--duration",
        "20",
        "--overflow",
        "fail",
        "--maxsize",
        "10",
        "--view",
        "none",
        "--json",
    )
    assert done.returncode == 1
    assert only_json(done.stdout)["dropped"] > 0
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("trio-ticks demo: error: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_overload_ends_with_a_report(number: signal.Signals) -> None:
    arguments = (
        "demo",
        "--duration",
        "inf",
        "--write-timeout",
        "0",
        "--strategy-ms",
        "50",
        "--shutdown-timeout",
        "0.2",
        "--json",
    )
    with started(command(*arguments)) as process:
        wait_for_line(process.stderr, r"ticks\.dropped: [1-9]")
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    report = only_json(out)
    assert report["dropped_by_reason"]["shutdown"] > 0
    assert "Traceback" not in err


SLOW = (
    "--write-timeout",
    "0",
    "--strategy-ms",
    "500",
    "--shutdown-timeout",
    "100",
    "--log-level",
    "info",
    "--json",
)
"""A strategy so slow that draining the queue takes minutes."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    with started(command("demo", "--duration", "inf", *SLOW)) as process:
        wait_for_line(process.stderr, r"ticks\.dropped: [1-9]")
        process.send_signal(number)
        wait_for_line(process.stderr, r"pipeline\.stopping")
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert only_json(out)["dropped_by_reason"]["shutdown"] > 0


def test_a_signal_while_draining_after_the_time_ends_at_once() -> None:
    with started(command("demo", "--duration", "0.5", *SLOW)) as process:
        wait_for_line(process.stderr, r"pipeline\.stopping")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert only_json(out)["dropped_by_reason"]["shutdown"] > 0


def test_the_exchange_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import trio\n"
        "from trio_ticks.cli.child import open_child_exchange\n"
        "async def main():\n"
        "    async with open_child_exchange([]) as child:\n"
        "        print(child.hello.url, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with started([sys.executable, str(program)]) as process:
        port = int(wait_for_line(process.stdout, "ws://").rpartition(":")[2])
        assert listens(port)
        process.kill()
        process.wait()
        deadline = time.monotonic() + PATIENCE_S
        while listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)


async def test_a_child_that_cannot_start_says_why() -> None:
    with pytest.raises(TickError, match=r"did not start: .*between 1 and"):
        async with open_child_exchange(["--symbols=0"]):
            raise AssertionError("it should not have started")


def test_the_demo_ends_when_its_exchange_dies() -> None:
    with started(
        command("demo", "--duration", "inf", "--rate", "50", "--log-level", "info", "--json")
    ) as process:
        url = wait_for_line(process.stderr, r"feed\.connected")
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        assert url
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    only_json(out)
    assert "the local exchange has ended by itself" in err.splitlines()[-1]


def write_capture(path: Path, ticks: int, *, step_ns: int) -> Path:
    with path.open("w") as file:
        for n in range(ticks):
            tick = {
                "symbol": "AB"[n % 2],
                "timestamp": "2024-08-08T12:00:00Z",
                "bid": 1.0,
                "ask": 2.0,
                "bid_size": 1,
                "ask_size": 1,
                "volume": n,
            }
            file.write(f"{1723161253937085768 + n * step_ns} {json.dumps(tick)}\n")
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A second of 200 ticks."""
    return write_capture(tmp_path / "capture.txt", 200, step_ns=5_000_000)


def test_a_capture_is_played_to_its_end(capture: Path) -> None:
    done = run_cli(
        "demo",
        "--capture",
        str(capture),
        "--speed",
        "10",
        "--strategy-ms",
        "0",
        "--json",
        "--view",
        "none",
    )
    assert done.returncode == 0
    report = only_json(done.stdout)
    assert report["produced"] == report["consumed"] == 200
    assert report["reconnects"] == 0
    assert done.stderr == ""


def test_a_damaged_capture_is_reported_as_a_replay_reports_it(
    capture: Path, tmp_path: Path
) -> None:
    lines = capture.read_text().splitlines()
    junk = ["\x00\xff not a message", "1723161253937085768 {", '{"symbol": 3}', "[" * 50]
    mixed = [part for n, line in enumerate(lines) for part in (line, junk[n % 4])]
    path = tmp_path / "damaged.gz"
    path.write_bytes(gzip.compress("\n".join(mixed * 3).encode())[:-20])
    feed = trio_ticks.ReplayFeed(path, speed=math.inf)
    replayed = trio.run(trio_ticks.run_pipeline, feed, lambda _tick: None)
    assert feed.stats.malformed > 500
    done = run_cli(
        *("demo", "--capture", str(path), "--speed", "inf", "--strategy-ms", "0"),
        *("--json", "--view", "none"),
    )
    assert done.returncode == 0
    report = only_json(done.stdout)
    assert report["malformed"] == feed.stats.malformed == replayed.malformed
    assert report["produced"] == replayed.produced
    assert done.stderr.count("capture.truncated") == 1
    assert str(path) in done.stderr


def test_the_exchange_keeps_a_burst_of_a_capture_while_the_pipeline_waits(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "burst.txt", 60_000, step_ns=1)
    done = run_cli(
        "demo",
        "--capture",
        str(path),
        "--maxsize",
        "10",
        "--shutdown-timeout",
        "0",
        "--view",
        "none",
        "--json",
    )
    assert only_json(done.stdout)["produced"] == 60_000


def test_whose_messages_a_capture_holds_can_be_said(capture: Path) -> None:
    """The ticks are flat ones; the error comes from the exchange's process."""
    options = ["demo", "--capture", str(capture), "--speed", "10", "--json", "--view", "none"]
    done = run_cli(*options, "--venue", "flat")
    assert only_json(done.stdout)["produced"] == 200
    done = run_cli(*options, "--venue", "binance")
    assert done.returncode == 2
    assert "as messages of binance, its first 200 lines make no ticks" in done.stderr
    done = run_cli(*options, "--venue", "nowhere")
    assert done.returncode == 2
    assert "'binance'" in done.stderr


def test_a_capture_can_be_cut_short(capture: Path) -> None:
    done = run_cli(
        "demo",
        "--capture",
        str(capture),
        "--speed",
        "0.01",
        "--duration",
        "0.3",
        "--symbols",
        "B",
        "--json",
    )
    assert done.returncode == 0
    assert only_json(done.stdout)["produced"] < 100


def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "junk.gz"
    path.write_bytes(b"\x00" * 1000)
    done = run_cli("demo", "--capture", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "the local exchange did not start: " in done.stderr
    assert done.stderr.count("trio-ticks") == 2  # who complains, and whose help to see


STRATEGY = """
import os
print("a strategy that prints")
seen = 0
async def on_tick(tick):
    global seen
    seen += 1
    print(tick.symbol)
    if seen == 3:
        raise ValueError("the third tick is too much")
"""


@contextmanager
def exchange_process(*arguments: str) -> Iterator[str]:
    with started(command("exchange", *arguments)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout.read() == ""


def test_run_takes_everything_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGY)
    with exchange_process(
        "--rate", "500", "--symbols", "A,B,C", "--api-key", KEY, "--log-level", "debug"
    ) as url:
        done = run_cli(
            "run",
            cwd=tmp_path,
            TRIO_TICKS_URL=f"{url}/?token={KEY}",
            TRIO_TICKS_SYMBOLS="A,B",
            TRIO_TICKS_HANDLER="mine:on_tick",
            TRIO_TICKS_DURATION="0.5",
            TRIO_TICKS_JSON="1",
            TRIO_TICKS_LOG_FORMAT="json",
            TRIO_TICKS_LOG_LEVEL="debug",
            WORKER_COUNT="3",
            TICKDB_API_KEY=KEY,
        )
    assert done.returncode == 0
    report = only_json(done.stdout)
    assert report["failed"] == 1
    assert report["consumed"] > 10
    # The strategy's own prints went elsewhere; the log's lines are JSON; the key
    # appears nowhere.
    assert "a strategy that prints" in done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"feed.connected"} <= {event.get("event") for event in events}
    assert KEY not in done.stdout + done.stderr


def test_run_with_a_wrong_key_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def on_tick(tick): ...")
    with exchange_process("--api-key", "right") as url:
        done = run_cli(
            "run",
            "--url",
            url,
            "--symbols",
            "SPY",
            "--handler",
            "mine:on_tick",
            "--json",
            cwd=tmp_path,
            TICKDB_API_KEY=KEY,
        )
    assert done.returncode == 1
    assert only_json(done.stdout)["produced"] == 0
    assert done.stderr.count("\n") == 1
    assert "401" in done.stderr
    assert KEY not in done.stderr


def test_an_exchange_says_which_symbols_it_has() -> None:
    with started(command("exchange", "--symbols", "10")) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_for_line(process.stderr, r"it has SPY, QQQ, .*, and 2 more; until Ctrl-C")
        wait_for_line(process.stderr, rf"trio-ticks run --url {url} --symbols SPY,QQQ,")


def test_a_report_says_why_nothing_came(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def on_tick(tick): ...")
    run = ("run", "--handler", "mine:on_tick", "--duration", "0.5", "--symbols", "GOOG,FORD")
    with exchange_process() as url:
        refused = run_cli(*run, "--url", url, cwd=tmp_path)
    gone = run_cli(*run, "--url", url, cwd=tmp_path)
    assert "2 of 2 symbols are not listed here: GOOG, FORD" in refused.stderr
    assert "  1 subscription was refused: the log says why\n" in refused.stdout
    assert re.search(r"\n  \d+ attempts? to connect failed: the log says why\n", gone.stdout)
    assert "refused:" not in gone.stdout


def test_the_first_ctrl_c_is_answered_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import trio\nasync def slow(tick): await trio.sleep(100)")
    with exchange_process() as url:
        run = ("run", "--url", url, "--symbols", "SPY", "--handler", "mine:slow")
        arguments = (*run, "--maxsize", "2", "--write-timeout", "0", "--shutdown-timeout", "100")
        with started(command(*arguments), cwd=tmp_path) as process:
            wait_for_line(process.stderr, r"ticks\.dropped")
            process.send_signal(signal.SIGINT)
            wait_for_line(process.stderr, "SIGINT: draining the queue; Ctrl-C ends at once")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130


def test_run_prints_progress_and_a_report(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import time\ndef on_tick(tick): time.sleep(0.001)")
    with exchange_process("--rate", "200") as url:
        done = run_cli(
            *(
                "run",
                "--url",
                url,
                "--symbols",
                "SPY,QQQ",
                "--handler",
                "mine:on_tick",
                "--duration",
                "0.5",
            ),
            cwd=tmp_path,
        )
    assert done.returncode == 0
    assert "every tick is accounted for" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("exchange", "--port"),
        ("exchange", "--venue", "coinbase", "--port"),
        # A busy machine is no other line of theirs.
        ("demo", "--log-level", "error", "--duration", "5", "--metrics-port"),
        ("demo", "--log-level", "error", "--duration", "5", "--json", "--dashboard-port"),
    ],
    ids=["exchange", "coinbase", "metrics", "page"],
)
def test_a_port_that_is_taken_is_one_line_with_its_option(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli(*arguments, str(port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"error: {arguments[-1]} {port}: cannot listen on 127.0.0.1:{port}: " in done.stderr
    assert "in use" in done.stderr


def test_output_that_nobody_reads_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("--help"),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


# Real terminals.

_AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """A program at a terminal of its own, of 80 x 24 characters."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment(**env),
        )
        os.close(slave)
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read(self) -> bool:
        """Read what comes next; return whether there is more to come."""
        assert select.select([self.master], [], [], PATIENCE_S)[0], f"silence after {self.text!r}"
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is how Linux says that the other side has closed
                raise
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def read_until(self, expected: str) -> None:
        while expected not in self.text:
            assert self.read(), f"no {expected!r} in {self.text!r}"

    def finish(self) -> int:
        while self.read():
            pass
        return self.process.wait(PATIENCE_S)


def test_the_live_view_at_a_terminal_and_ctrl_c() -> None:
    arguments = (
        "demo",
        "--duration",
        "inf",
        "--write-timeout",
        "0",
        "--strategy-ms",
        "50",
        "--shutdown-timeout",
        "0.5",
    )
    with Terminal("-m", "trio_ticks", *arguments) as terminal:
        terminal.read_until("SHED")
        assert "\x1b[?1049h" in terminal.text
        os.write(terminal.master, b"\x03")
        terminal.read_until("SIGINT: draining the queue")
        assert terminal.finish() == 0
    view, _, report = terminal.text.rpartition("\x1b[?1049l")
    assert "the sums agree" in view
    assert "every tick is accounted for" in report
    assert "shutdown" in report
    assert "Traceback" not in report


LEAK = """
import logging, os
async def on_tick(tick):
    logging.warning("the key is %s, and \\x1b]0;owned\\x07", os.environ["TICKDB_API_KEY"])
"""


def test_the_live_view_masks_the_key_as_the_lines_do(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    (tmp_path / "mine.py").write_text(LEAK)
    with exchange_process("--rate", "50", "--api-key", KEY) as url:
        options = ("--url", url, "--symbols", "SPY,QQQ", "--handler", "mine:on_tick")
        with Terminal(
            *("-m", "trio_ticks", "run", *options, "--view", "live"),
            TICKDB_API_KEY=KEY,
            PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        ) as terminal:
            terminal.read_until("the key is ***")
            os.write(terminal.master, b"\x03")
            assert terminal.finish() == 0
    assert KEY not in terminal.text
    assert "owned" in terminal.text
    assert "\x1b]0;" not in terminal.text


def test_no_colour_where_none_is_wanted() -> None:
    with Terminal(
        "-m",
        "trio_ticks",
        "demo",
        "--duration",
        "0.5",
        "--rate",
        "100",
        "--strategy-ms",
        "0",
        NO_COLOR="1",
    ) as terminal:
        assert terminal.finish() == 0
    assert "the sums agree" in terminal.text
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", terminal.text)


def test_a_terminal_without_rich_is_told_how_to_get_the_view() -> None:
    program = (
        "import sys; sys.modules['rich'] = None; "
        "from trio_ticks.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with Terminal(
        "-c", program, "demo", "--duration", "1.5", "--rate", "100", "--strategy-ms", "0"
    ) as terminal:
        assert terminal.finish() == 0
    assert terminal.text.count("pip install 'trio-ticks[cli]'") == 1
    assert "  1.0 s  connected" in terminal.text
    assert "every tick is accounted for" in terminal.text
    assert "\x1b" not in terminal.text


def test_a_dumb_terminal_gets_lines() -> None:
    with Terminal(
        "-m",
        "trio_ticks",
        "demo",
        "--duration",
        "1.5",
        "--rate",
        "100",
        "--strategy-ms",
        "0",
        TERM="dumb",
    ) as terminal:
        assert terminal.finish() == 0
    assert "  1.0 s  connected" in terminal.text
    assert "\x1b" not in terminal.text
