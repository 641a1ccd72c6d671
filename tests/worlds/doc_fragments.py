"""Runs a fragment of a page: code that takes ``feed``, ``handler`` and others as given.

The names are real: a feed of ten ticks, a handler, an open pipeline, a codec with
messages. An ``await`` may stand at the top.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import trio

import trio_ticks as tt

__all__ = ["run_fragment"]

PATIENCE_S = 5.0


async def handler(_tick: Any) -> None:
    await trio.lowlevel.checkpoint()


def ticks() -> list[tt.Tick]:
    now = datetime.now(UTC)
    return [tt.Tick("AB"[n % 2], now, 100.0, 100.5, 2, 1, n) for n in range(10)]


def names() -> dict[str, Any]:
    """Return what a fragment may take as given."""
    return {
        "__name__": "fragment",
        "trio": trio,
        "tt": tt,
        "feed": tt.IterableFeed(ticks()),
        "ticks": ticks(),
        "handler": handler,
        "strategy": handler,
    }


async def execute(code: str, given: dict[str, Any], name: str) -> None:
    """Run *code* among the names *given*.

    Cancellation: as the code bears it.
    """
    compiled = compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        await types.FunctionType(compiled, given)()
    else:
        exec(compiled, given)


async def main(parts: Sequence[str], name: str) -> None:
    """Run the *parts* of a fragment, one after another, beside an open pipeline.

    Cancellation: ends the fragment and the pipeline.
    """
    given = names()
    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(tt.IterableFeed(ticks()), handler) as pipeline:
            given["pipeline"] = pipeline
            for part in parts:
                await execute(part, given, name)


def run_fragment(code: str, then: str, name: str) -> None:
    """Run *code* and what comes *then*; raise what it raises."""
    trio.run(partial(main, [code, then], name))
