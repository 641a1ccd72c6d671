"""The REST client against a real server: answers, errors, waits, pace, secrets."""

from __future__ import annotations

import gzip
import logging
import math
import ssl
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from random import Random
from typing import Any

import attrs
import msgspec
import pytest
import trio
import trustme
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.connect_proxies import serving_proxy
from tests.worlds.http_server import Answer, http_server
from tests.worlds.servers import free_port
from trio_ticks.clock import Clock
from trio_ticks.feeds.websocket.backoff import Backoff
from trio_ticks.rest import RestClient, open_venue
from trio_ticks.rest.answers import Failure, Inflater, TooLargeError, next_wait
from trio_ticks.rest.venues import judge_binance, judge_tickdb

QUICK = tt.BackoffPolicy(initial_s=0.001, maximum_s=0.002)
KEY = "the-key-nobody-sees"


class Depth(msgspec.Struct):
    lastUpdateId: int
    bids: list[tuple[str, str]]


async def failing(client: RestClient, path: str = "/x") -> tt.RestError:
    with pytest.raises(tt.RestError) as caught:
        await client.get(path)
    return caught.value


# Answers


async def test_an_answer_is_decoded_to_the_type_asked_for() -> None:
    body = b'{"lastUpdateId": 160, "bids": [["0.0024", "10"]]}'
    async with http_server(Answer(body)) as server, RestClient(server.url + "/api/") as client:
        depth = await client.get("/v3/depth", {"symbol": "BTCUSDT", "limit": 5}, type=Depth)
        assert depth == Depth(160, [("0.0024", "10")])
        plain = await client.get("/v3/depth")
        assert plain["lastUpdateId"] == 160
    first = server.asked[0]
    assert (first.path, first.params) == ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "5"})
    assert first.headers["user-agent"].startswith("trio-ticks/")


async def test_a_parameter_that_is_none_is_left_out_and_others_are_escaped() -> None:
    async with http_server(Answer()) as server, RestClient(server.url) as client:
        await client.get("/x", {"a": None, "b": "&=ü", "c": 1.5})
    assert server.asked[0].params == {"b": "&=ü", "c": "1.5"}


async def test_gzip_is_inflated() -> None:
    packed = Answer(gzip.compress(b"[1,2]"), headers={"Content-Encoding": "gzip"})
    async with http_server(packed) as server, RestClient(server.url) as client:
        assert await client.get("/x") == [1, 2]
    assert server.asked[0].headers["accept-encoding"] == "gzip"


async def test_a_body_has_a_limit_plain_or_inflated() -> None:
    plain = Answer(b"1" * 5_000)
    bomb = Answer(gzip.compress(b"1" * 50_000_000), headers={"Content-Encoding": "gzip"})
    async with http_server(plain, bomb) as server, RestClient(server.url, max_bytes=4096) as client:
        for _ in range(2):
            error = await failing(client)
            assert "larger than 4096 bytes" in str(error)
            assert error.permanent
    assert len(server.asked) == 2


def test_no_more_than_the_limit_is_ever_inflated() -> None:
    inflater = Inflater("gzip", 1000)
    with pytest.raises(TooLargeError):
        inflater.add(gzip.compress(bytes(10_000_000)))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>"),
        Answer(b""),
        Answer(b'{"a":"\xff"}'),
        Answer(b"[" * 100_000),
        Answer(b'{"lastUpdateId": "x"}'),
    ],
)
async def test_an_answer_that_makes_no_sense_is_an_error_at_once(answer: Answer) -> None:
    async with http_server(answer) as server, RestClient(server.url) as client:
        with pytest.raises(tt.RestError, match="not what was expected") as caught:
            await client.get("/x", type=Depth)
    assert caught.value.permanent
    assert len(server.asked) == 1


async def test_what_cannot_be_inflated_is_asked_for_again() -> None:
    cut = Answer(gzip.compress(b"[1]")[:-9], headers={"Content-Encoding": "gzip"})
    async with (
        http_server(cut, Answer(b"[2]")) as server,
        RestClient(server.url, backoff=QUICK) as client,
    ):
        assert await client.get("/x") == [2]


# Trying again


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=500),
        Answer(status=503),
        Answer(status=429),
        Answer(status=408),
        Answer(b"x" * 100, breaks=True),
    ],
)
async def test_trouble_that_passes_is_tried_again(bad: Answer) -> None:
    async with (
        http_server(bad, bad, Answer(b"[1]")) as server,
        RestClient(server.url, backoff=QUICK) as client,
    ):
        assert await client.get("/x") == [1]
        assert (client.sent, client.repeated) == (3, 2)


