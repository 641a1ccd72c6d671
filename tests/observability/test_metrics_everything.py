"""A run with every feature that has something to count.

``promtool`` finds no fault, and every metric on the list is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

import trio_ticks as tt
from tests.observability.test_metrics_page import PAGE
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, sleepy_feed
from tests.worlds.process_handlers import Tell
from tests.worlds.process_world import guarded, path, quick_main, tick, until
from trio_ticks import open_pipeline
from trio_ticks.control.scaling import Limit
from trio_ticks.exchange import open_exchange
from trio_ticks.observability.fetch import fetch

__all__ = ["guarded", "path", "quick_main"]

LISTED = set(re.findall(r"^\| `(trio_ticks_\w+)`", PAGE, re.MULTILINE))
AT_TIMES = {
    "trio_ticks_feed_throttle_ticks_per_second",
    "trio_ticks_feed_silent_symbol",
    "trio_ticks_handler_overdue_seconds",
    "trio_ticks_clock_offset_seconds",
    "trio_ticks_clock_jumps_total",
    "trio_ticks_ticks_given_back_total",
} | {name for name in LISTED if "_buffer_" in name or "_recorder_" in name}
"""Are there only with a buffer between processes, with a recorder, while a feed is
slowed down, while a symbol is silent, while a handler does not return, or where ages
count from timestamps."""


async def eventful(send: Send) -> None:
    """Send more symbols than have a label, a loss, and ticks that cause failures.

    At some the handler fails, at some its process dies.
    """
    await send.send_many(make_ticks(200, [f"S{number}" for number in range(10)]))
    send.mark_gap(tt.Gap("S1", make_tick().timestamp, "sequence", 4, make_tick().timestamp))
    await send.send_many([tick("S1", 200, bid=-1.0), tick("S2", 201, bid=13.0)])
    await trio.sleep_forever()


async def keep(_result: tt.Result) -> None:
    await trio.lowlevel.checkpoint()


async def scraped(path: Path) -> list[bytes]:
    """Return what two ports serve.

    One is of a pipeline with worker processes, one shares its registry with another.
    """
    shared = CollectorRegistry()
    async with (
        open_pipeline(
            ScriptFeed(eventful),
            Tell(str(path)),
            executor="process",
            # In order of symbols, processes are as many as they are.
            ordering="none",
            workers=tt.AutoWorkers(1, 2),
            overflow=tt.Throttle(tt.DropNewest()),
            breaker=tt.Breaker(),
            handler_timeout=60.0,
            results=keep,
            shutdown_timeout=5,
        ) as processes,
        open_pipeline(sleepy_feed(make_ticks(30)), lambda _tick: None, workers=3) as threads,
        open_pipeline(sleepy_feed(make_ticks(30)), Recorder(), overflow=tt.Conflate()) as loop,
    ):
        url = await processes.serve_metrics(0, symbols=3)
        # The process that died is replaced a moment after its tick was counted.
        await until(
            lambda: (
                processes.ledger.consumed + processes.ledger.failed == 202
                and processes.worker_statistics().restarts == 1
            )
        )
        await wait_all_tasks_blocked()
        # A request to /readyz makes the pipeline check when the last message came.
        assert b'"connected": true' in await fetch(url.replace("/metrics", "/readyz"))
        await threads.serve_metrics(0, name="threads", registry=shared)
        return [
            await fetch(url),
            await fetch(
                await loop.serve_metrics(0, name="loop", registry=shared, symbols=["A", "other"])
            ),
        ]


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)
async def test_promtool_has_nothing_to_say_whatever_is_counted(path: Path) -> None:
    check = partial(
        trio.run_process,
        ["promtool", "check", "metrics"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    for text in await scraped(path):
        done = await check(stdin=text)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_all_that_is_on_the_list_is_served(path: Path) -> None:
    (everything, _shared) = await scraped(path)
    families = {
        family.name: family.samples
        for family in text_string_to_metric_families(everything.decode())
    }
    named = {name for name in LISTED if name in families or name.removesuffix("_total") in families}
    assert LISTED - named == AT_TIMES
    totals = {
        (
            sample.name.removeprefix("trio_ticks_"),
            *(
                sample.labels[key]
                for key in sample.labels
                if key not in ("pipeline", "intentional")
            ),
        ): sample.value
        for samples in families.values()
        for sample in samples
    }
    assert totals["worker_restarts_total",] == 1
    assert totals["hand_over_seconds_count",] > 0
    assert totals["ticks_handled_total", "failure"] == 2
    assert totals["feed_missed_items_total", "sequence"] == 4
    assert totals["symbol_ticks_received_total", "other"] == 7 * 20
    assert {key[1] for key in totals if key[0] == "workers_limit"} == set(get_args(Limit))
    assert totals["pipeline_unaccounted_items",] == 0


async def test_the_run_command_serves_all_that_it_is_asked_to_and_tells_no_key(path: Path) -> None:
    (path.parent / "mine.py").write_text("async def strategy(tick):\n    pass\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TICKS_")}
    async with (
        open_exchange(rate=500, symbols=["SPY", "QQQ"]) as exchange,
        trio.open_nursery() as nursery,
    ):
        command = [
            sys.executable,
            "-m",
            "trio_ticks",
            "run",
            f"--url={exchange.url}",
            "--symbols=SPY,QQQ",
            "--handler=mine:strategy",
        ]
        command += [
            "--view=none",
            "--log-format=json",
            "--log-level=debug",
            "--metrics-port=0",
            "--metrics-symbols=1",
            "--dashboard-port=0",
        ]
        root = str(Path(tt.__file__).parent.parent)
        process = await nursery.start(
            partial(
                trio.run_process,
                command,
                cwd=path.parent,
                env={**kept, "PYTHONPATH": root, "TRIO_TICKS_API_KEY": "sesame"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        said = b""
        while len(re.findall(rb"http://\S+\n", said)) < 2:
            said += await process.stderr.receive_some()
        metrics, dashboard = re.findall(r"http://\S+", said.decode())
        await until_served(
            metrics, b'trio_ticks_symbol_ticks_received_total{pipeline="main",symbol="other"}'
        )
        assert json.loads(await fetch(dashboard + "api/snapshot"))["ledger"]["holds"]
        process.terminate()
        said += b"".join([part async for part in process.stderr]) + b"".join(
            [part async for part in process.stdout]
        )
    assert await process.wait() == 0
    assert b'"event": "feed.connected"' in said
    assert b"sesame" not in said


async def until_served(url: str, wanted: bytes) -> None:
    while wanted not in await fetch(url):  # noqa: ASYNC110 - it is another process
        await trio.sleep(0.05)
