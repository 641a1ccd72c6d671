"""One owner of SIGINT and SIGTERM for all pipelines of a process.

The pipelines run in one loop or in several threads. Tests that need a process of their
own (a signal that would end it, threads, other loops) start one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import assert_accounted, listed
from trio_ticks.pipeline import signals as signals_module
from trio_ticks.pipeline.signals import hear_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def installed() -> list[Any]:
    """Return the handlers of the signals that pipelines hear."""
    return [signal.getsignal(number) for number in NUMBERS]


def test_only_the_owner_installs_signal_handlers() -> None:
    """Two owners would put back each other's handlers."""
    package = Path(tt.__file__).parent
    install = re.compile(r"\bsignal\.signal\(|\bopen_signal_receiver\b|\bset_wakeup_fd\b")
    installing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if install.search(path.read_text(encoding="utf-8"))
    }
    # The others are processes of their own, which their parents end.
    assert installing == {
        "pipeline/signals.py",
        "simulation/sweep.py",
        "workers/processes/child.py",
    }


# In this process


class Heard:
    """Keeps what a listener was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, number: signal.Signals, again: bool) -> None:
        self.calls.append((number.name, again))


@pytest.fixture
def app_handler() -> Iterator[list[int]]:
    """Install an application's handler of SIGTERM; return what it gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def send(number: signal.Signals) -> None:
    """Send a signal to this process, and let its effects happen."""
    signal.raise_signal(number)
    await trio.testing.wait_all_tasks_blocked()


async def test_the_first_signal_and_the_second_go_to_all() -> None:
    one, other = Heard(), Heard()
    with hear_signals(one), hear_signals(other):
        await send(signal.SIGTERM)
        assert one.calls == other.calls == [("SIGTERM", False)]
        await send(signal.SIGINT)
        assert one.calls == other.calls == [("SIGTERM", False), ("SIGINT", True)]


async def test_who_comes_after_the_first_signal_is_told_of_the_second() -> None:
    one, late = Heard(), Heard()
    with hear_signals(one):
        await send(signal.SIGTERM)
        with hear_signals(late):
            await send(signal.SIGTERM)
    assert late.calls == [("SIGTERM", True)]


async def test_a_signal_is_the_first_again_once_all_that_heard_the_last_one_have_ended() -> None:
    one, late = Heard(), Heard()
    with hear_signals(late):
        pass
    with hear_signals(one):
        await send(signal.SIGTERM)
    with hear_signals(late):
        await send(signal.SIGTERM)
    assert late.calls == [("SIGTERM", False)]


@pytest.mark.parametrize("first_to_end", ["older", "younger"])
async def test_who_ends_first_takes_the_signals_from_nobody(first_to_end: str) -> None:
    before = installed()
    older, younger = hear_signals(kept := Heard()), hear_signals(kept)
    first, last = (older, younger) if first_to_end == "older" else (younger, older)
    older.__enter__()
    younger.__enter__()
    first.__exit__(None, None, None)
    assert all(now != old for now, old in zip(installed(), before, strict=True))
    await send(signal.SIGTERM)
    assert kept.calls == [("SIGTERM", False)]
    last.__exit__(None, None, None)
    assert installed() == before


