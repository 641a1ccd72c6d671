"""Write the tables of what was measured with real brokers into ``docs/brokers.md``.

Run it in a checkout: ``python docs/make_brokers_table.py``. The figures are those that
``python -m tests.soak_brokers`` and ``python -m tests.soak_broker_memory`` have written
down in ``docs/_static``. A test fails while the tables are out of date.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.soak_broker_memory import RECORDS as MEMORY  # noqa: E402
from tests.soak_brokers.__main__ import RECORDS as RUNS  # noqa: E402
from tests.soak_brokers.scenes import SCENES  # noqa: E402

PAGE = Path(__file__).parent / "brokers.md"
BEGIN, END = "<!-- begin: written by docs/make_brokers_table.py -->\n", "<!-- end -->\n"
NAMES = {
    "valkey": "Valkey",
    "redis": "Redis",
    "kafka": "Kafka (tansu)",
    "kafka-cluster": "Kafka (librdkafka's cluster)",
    "zeromq": "ZeroMQ",
}
PHASES = {"away": "away", "full": "full"}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of *path*."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(head: tuple[str, ...], found: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    every = [head, ("---",) * len(head), *found]
    return "".join(f"| {' | '.join(row)} |\n" for row in every)


def _span(values: list[int]) -> str:
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def runs() -> str:
    """Return the table of the runs: for each scene and broker, all its runs."""
    records, found = read(RUNS), []
    for name, scene in SCENES.items():
        for kind in scene.kinds:
            mine = [each for each in records if (each["scene"], each["kind"]) == (name, kind)]
            groups = [group for each in mine for group in each["groups"]]
            if not groups:
                continue
            found.append(
                (
                    scene.title,
                    NAMES[kind],
                    f"{sum(each['held'] for each in mine)} of {len(mine)}",
                    f"{groups[0]['sent']:,}",
                    f"{sum(group['lost'] for group in groups):,}",
                    f"{sum(group['skipped'] for group in groups):,}",
                    _span([group["repeats"] for group in groups]),
                    f"{max(group['most_repeats'] for group in groups):,}",
                    f"{max(group['most_back'] for group in groups):,}",
                )
            )
    head = (
        *("what is done", "broker", "runs that held", "ticks a run", "lost", "skipped"),
        *("repeats a run", "most of a symbol", "most often back"),
    )
    return rows(head, found)


def memory() -> str:
    """Return the table of memory: for each broker and phase the last one."""
    last = {(each["kind"], each["phase"]): each for each in read(MEMORY) if each["whole"]}
    found = [
        (
            f"{NAMES[kind]}, {PHASES[phase]}",
            f"{each['minutes']:g} min",
            f"{each['produced']:,}",
            f"{each['most_ingest_mb']:.1f} MB",
            f"{each['ingest_growth_mb']:+.2f} MB",
            f"{each['most_work_mb']:.1f} MB",
            f"{each['work_growth_mb']:+.2f} MB",
        )
        for (kind, phase), each in last.items()
    ]
    head = ("broker", "for", "ticks", "ingest", "growth", "work", "growth")
    return rows(head, found)


def written(page: str) -> str:
    """Return *page* with the tables as they are now."""
    parts = page.split(BEGIN)
    for number, table in enumerate((runs(), memory()), 1):
        _old, after = parts[number].split(END)
        parts[number] = f"\n{table}\n{END}{after}"
    return BEGIN.join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
