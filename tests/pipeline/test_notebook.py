"""Pipelines in a notebook: what docs/from_asyncio.md says of it, in a real kernel.

A kernel runs its cells in a loop of asyncio's, in its main thread.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

PATIENCE_S = 60
CELLS = """
from datetime import UTC, datetime
import asyncio, threading
import trio
import trio_ticks as tt

asyncio.get_running_loop()
now = datetime.now(UTC)
ticks = [tt.Tick("AB"[n % 2], now, 100.0, 100.5, 2, 1, n) for n in range(20)]

async def strategy(tick):
    await trio.sleep(0)

async def endless():
    while True:
        yield tt.Tick("A", datetime.now(UTC), 100.0, 100.5, 2, 1, 0)
        await trio.sleep(0.01)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[Any, Any]]:
    starter, client = manager.start_new_kernel(startup_timeout=PATIENCE_S)
    try:
        run(client, CELLS)
        yield starter, client
    finally:
        client.stop_channels()
        starter.shutdown_kernel(now=True)


def run(client: Any, code: str) -> str:
    """Run a cell; return what it printed, or raise what it raised."""
    return finish(client, client.execute(code))


def finish(client: Any, request: str) -> str:
    """Return what the cell of *request* printed, when it has ended."""
    printed: list[str] = []
    while True:
        try:
            message = client.get_iopub_msg(timeout=PATIENCE_S)
        except queue.Empty:
            pytest.fail(f"the cell did not end: {''.join(printed)}")
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            printed.append(content["text"])
        elif message["msg_type"] == "error":
            raise RuntimeError(f"{content['ename']}: {content['evalue']}")
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return "".join(printed)


def wait_for_output(client: Any) -> None:
    """Return when the cell that runs has printed something."""
    while client.get_iopub_msg(timeout=PATIENCE_S)["msg_type"] != "stream":
        pass


def test_a_cell_runs_a_pipeline_to_its_end(kernel: tuple[Any, Any]) -> None:
    _, client = kernel
    code = "report = trio.run(tt.run_pipeline, tt.IterableFeed(ticks), strategy)"
    assert run(client, f"{code}\nprint(report.consumed)") == "20\n"


def test_the_stop_button_shuts_down_gracefully(kernel: tuple[Any, Any]) -> None:
    starter, client = kernel
    request = client.execute(
        "async def first(tick):\n"
        "    if not seen: print('runs', flush=True)\n"
        "    seen.append(tick)\n"
        "seen = []\n"
        "report = trio.run(tt.run_pipeline, tt.IterableFeed(endless()), first)\n"
        "print(report.consumed == len(seen) > 0)"
    )
    wait_for_output(client)
    starter.interrupt_kernel()
    assert finish(client, request).endswith("True\n")
    assert run(client, "print('the kernel lives')") == "the kernel lives\n"


def test_a_thread_lets_other_cells_go_on(kernel: tuple[Any, Any]) -> None:
    _, client = kernel
    run(
        client,
        "opened = threading.Event()\n"
        "async def main():\n"
        "    global pipeline\n"
        "    async with tt.open_pipeline(tt.IterableFeed(endless()), strategy) as pipeline:\n"
        "        opened.set()\n"
        "        await pipeline.wait()\n"
        "thread = threading.Thread(target=trio.run, args=(main,))\n"
        "thread.start()",
    )
    assert run(client, "print(opened.wait(30), pipeline.metrics().state)") == "True running\n"
    stop = "pipeline.shutdown(); thread.join(30); print(thread.is_alive(), pipeline.report.failed)"
    assert run(client, stop) == "False 0\n"


def test_a_handler_typed_into_a_cell_is_refused_for_processes(kernel: tuple[Any, Any]) -> None:
    _, client = kernel
    typed = (
        "from functools import partial\n"
        "def plain(tick): pass\n"
        "trio.run(partial(tt.run_pipeline, tt.IterableFeed(ticks), plain, executor='process'))"
    )
    with pytest.raises(RuntimeError, match=r"ConfigError: .*module"):
        run(client, typed)
