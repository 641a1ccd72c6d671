"""The picture of the rooms and the tables of rooms and files agree with the code."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from docs.make_rooms_picture import TARGET, draw, rows
from tests.house.imports import PACKAGE, ROOT, room_imports

SVG = "{http://www.w3.org/2000/svg}"

NOT_YET: dict[str, str] = {}
"""Files that CONTRIBUTING.md names before they exist, and where to look until then."""


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    lines = section.split("\n## ")[0].splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return cells[2:]


def test_the_picture_is_up_to_date() -> None:
    # Not with ==, which would have pytest show two pictures as text.
    fresh = TARGET.read_text(encoding="utf-8") == draw()
    assert fresh, "the imports have changed: run `python docs/make_rooms_picture.py`"


def test_the_picture_shows_every_room_and_import() -> None:
    tree = ET.fromstring(draw())
    words = {text.text for text in tree.iter(f"{SVG}text")}
    assert set(rows()) <= words
    dots = {dot[0].text for dot in tree.iter(f"{SVG}circle")}
    assert dots == {f"{a} imports {b}" for a, b in room_imports()}


def test_what_runs_upwards_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    upwards = {("cli", "vocabulary"): 1, ("vocabulary", "cli"): 1, ("channel", "metrics"): 1}
    monkeypatch.setattr("docs.make_rooms_picture.room_imports", lambda: upwards)
    (group,) = [g for g in ET.fromstring(draw()).iter(f"{SVG}g") if g.get("class") == "up"]
    dots = [dot[0].text for dot in group.iter(f"{SVG}circle")]
    assert sorted(map(str, dots)) == ["channel imports metrics", "vocabulary imports cli"]


def test_the_design_describes_every_room() -> None:
    described = table("docs/design.md", "Rooms")
    assert [room for room, *_ in described] == rows()
    assert all(len(row) == 3 and all(row) for row in described)


ANSWERS = table("CONTRIBUTING.md", "Where does my line live?")


@pytest.mark.parametrize(("question", "answer"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_the_file_that_answers_exists(question: str, answer: str) -> None:
    files = re.findall(r"`([\w/]+\.py)`", answer)
    assert len(files) == 1, "one question, one file"
    assert question.endswith("?")
    assert (PACKAGE / files[0]).exists() != (files[0] in NOT_YET), f"see NOT_YET: {files[0]}"


def test_there_are_enough_questions() -> None:
    assert len(ANSWERS) >= 19
    assert set(NOT_YET) <= {answer.strip("`") for _, answer in ANSWERS}
