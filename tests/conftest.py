"""Settings for every test: hypothesis profiles, names for tests that hang, slow files.

The default profile tries the same examples every time, so that a failure comes from the
change that is tested. ``HYPOTHESIS_PROFILE=quick`` tries the first few of them;
``HYPOTHESIS_PROFILE=thorough`` many more, other ones at every run: it needs more time
than a test may usually take (``-o faulthandler_timeout=7200``).
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
import types
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings

# Processes that tests start import the package under test, whatever is installed, and
# whichever folder they are started in; unless what is installed is to be tested.
_ROOT = str(Path(__file__).parents[1])
_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if _ROOT not in _paths and "TRIO_TICKS_TEST_INSTALLED" not in os.environ:
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
# Whether something is found, and not what the smallest example of it is.
settings.register_profile(
    "unshrunk", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def _run(runtest: Callable[[], None]) -> None:
    __tracebackhide__ = True
    runtest()


LIMIT_S = float(os.environ.get("TRIO_TICKS_TEST_LIMIT_S", "120"))
"""An async test that takes longer fails, in seconds."""


class _Limits:
    """One thread that ends tests which wait for what never comes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[object, tuple[float, Callable[[], object]]] = {}
        self._thread: threading.Thread | None = None

    def begin(self, key: object, expire: Callable[[], object]) -> None:
        """Call *expire* in the thread after ``LIMIT_S`` seconds of real time."""
        with self._changed:
            self._due[key] = time.monotonic() + LIMIT_S, expire
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="test limit", daemon=True)
                self._thread.start()

    def end(self, key: object) -> None:
        """Forget *key*."""
        with self._changed:
            self._due.pop(key, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(1.0)
                now = time.monotonic()
                late = [key for key, (due, _expire) in self._due.items() if due <= now]
                for key in late:
                    with suppress(trio.RunFinishedError):
                        self._due.pop(key)[1]()


_limits = _Limits()


def _limited(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return *test*, failing if it waits for what never comes, on whatever clock."""

    @functools.wraps(test)
    async def limited(**fixtures: Any) -> None:
        token, scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        _limits.begin(scope, lambda: token.run_sync_soon(scope.cancel))
        try:
            with scope:
                await test(**fixtures)
        finally:
            _limits.end(scope)
        if scope.cancelled_caught:
            pytest.fail(f"it has not ended in {LIMIT_S:g} s: it waits for what never comes")

    return limited


def pytest_runtest_teardown() -> None:
    """Remove what a test has set up for its log lines, as the command line does.

    Its stream is closed afterwards: each line of a later test would be an error.
    """
    root = logging.getLogger()
    left = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    for handler in left:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)


_LONG = (
    "house/test_doc_blocks",
    "cli/test_cli",
    "brokers/test_kafka_groups",
    "brokers/test_check_brokers",
    "brokers/test_kafka_delivery",
    "observability/test_halves",
    "foresight/test_plan",
    "cli/test_plan_command",
    "pipeline/test_chaos",
    "house/test_other_systems",
    "brokers/test_kafka_cluster",
    "pipeline/test_record",
    "cli/test_buffer_commands",
    "brokers/test_redis_",
    "cli/test_",
    "brokers/",
)
"""Files that take long: they begin first, or a process would be left alone with one."""


def _turn(item: pytest.Item) -> int:
    name = item.nodeid.removeprefix("tests/")
    return next((turn for turn, part in enumerate(_LONG) if name.startswith(part)), len(_LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each test run in a frame that bears its name, and each async one limited.

    Where one hangs for ``faulthandler_timeout``, all that is left of the run are the
    stacks of its threads; an async test is on none of them.
    """
    items.sort(key=_turn)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _limited(item.obj)
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