async def test_trouble_that_stays_is_an_error_with_the_facts() -> None:
    async with (
        http_server(Answer(status=502)) as server,
        RestClient(server.url, backoff=QUICK, tries=3) as client,
    ):
        error = await failing(client, "/v1/depth")
    assert (error.status, error.attempts, error.permanent) == (502, 3, False)
    assert error.url == server.url + "/v1/depth"
    assert "502 Bad Gateway" in str(error)
    assert "after 3 attempts" in str(error)


@pytest.mark.parametrize("status", [301, 400, 404, 418])
async def test_a_refusal_is_not_tried_again(status: int) -> None:
    moved = Answer(status=status, headers={"Location": "http://localhost:1/"})
    async with http_server(moved) as server, RestClient(server.url) as client:
        assert (await failing(client)).status == status
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_their_own_error(status: int) -> None:
    async with (
        http_server(Answer(status=status)) as server,
        RestClient(server.url, api_key=KEY) as client,
    ):
        with pytest.raises(tt.FeedAuthError) as caught:
            await client.get("/x")
    assert caught.value.status == status


async def test_no_answer_in_time_is_tried_again() -> None:
    async with (
        http_server(Answer(hangs=True), Answer(b"[1]")) as server,
        RestClient(server.url, timeout=0.3, backoff=QUICK) as client,
    ):
        assert await client.get("/x") == [1]


async def test_nobody_there_is_an_error_without_a_status() -> None:
    async with RestClient(f"http://127.0.0.1:{free_port()}", backoff=QUICK, tries=2) as client:
        error = await failing(client)
    assert error.status is None
    assert not error.permanent
    assert "cannot be reached" in str(error)


async def test_the_next_address_is_tried_and_kept() -> None:
    async with http_server(Answer(b"[1]")) as server:
        gone = f"http://127.0.0.1:{free_port()}"
        async with RestClient([gone, server.url], backoff=QUICK) as client:
            assert await client.get("/x") == [1]
            assert client.url == server.url
            await client.get("/x")
            assert client.repeated == 1


# Retry-After and the pace, on a clock that is faster than the sockets


@pytest.fixture
def fast_clock() -> MockClock:
    """A second takes 5 ms."""
    return MockClock(rate=200)


async def test_a_wait_that_is_asked_for_is_kept(fast_clock: MockClock) -> None:
    wait = Answer(status=429, headers={"Retry-After": "60"})
    async with (
        http_server(wait, Answer(b"[1]")) as server,
        RestClient(server.url, backoff=QUICK, timeout=math.inf) as client,
    ):
        begun = trio.current_time()
        assert await client.get("/x") == [1]
        assert trio.current_time() - begun >= 60


@pytest.mark.parametrize("status", [418, 503])
async def test_a_wait_may_be_a_date(fast_clock: MockClock, status: int) -> None:
    clock = Clock(wall_s=1_700_000_000)
    date = format_datetime(datetime.fromtimestamp(1_700_000_100, UTC), usegmt=True)
    wait = Answer(status=status, headers={"Retry-After": date})
    async with (
        http_server(wait, Answer(b"[1]")) as server,
        RestClient(server.url, backoff=QUICK, timeout=math.inf, clock=clock) as client,
    ):
        assert await client.get("/x") == [1]
        assert clock.wall() >= 1_700_000_100


async def test_a_wait_holds_for_the_other_tasks(fast_clock: MockClock) -> None:
    wait = Answer(status=429, headers={"Retry-After": "60"})
    async with (
        http_server(wait, Answer(b"[1]")) as server,
        RestClient(server.url, tries=1, timeout=math.inf) as client,
    ):
        begun = trio.current_time()
        error = await failing(client)
        assert error.retry_after_s == 60
        assert "asks to wait 60 s" in str(error)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.get, "/y")
        assert trio.current_time() - begun >= 60
    assert len(server.asked) == 4


async def test_too_long_a_wait_is_an_error_at_once_and_nobody_asks_meanwhile() -> None:
    wait = Answer(status=418, headers={"Retry-After": "301"})
    async with http_server(wait) as server, RestClient(server.url) as client:
        error = await failing(client)
        assert (error.retry_after_s, error.permanent, error.attempts) == (301, False, 1)
        error = await failing(client)
        assert error.attempts == 0
        assert error.retry_after_s == pytest.approx(301, abs=100)
        assert len(server.asked) == 1


