"""Health and the port that serves it: each state for its own reason.

Over real sockets, with every bound reached.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import (
    BodyError,
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    listed,
    sleepy_feed,
)
from tests.worlds.running_demo import running_demo
from trio_ticks import open_pipeline
from trio_ticks.cli.report import progress_line
from trio_ticks.observability import web
from trio_ticks.observability.health import Health

PATIENCE_S = 30
NO_FAILURES = {
    "per_s": 0.0,
    "share": 0.0,
    "last_error": None,
    "last_symbol": None,
    "last_age_s": None,
}


# The states


async def test_ready_when_all_is_well(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        report = Health(pipeline).ready(trio.current_time())
    assert report.ok
    assert report.facts == {
        "running": True,
        "connected": True,
        "fresh": True,
        "not_shedding": True,
        "last_message_age_s": 0.0,
        "failures": NO_FAILURES,
        "overdue": None,
        "loop": {"delay_s": 0.0, "blocks": 0},
    }


def failing(facts: dict[str, Any]) -> list[str]:
    return [name for name, fact in facts.items() if fact is False]


async def test_not_fresh_before_the_first_message_nor_long_after_the_last(
    autojump_clock: MockClock,
) -> None:
    more = trio.Event()

    async def script(send: Send) -> None:
        await more.wait()
        await send.send_many(make_ticks(1))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        health = Health(pipeline, 10)
        assert failing(health.ready(trio.current_time()).facts) == ["fresh"]
        more.set()
        await wait_all_tasks_blocked()
        assert health.ready(trio.current_time()).ok
        await trio.sleep(10)
        assert health.ready(trio.current_time()).ok
        await trio.sleep(0.5)
        report = health.ready(trio.current_time())
        assert not report.ok
        assert failing(report.facts) == ["fresh"]
        assert report.facts["last_message_age_s"] == 10.5


async def test_messages_without_market_data_keep_no_feed_fresh(autojump_clock: MockClock) -> None:
    feed = sleepy_feed(make_ticks(1))
    async with open_pipeline(feed, Recorder()) as pipeline:
        health = Health(pipeline, 10)
        await wait_all_tasks_blocked()
        for _ in range(5):
            feed.stats.messages += 1
            health.refresh(trio.current_time())
            await trio.sleep(3)
        assert failing(health.ready(trio.current_time()).facts) == ["fresh"]


async def test_while_the_market_is_closed_nothing_is_expected_of_the_feed(
    autojump_clock: MockClock,
) -> None:
    feed = sleepy_feed()
    async with open_pipeline(feed, Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        feed.stats.connected = feed.stats.expects_data = False
        report = Health(pipeline).ready(trio.current_time())
        assert report.ok
        assert report.facts["market"] == "closed"
        assert failing(report.facts) == ["connected", "fresh"]
        feed.stats.expects_data = True
        report = Health(pipeline).ready(trio.current_time())
        assert not report.ok
        assert "market" not in report.facts


async def test_without_a_limit_one_message_is_enough(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(1)), Recorder()) as pipeline:
        health = Health(pipeline, math.inf)
        assert not health.ready(trio.current_time()).ok
        await wait_all_tasks_blocked()
        health.refresh(trio.current_time())
        await trio.sleep(80_000)
        assert health.ready(trio.current_time()).ok


@pytest.mark.parametrize("fresh_s", [0, -1, math.nan, True, "30"])
async def test_a_freshness_that_cannot_be(fresh_s: float) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with pytest.raises(tt.ConfigError, match="fresh_s"):
            Health(pipeline, fresh_s)


async def test_not_ready_while_disconnected(autojump_clock: MockClock) -> None:
    feed = sleepy_feed(make_ticks(1))
    async with open_pipeline(feed, Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        feed.stats.connected = False
        report = Health(pipeline).ready(trio.current_time())
        assert failing(report.facts) == ["connected"]
        assert not report.ok


async def test_not_ready_while_it_sheds(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_pipeline(
        sleepy_feed(make_ticks(9)), gate, workers=1, maxsize=4, write_timeout=0
    ) as pipeline:
        await wait_all_tasks_blocked()
        health = Health(pipeline)
        assert failing(health.ready(trio.current_time()).facts) == ["not_shedding"]
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert health.ready(trio.current_time()).ok


async def test_a_full_queue_that_lets_the_feed_wait_is_not_said_to_shed(
    autojump_clock: MockClock,
) -> None:
    gate = Gate()
    feed = sleepy_feed(make_ticks(9))
    async with open_pipeline(
        feed, gate, workers=1, maxsize=3, overflow=tt.Block(), shutdown_timeout=0
    ) as pipeline:
        await wait_all_tasks_blocked()
        health = Health(pipeline)
        report = health.ready(trio.current_time())
        assert not report.ok
        assert failing(report.facts) == ["not_full"]
        assert "not_shedding" not in report.facts
        metrics = pipeline.metrics()
        assert (metrics.pressure, metrics.pressure_word, metrics.sheds) == ("shed", "full", False)
        assert "full)" in progress_line(metrics)


async def test_alive_until_it_has_stopped_ready_until_it_drains(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_pipeline(listed(make_ticks(2)), gate, workers=1) as pipeline:
        await wait_all_tasks_blocked()
        health = Health(pipeline)
        assert health.alive().facts == {"state": "draining", "unaccounted": 0}
        assert health.alive().ok
        assert failing(health.ready(trio.current_time()).facts) == ["running", "connected"]
        gate.opened.set()
        await pipeline.wait()
        assert not health.alive().ok
        assert health.alive().facts["state"] == "stopped"


# Over HTTP


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b"", host: str = "127.0.0.1"
    ) -> tuple[int, dict[str, str], bytes]:
        length = [("Content-Length", str(len(body)))] if body else []
        events: list[h11.Event] = [
            h11.Request(method=method, target=target, headers=[("Host", host), *length])
        ]
        events += [h11.Data(data=body)] if body else []
        data = b"".join(self._h11.send(event) or b"" for event in [*events, h11.EndOfMessage()])
        await self.stream.send_all(data)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = 0, {}, b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                status, headers = (
                    event.status_code,
                    {name.decode(): value.decode() for name, value in event.headers},
                )
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
                    self._h11.start_next_cycle()
                return status, headers, body
            else:
                raise AssertionError(event)


def address(url: str) -> tuple[str, int]:
    found = re.fullmatch(r"http://(?:\[(.+)\]|(.+)):(\d+)/metrics", url)
    assert found is not None
    return found[1] or found[2], int(found[3])


async def connect(url: str) -> Client:
    return Client(await trio.open_tcp_stream(*address(url)))


async def closed(stream: trio.SocketStream) -> bytes:
    """Return what still comes until the other side closes; a reset is a close too."""
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def refuses(url: str) -> bool:
    try:
        async with await trio.open_tcp_stream(*address(url)):
            return False
    except OSError:
        return True


async def test_the_three_routes_on_one_connection() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0)
            await wait_all_tasks_blocked()
            client = await connect(url)
            async with client.stream:
                status, headers, body = await client.ask("/metrics?x=1")
                assert status == 200
                assert headers["content-type"].startswith("text/plain; version=")
                assert b'\ntrio_ticks_ticks_received_total{pipeline="main"} 3.0\n' in body
                assert b"\nprocess_resident_memory_bytes " in body or sys.platform != "linux"
                status, headers, body = await client.ask("/healthz")
                assert (status, json.loads(body)) == (
                    200,
                    {"status": "ok", "state": "running", "unaccounted": 0},
                )
                assert headers["content-type"] == "application/json"
                assert headers["cache-control"] == "no-store"
                status, _headers, body = await client.ask("/readyz")
                assert (status, json.loads(body)["status"]) == (200, "ok")


async def test_what_is_not_ready_is_503() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            client = await connect(await pipeline.serve_metrics(0))
            async with client.stream:
                status, _headers, body = await client.ask("/readyz")
                assert (status, json.loads(body)["fresh"]) == (503, False)
                pipeline.shutdown()
                await pipeline.wait()
                # The port answers until the block is left.
                assert (await client.ask("/healthz"))[0] == 503


async def test_head_404_405_and_a_body() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0)
            client = await connect(url)
            async with client.stream:
                status, headers, body = await client.ask("/healthz", "HEAD")
                assert (status, body) == (200, b"")
                assert int(headers["content-length"]) > 0
                assert (await client.ask("/"))[0] == 404
                status, headers, body = await client.ask("/metrics", "DELETE")
                assert (status, headers["allow"]) == (405, "GET, HEAD")
                status, headers, body = await client.ask("/healthz", "POST", b"x" * 100)
                assert (status, headers["connection"]) == (405, "close")
                assert await closed(client.stream) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * web.MAX_HEAD_BYTES, 431),
    ],
    ids=["bytes", "no host", "too long"],
)
async def test_what_is_no_request_is_refused(sent: bytes, status: int) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0)
            client = await connect(url)
            async with client.stream:
                await client.stream.send_all(sent)
                received = await closed(client.stream)
                # Unread bytes may reset the connection before the client sees the
                # answer.
                assert received == b"" or received.startswith(b"HTTP/1.1 %d " % status)
            client = await connect(url)
            async with client.stream:
                assert (await client.ask("/healthz"))[0] == 200


async def test_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_S", 0.05)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0)
            slow, silent = await connect(url), await connect(url)
            assert (await silent.ask("/healthz"))[0] == 200
            await slow.stream.send_all(b"GET /healthz HT")
            assert await closed(slow.stream) == b""
            assert (await silent.ask("/healthz"))[0] == 200
            for client in (slow, silent):
                await client.stream.aclose()


async def test_a_route_that_fails_is_500_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: Health) -> None:
        raise BodyError

    monkeypatch.setattr(Health, "alive", fail)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            client = await connect(await pipeline.serve_metrics(0))
            async with client.stream:
                assert (await client.ask("/healthz"))[0] == 500
                assert (await client.ask("/readyz"))[0] == 503
    assert [record.message for record in caplog.records if record.name == web.__name__] == [
        "web.route_failed: /healthz"
    ]


# The port's life


@contextmanager
def raises_body_error(expected: bool) -> Iterator[None]:
    if expected:
        with pytest.raises(BodyError):
            yield
    else:
        yield


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_left_when_the_block_is_left(fails: bool) -> None:
    registry = CollectorRegistry()
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(PATIENCE_S), raises_body_error(fails):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0, registry=registry)
            client = await connect(url)
            assert (await client.ask("/healthz"))[0] == 200
            assert generate_latest(registry)
            if fails:
                raise BodyError
    assert generate_latest(registry) == b""
    assert await closed(client.stream) == b""
    await client.stream.aclose()
    assert await refuses(url)
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_pipelines_that_share_a_registry_are_on_either_port() -> None:
    registry = CollectorRegistry()
    with trio.fail_after(PATIENCE_S):
        async with (
            open_pipeline(sleepy_feed(), Recorder()) as one,
            open_pipeline(sleepy_feed(), Recorder()) as two,
        ):
            urls = [
                await one.serve_metrics(0, name="one", registry=registry),
                await two.serve_metrics(0, name="two", registry=registry),
            ]
            for url in urls:
                client = await connect(url)
                async with client.stream:
                    _status, _headers, body = await client.ask("/metrics")
                for name in (b"one", b"two"):
                    assert b'trio_ticks_queue_items{pipeline="%s"}' % name in body


async def test_a_port_that_is_taken_is_a_config_error() -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        registry = CollectorRegistry()
        _host, port = address(await pipeline.serve_metrics(0))
        with pytest.raises(tt.ConfigError, match=f"127.0.0.1:{port}"):
            await pipeline.serve_metrics(port, registry=registry)
        assert generate_latest(registry) == b""
        assert pipeline.metrics().state == "running"


@pytest.mark.parametrize(
    ("port", "host"),
    [(-1, "127.0.0.1"), (65536, "127.0.0.1"), (True, "127.0.0.1"), ("9464", "127.0.0.1"), (0, "")],
)
async def test_an_address_that_cannot_be(port: int, host: str) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with pytest.raises(tt.ConfigError, match=r"port|host"):
            await pipeline.serve_metrics(port, host)


async def test_the_ports_tasks_measure_freshness(
    autojump_clock: MockClock,
) -> None:
    registry = CollectorRegistry()
    async with open_pipeline(sleepy_feed(make_ticks(1)), Recorder()) as pipeline:
        await pipeline.serve_metrics(0, registry=registry)
        await trio.sleep(60.5)
        text = generate_latest(registry).decode()
    assert 'trio_ticks_feed_last_message_timestamp_seconds{pipeline="main"}' in text


# The command line


def test_the_demo_serves_metrics_while_it_runs() -> None:
    with running_demo("metrics") as url:

        async def ask() -> bytes:
            with trio.fail_after(PATIENCE_S):
                client = await connect(url)
                async with client.stream:
                    return (await client.ask("/metrics"))[2]

        assert b'trio_ticks_pipeline_unaccounted_items{pipeline="main"} 0.0\n' in trio.run(ask)
