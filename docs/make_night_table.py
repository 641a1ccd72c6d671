"""Write the table of what happened to a feed in one night into ``docs/feeds.md``.

Run it in a checkout: ``python docs/make_night_table.py``. ``tests/feeds/test_night.py``
fails while the table is out of date.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.worlds.night import Night, Record, Told, run_night  # noqa: E402

PAGE = Path(__file__).parent / "feeds.md"
BEGIN, END = "<!-- begin: written by docs/make_night_table.py -->\n", "<!-- end -->\n"

DID = {
    "connect_failures": ("failed try", "failed tries"),
    "watchdog_trips": ("silent connection given up", "silent connections given up"),
    "malformed": ("malformed message counted", "malformed messages counted"),
    "reconnects": ("reconnect", "reconnects"),
}
"""What the counts of a feed mean: for one, and for several."""


def did(record: Record) -> str:
    """Return what the feed did in a scene, and the events in its log."""
    acts = [
        f"{count} {several if count > 1 else one}"
        for name, (one, several) in DID.items()
        if (count := record.counts[name])
    ]
    lines = [f"`{event}`" for event in sorted(record.logged) if event.startswith("feed.")]
    parts = [", ".join(acts), f"log: {', '.join(lines)}" if lines else ""]
    return "; ".join(filter(None, parts)) or "nothing"


def _order(told: tuple[str, Told]) -> tuple[int, int]:
    """Return what sorts by time; what is told in the same second is sorted by kind."""
    what, when = told
    kinds = ("symbol-silent", "lost", "back", "gap", "symbol-back")
    return round(when.after_s), kinds.index(what.partition(":")[0])


def row(record: Record) -> tuple[str, str, str, str]:
    """Return the cells of one scene."""
    all_told = sorted(record.told.items(), key=_order)
    told = ", ".join(
        f"`{what}`" + f" ({told.times} times)" * (told.times > 1) for what, told in all_told
    )
    after = ", ".join(f"{told.after_s:.0f}" for _what, told in all_told)
    return record.name, did(record), told or "nothing", after or "-"


def table(night: Night) -> str:
    """Return the table."""
    head = [
        ("What happened", "What the feed did", "What the strategy was told", "After so many s"),
        ("---",) * 4,
    ]
    rows = [*head, *map(row, night.records)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def written(page: str, night: Night) -> str:
    """Return *page* with the table of *night*."""
    before, rest = page.split(BEGIN)
    _old, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(night)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), run_night()))
