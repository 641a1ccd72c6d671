"""Addresses that a function returns, headers, and what is told of a bad handshake."""

from __future__ import annotations

import logging
import ssl
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha1
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

import trio_ticks as tt
from tests.worlds.feed_venues import (
    NO_JITTER,
    Collector,
    MemoryVenue,
    Script,
    answers,
    leave,
    memory_feed,
    quote,
    running,
    says,
    websocket,
)
from trio_ticks.feeds.websocket.handshake import HandshakeGate
from trio_ticks.logs import Redactor

TOKEN = "t0k3n-0123456789"


def every_text(error: BaseException | None) -> str:
    """Return everything that Python might ever print about *error*."""
    texts = []
    while error is not None:
        texts += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


class Handshakes:
    """What the venue was asked, at each connection."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.subprotocols: list[tuple[str, ...]] = []

    def script(self, handler: Callable[[WebSocketConnection], Awaitable[None]]) -> Script:
        """Make a script that accepts the first subprotocol, and runs *handler*."""

        async def script(stream: trio.abc.Stream) -> None:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream)
                self.paths.append(request.path)
                pairs = request.headers
                self.headers.append({name.decode(): value.decode() for name, value in pairs})
                self.subprotocols.append(tuple(request.proposed_subprotocols))
                ws = await request.accept(
                    subprotocol=next(iter(request.proposed_subprotocols), None)
                )
                with suppress(ConnectionClosed):
                    await ws.get_message()
                    await handler(ws)
                with trio.move_on_after(5):
                    await ws.aclose()
                nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)

        return script


def feed_of(
    nursery: trio.Nursery, script: Script | Exception, **options: Any
) -> tuple[tt.WebSocketFeed, MemoryVenue]:
    venue = MemoryVenue(nursery, script)
    options = {"symbols": ["SPY"], "backoff": NO_JITTER, **options}
    return tt.WebSocketFeed(open_stream=venue.open_stream, **options), venue


# The function


async def test_it_is_asked_before_each_connection(autojump_clock: MockClock) -> None:
    seen = Handshakes()
    asked: list[float] = []

    async def endpoint() -> tt.Endpoint:
        await trio.sleep(1)
        asked.append(trio.current_time())
        number = len(asked)
        return tt.Endpoint(
            f"ws://venue{number}.test/ws/listen-key-000{number}?token={TOKEN}{number}",
            {"Authorization": f"Bearer {TOKEN}-{number}"},
            [f"json.{number}", "other"],
        )

    send = Collector()
    async with trio.open_nursery() as nursery:
        script = seen.script(says(quote(), then=leave))
        feed, _venue = feed_of(nursery, script, endpoint=endpoint)
        assert (feed.url, asked) == ("(endpoint)", [])
        async with running(feed, send):
            await send.wait_for(3)
            assert feed.url == "ws://venue3.test/"
        nursery.cancel_scope.cancel()
    assert seen.paths == [f"/ws/listen-key-000{n}?token={TOKEN}{n}" for n in (1, 2, 3)]
    assert [headers["authorization"] for headers in seen.headers] == [
        f"Bearer {TOKEN}-{n}" for n in (1, 2, 3)
    ]
    assert seen.subprotocols == [(f"json.{n}", "other") for n in (1, 2, 3)]
    assert len(asked) == 3


async def test_what_it_raises_is_a_failed_attempt(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    answers_of: list[Any] = [
        KeyError("token"),
        ExceptionGroup("tasks", [OSError(f"no way to {TOKEN}")]),
        tt.Endpoint("ws://venue.test"),
    ]

    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        answer = answers_of.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, tt.Endpoint)
        return answer

    send = Collector()
    async with trio.open_nursery() as nursery:
        script = websocket(says(quote()))
        feed, venue = feed_of(nursery, script, endpoint=endpoint, api_key=TOKEN)
        async with running(feed, send):
            await send.wait_for(1)
        nursery.cancel_scope.cancel()
    failed = [r for r in caplog.records if getattr(r, "event", "") == "feed.connect_failed"]
    assert [vars(record)["reason"].partition(" (")[0] for record in failed] == [
        "endpoint raised KeyError: 'token'",
        "endpoint raised OSError: no way to ***",
    ]
    assert all("(test_endpoints.py:" in vars(record)["reason"] for record in failed)
    assert feed.stats.connect_failures == 2
    assert len(venue.dialled_at) == 1


async def test_it_is_given_up_with_its_reason(autojump_clock: MockClock) -> None:
    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        raise ValueError(f"no {TOKEN}")

    async with trio.open_nursery() as nursery:
        feed, _ = feed_of(
            nursery,
            websocket(leave),
            endpoint=endpoint,
            headers={"Cookie": TOKEN},
            give_up_after=20,
        )
        with pytest.raises(tt.FeedBrokenError, match=r"endpoint raised ValueError: no \*\*\*") as c:
            await feed.run(Collector())
    assert c.value.__cause__ is None
    assert TOKEN not in every_text(c.value)
    assert c.value.attempts > 2
    assert c.value.url == "(endpoint)"


async def test_an_endpoint_that_cannot_be_is_an_error_before_data(
    autojump_clock: MockClock,
) -> None:
    urls = ["ws://venue.test", f"https://venue.test/{TOKEN}", "ws://venue.test"]

    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        return tt.Endpoint(urls.pop(0))

    send = Collector()
    async with trio.open_nursery() as nursery:
        feed, _ = feed_of(nursery, websocket(says(quote(), then=leave)), endpoint=endpoint)
        async with running(feed, send):
            await send.wait_for(2)
        urls[:] = [f"https://venue.test/{TOKEN}"]
        with pytest.raises(tt.FeedBrokenError, match="url must begin with ws://") as caught:
            await feed.run(Collector())
        nursery.cancel_scope.cancel()
    assert TOKEN not in every_text(caught.value)
    assert caught.value.attempts == 1


async def test_a_feed_auth_error_is_final(autojump_clock: MockClock) -> None:
    for error in (
        refused := tt.FeedAuthError("the account is closed"),
        ExceptionGroup("tasks", [ExceptionGroup("more", [refused]), OSError()]),
    ):
        asked = 0

        async def endpoint(error: Exception = error) -> tt.Endpoint:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            if asked == 2:
                raise error
            return tt.Endpoint("ws://venue.test")

        async with trio.open_nursery() as nursery:
            script = websocket(says(quote(), then=leave))
            feed, _ = feed_of(nursery, script, endpoint=endpoint)
            with pytest.raises(tt.FeedAuthError) as caught:
                await feed.run(Collector())
            nursery.cancel_scope.cancel()
        assert caught.value is refused
        assert asked == 2


@pytest.mark.parametrize("limit", [None, 3])
async def test_it_has_a_time_limit(
    limit: float | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = []

    async def endpoint() -> tt.Endpoint:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())
        raise AssertionError

    options: dict[str, Any] = {} if limit is None else {"endpoint_timeout": limit}
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        feed, venue = feed_of(
            nursery, websocket(leave), endpoint=endpoint, give_up_after=0, **options
        )
        with pytest.raises(tt.FeedBrokenError, match=rf"endpoint took longer than {limit or 10} s"):
            await feed.run(Collector())
    assert cancelled == [pytest.approx(began + (limit or 10))]
    assert venue.dialled_at == []


async def test_its_own_time_limit_is_no_cancellation(autojump_clock: MockClock) -> None:
    async def endpoint() -> tt.Endpoint:
        with trio.fail_after(1):
            await trio.sleep_forever()
        raise AssertionError

    async with trio.open_nursery() as nursery:
        feed, _ = feed_of(nursery, websocket(leave), endpoint=endpoint, give_up_after=0)
        with pytest.raises(tt.FeedBrokenError, match="endpoint raised TooSlowError"):
            await feed.run(Collector())


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (f"ws://x?{TOKEN}", "endpoint must return an Endpoint, not str"),
        (None, "endpoint must return an Endpoint, not NoneType"),
        ({TOKEN: TOKEN}, "endpoint must return an Endpoint, not dict"),
    ],
)
async def test_a_wrong_answer_ends_the_run(returned: Any, reason: str) -> None:
    async def endpoint() -> Any:
        await trio.lowlevel.checkpoint()
        return returned

    feed = tt.WebSocketFeed(symbols=["SPY"], endpoint=endpoint)
    with trio.fail_after(5), pytest.raises(tt.ConfigError, match=reason) as caught:
        await feed.run(Collector())
    assert TOKEN not in str(caught.value)


async def test_a_plain_function_ends_the_run() -> None:
    plain: Any = lambda: tt.Endpoint("ws://x")  # noqa: E731
    feed = tt.WebSocketFeed(symbols=["SPY"], endpoint=plain)
    with trio.fail_after(5), pytest.raises(tt.ConfigError, match="must be an async function"):
        await feed.run(Collector())


async def test_what_does_not_go_together() -> None:
    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        return tt.Endpoint("ws://x")

    with pytest.raises(tt.ConfigError, match="either url or endpoint"):
        tt.WebSocketFeed("ws://x", ["SPY"], endpoint=endpoint)
    with pytest.raises(tt.ConfigError, match="endpoint must be an async function"):
        tt.WebSocketFeed(symbols=["SPY"], endpoint=tt.Endpoint("ws://x"))  # type: ignore[arg-type]
    with pytest.raises(tt.ConfigError, match="give a url or an endpoint"):
        tt.WebSocketFeed(symbols=["SPY"])
    with pytest.raises(tt.ConfigError, match="endpoint_timeout"):
        tt.WebSocketFeed(symbols=["SPY"], endpoint=endpoint, endpoint_timeout=0)
    context = ssl.create_default_context()
    feed = tt.WebSocketFeed(symbols=["SPY"], endpoint=endpoint, ssl_context=context)
    with trio.fail_after(5), pytest.raises(tt.FeedBrokenError, match="returned a ws:// URL"):
        await feed.run(Collector())


async def test_a_proxy_of_the_environment_for_an_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://u:s3cret@x:1")

    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        return tt.Endpoint("ws://x")

    feed = tt.WebSocketFeed(symbols=["SPY"], endpoint=endpoint, trust_env=True)
    with trio.fail_after(5), pytest.raises(tt.ConfigError, match="http_proxy: SOCKS"):
        await feed.run(Collector())


# What is kept


def telltale(secrets: list[str]) -> Callable[[WebSocketConnection], Awaitable[None]]:
    async def handler(ws: WebSocketConnection) -> None:
        await ws.send_message(quote())
        for secret in secrets:
            await ws.send_message(f"bad {secret}")
            await ws.send_message(f'{{"id":1,"error":"{secret}"}}')
        await ws.aclose(4001, " ".join(secrets)[:120])

    return handler


async def test_secrets_are_kept(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    basic = b64encode(b"someone:passw0rd-of-b").decode()
    parts = ["qu3ry-v", "listenkey-of-path", "h3ader-v", "b3arer-value", "pr0tocol-v", basic]
    parts += ["passw0rd-of-b", "c00kie-value", "f33d-header"]
    asked = 0

    async def endpoint() -> tt.Endpoint:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        if asked == 3:
            raise ValueError(" ".join(parts))
        return tt.Endpoint(
            "ws://venue.test/listenkey-of-path?token=qu3ry-v",
            {
                "X-Secret": "h3ader-v",
                "Authorization": "Bearer b3arer-value",
                "Proxy-Thing": f"Basic {basic}",
                "Cookie": "session=c00kie-value; a=b",
            },
            ["pr0tocol-v"],
        )

    chosen = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    bad = f"{chosen}Sec-WebSocket-Protocol: {' '.join(parts)}\r\n\r\n"
    moved = f"HTTP/1.1 302 x\r\nLocation: http://u:pr0tocol-v@x/h3ader-v/{basic}?qu3ry-v\r\n\r\n"
    page = f"HTTP/1.1 200 {' '.join(parts)}\r\nContent-Type: {parts[0]}\r\n\r\n"
    texts = [repr(await endpoint()), str(await endpoint())]
    for script in (
        websocket(telltale(parts)),
        answers(bad),
        answers(moved),
        answers(page),
        answers(f"HTTP/1.1 101 x\r\n{' '.join(parts)}\r\n\r\n"),
    ):
        asked = 0
        async with trio.open_nursery() as nursery:
            feed, _ = feed_of(
                nursery,
                script,
                endpoint=endpoint,
                headers={"X-Mine": "f33d-header"},
                give_up_after=100,
            )
            error = None
            try:
                await feed.run(Collector())
            except tt.FeedBrokenError as caught:
                error = caught
            assert error is not None
            texts += [every_text(error), repr(feed), feed.url, repr(feed.options)]
            texts += map(repr, vars(feed).values())
            nursery.cancel_scope.cancel()
    texts += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    everything = "\n".join(texts)
    assert "***" in everything
    for part in parts:
        assert part not in everything.replace(__file__, "")


def test_the_redactor_forgets_the_oldest() -> None:
    redactor = Redactor(["always"])
    for number in range(20):
        redactor.learn([f"secret-{number}-"])
        redactor.learn(["again"])
    text = " ".join(["always again", *(f"secret-{number}-" for number in range(20))])
    assert redactor.text(text).count("***") == 17
    assert "secret-4-" in redactor.text(text)
    assert "secret-5-" not in redactor.text(text)
    for number in range(40):
        redactor.learn([f"more-{number}-"], most=32)
    assert redactor.text("more-8- more-7-") == "*** more-7-"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"url": f"http://{TOKEN}"}, "url must begin with"),
        ({"url": 5}, "url must be a str"),
        ({"headers": [("a", TOKEN)]}, "headers must be a mapping"),
        ({"headers": {"a": f"{TOKEN}\r\nX: y"}}, "the value of a must be a str of printable"),
        ({"headers": {"a": f" {TOKEN}"}}, "the value of a must be a str of printable"),
        ({"headers": {"a": f"{TOKEN}é"}}, "the value of a must be a str of printable"),
        ({"headers": {"a": ""}}, "the value of a must be a str of printable"),
        ({"headers": {"a": TOKEN.encode()}}, "the value of a must be a str of printable"),
        ({"headers": {f"Bearer {TOKEN}": "a"}}, "header number 1 has a name that is none"),
        ({"headers": {"": "a"}}, "header number 1 has a name that is none"),
        ({"headers": {"a": "b", "A": TOKEN}}, "the same header twice"),
        ({"headers": {"Host": TOKEN}}, "must not have Host"),
        ({"headers": {"uPgrade": TOKEN}}, "must not have uPgrade"),
        ({"headers": {"Connection": TOKEN}}, "must not have Connection"),
        ({"headers": {"Content-Length": "4"}}, "must not have Content-Length"),
        ({"headers": {"Sec-WebSocket-Key": TOKEN}}, "must not have Sec-WebSocket-Key"),
        ({"headers": {"Sec-WebSocket-Protocol": TOKEN}}, r"Endpoint\(subprotocols"),
        ({"subprotocols": TOKEN}, "subprotocols must be a list of str"),
        ({"subprotocols": [f"{TOKEN} x"]}, "subprotocols must be tokens"),
        ({"subprotocols": [5]}, "subprotocols must be tokens"),
        ({"subprotocols": [""]}, "subprotocols must be tokens"),
        ({"subprotocols": [TOKEN, TOKEN]}, "the same one twice"),
    ],
)
def test_bad_endpoints_are_not_repeated(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(tt.ConfigError, match=reason) as caught:
        tt.Endpoint(**{"url": "ws://x", **values})
    assert TOKEN not in "".join(traceback.format_exception(caught.value, limit=0))
    if "headers" in values:
        with pytest.raises(tt.ConfigError, match=reason):
            tt.WebSocketFeed("ws://x", ["SPY"], **values)


def test_endpoints_are_values() -> None:
    headers = {"a": "b"}
    endpoint = tt.Endpoint("ws://x", headers, ["p"])
    headers["a"] = "c"
    assert endpoint.headers == {"a": "b"}
    assert endpoint == tt.Endpoint("ws://x", {"a": "b"}, ("p",))
    assert hash(endpoint) == hash(tt.Endpoint("ws://x", {"a": "b"}, ("p",)))
    assert repr(endpoint) == "<Endpoint ws://x/ headers=1 subprotocols=1>"
    with pytest.raises(AttributeError):
        endpoint.url = "ws://y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        endpoint.headers["a"] = "c"  # type: ignore[index]


# Headers


async def sent_headers(**options: Any) -> dict[str, str]:
    seen = Handshakes()
    send = Collector()
    async with trio.open_nursery() as nursery:
        feed, _ = feed_of(nursery, seen.script(says(quote())), **options)
        async with running(feed, send):
            await send.wait_for(1)
        nursery.cancel_scope.cancel()
    return seen.headers[0]


async def test_headers(autojump_clock: MockClock) -> None:
    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        return tt.Endpoint("ws://venue.test", {"x-mine": "endpoint", "User-Agent": "e/1"})

    url = "ws://venue.test"
    assert (await sent_headers(url=url))["user-agent"] == f"trio-ticks/{tt.__version__}"
    headers = await sent_headers(
        url=url, api_key="k3y", headers={"user-agent": "mine/1", "X-Mine": "a b"}
    )
    assert headers["user-agent"] == "mine/1"
    assert headers["x-mine"] == "a b"
    assert headers["x-api-key"] == "k3y"
    headers = await sent_headers(
        endpoint=endpoint, api_key="k3y", headers={"User-Agent": "mine/1", "X-Mine": "a", "b": "c"}
    )
    assert (headers["user-agent"], headers["x-mine"], headers["b"]) == ("e/1", "endpoint", "c")
    assert headers["x-api-key"] == "k3y"
    with pytest.raises(tt.ConfigError, match="either api_key or the header"):
        tt.WebSocketFeed("ws://x", ["SPY"], api_key="k3y", headers={"x-api-key": "k3y"})


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "no api_key was given"),
        ({"api_key": "k3y"}, "check the api_key"),
        ({"headers": {"Authorization": "x"}}, "check the headers"),
        ({"endpoint": True}, "check what endpoint returns"),
    ],
)
async def test_advice_where_credentials_are_refused(
    options: dict[str, Any], advice: str, autojump_clock: MockClock
) -> None:
    async def endpoint() -> tt.Endpoint:
        await trio.lowlevel.checkpoint()
        return tt.Endpoint("ws://venue.test")

    where = {"endpoint": endpoint} if "endpoint" in options else {"url": "ws://venue.test"}
    async with trio.open_nursery() as nursery:
        script = answers("HTTP/1.1 401 x\r\n\r\n")
        feed, _ = feed_of(nursery, script, **{**options, **where})
        with pytest.raises(tt.FeedAuthError, match=advice):
            await feed.run(Collector())


# What is told of a handshake that failed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("https://other.test/feed?token=abcd#x", "leads to wss://other.test/feed: give that url"),
        ("http://other.test:8080", "leads to ws://other.test:8080/: give that url"),
        ("wss://u:p@other.test/a", "leads to wss://other.test/a: give that url"),
        ("/v2/feed?x", "leads to ws://venue.test/v2/feed: give that url"),
        ("v2", "leads to ws://venue.test/v2: give that url"),
        ("//other.test/x", "leads to ws://other.test/x: give that url"),
        ("/feed?login=1", "leads back to this url, maybe with another query string"),
        ("ftp://other.test", "and does not say where it leads"),
        ("https://other.test:x/", "and does not say where it leads"),
        ("https://[/", "and does not say where it leads"),
        (None, "and does not say where it leads"),
    ],
)
async def test_redirects(
    status: int, location: str | None, leads: str, autojump_clock: MockClock
) -> None:
    header = "" if location is None else f"Location: {location}\r\n"
    script = answers(f"HTTP/1.1 {status} bad name\r\n{header}\r\n")
    async with memory_feed(script, url="ws://venue.test/feed?a=b") as (feed, venue):
        with pytest.raises(tt.FeedBrokenError, match=str(status)) as caught:
            await feed.run(Collector())
    assert leads in str(caught.value)
    assert "abcd" not in str(caught.value)
    assert (caught.value.status, len(venue.dialled_at)) == (status, 1)


async def test_a_redirect_after_data_is_an_outage(autojump_clock: MockClock) -> None:
    send = Collector()
    moved = answers("HTTP/1.1 302 x\r\nLocation: /maintenance\r\n\r\n")
    good = websocket(says(quote(), then=leave))
    async with memory_feed(good, moved, good) as (feed, _), running(feed, send):
        await send.wait_for(2)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/html; charset=utf-8", "200 OK with a web page, and opened no WebSocket"),
        ("application/json", "200 OK with JSON, and opened no WebSocket"),
        ("secret/kind", "200 OK, and opened no WebSocket"),
        ("", "200 OK, and opened no WebSocket"),
    ],
)
async def test_a_page_in_place_of_a_websocket(
    kind: str, shown: str, autojump_clock: MockClock
) -> None:
    script = answers(f"HTTP/1.1 200 hi\r\nContent-Type: {kind}\r\n\r\n<html>")
    async with memory_feed(script) as (feed, _):
        with pytest.raises(tt.FeedBrokenError, match=shown):
            await feed.run(Collector())


KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b64encode(sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
GOOD = {"Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Accept": ACCEPT}


@pytest.mark.parametrize(
    ("changed", "flaw"),
    [
        ({}, None),
        ({"Upgrade": "WebSocket", "Connection": "upgrade"}, None),
        ({"Sec-WebSocket-Protocol": "two"}, None),
        ({"Upgrade": None}, "it has no header 'Upgrade: websocket'"),
        ({"Upgrade": "h2c"}, "it has no header 'Upgrade: websocket'"),
        ({"Connection": "close"}, "it has no header 'Connection: Upgrade'"),
        ({"Sec-WebSocket-Accept": None}, "it has no header 'Sec-WebSocket-Accept'"),
        ({"Sec-WebSocket-Accept": "secret"}, "does not belong to our request"),
        ({"Sec-WebSocket-Protocol": "secret"}, "it chose a subprotocol that was not offered"),
        ({"Sec-WebSocket-Extensions": "secret"}, "it chose an extension that was not offered"),
    ],
)
async def test_flaws_of_a_handshake(changed: dict[str, str | None], flaw: str | None) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    gate = HandshakeGate(ours)
    await gate.send_all(b"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: one, two\r\n")
    await gate.send_all(b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n")
    pairs = [f"{name}: {value}" for name, value in {**GOOD, **changed}.items() if value is not None]
    head = "\r\n".join(["HTTP/1.1 101 x", *pairs, "", ""]).encode()
    await theirs.send_all(head)
    passed = await gate.receive_some()
    if flaw is None:
        assert (passed, gate.failed) == (head, None)
    else:
        assert passed == b""
        verdict = gate.verdict("unused")
        assert str(verdict).startswith("the answer is no valid WebSocket handshake: ")
        assert flaw in str(verdict)
        assert "secret" not in str(verdict)
        assert not verdict.permanent


async def test_a_bad_handshake_is_told(autojump_clock: MockClock) -> None:
    script = answers("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    async with memory_feed(script, give_up_after=0) as (feed, _):
        with pytest.raises(tt.FeedBrokenError, match="has no header 'Sec-WebSocket-Accept'"):
            await feed.run(Collector())


# A message that is too big


async def test_a_message_that_is_too_big_names_the_setting(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = websocket(says("x" * 5000))
    async with memory_feed(script, max_message_size=1000, give_up_after=20) as (feed, _):
        with pytest.raises(tt.FeedBrokenError, match=r"\(max_message_size is 1,000 bytes\)"):
            await feed.run(Collector())
    lost = [r for r in caplog.records if getattr(r, "event", "") == "feed.disconnected"]
    assert lost
    assert all("(max_message_size is 1,000 bytes)" in record.getMessage() for record in lost)


async def test_a_venue_that_finds_ours_too_big_names_no_setting(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(ws: WebSocketConnection) -> None:
        await ws.aclose(1009, "too long for me")

    async with memory_feed(websocket(refuse), give_up_after=0) as (feed, _):
        with pytest.raises(tt.FeedBrokenError, match="too long for me") as caught:
            await feed.run(Collector())
    assert "max_message_size" not in str(caught.value) + caplog.text
