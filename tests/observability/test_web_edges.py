"""The operator's ports under attack: names of others, silence, crowds, haste."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from trio.testing import MockClock

import trio_ticks as tt
from tests.observability.test_health import Client, closed, connect
from tests.worlds.pipeline_world import Recorder, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.hosts import Hosts
from trio_ticks.observability import web
from trio_ticks.observability.loop_share import LoopShare
from trio_ticks.observability.serving import SCRAPES_BURST_S, SCRAPES_SHARE, Scrapes
from trio_ticks.observability.web import Response, Route, listen, serve_routes, url_of

PATIENCE_S = 60


# Names


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_a_name_of_others_that_leads_here_reads_nothing(path: str) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            client = await connect(
                await pipeline.serve_metrics(0, allow_hosts=["Metrics.example.com", "10.1.2.3"])
            )
            async with client.stream:
                for host, status in (
                    ("rebound.example.com", 403),
                    ("rebound.example.com:9464", 403),
                    ("localhost.example.com", 403),
                    ("10.1.2.4", 403),
                    ("", 403),
                    ("metrics.example.com", None),
                    ("METRICS.example.com.:9464", None),
                    ("10.1.2.3:9464", None),
                    ("localhost", None),
                    ("127.0.0.1:9464", None),
                    ("[::1]:9464", None),
                ):
                    got, _headers, body = await client.ask(path, host=host)
                    assert (got == 403) == (status == 403), host
                    assert (b"--allow-host" in body) == (status == 403)


async def test_a_request_without_a_name_comes_from_no_browser() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            client = await connect(await pipeline.serve_metrics(0))
            async with client.stream:
                await client.stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert (await closed(client.stream)).startswith(b"HTTP/1.1 200 ")


async def test_the_live_page_takes_names_as_well() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_dashboard(0, allow_hosts=("page.example.com",))
            client = await connect(url + "metrics")
            async with client.stream:
                assert (await client.ask("/", host="page.example.com"))[0] == 200
                assert (await client.ask("/", host="other.example.com"))[0] == 403


@pytest.mark.parametrize(
    "names", [["http://a"], ["a:80"], ["a b"], [""], ["\x1b"], ["*"], "a.example", ["a/b"]]
)
async def test_what_is_no_name_is_refused_before_anything_listens(names: Any) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        with pytest.raises(tt.ConfigError, match="host"):
            await pipeline.serve_metrics(0, allow_hosts=names)
        with pytest.raises(tt.ConfigError, match="host"):
            await pipeline.serve_dashboard(0, allow_hosts=names)


def test_elsewhere_than_on_loopback_any_name_is_answered_unless_some_are_given() -> None:
    assert Hosts(local=False).admit("prometheus.internal:9464")
    assert Hosts(local=False).admit_origin("https://evil.example")
    some = Hosts(["a.internal"], local=False)
    assert [some.admit(each) for each in ("a.internal", "b.internal", "localhost")] == [
        True,
        False,
        True,
    ]


# Places


@asynccontextmanager
async def serving(routes: Mapping[str, Route]) -> AsyncIterator[str]:
    listeners = await listen(0, "127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(serve_routes, listeners, routes, hosts=Hosts(), probes=("/healthz",))
        )
        yield url_of(listeners[0], "127.0.0.1", "/metrics")
        nursery.cancel_scope.cancel()


async def for_ever(_send: Any) -> None:
    await trio.sleep_forever()


ROUTES: Mapping[str, Route] = {
    "/healthz": lambda _headers: Response(b"ok\n"),
    "/metrics": lambda _headers: Response(b"1\n"),
    "/stream": lambda _headers: Response(b"", stream=for_ever),
}


async def begin_stream(url: str) -> Client:
    """Return a connection whose request is being answered, for ever."""
    client = await connect(url)
    await client.stream.send_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    return client


async def test_silent_connections_do_not_lock_out_a_probe() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            url = await pipeline.serve_metrics(0)
            silent = [await connect(url) for _ in range(500)]
            for _ in range(3):
                client = await connect(url)
                async with client.stream:
                    assert (await client.ask("/healthz"))[0] == 200
                    assert (await client.ask("/metrics"))[0] == 200
            # As many as there are places are still open; the first have gone.
            assert await closed(silent[0].stream) == b""
            for client in silent:
                await client.stream.aclose()


async def test_a_connection_that_waits_gives_way_to_a_new_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(web, "SPARE", 1)
    with trio.fail_after(PATIENCE_S):
        async with serving(ROUTES) as url:
            streaming = await begin_stream(url)
            first, second = await connect(url), await connect(url)
            for client in (first, second, first):
                assert (await client.ask("/metrics"))[2] == b"1\n"
            newcomer = await connect(url)
            assert (await newcomer.ask("/metrics"))[2] == b"1\n"
            # It was the second that had waited longest; what is answered is never cut.
            assert await closed(second.stream) == b""
            assert (await first.ask("/metrics"))[2] == b"1\n"
            with trio.move_on_after(0.01) as still_open:
                await streaming.stream.receive_some()
            assert still_open.cancelled_caught
            for client in (streaming, first, second, newcomer):
                await client.stream.aclose()
    assert [record.message for record in caplog.records if record.name == web.__name__] == [
        "web.crowded: 1 connections that waited for their client gave way to new ones"
    ]


async def test_while_all_slots_are_taken_probes_are_answered_and_others_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "SLOT_S", 0.1)
    with trio.fail_after(PATIENCE_S):
        async with serving(ROUTES) as url:
            streams = [await begin_stream(url) for _ in range(web.MAX_CONNECTIONS)]
            client = await connect(url)
            async with client.stream:
                assert (await client.ask("/healthz"))[0] == 200
                status, headers, _body = await client.ask("/metrics")
                assert (status, headers["connection"]) == (503, "close")
            # The answer to HEAD has no body, also this one.
            client = await connect(url)
            async with client.stream:
                await client.stream.send_all(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b"".join([piece async for piece in client.stream])
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert answer.endswith(b"\r\n\r\n")
            for each in streams:
                await each.stream.aclose()


async def test_an_answer_that_cannot_be_sent_costs_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = Response(b"", headers=(("Odd", "two\nlines"),))
    with trio.fail_after(PATIENCE_S):
        async with serving({**ROUTES, "/odd": lambda _headers: odd}) as url:
            client = await connect(url)
            async with client.stream:
                await client.stream.send_all(b"GET /odd HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await closed(client.stream) == b""
            client = await connect(url)
            async with client.stream:
                assert (await client.ask("/metrics"))[0] == 200
    assert "web.answer_failed" in caplog.text


# Haste


async def test_credit_is_earned_with_time_and_spent_with_work(autojump_clock: MockClock) -> None:
    share, served = LoopShare(0.1, burst_s=1.0), []

    async def ask(number: int) -> None:
        await share.turn(0.001)
        autojump_clock.jump(0.5)  # The event loop does nothing else for half a second.
        share.spend(0.5)
        served.append((number, trio.current_time()))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    assert [number for number, _ in served] == list(range(10))
    # Three from what was saved up, then one every five seconds.
    took = trio.current_time() - began
    assert 1.0 + 0.1 * took + 0.5 >= 10 * 0.5
    assert took == pytest.approx(35, abs=2)
    # Debt is bounded, and so is what is saved up.
    share.spend(1000.0)
    began = trio.current_time()
    await share.turn(0.0)
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)
    await trio.sleep(1000)
    share.spend(1.0)
    assert not share.has_credit


class Slow(Collector):
    """Takes ten milliseconds of the event loop to be read."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.readings = 0

    def collect(self) -> Iterator[Metric]:
        self.readings += 1
        self.clock.jump(0.01)
        yield GaugeMetricFamily("readings", "How many.", self.readings)

    def describe(self) -> Iterator[Metric]:
        yield from ()