async def test_a_wait_of_years_is_one_of_days(mock_clock: MockClock) -> None:
    wait = Answer(status=429, headers={"Retry-After": "9" * 30})
    async with (
        http_server(wait, Answer(b"[1]")) as server,
        RestClient(server.url, tries=1) as client,
    ):
        await failing(client)
        mock_clock.jump(2 * 86_400)
        assert (await failing(client)).attempts == 0
        mock_clock.jump(86_400)
        assert await client.get("/x") == [1]


async def test_no_more_requests_a_minute_than_allowed(fast_clock: MockClock) -> None:
    async with (
        http_server(Answer(b"[1]")) as server,
        RestClient(server.url, requests_per_minute=3, timeout=math.inf) as client,
    ):
        begun = trio.current_time()
        for _ in range(3):
            await client.get("/x")
        for _ in range(3):
            await client.get("/x")
            assert trio.current_time() - begun >= 60
        await client.get("/x")
        assert trio.current_time() - begun >= 120


async def test_repeated_requests_count_for_the_pace(fast_clock: MockClock) -> None:
    bad = Answer(status=500)
    async with (
        http_server(bad, bad, Answer(b"[1]")) as server,
        RestClient(server.url, requests_per_minute=2, backoff=QUICK, timeout=math.inf) as client,
    ):
        begun = trio.current_time()
        assert await client.get("/x") == [1]
        assert trio.current_time() - begun >= 60


def test_when_a_request_is_sent_again() -> None:
    policy = tt.BackoffPolicy(initial_s=1, maximum_s=4, uniform=lambda: 0.5)

    def wait(failure: Failure, attempts: int = 1, tries: int = 3) -> float | None:
        return next_wait(failure, attempts, tries, Backoff(policy, Random().random), 300)

    passing = Failure(reason="", again=True, status=500)
    assert wait(passing) == 0.5
    assert wait(passing, attempts=3) is None
    assert wait(attrs.evolve(passing, again=False)) is None
    assert wait(attrs.evolve(passing, retry_after_s=300.0)) == 300
    assert wait(attrs.evolve(passing, retry_after_s=300.1)) is None
    assert wait(attrs.evolve(passing, retry_after_s=0.0)) == 0.5
    banned = Failure(reason="", again=True, status=418)
    assert wait(banned) is None
    assert wait(attrs.evolve(banned, retry_after_s=5.0)) == 5


