"""The view of a remote pipeline: the same numbers as its own, over real HTTP.

At real terminals; and what happens when the pipeline goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import ssl
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trustme
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.cli.test_cli import Terminal
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.observed import Altered
from tests.worlds.pipeline_world import Gate, Recorder, ScriptFeed, Send, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.cli import main
from trio_ticks.clock import Clock
from trio_ticks.observability import fetch as fetching
from trio_ticks.observability.fetch import FetchError, HttpAddress, fetch
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.readings import MOST_WORKERS
from trio_ticks.observability.remote import RemotePipeline, Watch, parse_metrics

PATIENCE_S = 60


def remote(
    registry: CollectorRegistry, name: str = "main", clock: Clock | None = None
) -> RemotePipeline:
    samples = parse_metrics(generate_latest(registry).decode())[name]
    return RemotePipeline(samples, clock or Clock())


# The same numbers


async def test_it_sees_what_the_pipeline_itself_says(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1.0 + tick.volume / 10)
        if tick.volume == 1:
            raise ValueError

    registry = CollectorRegistry()
    ticks = [make_tick("AB"[n % 2], n, age_s=3) for n in range(30)]
    feed = sleepy_feed(ticks)
    async with open_pipeline(
        feed, handler, workers=3, maxsize=20, write_timeout=2, max_age=14, shutdown_timeout=0
    ) as pipeline:
        feed.stats = tt.FeedStats(
            True, reconnects=3, connect_failures=4, messages=6, malformed=7, ignored=8
        )
        altered = Altered(pipeline, timeouts=5, retries=6, restarts=4)
        with export_metrics(altered, registry):
            await trio.sleep(15.5)
            own = attrs.evolve(
                pipeline.metrics(), handler_timeouts=5, handler_retries=6, worker_restarts=4
            )
            seen = remote(registry).metrics
    assert seen.dropped_by_reason["overflow"] > 0
    assert seen.dropped_by_reason["stale"] > 0
    for field in attrs.fields(tt.PipelineMetrics):
        mine, theirs = getattr(own, field.name), getattr(seen, field.name)
        if field.name.endswith("_ms"):
            if not isinstance(mine, float):
                assert theirs.count == mine.count
                assert mine.count > 0 or field.name == "hand_over_ms"
                mine, theirs = (
                    [getattr(each, name) for name in ("mean", "p50", "p99", "p999", "max")]
                    for each in (mine, theirs)
                )
            assert theirs == pytest.approx(mine), field.name
        elif field.name == "workers":
            assert [attrs.evolve(row, busy_ratio=0.0, symbol=None) for row in mine] == [
                attrs.evolve(row, busy_ratio=0.0) for row in theirs
            ]
            assert [row.busy_ratio for row in theirs] == pytest.approx(
                [row.busy_ratio for row in mine]
            )
        elif field.name not in (
            "timestamp",
            "uptime_s",
            "produced_per_s",
            "failed_per_s",
            "consumed_per_s",
            "dropped_per_s",
            "drop_rate_per_min",
        ):
            assert theirs == mine, field.name


async def test_it_sees_what_a_pool_that_sizes_itself_wants(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()
    async with open_pipeline(
        sleepy_feed(make_ticks(900)),
        Recorder(1.0),
        workers=tt.AutoWorkers(maximum=2),
        ordering="none",
        shutdown_timeout=0,
    ) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(60)
            own, seen = pipeline.metrics(), remote(registry).metrics
    assert own.workers_wanted is not None
    assert own.workers_limit == "maximum"
    assert (seen.workers_wanted, seen.workers_limit) == (own.workers_wanted, own.workers_limit)


async def test_a_symbol_that_is_set_aside_is_seen(autojump_clock: MockClock) -> None:
    def handler(_tick: tt.Tick) -> None:
        raise ValueError

    registry = CollectorRegistry()
    feed = sleepy_feed(make_ticks(9, "AB"))
    async with open_pipeline(
        feed, handler, executor="loop", breaker=tt.Breaker(failures=2), on_error=lambda *_: None
    ) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(1)
            assert (
                remote(registry).metrics.symbols_set_aside
                == pipeline.metrics().symbols_set_aside
                == 2
            )


async def test_rates_are_counted_from_the_first_look(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(1000))
        await trio.sleep(100)
        for _ in range(100):
            await send.send_many(make_ticks(50))
            await trio.sleep(0.5)

    clock = Clock()
    async with open_pipeline(
        ScriptFeed(script), Recorder(), overflow=tt.Conflate(), shutdown_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry):
            await trio.sleep(99.9)
            seen = remote(registry, clock=clock)
            assert seen.metrics.produced_per_s == 0
            for _ in range(40):
                await trio.sleep(0.5)
                seen.update(parse_metrics(generate_latest(registry).decode())["main"])
            own = pipeline.metrics()
    # Each has read the wall clock once, one shortly after the other.
    assert seen.metrics.uptime_s == pytest.approx(own.uptime_s, abs=60)
    assert seen.metrics.produced_per_s == pytest.approx(100)
    assert seen.metrics.consumed_per_s + seen.metrics.drop_rate_per_min / 60 == pytest.approx(
        100, rel=0.02
    )
    assert {round(step.produced) for step in seen.history.rates} == {100}
    assert len(seen.history.rates) == 40


def test_numbers_that_make_no_sense_are_nothing() -> None:
    text = (
        'trio_ticks_queue_items{pipeline="main"} NaN\n'
        'trio_ticks_queue_peak_items{pipeline="main"} +Inf\n'
    )
    metrics = RemotePipeline(parse_metrics(text)["main"], Clock(lambda: 0.0)).metrics
    assert (
        metrics.queue_size,
        metrics.queue_peak,
        metrics.queue_utilization_pct,
        metrics.state,
        metrics.workers,
    ) == (0, 0, 0.0, "", ())
    assert metrics.handler_latency_ms == tt.LatencyStats()
    json.dumps(metrics.to_dict(), allow_nan=False)


def test_what_others_serve_beside_it_does_not_matter() -> None:
    text = (
        'whatever is this\ntrio_ticks_queue_items{pipeline="main"} 3\n'
        'up{} {\ntrio_ticks_build_info{version="1"} 1\n'
    )
    assert remote_items(text) == {"main": 3}


def remote_items(text: str) -> dict[str, int]:
    return {name: samples.count("queue_items") for name, samples in parse_metrics(text).items()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not with the metrics of a trio_ticks pipeline"),
        ("<html>trio_ticks_queue_items", "not with the metrics"),
        ('trio_ticks_build_info{version="1"} 1\n', "not with the metrics"),
        ('trio_ticks_queue_items{pipeline="main"} many\n', "cannot be read"),
        ('trio_ticks_queue_items{pipeline="main\n', "cannot be read"),
    ],
)
def test_what_is_no_pipeline_is_said_to_be_none(text: str, reason: str) -> None:
    with pytest.raises(FetchError, match=reason):
        parse_metrics(text)


# The way there


Answer = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """Serve what *answer* writes, once a request has come; give the URL."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some()
            await answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client had seen enough.

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/metrics?a=b"
        nursery.cancel_scope.cancel()


