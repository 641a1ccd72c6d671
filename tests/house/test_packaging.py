"""What the README, CI, the metadata and the noxfile say of each other is the same."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import trio_ticks as tt

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def commands_of_the_readme() -> list[str]:
    return [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.endswith("nox")
    assert command in commands_of_the_readme()


def test_both_commands_of_the_readme_begin_with_nothing_but_python() -> None:
    assert len(commands_of_the_readme()) >= 2
    assert all(
        command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        for command in commands_of_the_readme()[:2]
    )


def test_the_pythons_tested_are_those_promised() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    (tested,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "PYTHONS"
    )
    prefix = "Programming Language :: Python :: "
    promised = [
        c.removeprefix(prefix)
        for c in PROJECT["classifiers"]
        if re.fullmatch(prefix + r"3\.\d+", c)
    ]
    assert list(tested) == promised
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_version_is_one() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert tt.__version__ == newest[1]


def test_the_command_and_the_typing_marker_are_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="trio-ticks")
    assert callable(command.load())
    assert files("trio_ticks").joinpath("py.typed").is_file()
