"""Connecting through an HTTP proxy, over real sockets, and which proxy that is."""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from textwrap import dedent
from typing import Any

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

import trio_ticks as tt
from tests.worlds.connect_proxies import ConnectProxy, serving_proxy
from tests.worlds.feed_venues import NO_JITTER, Collector, quote, running, stay
from trio_ticks.feeds.websocket.connect import ConnectFailed, Target
from trio_ticks.feeds.websocket.environment import ProxyVariables
from trio_ticks.feeds.websocket.proxy import Proxy, open_tunnel

PATIENCE_S = 20
PASSWORD = "p4ss/w:rd"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def server_context(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


def client_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@asynccontextmanager
async def venue(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve one tick to each connection; the port is yielded."""

    async def accept(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with suppress(ConnectionClosed):
            await ws.get_message()
            await ws.send_message(quote())
            await stay(ws)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, accept, "127.0.0.1", 0, tls))
        yield server.port
        nursery.cancel_scope.cancel()


async def one_tick(feed: tt.WebSocketFeed) -> None:
    send = Collector()
    async with running(feed, send):
        await send.wait_for(1)


async def refusal(**options: Any) -> tt.FeedBrokenError:
    """Return how a feed of one try ends."""
    feed = tt.WebSocketFeed(symbols=["SPY"], backoff=NO_JITTER, give_up_after=0, **options)
    with pytest.raises(tt.FeedBrokenError) as caught:
        await feed.run(Collector())
    return caught.value


# Over sockets


@pytest.mark.parametrize("password", [None, f"user:{PASSWORD}"])
async def test_plain(password: str | None) -> None:
    with trio.fail_after(PATIENCE_S):
        async with venue() as port, serving_proxy(ConnectProxy(password)) as proxy:
            url = proxy.url.replace("//", "//user:p4ss%2Fw:rd@" if password else "//")
            await one_tick(tt.WebSocketFeed(f"ws://127.0.0.1:{port}", ["SPY"], proxy=url))
    assert proxy.requests == [f"CONNECT 127.0.0.1:{port} HTTP/1.1"]
    (headers,) = proxy.headers
    assert headers["host"] == f"127.0.0.1:{port}"
    assert headers["user-agent"] == f"trio-ticks/{tt.__version__}"
    assert ("proxy-authorization" in headers) == (password is not None)


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http", "https"])
async def test_tls_is_with_the_venue(ca: trustme.CA, proxy_tls: bool) -> None:
    with trio.fail_after(PATIENCE_S):
        async with venue(server_context(ca, "venue.example")) as port:
            world = ConnectProxy(f"user:{PASSWORD}", routes={"venue.example": port})
            tls = server_context(ca, "127.0.0.1") if proxy_tls else None
            async with serving_proxy(world, tls=tls) as proxy:
                url = f"http{'s' * proxy_tls}://user:p4ss%2Fw:rd@127.0.0.1:{proxy.port}"
                options: Any = {"ssl_context": client_context(ca), "proxy": url}
                await one_tick(tt.WebSocketFeed("wss://venue.example/feed", ["SPY"], **options))
                error = await refusal(url="wss://127.0.0.1:" + str(port), **options)
    assert proxy.requests[0] == "CONNECT venue.example:443 HTTP/1.1"
    assert "the server's certificate is not acceptable" in str(error)


async def test_plain_feed_through_a_proxy_with_tls(ca: trustme.CA) -> None:
    with trio.fail_after(PATIENCE_S):
        async with venue() as port, serving_proxy(tls=server_context(ca, "127.0.0.1")) as proxy:
            options: Any = {
                "url": f"ws://127.0.0.1:{port}",
                "proxy": f"https://127.0.0.1:{proxy.port}",
            }
            await one_tick(
                tt.WebSocketFeed(symbols=["SPY"], ssl_context=client_context(ca), **options)
            )
            error = await refusal(**options)
    assert "the proxy's certificate is not acceptable" in str(error)


async def test_open_stream_opens_the_connection_to_the_proxy() -> None:
    asked = []
    with trio.fail_after(PATIENCE_S):
        async with venue() as port, serving_proxy() as proxy:

            async def open_stream(host: str, port: int) -> trio.abc.Stream:
                asked.append((host, port))
                return await trio.open_tcp_stream("127.0.0.1", proxy.port)

            await one_tick(
                tt.WebSocketFeed(
                    f"ws://127.0.0.1:{port}",
                    ["SPY"],
                    proxy="http://proxy.corp:3128",
                    open_stream=open_stream,
                )
            )
    assert asked == [("proxy.corp", 3128)]


@pytest.mark.parametrize(
    ("answer", "reason", "permanent"),
    [
        (b"HTTP/1.1 407 x\r\n\r\n", "the proxy wants a password", True),
        (b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", "not Basic", True),
        (b"HTTP/1.1 403 secret\r\n\r\n", "it answered 403 Forbidden", True),
        (b"HTTP/1.1 401 secret\r\n\r\n", "it answered 401 Unauthorized", True),
        (b"HTTP/1.1 302 x\r\nLocation: http://x/\r\n\r\n", "it answered 302 Found", True),
        (b"HTTP/1.1 503 x\r\n\r\n", "it answered 503 Service Unavailable", False),
        (b"HTTP/1.1 429 x\r\n\r\n", "it answered 429 Too Many Requests", False),
        (b"HTTP/1.1 799 x\r\n\r\n", "it answered 799", False),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "sent more than its answer", False),
        (b"no HTTP\r\n\r\n", "the proxy's answer is not HTTP", False),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection without an answer", False),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000, "too many headers|not HTTP", False),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 900, "too many headers", False),
    ],
)
async def test_refusals(answer: bytes, reason: str, permanent: bool) -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, answer)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.send_eof()
        with pytest.raises(ConnectFailed, match=reason) as caught:
            await open_tunnel(ours, Proxy.parse("http://x:1"), Target.parse("ws://v.test"))
    assert caught.value.permanent == permanent
    assert caught.value.status is None
    assert "secret" not in str(caught.value)


async def test_refusals_over_sockets() -> None:
    with trio.fail_after(PATIENCE_S):
        async with serving_proxy(ConnectProxy(f"user:{PASSWORD}")) as proxy:
            error = await refusal(url="ws://127.0.0.1:1", proxy=proxy.url)
            assert "the proxy wants a password" in str(error)
            assert not isinstance(error, tt.FeedAuthError)
            wrong = proxy.url.replace("//", "//user:wr0ng@")
            error = await refusal(url="ws://127.0.0.1:1", proxy=wrong)
            assert "does not accept the user name or the password" in str(error)
            right = proxy.url.replace("//", "//user:p4ss%2Fw:rd@")
            error = await refusal(url="ws://127.0.0.1:1", proxy=right)
            assert "it answered 502 Bad Gateway" in str(error)
        error = await refusal(url="ws://127.0.0.1:1", proxy=proxy.url)
        assert "cannot connect to the proxy" in str(error)


async def test_the_proxy_is_unknown() -> None:
    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(-2, "Name or service not known")

    error = await refusal(url="ws://x", proxy="http://proxy.corp:1", open_stream=open_stream)
    assert "cannot look up the proxy 'proxy.corp': Name or service not known" in str(error)


async def test_a_proxy_that_hangs() -> None:
    with trio.fail_after(PATIENCE_S):
        async with serving_proxy(ConnectProxy(hangs=True)) as proxy:
            error = await refusal(url="ws://127.0.0.1:1", proxy=proxy.url, connect_timeout=0.1)
    assert "no answer within 0.1 s" in str(error)
    assert len(proxy.requests) == 1


async def test_a_silent_proxy_on_a_virtual_clock(autojump_clock: MockClock) -> None:
    """One limit is for all steps together, and the stream to the proxy is closed."""
    ours, _theirs = memory_stream_pair()

    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        await trio.sleep(6)
        return ours

    began = trio.current_time()
    error = await refusal(url="ws://x", proxy="http://proxy.corp:1", open_stream=open_stream)
    assert trio.current_time() - began == pytest.approx(10)
    assert "no answer within 10 s" in str(error)
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_the_password_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    encoded = "dXNlcjpwNHNzL3c6cmQ="
    echo = f"user:{PASSWORD} {encoded}".encode()
    texts = []
    with trio.fail_after(PATIENCE_S):
        for answer in (
            b"HTTP/1.1 407 " + echo + b"\r\nX: " + echo + b"\r\n\r\n" + echo,
            echo + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + echo,
        ):
            async with serving_proxy(ConnectProxy(answer=answer)) as proxy:
                url = proxy.url.replace("//", "//user:p4ss%2Fw:rd@")
                feed = tt.WebSocketFeed("ws://x", ["SPY"], proxy=url, give_up_after=0)
                texts += [repr(feed), *map(repr, vars(feed).values()), repr(Proxy.parse(url))]
                with pytest.raises(tt.FeedBrokenError) as caught:
                    await feed.run(Collector())
                assert f"Basic {encoded}" in proxy.headers[0]["proxy-authorization"]
                texts.append("".join(traceback.format_exception(caught.value)))
    everything = "\n".join([*texts, caplog.text, *(repr(vars(r)) for r in caplog.records)])
    for part in (PASSWORD, "p4ss%2Fw", "w:rd", encoded):
        assert part not in everything


# The address of a proxy


@pytest.mark.parametrize(
    ("url", "shown", "credentials"),
    [
        ("http://proxy:3128", "http://proxy:3128", None),
        ("http://proxy", "http://proxy:80", None),
        ("HTTPS://Proxy/", "https://proxy:443", None),
        ("http://u:p@[::1]:80", "http://[::1]:80", "u:p"),
        ("http://u:p%40%3a@x:1", "http://x:1", "u:p@:"),
        ("http://u@x:1", "http://x:1", "u:"),
        ("http://u:a@b@x:1", "http://x:1", "u:a@b"),
    ],
)
def test_addresses(url: str, shown: str, credentials: str | None) -> None:
    proxy = Proxy.parse(url)
    assert (str(proxy), repr(proxy), proxy.credentials) == (shown, shown, credentials)


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"{PASSWORD}:3128",
        f"ftp://u:{PASSWORD}@x",
        f"http://u:{PASSWORD}@",
        "http://x:0",
        "http://x:99999",
        "http://u:s3cret@x:1/path",
        "http://u:s3cret@x:1?query",
        "http://u:s3cret#@x:1",
        "http://:s3cret@x:1",
        "http://a%3Ab:s3cret@x:1",
        "http://u:s3 cret@x",
        "http://u:s3cret@x\n",
        5,
        b"http://x:1",
    ],
)
def test_bad_addresses_are_not_repeated(url: Any) -> None:
    with pytest.raises(tt.ConfigError, match="proxy") as caught:
        tt.WebSocketFeed("ws://x", ["SPY"], proxy=url)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert PASSWORD not in shown
    assert "s3" not in shown


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks"])
def test_socks_is_answered_with_the_recipe(scheme: str) -> None:
    with pytest.raises(tt.ConfigError, match="SOCKS is not built in") as caught:
        tt.WebSocketFeed("ws://x", ["SPY"], proxy=f"{scheme}://u:s3cret@x:1080")
    assert "open_stream=" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    _, _, recipe = str(caught.value).partition(":\n\n")
    compile(dedent(recipe), "recipe", "exec")


@given(st.text())
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    for url in (text, f"http://{text}", f"http://u:p@x{text}"):
        with suppress(tt.ConfigError):
            proxy = Proxy.parse(url)
            assert proxy.host.isascii()
            assert str(proxy).isprintable()


# The environment


def chosen(url: str, **variables: str) -> str | None:
    proxy = ProxyVariables.read(variables).proxy_for(Target.parse(url))
    return None if proxy is None else str(proxy)


def test_variables() -> None:
    both = {"HTTPS_PROXY": "http://s:1", "http_proxy": "http://p:1"}
    assert chosen("wss://x", **both) == "http://s:1"
    assert chosen("ws://x", **both) == "http://p:1"
    assert chosen("ws://x", HTTP_PROXY="http://p:1") is None
    assert chosen("ws://x", HTTPS_PROXY="http://s:1") is None
    assert chosen("wss://x", HTTPS_PROXY="http://u:1", https_proxy="http://l:1") == "http://l:1"
    for url in ("ws://x", "wss://x"):
        assert chosen(url, ALL_PROXY="http://a:1") == "http://a:1"
        assert chosen(url, all_proxy="a:1") == "http://a:1"
        assert chosen(url, ALL_PROXY="") is None
        assert chosen(url) is None
    assert chosen("wss://x", https_proxy="", ALL_PROXY="http://a:1") == "http://a:1"


@pytest.mark.parametrize(
    ("exceptions", "hosts"),
    [
        ("example.com", {"example.com", "a.example.com"}),
        (".example.com.", {"example.com", "a.example.com"}),
        ("EXAMPLE.com,other", {"example.com", "a.example.com"}),
        ("other  example.com:443", {"example.com", "a.example.com"}),
        ("example.com:80", set()),
        ("ample.com", set()),
        ("*", {"example.com", "a.example.com", "notexample.com", "10.1.2.3", "[::1]"}),
        ("10.0.0.0/8", {"10.1.2.3"}),
        ("10.1.2.3", {"10.1.2.3"}),
        ("10.1.2.3:443", {"10.1.2.3"}),
        ("::1", {"[::1]"}),
        ("[::1]", {"[::1]"}),
        ("[::1]:443", {"[::1]"}),
        ("[::1]:80,:,,.", set()),
        ("", set()),
    ],
)
def test_exceptions(exceptions: str, hosts: set[str]) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        free = {
            host
            for host in ("example.com", "a.example.com", "notexample.com", "10.1.2.3", "[::1]")
            if chosen(f"wss://{host}", ALL_PROXY="http://a:1", **{name: exceptions}) is None
        }
        assert free == hosts


async def test_the_environment_is_trusted_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(PATIENCE_S):
        async with venue() as port, serving_proxy(ConnectProxy("user:pw")) as proxy:
            url = f"ws://127.0.0.1:{port}"
            monkeypatch.setenv("http_proxy", f"user:pw@127.0.0.1:{proxy.port}")
            await one_tick(tt.WebSocketFeed(url, ["SPY"]))
            assert proxy.requests == []
            await one_tick(tt.WebSocketFeed(url, ["SPY"], trust_env=True))
            assert len(proxy.requests) == 1
            monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
            await one_tick(tt.WebSocketFeed(url, ["SPY"], trust_env=True))
            assert len(proxy.requests) == 1


def test_bad_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://u:s3cret@x:1")
    with pytest.raises(tt.ConfigError, match="all_proxy: SOCKS") as caught:
        tt.WebSocketFeed("ws://x", ["SPY"], trust_env=True)
    assert "s3cret" not in str(caught.value)
    tt.WebSocketFeed("ws://x", ["SPY"])
    with pytest.raises(tt.ConfigError, match="either proxy or trust_env"):
        tt.WebSocketFeed("ws://x", ["SPY"], trust_env=True, proxy="http://x:1")
    with pytest.raises(tt.ConfigError, match="trust_env must be True or False"):
        tt.WebSocketFeed("ws://x", ["SPY"], trust_env=1)  # type: ignore[arg-type]