def sends(data: bytes, *, then: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> Answer:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        await then()

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
    ids=["length", "until the close", "chunks"],
)
async def test_every_way_to_end_a_body(answer: bytes) -> None:
    async with server(sends(answer)) as url:
        assert await fetch(url) == b"hello"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sends(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "HTTP status 404"),
        (
            sends(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            "HTTP status 302",
        ),
        (sends(b"SSH-2.0-OpenSSH\r\n\r\n"), "does not speak HTTP"),
        (sends(b""), "does not speak HTTP|closed|broke"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"), "does not speak HTTP"),
        (sends(b"HTTP/1.1 200 OK\r\n\r\n", then=trio.sleep_forever), "no answer within 0.3 s"),
        (sends(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 2000), "more than 0 MiB"),
    ],
    ids=["404", "302", "not http", "silence", "short", "slow", "large"],
)
async def test_an_answer_that_is_of_no_use(
    answer: Answer, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 1000)
    async with server(answer) as url:
        with pytest.raises(FetchError, match=reason) as caught:
            await fetch(url, timeout_s=0.3 if reason.startswith("no answer") else PATIENCE_S)
        assert "a=b" not in str(caught.value)


async def test_tls_is_spoken_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with trio.move_on_after(PATIENCE_S):
            try:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            except trio.BrokenResourceError:
                pass  # The client does not trust us.

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(
                trio.serve_ssl_over_tcp, answer, 0, context, host="127.0.0.1", https_compatible=True
            )
        )
        port = listener.transport_listener.socket.getsockname()[1]
        address = HttpAddress("localhost", port, "/", True, "https://localhost/")
        with pytest.raises(FetchError, match=r"no TLS|broke.*CERTIFICATE"):
            await fetch(address, timeout_s=PATIENCE_S)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        assert await fetch(address, timeout_s=PATIENCE_S) == b"hello"
        nursery.cancel_scope.cancel()


