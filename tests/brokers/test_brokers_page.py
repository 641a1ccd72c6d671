"""The page "Across processes": its promises have tests, its tables are up to date."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from docs.make_brokers_table import PAGE, read, written
from tests.soak_broker_memory import GROWTH_MB, Phase, append, through
from tests.soak_broker_memory import RECORDS as MEMORY
from tests.soak_brokers.__main__ import RECORDS as RUNS
from tests.soak_brokers.judge import Found
from tests.soak_brokers.scenes import SCENES, broken

TESTS = Path(__file__).parents[1]
TEXT = PAGE.read_text()
NOTHING = "\N{EN DASH}"


def table(before: str) -> list[list[str]]:
    """Return the rows of the first table after the text *before*, without its head."""
    after = TEXT[TEXT.index(before) :]
    lines = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert lines is not None
    _head, _line, *rest = lines[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rest]


PROMISES = table("## What is promised")
PROOFS = table("Each promise has tests")


@cache
def names_in(file: str) -> set[str]:
    (path,) = TESTS.rglob(file)
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_promise_has_a_row_of_tests() -> None:
    assert [row[0] for row in PROOFS] == [row[0] for row in PROMISES]
    assert len(PROMISES) > 8
    for promise, proof in zip(PROMISES, PROOFS, strict=True):
        for said, shown in zip(promise[1:], proof[1:], strict=True):
            untried = said in (NOTHING, "no broker") or "not tried" in said
            assert (shown == NOTHING) == untried, (promise[0], said)


@pytest.mark.parametrize(
    "shown", sorted({cell for row in PROOFS for cell in row[1:] if cell != NOTHING})
)
def test_the_tests_of_the_promises_are_there(shown: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", shown)
    assert named
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"


def test_the_tables_are_up_to_date() -> None:
    assert written(TEXT) == TEXT, "run python docs/make_brokers_table.py"


NOT_YET = {
    ("rolling", "kafka-cluster"): "it answers no commit while its group rebalances",
}
"""Scenes that do not hold at one kind of broker, and why; the page says so."""


def test_every_scene_was_played_with_each_of_its_brokers() -> None:
    played = {(each["scene"], each["kind"]) for each in read(RUNS)}
    assert played == {(name, kind) for name, scene in SCENES.items() for kind in scene.kinds}


@pytest.mark.parametrize("name", SCENES)
def test_each_run_is_as_the_scene_demands(name: str) -> None:
    missed = set()
    for each in read(RUNS):
        if each["scene"] != name:
            continue
        # Nothing is ever lost or skipped, and every run came to its end.
        assert "duplicates" in each, each
        for found in each["groups"]:
            assert (found["lost"], found["skipped"]) == (0, 0), each
        wrong = [
            text
            for found in each["groups"]
            for text in broken(SCENES[name], each["kind"], Found(**found))
        ]
        assert each["held"] == (not each["wrong"]) == (not wrong), each
        if wrong:
            missed.add((name, each["kind"]))
    assert missed == {pair for pair in NOT_YET if pair[0] == name}


def test_memory_was_flat_in_each_phase() -> None:
    whole = [each for each in read(MEMORY) if each["whole"]]
    assert {(each["kind"], each["phase"]) for each in whole} == {
        (kind, phase)
        for kind in ("valkey", "redis", "kafka", "zeromq")
        for phase in ("away", "full")
    }
    for each in whole:
        assert each["held"], json.dumps(each)
        assert max(each["ingest_growth_mb"], each["work_growth_mb"]) <= GROWTH_MB


def test_a_phase_that_was_shorter_than_it_is_to_be_is_run_again(tmp_path: Path) -> None:
    records = tmp_path / "memory.jsonl"
    for minutes, whole in ((10.0, True), (2.0, True), (30.0, False)):
        phase = Phase("redis", "full", minutes)
        phase.samples.append({"s": 1.0, "ingest_mb": 1.0, "work_mb": 1.0})
        append(records, phase.record(whole=whole))
        assert through(records) == {("redis", "full"): 10.0}
