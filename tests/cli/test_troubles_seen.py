"""Strategies with each kind of trouble, run as a user runs them: all of them are seen.

On the page, in ``top``, in the log, in the report and in the body of ``/readyz``. The
programs run side by side, since most of the time they only have to run for a while.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.worlds.command_line import command, environment
from tests.worlds.dashboard_client import ask
from trio_ticks.exchange import open_exchange

STRATEGIES = """
import time
import trio

class OutOfCashError(Exception):
    pass

DEAD = ConnectionError("the broker is gone")
count = 0

async def always(tick):
    raise OutOfCashError(tick.symbol)

async def seldom(tick):
    global count
    count += 1
    if count % 500 == 0:
        raise OutOfCashError(tick.symbol)

async def blocks(tick):
    global count
    count += 1
    if count % 300 == 0:
        time.sleep(0.6)

async def never_returns(tick):
    await trio.sleep_forever()

async def dead(tick):
    raise DEAD

async def stands_still(tick):
    time.sleep(1000)
"""


@attrs.define
class Seen:
    """What is to be seen of a program."""

    page: dict[str, Any] = attrs.field(factory=dict)
    ready: dict[str, Any] = attrs.field(factory=dict)
    top: str = ""
    log: str = ""
    report: str = ""
    code: int | None = None


def port_of(url: str) -> str:
    """Return *url* without its path."""
    return "/".join(url.split("/")[:3])


async def output_of(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([piece async for piece in stream]).decode()


async def look_at(
    strategy: str, url: str, cwd: Path, shows: dict[str, str], seen: dict[str, Seen]
) -> None:
    """Run *strategy* until all that *shows* names has been seen, then end it."""
    found = seen[strategy] = Seen()
    arguments = (
        "run",
        f"--url={url}",
        "--symbols=SPY,QQQ",
        f"--handler=mine:{strategy}",
        "--view=none",
        "--metrics-port=0",
        "--dashboard-port=0",
        "--shutdown-timeout=2",
    )
    start = partial(
        trio.run_process,
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(start)
        said = b""
        while len(re.findall(rb"http://\S+\n", said)) < 2:
            said += await process.stderr.receive_some()
        metrics, page = re.findall(r"http://\S+", said.decode())

        async def read_log() -> None:
            nonlocal said
            async for piece in process.stderr:
                said += piece

        nursery.start_soon(read_log)
        while re.search(shows["log"], said.decode()) is None:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.1)
        if "ready" in shows:
            while re.search(shows["ready"], json.dumps(found.ready)) is None:
                await trio.sleep(0.1)
                found.ready = json.loads((await ask(port_of(metrics), "/readyz"))[2])
            while re.search(shows["page"], json.dumps(found.page)) is None:
                await trio.sleep(0.1)
                found.page = json.loads((await ask(port_of(page), "/api/snapshot"))[2])
        while re.search(shows["top"], found.top) is None:
            look = await trio.run_process(
                command("top", metrics, "--once", "--interval=0.5"),
                env=environment(COLUMNS="80", LINES="24"),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            found.top = (look.stdout + look.stderr).decode()
        process.terminate()
        found.report = await output_of(process.stdout)
        found.code = await process.wait()
    found.log = said.decode()


FAILS = {
    "ready": r'"last_error": "OutOfCashError"',
    "page": r'"error": "OutOfCashError"',
    "top": r"FAILING .* of the handled  last OutOfCashError of (SPY|QQQ)",
    "log": r"handler.failed: \d+ times, the last with (SPY|QQQ)\n(.*\n)+.*OutOfCashError",
    "report": r"\+ failed +[1-9].*the strategy raised, last OutOfCashError of (SPY|QQQ)",
}
TROUBLES = {
    "always": FAILS,
    "seldom": FAILS,
    "dead": {name: text.replace("OutOfCash", "Connection") for name, text in FAILS.items()},
    "blocks": {
        "ready": r'"loop": {"delay_s": (0\.[3-9]|[1-9])[\d.]*, "blocks": [1-9]',
        "page": r'"blocks": [1-9]',
        "top": r"LOOP BLOCKED|loop blocked",
        "log": r"loop.blocked: (.*\n)+.*time.sleep\(0.6\)",
        "report": r"the event loop stood still \S+( times)?, for 0.2 s or longer",
    },
    "never_returns": {
        "ready": r'"overdue": {"workers": [12], "for_s": [\d.]+, "symbol": "(SPY|QQQ)"}',
        "page": r'"overdue": {"workers": [12]',
        "top": r"NO RETURN from (a handler|2 handlers) for .* s, of (SPY|QQQ)",
        "log": r"handler.overdue: (SPY|QQQ), for (.*\n)+.*await trio.sleep_forever\(\)",
        "report": r"NO RETURN from (a handler|2 handlers) for .* s, of (SPY|QQQ)",
    },
    "stands_still": {
        "top": r"no answer within 5 s",
        "log": r"loop.blocked: (.*\n)+.*time.sleep\(1000\)",
        "report": r"every tick is accounted for",
    },
}


async def test_each_trouble_is_seen_everywhere(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGIES)
    seen: dict[str, Seen] = {}
    async with open_exchange(rate=1000, symbols=["SPY", "QQQ"]) as exchange:
        with trio.fail_after(110):
            async with trio.open_nursery() as nursery:
                for strategy, shows in TROUBLES.items():
                    nursery.start_soon(look_at, strategy, exchange.url, tmp_path, shows, seen)
    for strategy, shows in TROUBLES.items():
        found = seen[strategy]
        assert re.search(shows["report"], found.report), (strategy, found.report)
        assert "every tick is accounted for" in found.report
        # Ended by the watch, since the loop could not.
        assert found.code == (143 if strategy == "stands_still" else 0), (strategy, found.log)
    assert "SIGTERM came" in seen["stands_still"].log
