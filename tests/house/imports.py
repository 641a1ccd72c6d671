"""The rooms of the package; imports, circles, sizes and private names in its source.

Rules: standard library only, so that ``docs/make_rooms_picture.py`` can use it too. The
files are parsed, never imported. A module is named as in ``channel.ends``, without the
package's name; a package is named as its folder, and the face is ``__init__``.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "FACE",
    "LAYERS",
    "PACKAGE",
    "ROOMS",
    "ROOT",
    "SOURCES",
    "Function",
    "Import",
    "PrivateUse",
    "circle_in",
    "circles",
    "classes",
    "functions",
    "imports",
    "layer_of",
    "ours",
    "parse",
    "private_names",
    "private_uses",
    "room_imports",
    "room_of",
    "third_parties",
    "way",
]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "trio_ticks"
FACE = "__init__"

ROOMS: dict[str, tuple[str, ...]] = {
    "basics": ("version", "errors", "checks", "logs", "hosts"),
    "vocabulary": ("ticks", "gaps", "events", "conflation", "ledger", "overflow", "failures"),
    "tools": (
        *("patience", "wire", "clock", "loop", "systems", "offsets", "book", "tracebacks"),
        "uninterrupted",
    ),
    "buffer": ("buffer", "results"),
    "handlers": ("handlers",),
    "channel": ("channel",),
    "control": ("control",),
    "metrics": ("metrics",),
    "settings": ("settings",),
    "recordings": ("recordings",),
    "feeds": ("feeds", "rest"),
    "brokers": ("brokers",),
    "history": ("history",),
    "exchange": ("exchange",),
    "workers": ("workers",),
    "simulation": ("simulation",),
    "observability": ("observability",),
    "pipeline": ("pipeline",),
    "foresight": ("foresight",),
    "testing": ("testing",),
    "cli": ("cli",),
    "face": (FACE, "__main__"),
}
"""Each room with its modules; a folder's name stands for all that lies in it."""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("basics",),
    ("vocabulary",),
    ("tools",),
    ("buffer",),
    ("handlers",),
    ("channel", "control", "metrics"),
    ("settings",),
    ("recordings",),
    ("feeds", "brokers"),
    ("history", "exchange"),
    ("workers",),
    ("simulation",),
    ("observability",),
    ("pipeline",),
    ("foresight",),
    ("testing",),
    ("cli",),
    ("face",),
)
"""The rooms, lowest first. Rooms in one layer do not import each other."""


class Import(NamedTuple):
    """One module that an import statement names."""

    target: str
    """The module's name: ours as in :data:`SOURCES`, another's as it is written."""
    line: int
    ours: bool


class Function(NamedTuple):
    """A function, by its name inside the module, with its number of lines."""

    name: str
    lines: int


class PrivateUse(NamedTuple):
    """A place that reads or writes a private name of another object."""

    name: str
    line: int


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """Return the name of the module in *path*."""
    parts = path.relative_to(package).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


SOURCES: dict[str, Path] = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
"""Every module of the package, with its file."""


def room_of(module: str) -> str | None:
    """Return the room of *module*; ``None``: it belongs to none."""
    first = module.split(".")[0]
    return next((room for room, members in ROOMS.items() if first in members), None)


def layer_of(room: str) -> int:
    """Return how many layers lie below *room*."""
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# Imports


def imports(
    module: str,
    *,
    everywhere: bool = True,
    sources: Mapping[str, Path] = SOURCES,
    package: str = "trio_ticks",
) -> Iterator[Import]:
    """Give every import of *module*.

    Args:
        module: a key of *sources*.
        everywhere: also inside functions, and what only a type checker imports; else
            only the statements that stand directly in the module.
        sources: the modules of the package.
        package: the package's name.
    """
    path = sources[module]
    inside = [package] if module == FACE else [package, *module.split(".")]
    if path.stem != FACE:
        inside.pop()
    tree = parse(path)
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(alias.name, None, node.lineno, sources, package)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield _import(start, alias.name, node.lineno, sources, package)


def _import(
    start: str, name: str | None, line: int, sources: Mapping[str, Path], package: str
) -> Import:
    if start != package and not start.startswith(f"{package}."):
        return Import(start, line, ours=False)
    inner = start.removeprefix(package).removeprefix(".")
    longer = f"{inner}.{name}".removeprefix(".") if name else inner
    for candidate in (longer, inner):
        if candidate in sources and candidate:
            return Import(candidate, line, ours=True)
    # A name that is neither a module of ours nor in one can only be one of the face.
    return Import(inner or FACE, line, ours=True)


