"""The commands for buffers: ``ingest``, ``work``, ``lag``, ``retire``, ``run``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ticks
import trio_ticks.brokers
from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.redis_world import Book, Workers, until_held
from tests.worlds.servers import Server, free_port, running
from trio_ticks.brokers.urls import SCHEMES, from_url, secrets_of, shown
from trio_ticks.errors import ConfigError

SECRET = "sesame-4711"
STRATEGY = """
import trio

async def on_tick(tick):
    await trio.sleep(0)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(STRATEGY)
    return tmp_path


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    """The address of an exchange that runs in another process."""
    with subprocess.Popen(
        command("exchange", "--rate", "500", "--symbols", "4", "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("ws://"))
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.read()


def symbols() -> str:
    from trio_ticks.exchange.config import DEFAULT_SYMBOLS

    return ",".join(DEFAULT_SYMBOLS[:4])


def test_two_programs_and_a_look_from_outside(server: Server, exchange: str, folder: Path) -> None:
    server.ask("FLUSHALL")
    url = f"{server.url}?name=two&lease=2"
    brought = run_cli(
        *("ingest", "--url", exchange, "--symbols", symbols(), "--duration", "1.5", "--json"),
        TRIO_TICKS_BUFFER=url,
    )
    assert brought.returncode == 0, brought.stderr
    ingest = json.loads(brought.stdout)
    assert ingest["half"] == "ingest"
    assert ingest["consumed"] == ingest["produced"] > 0
    looked = run_cli("lag", url, "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["lag"] == ingest["consumed"]
    assert run_cli("lag", url, "--max-lag", "3").returncode == 1

    with subprocess.Popen(
        command("work", "--handler", "mine:on_tick", "--view", "none"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(TRIO_TICKS_BUFFER=url),
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while run_cli("lag", url, "--max-lag", "0", "--group", "workers").returncode:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert f"{ingest['consumed']:,} = {ingest['consumed']:,} + 0 + 0 + 0 + 0 + 0" in out
    assert "given back" in out
    table = run_cli("lag", url, "--max-lag", "0")
    assert table.returncode == 0
    assert "workers  0 ticks" in " ".join(table.stdout.split(" ")).replace("   ", "  ")
    assert "0 of 100,000 ticks in it" in table.stdout


def test_both_halves_by_run(server: Server, exchange: str, folder: Path) -> None:
    server.ask("FLUSHALL")
    done = run_cli(
        *("run", "--url", exchange, "--symbols", symbols(), "--handler", "mine:on_tick"),
        *("--duration", "1.5", "--json", "--buffer", f"{server.url}?name=both"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["half"] == "work"
    assert report["ingest"]["consumed"] == report["ingest"]["produced"] > 0
    assert report["consumed"] > 0


def test_no_password_is_shown(server: Server, folder: Path) -> None:
    url = f"redis://somebody:{SECRET}@127.0.0.1:{server.port}/0?name=x"
    for arguments in (
        ("work", "--handler", "mine:on_tick", "--buffer", url, "--log-level", "debug"),
        ("lag", url),
        ("work", "--handler", "mine:on_tick", "--buffer", f"{url}&maxsize=many"),
        ("work", "--handler", "mine:on_tick", "--buffer", url.replace("redis:", "rodis:")),
    ):
        done = run_cli(*arguments, cwd=folder)
        assert done.returncode in (1, 2), done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    warned = run_cli("work", "--handler", "mine:on_tick", "--buffer", url, cwd=folder)
    assert "other users of this machine can see the password" in warned.stderr
    silent = run_cli("work", "--handler", "mine:on_tick", cwd=folder, TRIO_TICKS_BUFFER=url)
    assert "other users" not in silent.stderr
    assert silent.returncode == 1


def test_lag_of_no_buffer_is_one_line(server: Server) -> None:
    done = run_cli("lag", f"{server.url}?name=nothing")
    assert done.returncode == 1
    assert "there is no such buffer" in done.stderr
    done = run_cli("lag", "zmq+tcp://127.0.0.1:5555")
    assert done.returncode == 2
    assert "no broker can be asked" in done.stderr
    assert "--metrics HOST:PORT" in done.stderr


@pytest.mark.parametrize("command", [("lag",), ("retire", "--group", "g")])
def test_without_a_buffer_it_says_where_one_is_given(command: tuple[str, ...]) -> None:
    done = run_cli(*command)
    assert done.returncode == 2
    assert "give its URL" in done.stderr
    assert "TRIO_TICKS_BUFFER" in done.stderr


def test_a_group_is_retired_once(server: Server) -> None:
    server.ask("FLUSHALL")
    buffer = trio_ticks.brokers.RedisStreams(server.url, "few")

    async def begin() -> None:
        source = buffer.source()
        workers = Workers(Book())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until_held(source)
            source.drain()

    trio.run(begin)
    url = f"{server.url}?name=few"
    done = run_cli("retire", "--group", "workers", TRIO_TICKS_BUFFER=url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{url}: the group workers is gone, 0 ticks were deleted\n"
    again = run_cli("retire", url, "--group", "workers")
    assert (again.returncode, again.stdout) == (1, "")
    assert "there is no group 'workers'; there are: none yet" in again.stderr
    other = run_cli("retire", "zmq+tcp://127.0.0.1:5555", "--group", "workers")
    assert other.returncode == 2
    assert "only a buffer in Redis" in other.stderr


@pytest.mark.parametrize("url", ["me:hunter22redis://host", "redis:me:hunter22@host://x"])
def test_what_is_no_scheme_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="no scheme") as caught:
        from_url(url)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("url", ["amqp://host", "redis:/host", "host:6379", "", "kafka"])
def test_an_unknown_scheme_is_told_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match="one of redis://") as caught:
        from_url(url)
    assert all(f"{scheme}://" in str(caught.value) for scheme in SCHEMES)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://localhost/0?name=a", "RedisStreams"),
        ("rediss://localhost/0", "RedisStreams"),
        ("kafka://localhost:9092/ticks", "Kafka"),
        ("zmq+tcp://127.0.0.1:5555", "ZeroMQ"),
    ],
)
def test_a_url_makes_its_buffer(url: str, kind: str) -> None:
    assert type(from_url(url)).__name__ == kind


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"redis://me:{SECRET}@host/0?name=a", "redis://me:***@host/0?name=a"),
        (f"redis://:{SECRET}@host", "redis://:***@host"),
        ("redis://me:p%40ss-word@host", "redis://me:***@host"),
        (
            f"kafka://host/t?sasl.password={SECRET}&group=g",
            "kafka://host/t?sasl.password=***&group=g",
        ),
        (f"redis://me:a/b@{SECRET}@host", "redis://me:***@host"),
        ("redis://host/0?name=a", "redis://host/0?name=a"),
    ],
)
def test_secrets_of_a_url_are_masked(url: str, masked: str) -> None:
    assert shown(url) == masked
    assert all(secret not in masked for secret in secrets_of(url))


def test_brokers_cost_nothing_until_they_are_used() -> None:
    program = (
        "import sys, trio_ticks as tt\n"
        "tt.brokers.from_url\n"
        "heavy = {'hiredis', 'confluent_kafka', 'zmq', 'trio_ticks.brokers.kafka'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "tt.brokers.RedisStreams, tt.brokers.ZeroMQ, tt.brokers.Kafka\n"
        "print(set(tt.brokers.__all__) <= set(dir(tt.brokers)))\n"
        "try: tt.brokers.Rabbit\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment(),
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[]",
        "True",
        "module 'trio_ticks.brokers' has no attribute 'Rabbit'",
    ]


@pytest.mark.parametrize("half", ["ingest", "work", "lag", "retire"])
def test_help_teaches_by_examples(half: str) -> None:
    done = run_cli(half, "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert "TRIO_TICKS_BUFFER" in done.stdout


async def test_the_lag_of_zeromq_is_what_its_ingests_have_under_way() -> None:
    async def idle(item: trio_ticks.Tick) -> None: ...

    buffer = MemoryBuffer(told={"in_doubt": 7})
    ask = partial(trio.to_thread.run_sync, run_cli, "lag", "zmq+tcp://localhost:5555", "--metrics")
    async with (
        trio_ticks.open_pipeline(_Waits(), idle, buffer=buffer) as both,
        trio_ticks.open_pipeline(None, idle, buffer=buffer) as work,
    ):
        done = await ask(await both.serve_metrics(0))
        assert done.returncode == 0, done.stderr
        assert "7 ticks" in done.stdout
        url = await work.serve_metrics(0)
        done = await ask(url)
        assert done.returncode == 1
        assert f"{url}: these are the metrics of no ingest" in done.stderr
        work.cancel()
        both.cancel()


class _Waits:
    """A feed that brings nothing."""

    async def run(self, send: trio_ticks.TickSendChannel[Any]) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("scheme", ["redis", "zmq"])
def test_the_example_runs_on_a_buffer(scheme: str, server: Server, tmp_path: Path) -> None:
    example = Path(trio_ticks.__file__).parents[1] / "examples" / "mean_reversion.py"
    server.ask("FLUSHALL")
    url = (
        f"{server.url}?name=example" if scheme == "redis" else f"zmq+tcp://127.0.0.1:{free_port()}"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), "--buffer", url, "--seconds", "1.5"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "work: handled" in done.stdout
    assert len(list((tmp_path / "windows").glob("*.json"))) == 8
