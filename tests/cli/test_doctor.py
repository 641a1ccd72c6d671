"""``trio-ticks doctor``: what it finds, and what it says to do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import trio_ticks
from trio_ticks.cli import cli, doctor_checks, main
from trio_ticks.cli.commands import COMMANDS
from trio_ticks.cli.doctor_checks import Finding, findings
from trio_ticks.clock import ClockFacts

Usage = namedtuple("Usage", "total used free")


def found(topic: str, name: str) -> Finding:
    (finding,) = [each for each in findings([]) if (each.topic, each.name) == (topic, name)]
    return finding


def test_it_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out, err = capsys.readouterr()
    assert err == ""
    assert code == ("\n! " in out)
    for word in (trio_ticks.__version__, "versions:", "extras:", "cores", "clock:", "TLS"):
        assert word in out
    assert "will not work" in out.splitlines()[-1]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert out.count("\n") == 1
    assert answer["ok"] == (code == 0)
    assert {each["state"] for each in answer["findings"]} <= {"ok", "note", "bad"}
    assert all(each["advice"] for each in answer["findings"] if each["state"] != "ok")


def test_each_requirement_and_each_extra_is_looked_at() -> None:
    names = {(each.topic, each.name) for each in findings([])}
    assert {("versions", name) for name in ("trio", "msgspec", "attrs")} <= names
    metadata = importlib.metadata.metadata("trio_ticks")
    needing = {
        extra
        for extra in metadata.get_all("Provides-Extra") or []
        if any(f"'{extra}'" in line for line in metadata.get_all("Requires-Dist") or [])
    }
    assert needing
    assert {name for topic, name in names if topic == "extras"} == needing


def test_what_is_missing_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("hiredis", "trio"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "rich" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    redis = found("extras", "redis")
    assert redis.state == "note"
    assert "hiredis is missing" in redis.value
    assert "a buffer in Redis" in redis.value
    assert "pip install 'trio" in redis.advice
    assert "[redis]" in redis.advice
    rich = found("extras", "cli")
    assert rich.state == "note"
    assert "0.1 is too old" in rich.value
    assert found("versions", "trio").state == "bad"


def test_a_folder_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert found("extras", "trio_ticks").state == "note"


@pytest.mark.parametrize(
    ("older", "newer"), [("1.9", "1.10"), ("13.9.4", "14"), ("25", "25.0.1"), ("2.0rc1", "2.1")]
)
def test_versions_are_compared_as_numbers(
    older: str, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for installed, wanted, state in ((older, newer, "bad"), (newer, older, "ok")):
        monkeypatch.setattr(importlib.metadata, "version", lambda _name, it=installed: it)
        monkeypatch.setattr(importlib.metadata, "requires", lambda _n, it=wanted: [f"p>={it}"])
        assert found("versions", "p").state == state


def test_few_open_files_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (64, 128))
    finding = found("limits", "open files")
    assert (finding.state, finding.value[:3]) == ("note", "64 ")
    assert "ulimit -n" in finding.advice
    assert found("limits", "address space").state == "note"


def test_a_system_without_ulimits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert found("limits", "open files").value == "this system has no ulimits"


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(9, 9, 1000))
    assert found("limits", str(tmp_path)).state == "note"
    gone = tmp_path / "gone"
    monkeypatch.setattr(doctor_checks, "SHARED_MEMORY", gone)
    monkeypatch.setattr(sys, "platform", "linux")
    assert found("limits", str(gone)).value == "is not there"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not [each for each in findings([]) if each.name == str(gone)]


def test_a_slow_clock_and_one_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "system_clock", lambda: ClockFacts("x()", 1e-9, 3e-6))
    monkeypatch.setattr(doctor_checks, "is_synchronised", lambda: False)
    reading = found("clock", "reading")
    assert reading.state == "note"
    assert reading.value.startswith("3,000 ns by x()")
    assert "chrony" in found("clock", "synchronised").advice


def test_less_than_a_core_and_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "usable_cores", lambda: 0.5)
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 0, 0), raising=False)
    assert found("machine", "cores").state == "note"
    assert found("machine", "load").state == "note"
    monkeypatch.delattr(os, "getloadavg")
    assert not [each for each in findings([]) if each.name == "load"]


def test_variables_are_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIO_TICKS_API_KEY", "sesame-0123456789")
    monkeypatch.setenv("TRIO_TICKS_MAXSIZ\x1b", "sesame-0123456789")
    monkeypatch.setenv("HTTPS_PROXY", "http://u:sesame-0123456789@p")
    main(["doctor"])
    out = capsys.readouterr().out
    assert "sesame" not in out
    assert "\x1b" not in out
    assert "no option reads it" in out
    assert "--trust-env" in out
    lines = [line for line in out.splitlines() if "TRIO_TICKS_API_KEY" in line]
    assert lines == [line for line in lines if "no option" not in line] != []


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    commands: dict[str, Any] = {name: cli.commands[name] for name in cli.commands}
    assert {name: each.short_help for name, each in commands.items()} == COMMANDS
    assert {name: each.name for name, each in commands.items()} == {name: name for name in COMMANDS}
    folder = Path(doctor_checks.__file__).parent
    with_command = {
        path.stem for path in folder.glob("*.py") if "\n@click.command(" in path.read_text()
    }
    assert with_command == set(COMMANDS)


def test_the_help_imports_neither_trio_nor_a_command() -> None:
    program = (
        "import sys\n"
        "from trio_ticks.cli import main\n"
        "assert main(['--help']) == 0\n"
        "late = {'trio', 'msgspec', 'attrs', 'trio_ticks.feeds', 'trio_ticks.cli.run'}\n"
        "print(sorted(late & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
