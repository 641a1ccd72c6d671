"""What the docs say is there: commands, options, links, tests, extras, pages.

The code in them is run by test_doc_blocks.py.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.doc_blocks import PAGES, ROOT
from trio_ticks.cli import cli


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
    command = cli.commands[arguments[0]] if not arguments[0].startswith("-") else cli
    known = {
        name
        for parameter in command.params
        for name in [*parameter.opts, *parameter.secondary_opts]
    } | {"--help"}
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= known


def test_there_are_commands() -> None:
    assert {arguments[0] for _, arguments in COMMANDS} >= {"demo", "run"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if target.startswith("http"):
            continue
        if not there.exists() or (
            anchor and there.suffix == ".md" and anchor not in anchors(there)
        ):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings in *page*, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", name).replace(" ", "-") for name in plain}


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


def test_every_extra_is_explained_and_no_other() -> None:
    page = (ROOT / "docs" / "installation.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    explained = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(explained) == sorted(project["optional-dependencies"])


def test_nobody_is_told_to_install_a_package_that_is_not_there() -> None:
    told = [
        (page.name, line)
        for page in PAGES
        for line in page.read_text().splitlines()
        if re.search(r"pip install ['\"]?trio[-_]ticks", line) and page.name != "installation.md"
    ]
    assert told == [], "it is not on PyPI: link to installation.md"


def test_every_page_is_in_the_table_of_contents() -> None:
    docs = ROOT / "docs"
    listed = {
        line.strip()
        for page in (docs / "index.md", docs / "api.md")
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.M)
        for line in tree.splitlines()
        if line.strip() and not line.startswith(":")
    }
    pages = {
        page.relative_to(docs).with_suffix("").as_posix() for page in PAGES if docs in page.parents
    }
    assert pages - listed == {"index"}