@pytest.fixture
def hangup() -> Iterator[None]:
    """Let a hangup end this process, also if it was started by ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


async def test_a_hangup_is_heard_where_it_would_end_the_program(hangup: None) -> None:
    heard = Heard()
    with hear_signals(heard), hear_signals(Heard()):
        await send(signal.SIGHUP)
        await send(signal.SIGTERM)
    assert heard.calls == [("SIGHUP", False), ("SIGTERM", True)]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_a_hangup_is_never_the_second_signal(hangup: None) -> None:
    heard, late = Heard(), Heard()
    with hear_signals(heard):
        await send(signal.SIGTERM)
        await send(signal.SIGHUP)
        with hear_signals(late):
            await send(signal.SIGHUP)
            await send(signal.SIGHUP)
    assert heard.calls == [("SIGTERM", False)]
    assert late.calls == [("SIGHUP", False)]


@pytest.mark.parametrize("before", [signal.SIG_IGN, lambda _number, _frame: None])
async def test_a_hangup_that_the_application_handles_is_left_to_it(
    before: Any, hangup: None
) -> None:
    heard = Heard()
    signal.signal(signal.SIGHUP, before)
    with hear_signals(heard):
        await send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is before
    assert heard.calls == []


async def test_what_was_sent_before_the_end_reaches_nobody_after_it() -> None:
    heard = Heard()
    with hear_signals(heard):
        signal.raise_signal(signal.SIGTERM)
    await trio.testing.wait_all_tasks_blocked()
    assert heard.calls == []


async def test_the_handler_of_the_application_is_put_back(app_handler: list[int]) -> None:
    heard = Heard()
    with hear_signals(heard):
        await send(signal.SIGTERM)
        assert app_handler == []
    await send(signal.SIGTERM)
    assert app_handler == [signal.SIGTERM]
    assert len(heard.calls) == 1


async def test_a_handler_that_the_application_installed_meanwhile_stays(
    app_handler: list[int],
) -> None:
    newer: list[int] = []
    with hear_signals(heard := Heard()):
        signal.signal(signal.SIGTERM, lambda number, _frame: newer.append(number))
    await send(signal.SIGTERM)
    assert (newer, app_handler, heard.calls) == ([signal.SIGTERM], [], [])


async def test_a_chain_of_handlers_through_ours_ends_at_the_first(app_handler: list[int]) -> None:
    # The application's second handler calls the handler that it found: ours, of a
    # pipeline that has ended since.
    with hear_signals(Heard()):
        ours: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        with hear_signals(heard := Heard()):
            await send(signal.SIGTERM)
    await send(signal.SIGTERM)
    assert heard.calls == [("SIGTERM", False)]
    assert app_handler == [signal.SIGTERM]


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Run *function* in a trio loop of its own in a thread."""
    return await trio.to_thread.run_sync(lambda: trio.run(function, *args))


async def test_a_thread_hears_what_the_main_thread_installed_and_the_last_one_puts_it_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, heard = installed(), Heard()
    listening, told = trio.Event(), trio.Event()
    here = trio.lowlevel.current_trio_token()

    async def elsewhere() -> None:
        ended = trio.Event()

        def on_signal(number: signal.Signals, again: bool) -> None:
            heard(number, again)
            ended.set()

        with hear_signals(on_signal):
            here.run_sync_soon(listening.set)
            await ended.wait()
        here.run_sync_soon(told.set)

    async with trio.open_nursery() as nursery:
        with hear_signals(Heard()):
            nursery.start_soon(in_thread, elsewhere)
            await listening.wait()
        assert installed() != before
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
    assert heard.calls == [("SIGTERM", False)]
    assert installed() == before
    assert caplog.records == []


async def test_a_pipeline_in_a_thread_says_once_that_it_hears_no_signals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(**settings: Any) -> tt.PipelineReport:
        return await tt.run_pipeline(listed(make_ticks(3)), [].append, **settings)

    assert_accounted(await in_thread(run), consumed=3)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("trio_ticks.pipeline", "WARNING")
    ]
    text = caplog.records[0].getMessage()
    assert text.startswith("pipeline.no_signals: SIGINT and SIGTERM will not be heard")
    caplog.clear()

    async def without() -> tt.PipelineReport:
        return await run(signals=False)

    assert_accounted(await in_thread(without), consumed=3)
    assert_accounted(await run(), consumed=3)
    assert caplog.records == []


async def test_what_windows_cannot_do_is_told_once_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(signals_module, "sys", SimpleNamespace(platform="win32"))
    for signals in (True, True, False):
        await tt.run_pipeline(listed(make_ticks(2)), [].append, signals=signals)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "windows.signals"
    ] * 2
    assert "press Ctrl-C" in caplog.text


# In a process of its own

_BEGIN = """
import asyncio, logging, os, signal, sys, threading, time
from datetime import UTC, datetime
import trio
import trio_ticks as tt

# A shell lets the programs that it runs in the background ignore SIGINT, and nohup
# lets them ignore SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

thread_is_ready = threading.Event()

class Feed:
    def __init__(self, name, endless=True):
        self.name, self.endless = name, endless

    async def run(self, send):
        now = datetime.now(UTC)
        await send.send_many([tt.Tick(self.name, now, 1, 2, 3, 4, n) for n in range(10)])
        say("ready", self.name)
        if self.name == "T":
            thread_is_ready.set()
        elif "thread" in globals():
            await trio.to_thread.run_sync(thread_is_ready.wait)
        if self.endless:
            await trio.sleep_forever()

async def quick(tick):
    pass

async def slow(tick):
    await trio.sleep_forever()

async def run(name, handler=quick, *, endless=True, **settings):
    report = await tt.run_pipeline(Feed(name, endless), handler, **settings)
    say("report", name, report.consumed, report.dropped)

def on_term(number, frame):
    say("app", signal.Signals(number).name)

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="log %(message)s")
"""