def ours(module: str, *, everywhere: bool = True) -> dict[str, int]:
    """Return the modules of the package that *module* imports, each with a line."""
    found: dict[str, int] = {}
    for target, line, is_ours in imports(module, everywhere=everywhere):
        if is_ours and target != module:
            found.setdefault(target, line)
    return found


def third_parties(module: str) -> set[str]:
    """Return the top-level names of what *module* imports from elsewhere."""
    return {each.target.split(".")[0] for each in imports(module) if not each.ours}


def room_imports() -> dict[tuple[str, str], int]:
    """Return how many modules of one room import another, by (importer, imported)."""
    found: dict[tuple[str, str], int] = {}
    for module in SOURCES:
        room = room_of(module)
        targets = {room_of(target) for target in ours(module)} - {room, None}
        for target in sorted(each for each in targets if each is not None):
            if room is not None:
                found[room, target] = found.get((room, target), 0) + 1
    return found


# Circles


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return a shortest circle of each knot of *graph*, such as ``[a, b, a]``.

    A knot is a set of nodes of which each reaches every other one (Tarjan's strongly
    connected components).
    """
    found = []
    for knot in _knots(graph):
        inner = {node: sorted(knot & set(graph.get(node, ()))) for node in knot}
        if len(knot) > 1 or any(node in targets for node, targets in inner.items()):
            found.append(min((circle_in(inner, node) for node in sorted(knot)), key=len))
    return sorted(found)


def circle_in(graph: Mapping[str, Collection[str]], start: str) -> list[str]:
    """Return a shortest way from *start* back to *start*, both ends included."""
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:  # grows while it is read: a breadth-first search
        for target in graph[way[-1]]:
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    raise ValueError(f"no way leads from {start} back to {start}")


def _knots(graph: Mapping[str, Collection[str]]) -> list[set[str]]:
    def reached(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
        seen, open_ends = {start}, [start]
        while open_ends:
            for target in edges.get(open_ends.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    open_ends.append(target)
        return seen

    backwards: dict[str, set[str]] = {}
    for node, targets in graph.items():
        for target in targets:
            backwards.setdefault(target, set()).add(node)
    knots, left = [], set(graph)
    while left:
        start = min(left)
        knot = reached(start, graph) & reached(start, backwards)
        knots.append(knot)
        left -= knot
    return knots


def way(circle: list[str]) -> str:
    """Return a circle of modules as text, with the line of each import."""
    steps = [f"{a} imports {b} (line {ours(a).get(b, '?')})" for a, b in pairwise(circle)]
    return ", ".join(steps)


# Sizes


def classes(path: Path) -> Iterator[tuple[str, int]]:
    """Give each class of a file with the number of functions that its body defines."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef) for e in node.body)
            yield node.name, methods


def functions(path: Path) -> Iterator[Function]:
    """Give each function of a file with its number of lines, without its docstring."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield Function(node.name, lines)


# Private names


def is_private(name: str) -> bool:
    """Whether *name* begins with one underscore, and is more than that."""
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def private_names(path: Path) -> set[str]:
    """Return the private names of functions, classes and variables of a file."""
    found: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if _is_own(node.value):
                found.add(node.attr)
        elif isinstance(node, ast.Assign) and _names_slots(node):
            found |= {
                each.value
                for each in ast.walk(node.value)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return {name for name in found if is_private(name)}


def private_uses(path: Path) -> Iterator[PrivateUse]:
    """Give each place of a file that uses a private name of another object.

    These are ``x._name`` where x is not ``self``, ``cls`` or ``super()``, imports of
    private names, and private names written as text in ``getattr``, ``setattr`` and the
    like.
    """
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not _is_own(node.value):
                yield PrivateUse(node.attr, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                for name in (alias.name, *(node.module or "").split(".")):
                    if is_private(name):
                        yield PrivateUse(name, node.lineno)
        elif isinstance(node, ast.Call) and _is_attribute_call(node):
            text = node.args[1]
            if isinstance(text, ast.Constant) and is_private(str(text.value)):
                yield PrivateUse(str(text.value), node.lineno)


def _is_own(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def _is_attribute_call(node: ast.Call) -> bool:
    function = node.func
    name = (
        function.id
        if isinstance(function, ast.Name)
        else function.attr
        if isinstance(function, ast.Attribute)
        else ""
    )
    if len(node.args) < 2 or (isinstance(node.args[0], ast.Name) and _is_own(node.args[0])):
        return False
    return name in {"getattr", "setattr", "hasattr", "delattr", "attrgetter"}


def _names_slots(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets)
