"""The public API: what ``__init__`` names exists and has its docs.

Those of async functions have a section on cancellation.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trio_ticks as tt
import trio_ticks.exchange
import trio_ticks.exchange.coinbase
import trio_ticks.history
import trio_ticks.rest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(tt.__file__).parent


MODULES = {
    "": tt,
    "exchange.": trio_ticks.exchange,
    "exchange.coinbase.": trio_ticks.exchange.coinbase,
    "history.": trio_ticks.history,
    "rest.": trio_ticks.rest,
}


def public_objects() -> Iterator[tuple[str, Any]]:
    for prefix, module in MODULES.items():
        for name in module.__all__:
            yield prefix + name, getattr(module, name)


OBJECTS = {name: value for name, value in public_objects() if not isinstance(value, ModuleType)}
EXPLAINED = {
    "metrics.loop_watch.LoopWatch",
    "brokers.BufferView",
    "brokers.GroupView",
    "brokers.Kafka",
    "brokers.KafkaResults",
    "brokers.RedisResults",
    "brokers.RedisStreams",
    "brokers.ZeroMQ",
    "brokers.from_url",
    "brokers.look",
    "channel.statistics.ChannelStatistics",
    "clock.Clock",
    "feeds.base.AsksForSnapshots",
    "feeds.base.Throttled",
    "feeds.base.Suspendable",
    "feeds.base.WaitsForRoom",
    "metrics.observed.Observed",
    "metrics.observed.WorkerRow",
    "metrics.observed.WorkerStatistics",
    "metrics.snapshots.FeedMetrics",
    "metrics.snapshots.LastFailure",
    "metrics.snapshots.Overdue",
    "metrics.snapshots.IngestMetrics",
    "foresight.plans.Advice",
    "foresight.plans.Elsewhere",
    "foresight.plans.Findings",
    "foresight.plans.Growth",
    "foresight.plans.Interval",
    "foresight.plans.Row",
    "foresight.plans.Target",
    "foresight.plans.Verified",
    "results.ResultStore",
    "ticks.to_utc",
    "testing.CodecProbe",
    "testing.check_buffer",
    "testing.check_codec",
}
"""What the reference explains since docstrings of public things lead there."""
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in OBJECTS.items() if inspect.isroutine(value)}


def public_methods() -> Iterator[tuple[str, Any]]:
    for name, cls in CLASSES.items():
        for attribute in dir(cls):
            member = inspect.getattr_static(cls, attribute)
            member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if (
                not attribute.startswith("_")
                and inspect.isfunction(member)
                and member.__module__.startswith("trio_ticks")
            ):
                yield f"{name}.{attribute}", member


def is_async(function: Any) -> bool:
    inner = inspect.unwrap(function)
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)


ASYNC = {name: f for name, f in [*FUNCTIONS.items(), *public_methods()] if is_async(f)}


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.__name__)
def test_all_is_true(module: ModuleType) -> None:
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


def test_what_type_checkers_see_is_what_there_is() -> None:
    """Names are written twice: for type checkers, and for the moment of their use."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) == set(tt.__all__)
    for name, module in seen.items():
        there = importlib.import_module(f"trio_ticks.{module or name}")
        assert getattr(tt, name) is (there if module is None else getattr(there, name)), name


def test_nothing_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, trio_ticks as tt\n"
        "assert set(tt.__all__) <= set(dir(tt))\n"
        "late = {'trio', 'msgspec', 'attrs', 'trio_ticks.exchange', 'trio_ticks.ticks', "
        "'trio_ticks.feeds.websocket.feed', 'trio_ticks.feeds.replay', 'trio_websocket', 'click'}\n"
        "print(sorted(late & set(sys.modules)))\n"
        "tt.Tick, tt.exchange.open_exchange, tt.WebSocketFeed, tt.ReplayFeed\n"
        "print(sorted(late - set(sys.modules)))\n"
        "try: tt.exchnage\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[]",
        "['click']",
        "module 'trio_ticks' has no attribute 'exchnage'",
    ]


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_has_a_docstring_of_its_own(name: str) -> None:
    # attrs writes no docstring; a class without one would show "Method generated by
    # attrs" or its base's.
    doc = vars(CLASSES[name]).get("__doc__") if name in CLASSES else FUNCTIONS[name].__doc__
    assert doc
    assert doc.strip()


@pytest.mark.parametrize("name", [name for name, method in public_methods()])
def test_method_has_a_docstring(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    assert inspect.getdoc(getattr(CLASSES[owner], attribute)), f"{name} says nothing"


@pytest.mark.parametrize("name", ASYNC)
def test_async_function_says_what_a_cancellation_does(name: str) -> None:
    assert "Cancellation:" in (ASYNC[name].__doc__ or "")


def test_the_tests_above_see_the_api() -> None:
    assert {"Tick", "Pipeline", "TickSendChannel", "exchange.Exchange"} <= set(CLASSES)
    assert {
        "open_pipeline",
        "run_pipeline",
        "TickSendChannel.send_many",
        "Pipeline.wait",
        "exchange.open_exchange",
    } <= set(ASYNC)


def test_the_reference_lists_every_public_name_and_no_other() -> None:
    text = "".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    listed = re.findall(
        r"^\.\. auto(?:class|exception|function|data|protocol):: (?:trio_ticks\.)?([\w.]+)",
        text,
        re.MULTILINE,
    )
    assert len(listed) == len(set(listed))
    assert set(listed) - EXPLAINED == set(OBJECTS)
