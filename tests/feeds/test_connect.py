"""Taking URLs apart without showing their secrets, and judging a server's answer."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from trio_ticks.errors import ConfigError
from trio_ticks.feeds.websocket.connect import ConnectFailed, Target, make_ssl_context
from trio_ticks.feeds.websocket.handshake import HandshakeGate

SECRET = "s3cret-0123456789"


@pytest.mark.parametrize(
    ("url", "shown", "resource", "host", "port", "host_header"),
    [
        ("ws://x", "ws://x/", "/", "x", 80, "x"),
        ("wss://x", "wss://x/", "/", "x", 443, "x"),
        ("WSS://X.Example/Path", "wss://x.example/Path", "/Path", "x.example", 443, "x.example"),
        ("ws://x:443/a", "ws://x:443/a", "/a", "x", 443, "x:443"),
        ("ws://x:8080?a=1", "ws://x:8080/", "/?a=1", "x", 8080, "x:8080"),
        ("ws://[::1]:90/f", "ws://[::1]:90/f", "/f", "::1", 90, "[::1]:90"),
        ("wss://[::1]", "wss://[::1]/", "/", "::1", 443, "[::1]"),
        (
            "ws://x/é/日?q=ü&r=%41",
            "ws://x/%C3%A9/%E6%97%A5",
            "/%C3%A9/%E6%97%A5?q=%C3%BC&r=%41",
            "x",
            80,
            "x",
        ),
        (
            "ws://bücher.example",
            "ws://xn--bcher-kva.example/",
            "/",
            "xn--bcher-kva.example",
            80,
            "xn--bcher-kva.example",
        ),
    ],
)
def test_targets(
    url: str, shown: str, resource: str, host: str, port: int, host_header: str
) -> None:
    target = Target.parse(url)
    assert (str(target), repr(target)) == (shown, shown)
    assert (target.resource, target.host, target.port, target.host_header) == (
        resource,
        host,
        port,
        host_header,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        f"http://x/?{SECRET}",
        f"https://x/{SECRET}",
        f"ws:x?{SECRET}",
        f"ws:///?{SECRET}",
        f"ws://?{SECRET}",
        f"ws://:80/?{SECRET}",
        f"ws://x:0/?{SECRET}",
        f"ws://x:99999/?{SECRET}",
        f"ws://x:port/?{SECRET}",
        f"ws://[::1/?{SECRET}",
        f"ws://user:{SECRET}@x/",
        f"ws://{SECRET}@x/",
        f"ws://x/?{SECRET}#fragment",
        f"ws://x/?{SECRET}#",
        f"ws://x/ {SECRET}",
        f"ws://x/\r\n{SECRET}",
        f"ws://x/\t{SECRET}",
        f" ws://x/{SECRET}",
        f"ws://{'é' * 80}.example/{SECRET}",
        5,
        None,
        b"ws://x",
    ],
)
def test_bad_urls_are_not_repeated(url: Any) -> None:
    with pytest.raises(ConfigError, match="url") as caught:
        Target.parse(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace("SECRET", "")


@given(st.text())
def test_any_text_is_a_target_or_a_config_error(text: str) -> None:
    for url in (text, f"ws://{text}", f"ws://x/{text}", f"ws://x?{text}"):
        try:
            target = Target.parse(url)
        except ConfigError:
            continue
        assert target.resource.isascii()
        assert target.resource.isprintable()
        assert " " not in target.resource
        assert target.host_header.isascii()


def test_what_is_secret_in_a_url() -> None:
    target = Target.parse("ws://x/path?v=1&token=a%2Fb%20c%64&key=abcd&flag")
    assert {"a/b cd", "a%2Fb%20c%64", "abcd", "v=1&token=a%2Fb%20c%64&key=abcd&flag"} <= set(
        target.secrets
    )
    assert not {"", "1", "flag"} & set(target.secrets)
    assert Target.parse("ws://x/path").secrets == ()


def test_ssl_contexts(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    for path in (ca, str(ca)):
        context = make_ssl_context(path)
        assert len(context.get_ca_certs()) == 1
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
    system = make_ssl_context(None)
    assert system.verify_mode == ssl.CERT_REQUIRED
    assert system.check_hostname


def test_bad_authorities(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for bad in (empty, tmp_path / "missing.pem", tmp_path, 5):
        with pytest.raises(ConfigError, match="PEM file"):
            make_ssl_context(bad)  # type: ignore[arg-type]


async def judge(*pieces: bytes, then_eof: bool = True) -> tuple[bytes, HandshakeGate]:
    """Return what the gate lets through of an answer, and the gate."""
    ours, theirs = memory_stream_pair()
    gate = HandshakeGate(ours)
    failures = []
    gate.on_failure = lambda: failures.append(gate.failed)
    passed = b""

    async def answer() -> None:
        for piece in pieces:
            await theirs.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        if then_eof:
            await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        while data := await gate.receive_some():
            passed += bytes(data)
        nursery.cancel_scope.cancel()
    assert failures == ([] if gate.failed is None else [gate.failed])
    return passed, gate


HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [HEAD, HEAD.replace(b"\r\n", b"\n"), HEAD.replace(b"1.1", b"1.0")],
    ids=["CRLF", "LF", "1.0"],
)
async def test_gate_passes_a_good_answer(head: bytes) -> None:
    for pieces in (
        [head],
        [head[:cut] for cut in (1,)] + [head[1:]],
        [bytes([byte]) for byte in head],
    ):
        passed, gate = await judge(*pieces)
        assert passed == head
        assert gate.failed is None
        assert gate.status == 101


async def test_gate_passes_nothing_of_a_refusal() -> None:
    head = b"HTTP/1.1 429 Slow\r\nRetry-After: 9\r\nX:\r\n\r\n"
    for pieces in ([head + b"body"], [bytes([byte]) for byte in head]):
        passed, gate = await judge(*pieces)
        assert passed == b""
        verdict = gate.verdict("unused")
        assert str(verdict) == "the server answered 429 Too Many Requests"
        assert (verdict.status, verdict.retry_after, verdict.permanent) == (429, "9", False)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_gate_takes_anything(junk: bytes, size: int) -> None:
    async def main() -> None:
        for answer in (junk, b"HTTP/1.1 " + junk, b"HTTP/1.1 404 X\r\n" + junk):
            passed, gate = await judge(
                *(answer[at : at + size] for at in range(0, len(answer), size))
            )
            if gate.failed is not None:
                assert isinstance(gate.verdict("silence"), ConnectFailed)
                assert passed == b""
            else:
                assert passed.startswith(b"HTTP/1.")

    trio.run(main)


CLOSE = b"\x88\x0f\x0f\xa0bad key k3y!!"


@pytest.mark.parametrize(
    ("frames", "passed"),
    [
        (CLOSE, b"\x88\x02\x0f\xa0"),
        (b"\x88\x00", b"\x88\x00"),
        (b"\x88\x02\x03\xe8", b"\x88\x02\x03\xe8"),
        (b"\x89\x00\x8a\x03\x88\x05\x05" + CLOSE, b"\x89\x00\x8a\x03\x88\x05\x05\x88\x02\x0f\xa0"),
        (b"\x89\x03abc", b"\x89\x03abc"),
    ],
)
async def test_gate_takes_the_text_out_of_close_frames(frames: bytes, passed: bytes) -> None:
    got, _ = await judge(HEAD, frames)
    assert got == HEAD + passed


class Broken(trio.abc.Stream):
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.BrokenResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_gate_notices_a_lost_connection() -> None:
    for use in ("receive_some", "send_all"):
        gate = HandshakeGate(Broken())
        with pytest.raises(trio.BrokenResourceError):
            await (gate.receive_some() if use == "receive_some" else gate.send_all(b"GET"))
        assert gate.failed == "the connection was lost during the handshake"


async def test_gate_is_a_stream() -> None:
    ours, theirs = memory_stream_pair()
    gate = HandshakeGate(ours)
    await gate.wait_send_all_might_not_block()
    await gate.send_all(b"GET")
    assert await theirs.receive_some() == b"GET"
    await gate.aclose()
    assert await theirs.receive_some() == b""
    assert str(gate.verdict("no answer")) == "no answer"
