"""Settings for every test: hypothesis profiles, names for tests that hang, slow files.

The default profile tries the same examples every time, so that a failure comes from the
change that is tested. ``HYPOTHESIS_PROFILE=quick`` tries the first few of them;
``HYPOTHESIS_PROFILE=thorough`` many more, other ones at every run: it needs more time
than a test may usually take (``-o faulthandler_timeout=7200``).
"""

from __future__ import annotations

import functools
import os
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Processes that tests start import the package under test, whatever is installed, and
# whichever folder they are started in.
_ROOT = str(Path(__file__).parents[1])
_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if _ROOT not in _paths:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, *_paths]))

# No deadline: a shared machine is slow at times, and a test that fails then says
# nothing about the code.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "quick", settings.get_profile("default"), max_examples=30, stateful_step_count=30
)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=2500,
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def _run(runtest: Callable[[], None]) -> None:
    __tracebackhide__ = True
    runtest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each test run in a frame that bears its name.

    Where one hangs for ``faulthandler_timeout``, all that is left of the run are the
    stacks of its threads; an async test is on none of them.
    """
    for item in items:
        code = _run.__code__.replace(co_name=item.nodeid, co_qualname=item.nodeid)
        named = types.FunctionType(code, globals())
        item.runtest = functools.partial(named, item.runtest)  # type: ignore[method-assign]


_seconds: defaultdict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what each file takes."""
    _seconds[report.nodeid.partition("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ten slowest files, so that a run that grows says where."""
    if len(_seconds) < 2:
        return
    terminalreporter.section("ten slowest files")
    for name, seconds in sorted(_seconds.items(), key=lambda each: -each[1])[:10]:
        terminalreporter.line(f"{seconds:7.1f} s  {name}")