@contextmanager
def free_port() -> Iterator[int]:
    """Give the number of a port on which no program listens, nor will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_refusal_is_one_word() -> None:
    with free_port() as port, pytest.raises(FetchError, match=r"^connection refused$"):
        await fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://host/",
        "http://",
        "http://:80/",
        "http://h:99999/",
        "http://a:b@h/",
        "http://[::1/",
        "http://h/a b",
        "http://h/ä",
        "http://.h/",
        "http://a..b/",
        f"http://{'h' * 64}/",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(tt.ConfigError, match="the address") as caught:
        HttpAddress.parse(url)
    assert "a:b" not in str(caught.value)


def test_addresses_are_taken_apart() -> None:
    assert HttpAddress.parse("https://h/x?key=k") == HttpAddress(
        "h", 443, "/x?key=k", True, "https://h/x"
    )
    assert HttpAddress.parse("http://[::1]:90") == HttpAddress(
        "::1", 90, "/", False, "http://[::1]:90/"
    )


# Looking again and again


async def test_a_watch_survives_what_it_watches() -> None:
    registry = CollectorRegistry()
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as staying:
            url = await staying.serve_metrics(0, registry=registry, name="staying")
            port = HttpAddress.parse(url).port
            watch = Watch(HttpAddress.parse(url))
            async with open_pipeline(sleepy_feed(make_ticks(5)), Recorder()) as leaving:
                await wait_all_tasks_blocked()
                with export_metrics(leaving, registry, name="leaving"):
                    await watch.poll()
            assert watch.gone == set()
            await watch.poll()
            assert watch.gone == {"leaving"}
            first = watch.pipelines["staying"]
            assert {
                name: seen.metrics.items_produced for name, seen in watch.pipelines.items()
            } == {"staying": 3, "leaving": 5}
        answered_at = watch.answered_at
        await watch.poll()
        assert str(watch.failure) == "connection refused"
        assert watch.answered_at == answered_at
        assert watch.pipelines["staying"] is first
        async with open_pipeline(sleepy_feed(make_ticks(1)), Recorder()) as again:
            await again.serve_metrics(port, name="staying")
            await wait_all_tasks_blocked()
            await watch.poll()
            assert watch.failure is None
            # Another run of it: its rates and its history begin anew.
            assert watch.pipelines["staying"] is not first
            assert watch.pipelines["staying"].metrics.items_produced == 1


# The command


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)


@pytest.fixture
async def served() -> AsyncIterator[str]:
    """Two pipelines at one URL."""
    registry = CollectorRegistry()
    gate = Gate()
    with trio.fail_after(PATIENCE_S):
        async with (
            open_pipeline(
                sleepy_feed(make_ticks(9, "ABC")),
                gate,
                workers=2,
                maxsize=5,
                write_timeout=0,
                shutdown_timeout=0,
            ) as one,
            open_pipeline(sleepy_feed(), Recorder(), workers=MOST_WORKERS + 1) as two,
        ):
            url = await one.serve_metrics(0, registry=registry, name="one")
            await two.serve_metrics(0, registry=registry, name="two")
            yield url


def test_the_help_tells_the_keys_and_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--help"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "q, Ctrl-C  quit",
        "  Examples:\n    trio-ticks top\n",
        "TRIO_TICKS_METRICS_URL",
        "TRIO_TICKS_INTERVAL",
    ):
        assert expected in out


async def test_the_variable_stands_for_the_url(
    served: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_TICKS_METRICS_URL", served)
    assert await in_thread(main, ["top", "--json", "--interval", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == served


@pytest.mark.parametrize("chosen", [[], ["--pipeline", "one"]])
async def test_json_is_one_object(
    served: str, chosen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    short = served.removeprefix("http://").removesuffix("/metrics")
    assert await in_thread(main, ["top", short, "--json", "--interval", "0.1", *chosen]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["url"] == served
    assert list(report["pipelines"]) == (["one"] if chosen else ["one", "two"])
    one = report["pipelines"]["one"]
    assert one["items_produced"] == 9
    assert one["items_dropped"] + one["queue_size"] + one["in_flight"] == 9
    assert [worker["name"] for worker in one["workers"]] == ["loop-1", "loop-2"]


@pytest.mark.parametrize("alerted", [False, True])
async def test_a_picture_of_each_pipeline(
    served: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    alerted: bool,
) -> None:
    pytest.importorskip("rich")
    if alerted:
        from trio_ticks.observability.terminal import alerts

        # It takes a line, and what is said below the picture stands there all the same.
        monkeypatch.setattr(alerts, "alert", lambda _metrics, _pen: "an alert")
    assert await in_thread(main, ["top", served, "--once", "--interval", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    one, two = out.split("trio-ticks two")
    assert one.startswith("trio-ticks one")
    assert "produced                  9" in one
    assert "workers (2)" in one
    assert "the sums agree" in two
    assert f"more than {MOST_WORKERS} workers" in two
    assert ("an alert" in two) == alerted


async def test_without_rich_there_is_a_line_and_a_hint(
    served: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] == "rich" or name.endswith("observability.terminal")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert (
        await in_thread(main, ["top", served, "--once", "--interval", "0.1", "--pipeline", "one"])
        == 0
    )
    out, err = capsys.readouterr()
    assert err == "for a picture: pip install 'trio-ticks[cli]'\n"
    assert out.count("\n") == 1
    assert "connected" in out


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["top", "ftp://host/"], 2, "write it like http://127.0.0.1:9464/metrics"),
        (["top", "http://user:sesame@host/"], 2, "must not hold a user or a password"),
        (["top", "--interval", "0"], 2, "too small: 0.1 or more"),
        (
            ["top", "{refused}"],
            1,
            "no metrics from {refused}: connection refused "
            "(a pipeline serves them with --metrics-port",
        ),
        (
            ["top", "{refused}?token=sesame", "--json"],
            1,
            "no metrics from {refused}: connection refused",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with free_port() as port:
        refused = f"http://127.0.0.1:{port}/metrics"
        assert main([argument.format(refused=refused) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason.format(refused=refused) in err
    assert "sesame" not in err


async def test_a_pipeline_that_is_not_there_is_told_from_those_that_are(
    served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await in_thread(main, ["top", served, "--pipeline", "three", "--json"]) == 2
    assert "has no pipeline 'three', only one, two" in capsys.readouterr().err


async def test_another_route_is_not_metrics(
    served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = served.replace("/metrics", "/healthz")
    assert await in_thread(main, ["top", url]) == 1
    assert (
        f"no metrics from {url}: it answers, but not with the metrics of a trio_ticks pipeline"
        in capsys.readouterr().err
    )


# At a terminal


def settings_of(terminal: Terminal) -> list[Any]:
    return termios.tcgetattr(terminal.master)


async def test_the_view_its_keys_and_its_end(served: str) -> None:
    pytest.importorskip("rich")
    with Terminal("-m", "trio_ticks", "top", served, "--interval", "0.1") as terminal:
        before = settings_of(terminal)
        await in_thread(terminal.read_until, "pipeline 1 of 2")
        await in_thread(terminal.read_until, "trio-ticks one")
        # A key is not shown, and needs no Enter.
        assert settings_of(terminal)[3] & (termios.ICANON | termios.ECHO) == 0
        terminal.text = ""
        os.write(terminal.master, b"\t")
        await in_thread(terminal.read_until, "trio-ticks two")
        await in_thread(terminal.read_until, "pipeline 2 of 2")
        terminal.text = ""
        os.write(terminal.master, b"p")
        await in_thread(terminal.read_until, "trio-ticks one")
        terminal.text = ""
        resize(terminal, 100, 45)
        await in_thread(terminal.read_until, "outcomes")
        os.write(terminal.master, b"q")
        assert await in_thread(terminal.finish) == 0
        assert "\x1b[?1049l" in terminal.text
        assert settings_of(terminal) == before
    assert "Traceback" not in terminal.text


def resize(terminal: Terminal, width: int, height: int) -> None:
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


async def test_a_lost_connection_is_said_and_tried_again() -> None:
    pytest.importorskip("rich")
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            pipeline = await stack.enter_async_context(
                open_pipeline(sleepy_feed(make_ticks(3)), Recorder())
            )
            url = await pipeline.serve_metrics(0)
            with Terminal("-m", "trio_ticks", "top", url, "--interval", "0.1") as terminal:
                await in_thread(terminal.read_until, "connected")
                await stack.aclose()
                await in_thread(terminal.read_until, "NO ANSWER FOR")
                await in_thread(
                    terminal.read_until, "no answer: connection refused; trying again every 0.1 s"
                )
                terminal.text = ""
                async with open_pipeline(sleepy_feed(make_ticks(7)), Recorder()) as again:
                    await again.serve_metrics(HttpAddress.parse(url).port)
                    await in_thread(terminal.read_until, "connected")
                    os.write(terminal.master, b"\x03")
                    assert await in_thread(terminal.finish) == 0
    assert "Traceback" not in terminal.text


async def test_a_dumb_terminal_gets_lines(served: str) -> None:
    with Terminal("-m", "trio_ticks", "top", served, "--interval", "0.1", TERM="dumb") as terminal:
        await in_thread(terminal.read_until, "one  ")
        await in_thread(terminal.read_until, "two  ")
        os.write(terminal.master, b"\x03")
        assert await in_thread(terminal.finish) == 0
    assert "connected  in 0/s" in terminal.text
    assert "\x1b" not in terminal.text
