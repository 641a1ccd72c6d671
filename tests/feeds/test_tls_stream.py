"""The client's TLS against trio's own server, over memory and over real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import NamedTuple

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_ticks.feeds.websocket.tls_stream import TlsStream

HOST = "venue.test"
AUTHORITY = trustme.CA()
SIZE = 98_304


def contexts(
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    AUTHORITY.configure_trust(client)
    client.maximum_version = newest
    return server, client


class Far:
    """The server's end, whose records can be cut and kept back on their way."""

    def __init__(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, greeting: bytes = b""
    ) -> None:
        self.stream = stream
        self.greeting = greeting
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def records(self) -> bytes:
        """Return what was encrypted and not sent."""
        return self._outgoing.read()

    async def receive(self) -> None:
        """Read once."""
        data = await self.stream.receive_some()
        assert data
        self._incoming.write(data)

    async def do_handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.stream.send_all(self.records())
                await self.receive()
            else:
                if self.greeting:
                    self.tls.write(self.greeting)
                await self.stream.send_all(self.records())
                return

    def ask_for_certificate(self) -> None:
        """Ask the client for a certificate, in the middle of the connection."""
        self.tls.verify_client_post_handshake()
        self.tls.do_handshake()

    async def send_all(self, text: bytes) -> None:
        self.tls.write(text)
        await self.stream.send_all(self.records())

    async def receive_some(self) -> bytes:
        while True:
            try:
                return self.tls.read(65_536)
            except ssl.SSLWantReadError:
                await self.receive()


class Pair(NamedTuple):
    near: TlsStream
    far: Far
    number: int

    def read_now(self) -> bytes:
        return self.near.read_now(self.number, SIZE)

    async def read(self) -> bytes:
        """Read when there is something, as a watch does."""
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(self.number)
        return self.read_now()

    async def read_text(self) -> bytes:
        """Read until there is text: tickets of a session have none."""
        while True:
            if self.near.unsettled and (text := await self.near.settle()) is not None:
                return text
            try:
                return await self.read()
            except BlockingIOError:
                continue


class Cut(trio.abc.Stream):
    """A stream of which little is read at once."""

    def __init__(self, stream: trio.abc.Stream, most: int) -> None:
        self.stream = stream
        self.most = most

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(self.most))


async def shake(near: TlsStream, far: Far | trio.SSLStream[trio.abc.Stream]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.do_handshake)
        nursery.start_soon(far.do_handshake)


