"""Draw ``docs/_static/rooms.svg``: the rooms of the package, and which imports which.

Run it in a checkout: ``python docs/make_rooms_picture.py [target.svg]``. It needs the
standard library only. ``tests/house/test_rooms_picture.py`` fails while the picture is
out of date.

Rules: the same imports give the same bytes. A room has one line to the right, for what
it imports, and one from above, for who imports it; a dot joins them. An import that
does not run downwards is drawn to the left and up, or beside, in red.
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.house.imports import LAYERS, SOURCES, layer_of, room_imports, room_of  # noqa: E402

TARGET = ROOT / "docs" / "_static" / "rooms.svg"

MARGIN, TOP = 20, 20
BOX_WIDTH, BOX_HEIGHT = 118, 28
STEP_X, STEP_Y = 30, 42
INSET = 14
"""Distance of a line from the box's corner; below STEP_X, so that it meets no other."""
DOT = 3.6

STYLE = """
  .card { fill: #ffffff; }
  .layer { fill: #f3f4f6; }
  .box { fill: #ffffff; stroke: #6b7280; stroke-width: 1.2; }
  text { font: 600 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2937; }
  text.note { font-weight: 400; font-size: 12.5px; fill: #4b5563; }
  .line { fill: none; stroke: #9ca3af; stroke-width: 1.2; }
  .dot, .head { fill: #374151; }
  .up .line { stroke: #dc2626; stroke-width: 2; }
  .up .dot, .up .head { fill: #dc2626; }
  text.up { fill: #dc2626; font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #16181d; }
    .layer { fill: #1e2128; }
    .box { fill: #2a2e37; stroke: #8b93a1; }
    text { fill: #e5e7eb; }
    text.note { fill: #aab1bd; }
    .line { stroke: #6b7280; }
    .dot, .head { fill: #d1d5db; }
    .up .line { stroke: #f87171; }
    .up .dot, .up .head { fill: #f87171; }
    text.up { fill: #f87171; }
  }
"""


def rows() -> list[str]:
    """Return the rooms that have a module, the highest first."""
    used = {room_of(module) for module in SOURCES}
    return [room for layer in reversed(LAYERS) for room in layer if room in used]


def left(row: int) -> int:
    """Return where the box of a row begins."""
    return MARGIN + row * STEP_X


def middle(row: int) -> float:
    """Return the height of a row's middle."""
    return TOP + row * STEP_Y + STEP_Y / 2


def draw() -> str:
    """Return the picture as SVG."""
    order = rows()
    row_of = {room: row for row, room in enumerate(order)}
    edges = sorted((row_of[a], row_of[b]) for a, b in room_imports() if {a, b} <= set(row_of))
    wrong = {(a, b) for a, b in edges if layer_of(order[a]) <= layer_of(order[b])}
    width = left(len(order) - 1) + BOX_WIDTH + MARGIN
    height = TOP * 2 + len(order) * STEP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        "<title>The rooms of trio_ticks, and which room imports which</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" width="{width}" height="{height}" rx="10"/>',
        *_layers(order, width),
        "<g>",
        *_lines([edge for edge in edges if edge not in wrong]),
        *_dots([edge for edge in edges if edge not in wrong], order),
        "</g>",
        '<g class="up">',
        *(_wrong_arrow(a, b) for a, b in sorted(wrong)),
        *_dots(sorted(wrong), order),
        "</g>",
        *(_box(row, room) for row, room in enumerate(order)),
        *_legend(height, len(edges), len(wrong)),
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _layers(order: list[str], width: int) -> list[str]:
    """Return a band behind every second layer, which shows where a layer ends."""
    bands = []
    layers = sorted({layer_of(room) for room in order}, reverse=True)
    for number, layer in enumerate(layers):
        mine = [row for row, room in enumerate(order) if layer_of(room) == layer]
        if number % 2 == 0:
            y, tall = TOP + mine[0] * STEP_Y, len(mine) * STEP_Y
            bands.append(f'<rect class="layer" y="{y}" width="{width}" height="{tall}"/>')
    return bands


def _box(row: int, room: str) -> str:
    x, y = left(row), middle(row) - BOX_HEIGHT / 2
    return (
        f'<rect class="box" x="{x}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text x="{x + BOX_WIDTH / 2:g}" y="{middle(row) + 4.5:g}" text-anchor="middle">'
        f"{escape(room)}</text>"
    )


def _joint(importer: int, imported: int) -> tuple[float, float]:
    """Return where the line of the one room meets that of the other."""
    if imported > importer:
        return left(imported) + BOX_WIDTH - INSET, middle(importer)
    return left(imported) + INSET, middle(importer)


def _lines(edges: list[tuple[int, int]]) -> list[str]:
    """Return a line to the right of each importer, one down to each imported room."""
    lines = []
    for row in sorted({a for a, _ in edges}):
        end = max(_joint(row, b)[0] for a, b in edges if a == row)
        lines.append(f'<path class="line" d="M{left(row) + BOX_WIDTH},{middle(row):g}H{end:g}"/>')
    for row in sorted({b for _, b in edges}):
        x, start = _joint(min(a for a, b in edges if b == row), row)
        lines.append(f'<path class="line" d="M{x:g},{start:g}V{_top(row) - 5:g}"/>')
        lines.append(_head(x, _top(row), down=True))
    return lines


def _wrong_arrow(importer: int, imported: int) -> str:
    x, y = _joint(importer, imported)
    down = imported > importer
    start = left(importer) + (BOX_WIDTH if down else 0)
    end = _top(imported) if down else _top(imported) + BOX_HEIGHT
    line = f'<path class="line" d="M{start},{y:g}H{x:g}V{end + (-5 if down else 5):g}"/>'
    return line + _head(x, end, down=down)


def _top(row: int) -> float:
    return middle(row) - BOX_HEIGHT / 2


def _head(x: float, y: float, *, down: bool) -> str:
    back = y - 7 if down else y + 7
    return f'<path class="head" d="M{x:g},{y:g}L{x - 4:g},{back:g}H{x + 4:g}Z"/>'


def _dots(edges: list[tuple[int, int]], order: list[str]) -> list[str]:
    dots = []
    for importer, imported in edges:
        x, y = _joint(importer, imported)
        words = escape(f"{order[importer]} imports {order[imported]}")
        dots.append(
            f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="{DOT}"><title>{words}</title></circle>'
        )
    return dots


def _legend(height: int, count: int, wrong: int) -> list[str]:
    """Return the words in the empty corner at the lower left."""
    lines = [
        "A dot: the room to its left",
        "imports the room below it.",
        f"{count} dots in all.",
    ]
    y = height - TOP - 18 * len(lines) - 4
    texts = [
        f'<text class="note" x="{MARGIN}" y="{y + 18 * number}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    verdict = f"{wrong} not downwards, in red." if wrong else "All of them run downwards."
    kind = "up" if wrong else "note"
    texts.append(
        f'<text class="{kind}" x="{MARGIN}" y="{y + 18 * len(lines)}">{escape(verdict)}</text>'
    )
    return texts


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text(draw(), encoding="utf-8")
    print(f"{target}: {len(rows())} rooms")
