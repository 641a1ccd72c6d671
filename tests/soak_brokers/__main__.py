"""Play the scenes; each run is written down at once, and none is played twice.

``python -m tests.soak_brokers [--scene kill] [--kind redis] [--anew]``. Exits with 1 if
a run did not hold. The records are in ``docs/_static/brokers-proof.jsonl``;
``python docs/make_brokers_table.py`` makes the table of ``docs/brokers.md`` from them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.soak_brokers.scenes import SCENES, Case, play

RECORDS = Path(__file__).parents[2] / "docs" / "_static" / "brokers-proof.jsonl"


def cases(scenes: Sequence[str], kinds: Sequence[str], runs: int | None) -> list[Case]:
    """Return the runs to make, so that each scene comes early with each broker."""
    every = [
        Case(name, kind, seed)
        for name, scene in SCENES.items()
        for kind in scene.kinds
        for seed in range(1, (runs or scene.runs) + 1)
        if (not scenes or name in scenes) and (not kinds or kind in kinds)
    ]
    return sorted(every, key=lambda case: case.seed)


def done(path: Path) -> set[Case]:
    """Return the runs that are written down."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {Case(each["scene"], each["kind"], each["seed"]) for each in found}


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_brokers", description=__doc__)
    parser.add_argument("--scene", action="append", choices=SCENES, default=[])
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--runs", type=int, help="of each scene and broker")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--anew", action="store_true", help="forget the runs that are there")
    options = parser.parse_args()
    # Ended by SIGTERM, it ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.anew:
        options.records.unlink(missing_ok=True)
    there = done(options.records)
    wanted = [
        case for case in cases(options.scene, options.kind, options.runs) if case not in there
    ]
    print(f"{len(there)} runs are there, {len(wanted)} to come", flush=True)
    all_held = True
    for case in wanted:
        record = trio.run(play, case)
        all_held = all_held and record["held"]
        with options.records.open("a") as file:
            file.write(json.dumps(record) + "\n")
        found = " ".join(
            f"{group['lost']}/{group['skipped']}/{group['repeats']}/{group['most_back']}"
            for group in record.get("groups", [])
        )
        print(
            f"{'held  ' if record['held'] else 'MISSED'} {case.scene:16} {case.kind:7} "
            f"{case.seed:3} lost/skipped/repeats/back {found} {record['seconds']} s "
            f"{' '.join(record['wrong'])[:3000]}",
            flush=True,
        )
    return not all_held


if __name__ == "__main__":
    sys.exit(main())
