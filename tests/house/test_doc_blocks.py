"""Every block of code in README and docs runs, and prints what it is said to print."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.worlds.doc_blocks import Block, blocks, commands, mismatch
from tests.worlds.doc_fragments import run_fragment

BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if block.parsed_only is None]
PROGRAMS = [
    block
    for block in RUN
    if block.language == "python" and not {"fragment", "then"} & set(block.marks)
]
FRAGMENTS = [block for block in RUN if {"fragment", "then"} & set(block.marks)]
SHELL = [block for block in RUN if block.language in ("bash", "console")]
SECONDS = 60


def ids(chosen: Iterable[Block]) -> list[str]:
    return [block.name for block in chosen]


def output_of(program: Block) -> Block | None:
    """Return the block that shows what *program* prints."""
    found = [block for block in BLOCKS if block.below is program and block.language == "text"]
    return found[0] if found else None


@pytest.mark.parametrize("block", PROGRAMS, ids=ids(PROGRAMS))
def test_program_runs_and_prints_what_is_shown(block: Block, tmp_path: Path) -> None:
    if "numpy" in block.program:
        pytest.importorskip("numpy")
    (tmp_path / "program.py").write_text(block.program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    shown = output_of(block)
    if shown is None:
        return
    # Lines of the log go to standard error, tracebacks between them. The page has
    # their beginning and end.
    logged = set(done.stderr.splitlines())
    text = "\n".join(line for line in shown.text.splitlines() if line not in logged)
    differs = mismatch(text, done.stdout, figures_differ="figures differ" in shown.marks)
    assert differs is None, differs


@pytest.mark.parametrize("block", FRAGMENTS, ids=ids(FRAGMENTS))
def test_fragment_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_fragment(with_free_ports(block.text), block.marks.get("then", ""), block.name)


def with_free_ports(code: str) -> str:
    """Return *code* with a free port for each that the pages show.

    Others may run these tests, or a pipeline, on this machine at the same time.
    """
    for port in re.findall(r"\b946\d\b", code):
        with socket.create_server(("127.0.0.1", 0)) as server:
            code = code.replace(port, str(server.getsockname()[1]))
    return code


@pytest.fixture(scope="session")
def path_with_our_commands(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which ``trio-ticks`` and ``python`` are those under test."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in {
        "trio-ticks": [sys.executable, "-m", "trio_ticks"],
        "python": [sys.executable],
    }.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("block", SHELL, ids=ids(SHELL))
def test_commands_run_and_print_what_is_shown(
    block: Block, tmp_path: Path, path_with_our_commands: str
) -> None:
    (tmp_path / "mine.py").write_text("async def on_tick(tick):\n    pass\n")
    for other in BLOCKS:
        if other.page == block.page and "file" in other.marks:
            (tmp_path / other.marks["file"]).write_text(other.text)
    steps = (
        [(each.line, each.output) for each in commands(block.text)]
        if block.language == "console"
        else [(block.text, None)]
    )
    for line, shown in steps:
        code, printed = run_shell(
            with_free_ports(line),
            tmp_path,
            path_with_our_commands,
            until_ctrl_c="until Ctrl-C" in block.marks,
        )
        assert code == 0, printed
        if shown:
            differs = mismatch(shown, printed, figures_differ="figures differ" in block.marks)
            assert differs is None, differs


PRINTED = [block for block in RUN if "printed by" in block.marks]


@pytest.mark.parametrize("block", PRINTED, ids=ids(PRINTED))
def test_a_command_prints_what_is_shown_of_it(
    block: Block, tmp_path: Path, path_with_our_commands: str
) -> None:
    line = block.marks["printed by"]
    code, printed = run_shell(line, tmp_path, path_with_our_commands, until_ctrl_c=False)
    assert code == 0, printed
    shown = f"...\n{block.text}...\n"
    differs = mismatch(shown, printed, figures_differ="figures differ" in block.marks)
    assert differs is None, differs


def run_shell(line: str, cwd: Path, path: str, *, until_ctrl_c: bool) -> tuple[int, str]:
    """Run *line* in a shell; return its exit code, and what it printed.

    Args:
        line: the command.
        cwd: where.
        path: the PATH.
        until_ctrl_c: whether to interrupt it once it has printed something.
    """
    process = subprocess.Popen(
        ["bash", "-euc", line],
        cwd=cwd,
        env={**os.environ, "PATH": path, "COLUMNS": "100", "TRIO_TICKS_PORT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            printed = ""
            if until_ctrl_c:
                assert process.stdout is not None
                printed = process.stdout.readline()
                os.killpg(process.pid, signal.SIGINT)
            printed += process.communicate(timeout=SECONDS)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, printed


def check_json(text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError:  # a log: an object a line
        for line in text.splitlines():
            json.loads(line)


def check_yaml(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    assert list(yaml.safe_load_all(text))


def check_ini(text: str) -> None:
    configparser.RawConfigParser(strict=False, allow_no_value=True).read_string(text)


def check_shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=SECONDS)


def check_python(text: str) -> None:
    compile(text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


PARSERS: dict[str, Callable[[str], object]] = {
    "bash": check_shell,
    "console": lambda text: check_shell("\n".join(each.line for each in commands(text))),
    "dockerfile": lambda text: None if re.match(r"(#.*\n|\s)*FROM ", text) else pytest.fail(text),
    "ini": check_ini,
    "json": check_json,
    "python": check_python,
    "text": lambda _text: None,
    "toml": tomllib.loads,
    "yaml": check_yaml,
}
"""What checks a block by its language; whatever else is no language of these pages."""


@pytest.mark.parametrize("block", BLOCKS, ids=ids(BLOCKS))
def test_block_can_be_parsed(block: Block) -> None:
    assert block.language in PARSERS, f"{block.name}: no check for {block.language!r}"
    PARSERS[block.language](block.text)


def test_what_is_not_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    left = [
        (block.name, str(block.parsed_only)) for block in BLOCKS if block.parsed_only is not None
    ]
    with capsys.disabled():
        for name, reason in left:
            print(f"\n{name}: parsed only: {reason}", end="")
    bad = [name for name, reason in left if not re.match(r"(needs|takes|installs) \w", reason)]
    assert bad == [], "say what it needs, or takes, or installs"
    assert len(left) < len(RUN) / 3


def test_there_is_enough_to_run() -> None:
    pages = {block.page for block in PROGRAMS}
    assert pages >= {"README.md", "docs/tutorial.md", "docs/index.md", "docs/from_asyncio.md"}
    assert len(PROGRAMS) > 30
    assert FRAGMENTS
    assert SHELL
    assert PRINTED
    assert sum(output_of(block) is not None for block in PROGRAMS) > 20


def test_an_output_belongs_to_a_program() -> None:
    assert [block.name for block in BLOCKS if "output" in block.marks and block.below is None] == []


@pytest.mark.parametrize(
    ("shown", "printed", "figures_differ", "same"),
    [
        ("a 1\n", "a 1\n", False, True),
        ("a 1\n", "a 2\n", False, False),
        ("a 1\n", "a 12,345\n", True, True),
        ("a 1\n", "b 1\n", True, False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", False, True),
        ("a\n...\nd\n", "a\nd\n", False, True),
        ("a\n...\nd\n", "a\nb\n", False, False),
        ("a\n...\n", "a\nb\n", False, True),
        ("a  1\n", "a    22\n", True, True),
        ("a 1, ...\n", "a 1, b 2\n", False, True),
        ("a 1, ...\n", "a 2, b 2\n", False, False),
    ],
)
def test_mismatch_sees_what_differs(
    shown: str, printed: str, figures_differ: bool, same: bool
) -> None:
    assert (mismatch(shown, printed, figures_differ=figures_differ) is None) == same
