"""Plant all bugs; each result is written down at once, and none is planted twice.

``python -m tests.mutants [--only NAME] [--jobs 2] [--anew]``. Exits with 1 unless every
bug was found. First the tests are run without a bug: a test that fails anyway finds
nothing. The records are in ``docs/_static/mutants.jsonl``; ``python
docs/make_mutants_table.py`` makes the table of ``docs/mutants.md`` from them. A result
counts until the bug, its file or its tests change.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, Stale
from tests.mutants.running import ROOT, Copy, Outcome, mark_of

__all__ = ["RECORDS", "known", "main"]

RECORDS: Final = ROOT / "docs" / "_static" / "mutants.jsonl"
_LIMIT_S: Final = 120.0


def known(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is written down in *path*, the last result of each bug."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {each["name"]: each for each in map(json.loads, lines)}


def share(work: Sequence[Callable[[Copy], None]], folder: Path, jobs: int) -> None:
    """Do all of *work* in *jobs* threads, each with a copy of the project."""
    todo: queue.SimpleQueue[Callable[[Copy], None]] = queue.SimpleQueue()
    for each in work:
        todo.put(each)

    def serve(number: int) -> None:
        copy = Copy(folder / str(number))
        while True:
            try:
                each = todo.get_nowait()
            except queue.Empty:
                return
            each(copy)

    threads = [
        threading.Thread(target=serve, args=(number,), daemon=True)
        for number in range(min(jobs, len(work)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        # Not without a limit, so that a signal ends the main thread.
        while thread.is_alive():
            thread.join(0.2)


def failing_anyway(mutants: Sequence[Mutant], folder: Path, jobs: int) -> dict[str, Outcome]:
    """Run all tests that are named without a bug; return those that do not pass."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    found: dict[str, Outcome] = {}

    def run(test: str) -> Callable[[Copy], None]:
        def work(copy: Copy) -> None:
            outcome = copy.run(None, [test], 3 * _LIMIT_S)
            if outcome.verdict != "survived":
                found[test] = outcome
                print(f"FAILS ANYWAY {test}\n{outcome.output[-1500:]}", flush=True)

        return work

    share([run(test) for test in tests], folder, jobs)
    print(f"{len(tests)} named tests and files, {len(found)} do not pass anyway", flush=True)
    return found


def plant(
    mutants: Sequence[Mutant], records: Path, folder: Path, jobs: int, limit_s: float
) -> dict[str, str]:
    """Plant *mutants*, write each result down, and return the verdicts by name."""
    lock = threading.Lock()
    verdicts: dict[str, str] = {}

    def run(mutant: Mutant) -> Callable[[Copy], None]:
        def work(copy: Copy) -> None:
            try:
                outcome = copy.run(mutant, mutant.tests, limit_s)
            except Stale as stale:
                outcome = Outcome("broken", "", 0.0, str(stale))
            record = {
                "name": mutant.name,
                "verdict": outcome.verdict,
                "by": outcome.by,
                "seconds": round(outcome.seconds, 1),
                "mark": mark_of(mutant),
            }
            with lock:
                verdicts[mutant.name] = outcome.verdict
                with records.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(
                    f"{len(verdicts):4} of {len(mutants)}  {outcome.verdict:8} "
                    f"{outcome.seconds:6.1f} s  {mutant.name:40} {outcome.by}",
                    flush=True,
                )
                if outcome.verdict == "broken":
                    print(outcome.output[-1500:], flush=True)

        return work

    share([run(mutant) for mutant in mutants], folder, jobs)
    return verdicts


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", default=[], help="names, or parts of them")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds for each (120)")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument(
        "--trusting", action="store_true", help="do not run the tests without a bug first"
    )
    parser.add_argument("--anew", action="store_true", help="forget the results that are there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.anew:
        options.records.unlink(missing_ok=True)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.only or any(part in mutant.name for part in options.only)
    ]
    there = known(options.records)
    # What was not found is planted again: other tests may find it.
    found = [each for each in chosen if there.get(each.name, {}).get("verdict") == "found"]
    done = [each for each in found if there[each.name]["mark"] == mark_of(each)]
    verdicts = {each.name: str(there[each.name]["verdict"]) for each in done}
    todo = [each for each in chosen if each.name not in verdicts]
    print(f"{len(done)} results are there, {len(todo)} to come", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        anyway: dict[str, Outcome] = {}
        if not options.trusting:
            anyway = failing_anyway(todo, Path(folder, "whole"), options.jobs)
        sound = [each for each in todo if not any(test in anyway for test in each.tests)]
        verdicts |= plant(
            sound, options.records, Path(folder, "planted"), options.jobs, options.limit
        )
    missed = sorted(name for name, verdict in verdicts.items() if verdict != "found")
    minutes = (time.monotonic() - began) / 60
    print(f"{len(verdicts) - len(missed)} of {len(chosen)} found, in {minutes:.1f} minutes")
    for name in missed:
        print(f"NOT FOUND {name}: {verdicts[name]}")
    return bool(missed) or len(verdicts) < len(chosen)


if __name__ == "__main__":
    sys.exit(main())