class Program:
    """A program in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []

    def until(self, *wanted: str) -> None:
        """Read until each of *wanted* has come at the beginning of a line."""
        missing = set(wanted)
        assert self._process.stdout is not None
        while missing:
            line = self._process.stdout.readline()
            assert line, (missing, self.lines, self._process.communicate()[1])
            self.lines.append(line.rstrip())
            missing = {words for words in missing if not line.startswith(words)}

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> list[str]:
        """Wait for an orderly end; return what was said, without the log."""
        out, errors = self._process.communicate(timeout=30)
        assert (self._process.returncode, errors) == (0, ""), (out, errors)
        self.lines += out.splitlines()
        return [line for line in self.lines if not line.startswith(("log", "ready"))]

    def ended_by(self) -> int:
        """Wait for the end by a signal; return its number."""
        self._process.communicate(timeout=30)
        return -self._process.returncode


@contextmanager
def program(text: str) -> Iterator[Program]:
    """Run *text*, after what all programs have in common."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _BEGIN + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(tt.__file__).parent.parent)},
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


TWO = """
    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run("A", {handler}, shutdown_timeout=3600))
            nursery.start_soon(lambda: run("B", {handler}, shutdown_timeout=3600))

    trio.run(main)
"""


@pytest.mark.parametrize("number", [*NUMBERS, signal.SIGHUP], ids=lambda number: number.name)
def test_two_pipelines_drain_at_one_signal(number: signal.Signals) -> None:
    with program(TWO.format(handler="quick")) as it:
        it.until("ready A", "ready B")
        it.send(number)
        assert sorted(it.end()) == ["report A 10 0", "report B 10 0"]


def test_two_pipelines_are_cancelled_by_the_second_signal() -> None:
    with program(TWO.format(handler="slow")) as it:
        it.until("ready A", "ready B")
        it.send(signal.SIGTERM)
        it.until("log pipeline.stopping")
        it.until("log pipeline.stopping")
        it.send(signal.SIGTERM)
        assert sorted(it.end()) == ["report A 0 10", "report B 0 10"]


@pytest.mark.parametrize("first", ["A", "B"])
def test_a_pipeline_that_ends_first_leaves_the_signals_to_the_other(first: str) -> None:
    text = f"""
        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: run("A", endless={first == "B"}))
                nursery.start_soon(lambda: run("B", endless={first == "A"}))

        trio.run(main)
    """
    with program(text) as it:
        it.until("ready A", "ready B", f"report {first}")
        it.send(signal.SIGTERM)
        assert sorted(it.end()) == ["report A 10 0", "report B 10 0"]