async def test_scrapes_share_an_answer_once_their_time_is_used_up(
    autojump_clock: MockClock,
) -> None:
    registry = CollectorRegistry()
    slow = Slow(autojump_clock)
    registry.register(slow)
    scrapes = Scrapes(registry)
    began = trio.current_time()
    bodies = {scrapes.answer({}).body for _ in range(1000)}
    assert len(bodies) == slow.readings
    took = trio.current_time() - began
    assert slow.readings * 0.01 <= SCRAPES_BURST_S + took * SCRAPES_SHARE + 0.01
    assert slow.readings > 5
    # Another format has an answer of its own, also without credit.
    openmetrics = scrapes.answer({"accept": "application/openmetrics-text"})
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    # Whoever scrapes once a second never gets an old one.
    for _ in range(10):
        await trio.sleep(1)
        before = slow.readings
        scrapes.answer({})
        assert slow.readings == before + 1


async def test_clients_in_haste_get_a_bounded_number_of_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "BURST_S", 0.002)
    answers = probes = 0

    async def hurry(url: str) -> None:
        nonlocal answers
        client = await connect(url)
        async with client.stream:
            while True:
                assert (await client.ask("/metrics"))[0] == 200
                answers += 1

    with trio.fail_after(PATIENCE_S):
        async with serving(ROUTES) as url, trio.open_nursery() as nursery:
            began = trio.current_time()
            for _ in range(30):
                nursery.start_soon(hurry, url)
            for _ in range(10):
                client = await connect(url)
                async with client.stream:
                    assert (await client.ask("/healthz"))[0] == 200
                    probes += 1
                await trio.sleep(0.05)
            took = trio.current_time() - began
            nursery.cancel_scope.cancel()
    assert probes == 10
    assert 0 < answers * web.PIECE_S <= 0.002 + took * web.SHARE + web.PIECE_S