@asynccontextmanager
async def connected(
    server: ssl.SSLContext, client: ssl.SSLContext, greeting: bytes = b""
) -> AsyncIterator[Pair]:
    """Both ends of a connection on loopback.

    The server sends *greeting* in one piece with the end of its handshake.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = await trio.open_tcp_stream(*listener.getsockname())
        accepted, _ = listener.accept()
        accepted.setblocking(False)
    far = Far(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)), server, greeting)
    near = TlsStream(plain, client, HOST)
    await shake(near, far)
    try:
        yield Pair(near, far, plain.socket.fileno())
    finally:
        await trio.aclose_forcefully(near)
        await trio.aclose_forcefully(far.stream)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("seed", range(3))
async def test_both_ways_however_the_wire_cuts_it(newest: ssl.TLSVersion, seed: int) -> None:
    random = Random(seed)
    there, back = memory_stream_pair()
    server, client = contexts(newest)
    near = TlsStream(Cut(there, random.choice([1, 7, 4096])), client, HOST)
    far = trio.SSLStream[trio.abc.Stream](back, server, server_side=True)
    text = random.randbytes(10_000)
    got = [b"", b""]

    async def send(stream: trio.abc.SendStream) -> None:
        sent = 0
        while sent < len(text):
            size = random.randint(0, 4_000)
            await stream.send_all(text[sent : sent + size])
            sent += size

    async def receive_all(stream: trio.abc.ReceiveStream, index: int) -> None:
        while len(got[index]) < len(text):
            got[index] += await stream.receive_some(random.randint(1, 6_000))

    with trio.fail_after(20):
        await shake(near, far)
        async with trio.open_nursery() as nursery:
            for index, stream in enumerate([near, far]):
                nursery.start_soon(send, stream)
                nursery.start_soon(receive_all, stream, index)
    assert got == [text, text]


async def test_one_read_gives_all_the_text_that_is_there() -> None:
    async with connected(*contexts()) as pair:
        await pair.far.send_all(b"a" * 40_000)
        await pair.far.send_all(b"b")
        text = b""
        while len(text) < 40_001:
            text += await pair.read_text()
        assert text == b"a" * 40_000 + b"b"
        assert not pair.near.unsettled
        with pytest.raises(BlockingIOError):
            pair.read_now()


async def test_part_of_a_record_is_no_text_yet() -> None:
    async with connected(*contexts()) as pair:
        await pair.far.send_all(b"first")
        assert await pair.read_text() == b"first"
        # Cut a record in two on its way.
        transport = pair.far.stream
        pair.far.tls.write(b"second")
        record = pair.far.records()
        await transport.send_all(record[:10])
        with pytest.raises(BlockingIOError):
            await pair.read()
        assert not pair.near.unsettled
        await transport.send_all(record[10:])
        assert await pair.read() == b"second"


@pytest.mark.parametrize("politely", [False, True])
async def test_the_end_comes_after_the_text(politely: bool) -> None:
    async with connected(*contexts()) as pair:
        pair.far.tls.write(b"last")
        if politely:
            with pytest.raises(ssl.SSLWantReadError):
                pair.far.tls.unwrap()
        await pair.far.stream.send_all(pair.far.records())
        if not politely:
            await pair.far.stream.aclose()
        assert await pair.read_text() == b"last"
        if politely:
            # Nothing more comes to the socket: it would be waited for for ever.
            assert pair.near.unsettled
            assert await pair.near.settle() == b""
            assert await pair.near.settle() == b""
        else:
            assert await pair.read() == b""
        assert await pair.near.receive_some() == b""


async def test_damage_comes_after_the_text() -> None:
    async with connected(*contexts()) as pair:
        pair.far.tls.write(b"good")
        await pair.far.stream.send_all(pair.far.records() + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await pair.read_text() == b"good"
        assert pair.near.unsettled
        with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
            await pair.near.settle()
        with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
            await pair.near.receive_some()


def asking_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server that may ask its client for a certificate at any time."""
    server, client = contexts()
    AUTHORITY.configure_trust(server)
    client.post_handshake_auth = server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.issue_cert("client.test").configure_cert(client)
    return server, client


async def test_what_tls_wants_to_say_is_sent_before_the_next_wait() -> None:
    async with connected(*asking_contexts()) as pair:
        pair.far.ask_for_certificate()
        await pair.far.send_all(b"tick")
        text = await pair.read_text()
        assert text == b"tick"
        assert pair.near.unsettled
        assert await pair.near.settle() is None
        assert not pair.near.unsettled
        await pair.near.send_all(b"ours")
        with trio.fail_after(20):
            assert await pair.far.receive_some() == b"ours"
        assert pair.far.tls.getpeercert()["subjectAltName"] == (("DNS", "client.test"),)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_came_with_the_handshake_is_there_without_another_read(
    newest: ssl.TLSVersion,
) -> None:
    """Such as the answer of a server that refuses whoever comes, unasked."""
    async with connected(*contexts(newest), b"503") as pair:
        # With TLS 1.3 the server has the last word, which is not read with the rest.
        assert pair.near.unsettled is (newest is ssl.TLSVersion.TLSv1_2)
        assert await pair.read_text() == b"503"
        assert not pair.near.unsettled
        with trio.fail_after(20):
            await pair.far.send_all(b"tick")
            assert await pair.read_text() == b"tick"