def test_the_application_has_its_handler_back_after_the_last() -> None:
    text = """
        signal.signal(signal.SIGTERM, on_term)

        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, "A")
                nursery.start_soon(run, "B")

        trio.run(main)
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is on_term
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    with program(text) as it:
        it.until("ready A", "ready B")
        it.send(signal.SIGTERM)
        assert it.end()[-1] == "app SIGTERM"
    assert it.lines.count("app SIGTERM") == 1


def test_signals_false_leaves_them_to_the_application() -> None:
    text = """
        signal.signal(signal.SIGTERM, on_term)

        async def main():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: run("A", signals=False))
                    with trio.open_signal_receiver(signal.SIGINT) as received:
                        async for number in received:
                            say("app's receiver", number)
                            scope.cancel()

        trio.run(main)
    """
    with program(text) as it:
        it.until("ready A")
        it.send(signal.SIGTERM)
        it.until("app SIGTERM")
        it.send(signal.SIGINT)
        assert it.end()[-1] == "app's receiver 2"


THREADS = """
    signal.signal(signal.SIGTERM, on_term)
    thread = threading.Thread(target=trio.run, args=(run, "T"))

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run("A", endless={endless}))
            thread.start()

    trio.run(main)
    say("main is over")
    thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is on_term
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        say("interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_a_signal_reaches_pipelines_in_several_threads() -> None:
    with program(THREADS.format(endless=True)) as it:
        it.until("ready A", "ready T")
        it.send(signal.SIGTERM)
        said = it.end()
    assert {"report A 10 0", "report T 10 0", "app SIGTERM", "interrupted"} <= set(said)
    assert said.count("app SIGTERM") == 1


def test_a_thread_still_hears_signals_when_the_main_thread_has_left_trio() -> None:
    # Then nothing can put the application's handlers back before the next signal, which
    # still reaches them.
    with program(THREADS.format(endless=False)) as it:
        it.until("report A", "ready T", "main is over")
        it.send(signal.SIGTERM)
        said = it.end()
    assert {"report A 10 0", "report T 10 0", "app SIGTERM", "interrupted"} <= set(said)
    assert said.count("app SIGTERM") == 1


def test_a_thread_alone_hears_none() -> None:
    text = """
        thread = threading.Thread(target=trio.run, args=(run, "T"), daemon=True)
        thread.start()
        thread.join()
    """
    with program(text) as it:
        it.until("ready T")
        it.send(signal.SIGTERM)
        assert it.ended_by() == signal.SIGTERM
    assert any(line.startswith("log pipeline.no_signals") for line in it.lines)


def test_a_forked_child_obeys_signals_as_without_us() -> None:
    text = """
        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, "A", slow)
                await trio.sleep(0)
                await trio.testing.wait_all_tasks_blocked()
                reader, writer = os.pipe()
                pid = os.fork()
                if not pid:
                    os.write(writer, b"!")
                    for _ in range(3000):  # signal.pause() would miss one that came just before
                        time.sleep(0.01)
                    os._exit(3)
                os.read(reader, 1)  # Python forgets what comes while it forks
                os.kill(pid, signal.SIGTERM)
                _, status = os.waitpid(pid, 0)
                say("the child", status)
                nursery.cancel_scope.cancel()

        import trio.testing
        trio.run(main)
    """
    with program(text) as it:
        assert it.end()[-1] == f"the child {int(signal.SIGTERM)}"


# Other loops


def test_a_pipeline_in_guest_mode_drains_at_a_signal() -> None:
    text = """
        async def main():
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            trio.lowlevel.start_guest_run(
                run,
                "A",
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=lambda outcome: (outcome.unwrap(), done.set()),
                host_uses_signal_set_wakeup_fd=True,
            )
            await done.wait()
            say("host ended")

        asyncio.run(main())
    """
    with program(text) as it:
        it.until("ready A")
        it.send(signal.SIGTERM)
        assert it.end() == ["report A 10 0", "host ended"]


def test_a_pipeline_within_a_running_loop_drains_at_a_signal() -> None:
    # As in a cell of a notebook, whose kernel runs it as a callback of its own loop.
    text = """
        async def kernel():
            trio.run(run, "A")
            await asyncio.sleep(0)
            say("kernel lives")

        asyncio.run(kernel())
    """
    with program(text) as it:
        it.until("ready A")
        it.send(signal.SIGINT)
        assert it.end() == ["report A 10 0", "kernel lives"]


async def no_handler(tick: tt.Tick) -> None: ...


@pytest.mark.parametrize("how", ["run", "open"])
@pytest.mark.parametrize("where", ["asyncio", "by hand", "guest's host"])
def test_a_pipeline_outside_trio_is_refused_before_anything_runs(how: str, where: str) -> None:
    import asyncio

    ran: list[str] = []

    class Feed:
        async def run(self, _send: object) -> None:
            ran.append("feed")

    async def open_one() -> None:
        async with tt.open_pipeline(Feed(), no_handler):
            ran.append("block")

    async def begin() -> None:
        before = installed()
        pipeline = tt.run_pipeline(Feed(), no_handler) if how == "run" else open_one()
        with pytest.raises(tt.ConfigError, match=r"a pipeline runs in trio only.* by trio\.run"):
            await pipeline
        assert installed() == before

    async def host() -> None:
        done = asyncio.Event()
        started = trio.Event()
        loop = asyncio.get_running_loop()
        trio.lowlevel.start_guest_run(
            started.wait,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda _outcome: done.set(),
            host_uses_signal_set_wakeup_fd=True,
        )
        await asyncio.sleep(0)
        await begin()
        started.set()
        await done.wait()

    if where == "by hand":
        with pytest.raises(StopIteration):
            begin().send(None)
    else:
        asyncio.run(begin() if where == "asyncio" else host())
    assert ran == []
