"""``--config`` and ``--dry-run``: what a file says, what wins over it, what is bad."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trio_ticks.cli import main

KEY = "sesame-0123456789"
Write = Callable[[str], str]

WHOLE = """
# Options of several commands.
symbols = ["BTCUSDT", "ETHUSDT"]
venue = "binance"
handler = "builtins:print"
maxsize = 5000
max_age = 0.5
newer_only = true
header = ["X-Account: seventeen"]

[run]
workers = 8
overflow = { tick = "conflate", trade = "block" }

[work]
prefetch = 100
workers = "auto"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def write_file(text: str) -> str:
        (tmp_path / "ticks.toml").write_text(text, encoding="utf-8")
        return "ticks.toml"

    return write_file


def options_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what ``--dry-run --json`` says of the options."""
    code = main([*arguments, "--dry-run", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.count("\n") == 1
    shown: dict[str, Any] = json.loads(out)["options"]
    return shown


def test_a_file_sets_options(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    options = options_of(capsys, "run", "--config", write(WHOLE))
    file = "configuration file"
    assert {name: each for name, each in options.items() if each["from"] != "default"} == {
        "symbols": {"value": "BTCUSDT,ETHUSDT", "from": file},
        "venue": {"value": "binance", "from": file},
        "handler": {"value": "builtins:print", "from": file},
        "maxsize": {"value": "5000", "from": file},
        "max-age": {"value": "0.5", "from": file},
        "newer-only": {"value": "True", "from": file},
        "header": {"value": "X-Account:***", "from": file},
        "workers": {"value": "8", "from": file},
        "overflow": {"value": "tick=conflate,trade=block", "from": file},
        "json": {"value": "True", "from": "command line"},
    }


def test_environment_and_command_line_win(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_COUNT", "3")
    options = options_of(capsys, "run", "--config", write(WHOLE), "--maxsize", "9")
    assert options["workers"] == {"value": "3", "from": "WORKER_COUNT"}
    assert options["maxsize"] == {"value": "9", "from": "command line"}


def test_the_environment_may_name_the_file(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_TICKS_CONFIG", write(WHOLE))
    options = options_of(capsys, "run")
    assert options["venue"]["value"] == "binance"
    assert options["maxsize"]["value"] == "5000"


def test_a_command_takes_its_own_table_and_what_is_for_all(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("work", "--config", write(WHOLE), "--buffer", "redis://localhost?name=a")
    options = options_of(capsys, *arguments)
    assert options["workers"]["value"] == "auto"
    assert options["prefetch"]["value"] == "100"
    assert options["max-age"]["value"] == "0.5"


def test_underscores_are_hyphens(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("strategy-ms = 1\nwrite_timeout = inf\n")
    options = options_of(capsys, "demo", "--config", path)
    assert options["strategy-ms"]["value"] == "1.0"
    assert options["write-timeout"]["value"] == "inf"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("maxsiz = 3", "there is no option 'maxsiz'; did you mean maxsize?"),
        ("[run]\nmaxsiz = 3", "[run] there is no option 'maxsiz'; did you mean maxsize?"),
        ("[run]\nprefetch = 3", "[run] there is no option 'prefetch'"),
        ("[works]\nprefetch = 3", "there is no option 'works'; did you mean work?"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("run = 3", "run is a command, so write a table: [run]"),
        ("maxsize = 'many'", "maxsize: 'many' is not a whole number"),
        ("maxsize = 0", "maxsize: 0 is too small: 1 or more"),
        ("maxsize = true", "maxsize: true and false are no values"),
        ("maxsize = [1]", "maxsize: write one value, not a list"),
        ("maxsize = { a = 1 }", "maxsize: write one value, not a table"),
        ("symbols = [1, 2]", "symbols: write"),
        ("symbols = []", "symbols: write names"),
        ("symbols = 5", "symbols: write names"),
        ("final-close-codes = ['x']", "final-close-codes:"),
        ("url = ['ws://a']", "url: write one value"),
        ("books = 1", "books: write true or false"),
        ("header = 'X: 1'", "header: write a list"),
        ("api_key = 17", "api_key: write a text, in quotes"),
        ("executor = 'gpu'", "executor: 'gpu' is not one of"),
        ("overflow = { candle = 'block' }", "overflow: 'candle' is no kind of message"),
        ("maxsize = ", "no TOML: Invalid value (at end of document)"),
        ("maxsize = 1\nmaxsize = 2", "no TOML: Cannot overwrite a value"),
        ('"\\u001b[31m" = 1', "there is no option '\\x1b[31m'"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_key(
    write: Write, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", write(text)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"ticks.toml: {reason}" in err
    assert "\x1b" not in err


def test_what_cannot_be_read(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, reason in (
        ("nothing.toml", "does not exist"),
        (str(tmp_path), "is a directory"),
    ):
        assert main(["run", "--config", path]) == 2
        assert reason in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes(b"venue = '\xe4'")
    assert main(["run", "--config", "latin.toml"]) == 2
    assert "no UTF-8, at byte 9" in capsys.readouterr().err
    write("# " + "x" * (1 << 20))
    assert main(["run", "--config", "ticks.toml"]) == 2
    assert "larger than 1,048,576 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        f'url = "http://example.com/?key={KEY}"',
        f'api_key = "{KEY}"\nmaxsize = 0',
        f'header = ["{KEY}"]',
        f'api_key = "{KEY}',
    ],
)
def test_no_complaint_shows_a_key(
    write: Write, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", write(text)]) == 2
    out, err = capsys.readouterr()
    assert KEY not in out + err


# --dry-run


def test_a_dry_run_says_what_would_run_and_shows_no_key(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKDB_API_KEY", KEY)
    path = write(
        f'symbols = ["A"]\nurl = "ws://127.0.0.1/?token={KEY}"\nhandler = "builtins:print"'
    )
    assert main(["run", "--config", path, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert KEY not in out
    assert out.startswith("trio-ticks run would run: 127.0.0.1, 1 symbol\n")
    assert "(TICKDB_API_KEY)" in out
    assert out.endswith("Nothing was connected or started.\n")


def test_a_dry_run_of_a_demo_starts_no_exchange(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--workers", "9", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("trio-ticks demo would run: demo: 20,000/s, 5 ms a tick\n")
    assert "--workers  9.0  (command line)" in out or "--workers  9  (command line)" in out


def test_a_dry_run_of_both_halves_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    buffer = ["--buffer", f"redis://user:{KEY}@localhost?name=a"]
    feed = ["--url", "ws://127.0.0.1", "--symbols", "A"]
    assert main(["ingest", *buffer, *feed, "--dry-run"]) == 0
    assert main(["work", *buffer, "--handler", "builtins:print", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert KEY not in out + err
    assert out.count("Nothing was connected or started.") == 2


def test_a_dry_run_finds_what_a_run_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--url", "ws://127.0.0.1", "--symbols", "A", "--dry-run"]
    assert main([*arguments, "--handler", "builtins:print", "--on-gap", "builtins:globals"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "on_gap" in err


def test_a_replay_takes_a_file_of_several_commands(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quotes.jsonl").write_text(
        '1723161254000000000 {"stream":"a@bookTicker","data":'
        '{"u":1,"s":"A","b":"1","B":"3","a":"2","A":"1"}}\n'
    )
    path = write("metrics_port = 9464\nmaxsize = 7\n[replay]\nvirtual = true\nseed = 3\n")
    arguments = ["--config", path, "--handler", "builtins:print"]
    options = options_of(capsys, "replay", "quotes.jsonl", *arguments)
    assert options["seed"]["value"] == "3"
    assert options["maxsize"]["value"] == "7"
