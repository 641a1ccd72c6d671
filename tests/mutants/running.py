"""Plants a bug into a copy of the project, and runs the tests that are to find it.

A bug is *found* if pytest ran and a test failed. It *survived* if all passed, and is
not found either if they *hung* until the time limit, or if the tests could not be
collected (*broken*: then the bug says nothing about the tests).

Rules: the checkout itself is never changed. Every process that was started is ended.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, final

import attrs

from tests.mutants.mutant import Mutant, planted

__all__ = ["ROOT", "Copy", "Outcome", "Verdict", "mark_of"]

ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = ("trio_ticks", "tests", "docs", "examples", "pyproject.toml", "noxfile.py")
_ALSO: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)

Verdict = Literal["found", "survived", "hung", "broken"]


@attrs.frozen
class Outcome:
    """What the tests said of one bug."""

    verdict: Verdict
    by: str
    """The test that failed first; empty if none did."""
    seconds: float
    output: str = attrs.field(repr=False)
    """The end of what pytest printed."""


def mark_of(mutant: Mutant) -> str:
    """Return a text that changes with the bug, its file or the tests that are named.

    A result that was written down counts only while this is the same.
    """
    digest = hashlib.sha256()
    parts = [mutant.before, mutant.after, *mutant.tests]
    parts += [(ROOT / path).read_text() for path in (mutant.path, *files_of(mutant.tests))]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def files_of(tests: Sequence[str]) -> list[Path]:
    """Return the files in which *tests* are."""
    return [Path(each.partition("::")[0]) for each in tests]


@final
class Copy:
    """A copy of the project, into which one bug at a time is planted.

    Args:
        folder: where it is made; must not exist.
    """

    _times = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__", "_build", ".*_cache")
        for name in (*_COPIED, *_ALSO):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy2(source, folder / name)

    @contextmanager
    def _planted(self, mutant: Mutant | None) -> Iterator[None]:
        if mutant is None:
            yield
            return
        path = self.folder / mutant.path
        text = path.read_text()
        self._write(path, planted(mutant, text))
        try:
            yield
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python takes compiled code for current if time (in seconds) and size agree.
        then = 1_000_000_000 + next(self._times)
        os.utime(path, (then, then))

    def run(self, mutant: Mutant | None, tests: Sequence[str], limit_s: float) -> Outcome:
        """Run *tests* with *mutant* planted, or without one.

        Args:
            mutant: the bug; ``None``: none, to see that the tests pass.
            tests: arguments for pytest.
            limit_s: when to give up, in seconds.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-o", f"faulthandler_timeout={10 * limit_s:.0f}", *tests]
        clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
        # A test that waits for what never comes fails, long before the time is up.
        limit = str(min(30.0, limit_s / 4))
        env = {**clean, "PYTHONPATH": str(self.folder), "TRIO_TICKS_TEST_LIMIT_S": limit}
        env["HYPOTHESIS_PROFILE"] = "unshrunk"
        env["COLUMNS"] = "400"  # the names of tests in whole
        began = time.monotonic()
        with self._planted(mutant):
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                output = None
            finally:
                # Tests start processes of their own; they are in its session.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        seconds = time.monotonic() - began
        if output is None:
            return Outcome("hung", "", seconds, "")
        return _judged(process.returncode, output, seconds)


def _judged(code: int, output: str, seconds: float) -> Outcome:
    first = _FAILED.search(output)
    by = "" if first is None else first[1]
    verdict: Verdict = "broken"
    if code == 0:
        verdict = "survived"
    elif code == 1 and by:
        verdict = "found"
    return Outcome(verdict, by, seconds, output[-3000:])