@pytest.mark.parametrize("rest", ["text", "end", "damage"])
async def test_what_came_behind_a_receive_is_there_without_another_read(rest: str) -> None:
    async with connected(*contexts()) as pair:
        pair.far.tls.write(b"first")
        if rest == "text":
            pair.far.tls.write(b"second")
        elif rest == "end":
            with pytest.raises(ssl.SSLWantReadError):
                pair.far.tls.unwrap()
        behind = b"\x17\x03\x03\x00\x20" + bytes(32) if rest == "damage" else b""
        await pair.far.stream.send_all(pair.far.records() + behind)
        assert await pair.near.receive_some(100) == b"first"
        assert pair.near.unsettled
        if rest == "damage":
            with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
                await pair.near.settle()
        else:
            assert await pair.near.settle() == (b"second" if rest == "text" else b"")
        assert pair.near.unsettled is (rest != "text")


async def test_a_reader_does_not_wait_for_a_send_that_the_server_holds_up() -> None:
    """A server may take nothing before its own data are read: both would wait."""
    async with connected(*asking_contexts()) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.near.send_all, bytes(20_000_000))
        await wait_all_tasks_blocked(0.05)
        pair.far.ask_for_certificate()
        await pair.far.send_all(b"first")
        assert await pair.read_text() == b"first"
        await pair.far.send_all(b"second")
        with trio.fail_after(20):
            assert await pair.read_text() == b"second"
            # What the reader had to send goes out behind what was on its way.
            got = 0
            while got < 20_000_000:
                got += len(await pair.far.receive_some())
            await pair.near.send_all(b"last")
            assert await pair.far.receive_some() == b"last"
        assert pair.far.tls.getpeercert()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_send_in_a_handshake_waits_for_its_end(
    newest: ssl.TLSVersion, hangs_up: bool
) -> None:
    """With TLS 1.2 a server may shake hands anew at any time: here it is the first."""
    server, client = contexts(newest)
    there, back = memory_stream_pair()
    near, far = TlsStream(there, client, HOST), Far(back, server)

    async def read() -> None:
        got = b""
        while len(got) < 4:
            got += await near.receive_some()
        assert got == b"tick"
        nursery.cancel_scope.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            if hangs_up:
                await back.aclose()
                nursery.start_soon(near.receive_some)
                with pytest.raises(trio.BrokenResourceError):
                    await near.send_all(b"ours")
                nursery.cancel_scope.cancel()
                return
            nursery.start_soon(read)
            nursery.start_soon(near.send_all, b"ours")
            await far.do_handshake()
            assert await far.receive_some() == b"ours"
            await far.send_all(b"tick")


async def test_after_the_close_every_call_says_so() -> None:
    async with connected(*contexts()) as pair:
        await pair.near.aclose()
        await pair.near.aclose()
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await pair.near.send_all(b"x")
            with pytest.raises(trio.ClosedResourceError):
                await pair.near.receive_some()


async def test_nothing_follows_a_send_that_was_cut_off() -> None:
    async with connected(*contexts()) as pair:
        with trio.move_on_after(0.05) as scope:
            while True:
                await pair.near.send_all(bytes(1_000_000))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await pair.near.send_all(b"more")


async def test_sends_of_several_tasks_are_whole() -> None:
    async with connected(*contexts()) as pair, trio.open_nursery() as nursery:
        for letter in (b"a", b"b", b"c"):
            nursery.start_soon(pair.near.send_all, letter * 300_000)
        got = b""
        with trio.fail_after(20):
            while len(got) < 900_000:
                got += await pair.far.receive_some()
        assert sorted(got[::300_000]) == [*b"abc"]
        assert got.count(b"ab") + got.count(b"bc") + got.count(b"ba") + got.count(b"cb") <= 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("host", "reason"), [("other.test", "Hostname mismatch"), (HOST, "EOF")])
async def test_a_handshake_that_fails_says_why(host: str, reason: str) -> None:
    there, back = memory_stream_pair()
    server, client = contexts()
    near, far = TlsStream(there, client, host), trio.SSLStream(back, server, server_side=True)

    async def answer() -> None:
        if host == HOST:
            await back.receive_some()
            await back.aclose()
            return
        # The server is told as well.
        with pytest.raises(trio.BrokenResourceError) as told:
            await far.do_handshake()
        assert "ALERT" in str(told.value.__cause__).upper()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(trio.BrokenResourceError, match=reason) as caught:
                await near.do_handshake()
            assert isinstance(caught.value.__cause__, ssl.SSLError)
