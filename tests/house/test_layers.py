"""Imports run downwards through rooms, private names stay inside, sizes are bounded.

Rules: what breaks a rule today stands in ``NOT_YET``, with its reason, and nothing else
may. An entry that is no longer needed fails as well, so that the list only shrinks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.house.imports import (
    LAYERS,
    PACKAGE,
    ROOMS,
    ROOT,
    SOURCES,
    Import,
    circles,
    classes,
    functions,
    imports,
    layer_of,
    ours,
    parse,
    private_names,
    private_uses,
    room_of,
    third_parties,
    way,
)

METHODS = 20
METHODS_OF = {"ChannelState": 15, "WorkerPool": 15, "Pipeline": 15}
MODULE_LINES = 500
FUNCTION_LINES = 60
"""Without the docstring."""

ALLOWED = {
    "_asdict": "namedtuple's public method",
    "_fields": "namedtuple's public attribute",
    "_make": "namedtuple's public method",
    "_replace": "namedtuple's public method",
    "_exit": "os._exit, documented",
    "_current_frames": "sys._current_frames, documented",
    "_getframe": "sys._getframe, documented",
    "_is_gil_enabled": "sys._is_gil_enabled, documented",
    "_inheriting": "multiprocessing's mark of a process that is being started",
    "_core": "trio._core._run._r: the random numbers of trio's scheduler, which seeded runs set",
    "_run": "as above",
    "_r": "as above",
    "_ALLOW_DETERMINISTIC_SCHEDULING": "as above: tasks are sorted before they are shuffled",
}
"""Names with an underscore that anybody may use, and whose they are."""

NOT_YET: dict[tuple[str, str], str] = {}
"""What breaks a rule at present: (rule, module) and why. It is empty; add nothing."""

Finding = tuple[str, str]
"""The module that breaks a rule, and how."""


def outside_of_rooms() -> Iterator[Finding]:
    for module, path in SOURCES.items():
        if room_of(module) is None:
            yield (
                module,
                f"{path.relative_to(ROOT)} is in no room. Move it into the folder of its room ("
                + ", ".join(f"{room}/" for room in ROOMS if (PACKAGE / room).is_dir())
                + "), or give it a room in ROOMS and LAYERS of tests/house/imports.py",
            )


def upwards() -> Iterator[Finding]:
    for module in SOURCES:
        room = room_of(module)
        for target, line in ours(module).items():
            other = room_of(target)
            if room is None or other is None or room == other:
                continue
            if layer_of(other) >= layer_of(room):
                where = "beside" if layer_of(other) == layer_of(room) else "above"
                yield module, f"line {line}: imports {target}; {other} lies {where} {room}"


def in_circles() -> Iterator[Finding]:
    for circle in circles({module: ours(module) for module in SOURCES}):
        yield circle[0], f"a circle: {' -> '.join(circle)}: {way(circle)}"


def large_classes() -> Iterator[Finding]:
    for module, path in SOURCES.items():
        for name, methods in classes(path):
            most = METHODS_OF.get(name, METHODS)
            if methods > most:
                yield module, f"class {name} has {methods} methods, {most} are allowed"


def long_functions() -> Iterator[Finding]:
    for module, path in SOURCES.items():
        for name, lines in functions(path):
            if lines > FUNCTION_LINES:
                how = f"{lines} lines without its docstring, {FUNCTION_LINES} are allowed"
                yield module, f"function {name} has {how}"


def long_modules() -> Iterator[Finding]:
    for module, path in SOURCES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MODULE_LINES:
            yield module, f"{lines} lines, {MODULE_LINES} are allowed"


def private_names_of_others() -> Iterator[Finding]:
    """Private names of another room; a test is a room by itself."""
    known: dict[str, set[str]] = {}
    for module, path in SOURCES.items():
        known.setdefault(str(room_of(module)), set()).update(private_names(path))
    files = [(module, path, known[str(room_of(module))]) for module, path in SOURCES.items()]
    files += [
        (str(path.relative_to(ROOT)), path, private_names(path))
        for folder in ("tests", "docs", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    for module, path, own in files:
        for name, line in private_uses(path):
            if name not in own and name not in ALLOWED:
                yield module, f"line {line}: {name} is private to another room"


RULES: dict[str, Callable[[], Iterator[Finding]]] = {
    "room": outside_of_rooms,
    "layer": upwards,
    "circle": in_circles,
    "methods": large_classes,
    "function": long_functions,
    "module": long_modules,
    "private": private_names_of_others,
}


@cache
def find(rule: str) -> list[Finding]:
    return list(RULES[rule]())


@pytest.mark.parametrize("rule", RULES)
def test_holds(rule: str) -> None:
    broken = [f"{module}: {how}" for module, how in find(rule) if (rule, module) not in NOT_YET]
    assert not broken, "\n" + "\n".join(broken)


def test_every_exception_is_still_needed() -> None:
    found = {(rule, module) for rule in RULES for module, _ in find(rule)}
    needless = sorted(set(NOT_YET) - found)
    assert not needless, f"delete from NOT_YET: {needless}"


def test_every_exception_says_why() -> None:
    assert all(NOT_YET.values())
    assert {rule for rule, _ in NOT_YET} <= set(RULES)


def test_layers_and_rooms_are_the_same_rooms() -> None:
    layered = [room for layer in LAYERS for room in layer]
    assert sorted(layered) == sorted(ROOMS)
    members = [member for room in ROOMS.values() for member in room]
    assert len(members) == len(set(members))


# What no layer says


@pytest.mark.parametrize("name", ["ticks", "ledger", "overflow"])
def test_the_foundation_imports_nothing_of_ours_but_basics(name: str) -> None:
    assert set(ours(name)) <= set(ROOMS["basics"])


SANS_IO = {
    "errors",
    "ticks",
    "ledger",
    "overflow",
    "metrics.snapshots",
    "channel.fifo",
    "feeds.websocket.frames",
    "feeds.websocket.backoff",
    *(
        module
        for module, path in SOURCES.items()
        if "sans-i/o" in (ast.get_docstring(parse(path)) or "").lower()
    ),
}
"""Modules that know no trio: these, and all that say so in their docstring."""


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_sans_io_modules_do_no_io(name: str) -> None:
    assert not third_parties(name) & {"trio", "trio_websocket", "socket", "asyncio"}


# The analysis itself


def plant(tmp_path: Path, files: dict[str, str]) -> dict[str, Path]:
    sources = {}
    for name, text in files.items():
        path = tmp_path / (name.replace(".", "/") + ".py")
        if f"{name}." in " ".join(files):
            path = tmp_path / name.replace(".", "/") / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sources[name] = path
    return sources


@pytest.mark.parametrize(
    ("statement", "target"),
    [
        ("from .b import x", "a.b"),
        ("from . import b", "a.b"),
        ("from . import x", "a"),
        ("from .. import c", "c"),
        ("from .. import Tick", "__init__"),
        ("from ..c import x", "c"),
        ("import pkg.a.b", "a.b"),
        ("import pkg", "__init__"),
        ("from pkg import c", "c"),
        ("from pkg.a import b as other", "a.b"),
        ("def f():\n    from ..c import x", "c"),
        ("if TYPE_CHECKING:\n    from ..c import x", "c"),
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, statement: str, target: str) -> None:
    files = {"__init__": "", "a": "", "a.b": "", "c": "", "a.m": f"import trio\n{statement}\n"}
    found = list(imports("a.m", sources=plant(tmp_path, files), package="pkg"))
    assert [each.target for each in found if each.ours] == [target]
    assert [each for each in found if not each.ours] == [Import("trio", 1, ours=False)]


def test_circles_are_found_and_named() -> None:
    graph = {"a": ["b"], "b": ["c", "e"], "c": ["a", "d"], "d": ["c"], "e": [], "f": ["f"]}
    assert circles(graph) == [["c", "d", "c"], ["f", "f"]]
    assert circles({"a": ["b"], "b": []}) == []


def test_private_names_are_told_from_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "class A:\n"
        "    def __init__(self, other):\n"
        "        self._mine = other._theirs\n"
        "        super()._inherited\n"
        "        other._written = getattr(other, '_named')\n"
        "from x import _imported\n"
        "__all__ = other.__dict__\n"
    )
    assert private_names(path) == {"_mine"}
    assert {use.name for use in private_uses(path)} == {
        "_theirs",
        "_written",
        "_named",
        "_imported",
    }


def test_a_file_without_a_room_is_told_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "attic", PACKAGE / "attic.py")
    ((module, how),) = outside_of_rooms()
    assert module == "attic"
    assert "channel/" in how
    assert "tests/house/imports.py" in how