async def test_a_cancelled_request_leaves_a_client_that_works() -> None:
    async with (
        http_server(Answer(hangs=True), Answer(b"[1]")) as server,
        RestClient(server.url) as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/x")
            with trio.fail_after(60):
                while not server.asked:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert await client.get("/x") == [1]


# Secrets


async def test_the_key_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    told = Answer(b'{"code":-2, "msg":"no %s"}' % KEY.encode(), status=503)
    async with http_server(told) as server:
        with caplog.at_level(logging.DEBUG):
            async with open_venue(
                "binance", url=server.url, api_key=KEY, backoff=QUICK, tries=2
            ) as client:
                error = await failing(client)
    assert server.asked[0].headers["x-mbx-apikey"] == KEY
    assert "no *** (code -2)" in str(error)
    ours = [record for record in caplog.records if record.name.startswith("trio_ticks")]
    assert [record.event for record in ours] == ["rest.again"]  # type: ignore[attr-defined]
    assert KEY not in caplog.text
    assert KEY not in repr(vars(error))


# TLS and proxies


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def test_certificates_are_checked(
    authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        http_server(Answer(b"[1]"), ssl_context=server_tls) as server,
        RestClient(server.url, ca=tmp_path / "ca.pem") as client,
    ):
        assert await client.get("/x") == [1]
        async with RestClient(server.url) as client:
            error = await failing(client)
    assert "certificate is not trusted" in str(error)
    assert error.permanent


async def test_a_proxy_stands_between(
    authority: trustme.CA, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with (
        http_server(Answer(b"[1]"), ssl_context=server_tls) as server,
        serving_proxy() as proxy,
    ):
        proxy.password = "me:secret-word"
        named = f"http://me:secret-word@127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTPS_PROXY", named)
        async with RestClient(server.url, ssl_context=context) as client:
            await client.get("/x")
        assert proxy.requests == []
        for choice in ({"proxy": named}, {"trust_env": True}):
            settings: dict[str, Any] = choice
            async with RestClient(server.url, ssl_context=context, **settings) as client:
                assert await client.get("/x") == [1]
        assert proxy.requests == [f"CONNECT localhost:{server.port} HTTP/1.1"] * 2


# The venues' errors


@pytest.mark.parametrize("code", [3008, "3008"])
def test_tickdb_codes_are_numbers_or_text(code: int | str) -> None:
    failure = judge_tickdb(200, msgspec.json.encode({"code": code, "message": "no"}))
    assert failure is not None
    assert failure.code == "3008"
    assert not failure.again
    assert "free plan" in failure.advice


@pytest.mark.parametrize(
    ("status", "body", "kind", "again"),
    [
        (401, {"code": "UNAUTHORIZED"}, "auth", False),
        (200, {"code": 1001, "message": "invalid key"}, "auth", False),
        (403, {"code": "PERMISSION_DENIED"}, "auth", False),
        (403, {"code": "SOMETHING_NEW"}, "auth", False),
        (403, {"code": 3009}, "other", False),
        (400, {"code": "2002", "message": "unknown"}, "symbol", False),
        (429, {"code": 3001}, "other", True),
        (429, {"code": 3003}, "other", True),
        (200, {"code": 5000}, "other", True),
        (400, {"code": "2001", "error": "2001"}, "other", False),
    ],
)
def test_tickdb_errors(status: int, body: Mapping[str, Any], kind: str, again: bool) -> None:
    failure = judge_tickdb(status, msgspec.json.encode(body))
    assert failure is not None
    assert (failure.kind, failure.again, failure.status) == (kind, again, status)


def test_tickdb_names_the_types_of_an_ambiguous_symbol() -> None:
    data = {"available_types": ["stock", "futures"]}
    body = {"code": "AMBIGUOUS_SYMBOL", "message": "which?", "data": data}
    failure = judge_tickdb(400, msgspec.json.encode(body))
    assert failure is not None
    assert failure.types == ("stock", "futures")
    error = failure.to_error(failure.reason, "http://x", 1)
    assert isinstance(error, tt.UnknownSymbolError)
    assert error.types == ("stock", "futures")
    assert failure.advice == "choose a type: stock, futures"


def test_tickdb_is_well() -> None:
    assert judge_tickdb(200, b'{"code":0,"message":"success","data":{}}') is None
    assert judge_tickdb(200, b'{"code":"0","data":[]}') is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "again"),
    [
        (400, {"code": -1121, "msg": "Invalid symbol."}, "symbol", False),
        (400, {"code": -1120, "msg": "Invalid interval."}, "other", False),
        (429, {"code": -1003, "msg": "Too many requests."}, "other", True),
        (403, {}, "other", False),
        (401, {"code": -2015, "msg": "Invalid API-key."}, "auth", False),
    ],
)
def test_binance_errors(status: int, body: Mapping[str, Any], kind: str, again: bool) -> None:
    failure = judge_binance(status, msgspec.json.encode(body))
    assert failure is not None
    assert (failure.kind, failure.again) == (kind, again)
    assert judge_binance(200, b"[]") is None


# Settings


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ws://x", "must begin with https"),
        ("https://", "must have a host"),
        ("https://a:b@x", "user name"),
        ("https://x?key=1", "must end after the path"),
        ("https://x:99999", "not a valid URL"),
        ("https://ü", "ASCII"),
        ([], "several in a list"),
        (1, "must be a URL"),
    ],
)
def test_addresses_are_checked(url: Any, message: str) -> None:
    with pytest.raises(tt.ConfigError, match=message):
        RestClient(url)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"requests_per_minute": 0},
        {"tries": 0},
        {"max_bytes": 0},
        {"backoff": 3},
        {"api_key": "a\nb"},
        {"api_key": "a", "headers": {"x-api-key": "b"}},
        {"headers": {"Accept-Encoding": "br"}},
        {"proxy": "http://x", "trust_env": True},
        {"ca": "x.pem"},
    ],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        RestClient("http://x", **settings)


def test_an_unknown_venue_is_named() -> None:
    with pytest.raises(tt.ConfigError, match='"tickdb" or "binance", got \'kraken\''):
        open_venue("kraken")


async def test_a_client_is_used_inside_its_block() -> None:
    client = RestClient("http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        await client.get("/x")


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(tt.ConfigError, match=r"pip install 'trio-ticks\[rest\]'"):
        RestClient("http://x")
