"""What the docs show works: code runs, commands have the options, links lead on."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_examples import run_python
from trio_ticks.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts
]


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", text)
        for page in PAGES
        for number, text in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE), 1
        )
    ]


PYTHON = blocks("python")
PROGRAMS = [
    (name, text) for name, text in PYTHON if "trio.run(main" in text and ".example/" not in text
]


@pytest.mark.parametrize(("name", "text"), PYTHON, ids=[name for name, _ in PYTHON])
def test_code_compiles(name: str, text: str) -> None:
    compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(("name", "text"), PROGRAMS, ids=[name for name, _ in PROGRAMS])
def test_program_runs(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(text)
    assert run_python("program.py", cwd=tmp_path)


def test_there_are_programs() -> None:
    assert {name.split(".md")[0] for name, _ in PROGRAMS} >= {"README", "tutorial", "ledger"}


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every ``trio-ticks …`` in a shell block or between backticks."""
    for page in PAGES:
        text = page.read_text()
        shell = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        for line in re.findall(r"\btrio-ticks ([^\n&|]+)", shell) + re.findall(
            r"`trio-ticks ([^`\n]+)`", text
        ):
            yield page.name, shlex.split(line)


COMMANDS = list(command_lines())


@pytest.mark.parametrize(
    ("page", "arguments"), COMMANDS, ids=[f"{page} {' '.join(words)}" for page, words in COMMANDS]
)
def test_command_has_the_options_that_are_shown(page: str, arguments: list[str]) -> None:
    command = cli.commands[arguments[0]]
    known = {
        name
        for parameter in command.params
        for name in [*parameter.opts, *parameter.secondary_opts]
    } | {"--help"}
    assert {word.split("=")[0] for word in arguments[1:] if word.startswith("--")} <= known


def test_there_are_commands() -> None:
    assert {arguments[0] for _, arguments in COMMANDS} >= {"demo", "run"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    paths = [target.partition("#")[0] for target in targets if not target.startswith(("http", "#"))]
    assert [path for path in paths if path and not (page.parent / path).exists()] == []


def test_tests_that_are_named_exist() -> None:
    named = [
        (page.name, *match)
        for page in PAGES
        for match in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text())
    ]
    assert len(named) >= 10
    assert [
        (page, file, test)
        for page, file, test in named
        if not re.search(rf"^(async )?def {test}\b", text_of(file), re.MULTILINE)
    ] == []


def text_of(file: str) -> str:
    path = ROOT / file
    return path.read_text() if path.exists() else ""
