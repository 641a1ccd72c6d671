"""Time and chance are injected: only ``clock.py`` reads the system's.

That is, its clocks and the global ``random``.

CPU time (``perf_counter`` and its kin) is not read from a clock in this sense, but only
the modules listed here may read it. ``trio.current_time`` is trio's time, which a
virtual clock rules; a thread that sleeps reads no clock.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import trio_ticks

PACKAGE = Path(trio_ticks.__file__).parent
CLOCK = "clock.py"

CPU_METERS = {
    "control/scaling_cpu.py",
    "foresight/measuring.py",
    "metrics/loop_share.py",
    "metrics/loop_watch.py",
    "pipeline/advising.py",
    "workers/processes/child.py",
}
"""Modules that measure CPU time."""

CPU = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns"} | {
    "thread_time",
    "thread_time_ns",
}
HARMLESS = {"time.sleep", "time.struct_time", "random.Random"}
"""The members of ``time`` and ``random`` that may be used; all others may not."""
FORBIDDEN = {
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
}


def origins(tree: ast.AST) -> dict[str, str]:
    """Return what a module's imports name, anywhere in it: dotted by local names."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                whole = name.name.partition(".")[0] if name.asname is None else name.name
                found[name.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return what an expression such as ``dt.datetime.now`` stands for."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (under := dotted(node.value, names)) is not None:
        return f"{under}.{node.attr}"
    return None


def is_wrong(name: str, place: str) -> bool:
    module, _, rest = name.partition(".")
    if name in FORBIDDEN:
        return True
    # A module passed on under another name can be asked for anything.
    if module not in ("time", "random") or name in HARMLESS:
        return False
    return not (module == "time" and rest in CPU and place in CPU_METERS)


def wrongs(source: str, place: str = "") -> Iterator[str]:
    tree = ast.parse(source)
    names = origins(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "random", "datetime"):
            for name in node.names:
                if name.name == "*" or is_wrong(f"{node.module}.{name.name}", place):
                    yield f"{place}:{node.lineno}: {node.module}.{name.name}"
        elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            whole = dotted(node, names)
            # The parts of a harmless whole are harmless: random.Random.random.
            harmless = whole is None or any(whole.startswith(f"{fine}.") for fine in HARMLESS)
            if whole is not None and not harmless and is_wrong(whole, place):
                yield f"{place}:{node.lineno}: {whole}"
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func, names) == "random.Random"
            and not (node.args or node.keywords)
        ):
            yield f"{place}:{node.lineno}: a random.Random with a seed of the system's"


def modules() -> Sequence[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("place", [place for place in modules() if place != CLOCK])
def test_no_module_but_the_clock_reads_the_time_or_the_global_random(place: str) -> None:
    assert not list(wrongs((PACKAGE / place).read_text(encoding="utf-8"), place))


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as t\nt.monotonic_ns()",
        "from time import time as t",
        "from time import *",
        "import time\nclock = time\nclock.time()",
        "import time\ndef f(clock=time.monotonic): ...",
        "import time\ntime.localtime()",
        "import time\ntime.perf_counter()",
        "def f():\n    import time\n    return time.time_ns()",
        "import datetime\ndatetime.datetime.now()",
        "import datetime as dt\ndt.datetime.now(dt.timezone.utc)",
        "import datetime as dt\ndt.date.today()",
        "from datetime import datetime\ndatetime.now()",
        "from datetime import datetime as D\nD.utcnow()",
        "from datetime import datetime\nmake(factory=datetime.now)",
        "import random\nrandom.random()",
        "import random as r\nr.seed(7)",
        "from random import random",
        "from random import randrange as r",
        "from random import SystemRandom",
        "import random\nrandom.Random()",
        "from random import Random as R\nR()",
    ],
)
def test_what_is_found(source: str) -> None:
    assert list(wrongs(source))


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1)",
        "import trio\ntrio.current_time()",
        "from datetime import UTC, datetime\ndatetime.fromisoformat('')",
        "from datetime import datetime\nisinstance(1, datetime)",
        "import random\ndef f(chance: random.Random): chance.random()",
        "from random import Random\nRandom('7/steps').getrandbits(3)",
        "from random import Random\nRandom(0).random",
        "def f(clock): clock.time(); clock.now()",
        "from .clock import monotonic\nmonotonic()",
    ],
)
def test_what_is_not(source: str) -> None:
    assert not list(wrongs(source))
