"""The options of a pipeline: what each makes of the arguments of ``open_pipeline``."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner

import trio_ticks as tt
from trio_ticks.cli import cli, main
from trio_ticks.cli.pipeline_options import PipelineOptions, pipeline_options

RUN = ["run", "--url", "ws://127.0.0.1:9", "--symbols", "A", "--handler", "builtins:print"]


def parsed(*arguments: str, half: Any = "both") -> PipelineOptions:
    """Return what the options make of *arguments*."""
    taken: list[PipelineOptions] = []

    @click.command()
    @pipeline_options(half)
    def command(**parameters: Any) -> None:
        taken.append(PipelineOptions.take(parameters))
        assert parameters == {}

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return taken[0]


def test_the_defaults_are_those_of_the_api() -> None:
    settings = parsed().settings()
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(tt.open_pipeline).parameters.items()
    }
    assert {name: defaults[name] for name in settings} == settings


@pytest.mark.parametrize("half", ["both", "ingest", "work"])
def test_each_option_is_taken(half: str) -> None:
    assert parsed(half=half) == PipelineOptions()


def test_the_command_line_has_every_setting_that_a_word_can_say() -> None:
    """What is left out is said here; a new argument of the API fails this test."""
    left_out = {
        "feed": "made of the options of a feed",
        "handler": "the option --handler",
        "buffer": "the option --buffer",
        "results": "a function of the user's program",
        "shared_symbols": "a command has one feed",
        "record": "the option --record",
    }
    named = set(inspect.signature(tt.open_pipeline).parameters) - set(left_out)
    assert named == set(PipelineOptions().settings())


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--workers", "auto"], "workers", "auto"),
        (["--workers", "2-16"], "workers", tt.AutoWorkers(2, 16)),
        (["--executor", "process"], "executor", "process"),
        (["--overflow", "block"], "overflow", tt.Block()),
        (["--overflow", "drop-newest"], "overflow", tt.DropNewest(1.0)),
        (
            ["--overflow", "drop-newest", "--write-timeout", "3"],
            "overflow",
            tt.DropNewest(3.0),
        ),
        (["--max-per-symbol", "7"], "overflow", tt.DropNewest(1.0, max_per_symbol=7)),
        (
            ["--overflow", "drop-oldest", "--max-per-symbol", "7"],
            "overflow",
            tt.DropOldest(max_per_symbol=7),
        ),
        (
            ["--overflow", "tick=conflate, trade=block,book=drop-oldest"],
            "overflow",
            {tt.Tick: tt.Conflate(), tt.Trade: tt.Block(), tt.BookUpdate: tt.DropOldest()},
        ),
        (["--throttle"], "overflow", tt.Throttle(tt.DropNewest(1.0))),
        (
            ["--throttle", "--overflow", "conflate"],
            "overflow",
            tt.Throttle(tt.Conflate()),
        ),
        (["--max-age", "0.5"], "max_age", tt.MaxAge(0.5)),
        (
            ["--max-age", "0.5", "--max-age-since", "timestamp"],
            "max_age",
            tt.MaxAge(0.5, since="timestamp"),
        ),
        (["--handler-timeout", "2.5"], "handler_timeout", 2.5),
        (["--retry-on", "TimeoutError,OSError"], "retry", tt.Retry((TimeoutError, OSError))),
        (
            ["--retry-on", "json:JSONDecodeError", "--retry-attempts", "5"],
            "retry",
            tt.Retry(__import__("json").JSONDecodeError, attempts=5),
        ),
        (
            ["--retry-on", "OSError", "--retry-initial", "2"],
            "retry",
            tt.Retry(OSError, initial_s=2.0, maximum_s=2.0),
        ),
        (["--breaker-failures", "3"], "breaker", tt.Breaker(failures=3)),
        (["--breaker-pause", "9"], "breaker", tt.Breaker(pause_s=9.0)),
        (["--on-crash", "retry"], "on_crash", "retry"),
        (["--on-error", "operator:eq"], "on_error", __import__("operator").eq),
        (["--lag-threshold", "9"], "lag_threshold", 9),
        (["--maxsize", "50"], "lag_threshold", 25),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_makes_its_argument(arguments: list[str], name: str, value: object) -> None:
    assert parsed(*arguments).settings()[name] == value


def test_dead_letters_go_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "failed.jsonl"
    made = parsed("--dead-letters", str(path)).settings()["on_error"]
    assert isinstance(made, tt.DeadLetterFile)
    assert made.path == path


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--workers", "9-2"], "2-16"),
        (["--workers", "0-2"], "1 or more"),
        (["--workers", "2-"], "not a whole number"),
        (["--overflow", "tick=explode"], "'explode' is no strategy"),
        (["--overflow", "candle=block"], "'candle' is no kind of message"),
        (["--overflow", "block", "--max-per-symbol", "3"], "is for --overflow drop-newest"),
        (["--max-age-since", "timestamp"], "needs --max-age"),
        (["--retry-attempts", "3"], "need --retry-on"),
        (["--retry-on", "Timeout"], "'Timeout' is no class of exceptions"),
        (["--retry-on", "print"], "'print' is no class of exceptions"),
        (["--retry-on", "KeyboardInterrupt"], "'KeyboardInterrupt' is no class of exceptions"),
        (["--retry-on", "no_such_module:Busy"], "no module 'no_such_module'"),
        (
            ["--retry-on", "OSError", "--retry-initial", "3", "--retry-maximum", "1"],
            "must not exceed",
        ),
        (["--on-gap", "print"], "module:function"),
        (["--on-gap", "sys:path"], "'sys:path' is no function"),
        (["--on-error", "builtins:len"], "on_error"),
        (["--on-error", "operator:eq", "--dead-letters", "x"], "exclude each other"),
        (["--handler-timeout", "0"], "more than 0"),
        (["--breaker-failures", "0"], "1 or more"),
        (["--dead-letters", "."], "is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_clear_line(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, *arguments, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err
    assert err.count("\n") == 1


def test_what_a_module_prints_does_not_spoil_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "talks_when_imported.py").write_text(
        "print('hello')\nclass Busy(Exception): ...\n"
        "def gap(gap): ...\ndef failed(tick, error): ...\n"
    )
    options = parsed(
        *("--retry-on", "talks_when_imported:Busy"),
        *("--on-gap", "talks_when_imported:gap", "--on-error", "talks_when_imported:failed"),
    )
    settings = options.settings(as_json=True)
    assert [kind.__name__ for kind in settings["retry"].on] == ["Busy"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


@pytest.mark.parametrize("name", ["run", "demo", "ingest", "work"])
def test_each_option_of_a_command_reaches_the_pipeline(name: str) -> None:
    """By name: the commands take all that they offer, or click would have refused."""
    fields = {field.name for field in attrs.fields(PipelineOptions)}
    offered = {each.name for each in cli.commands[name].params} & fields
    least = {"ingest": {"overflow", "on_feed"}, "work": {"workers", "retry_on", "dead_letters"}}
    assert offered >= least.get(name, fields)
    if name == "ingest":
        assert not offered & {"workers", "executor", "retry_on", "on_error"}
    if name == "work":
        assert not offered & {"overflow", "maxsize", "on_feed"}


def test_the_help_shows_the_options_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run", "demo", "ingest", "work"):
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        titles = re.findall(r"^(\w[\w:, ]+):$", out, re.MULTILINE)
        assert "Pipeline: the queue" in titles, name
        assert titles[-1] == "Options"
