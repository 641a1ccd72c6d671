"""Strangers at an ingest's ZeroMQ socket: whatever they send, it goes on."""

from __future__ import annotations

import pytest
import trio
import zmq

from tests.worlds.zeromq_world import Queue, Strategy, in_order, open_world, ticks, until
from trio_ticks.brokers.zeromq import ZeroMQ
from trio_ticks.brokers.zeromq.protocol import MAGIC, VERSION, Hello, Left, Ping, encode
from trio_ticks.brokers.zeromq.socket import Wire

HERE = "tcp://127.0.0.1:0"


async def test_a_connection_may_say_that_it_is_another_worker_now() -> None:
    """Its shards are free then, and nothing that it had is lost."""
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue(ticks(200)))
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.connect(ingest.address)
            peer.send(encode(hello(b"one")))
            await until(lambda: ingest.sink.statistics().connected)
            peer.send(encode(hello(b"two")))
            await until(lambda: ingest.sink.statistics().reconnects == 1)
            peer.send(encode(Left()))
            work = world.work(ZeroMQ(ingest.address), Strategy())
            await until(lambda: len(work.strategy.handled) == 200)
        ingest.queue.end()
        await ingest.done.wait()
        assert in_order(work.strategy.numbers)


async def test_a_name_that_is_too_long_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE), Queue())
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.connect(ingest.address)
            peer.send(encode(hello(b"one", name="x" * 200_000)))
            await until(lambda: any("broker.peer_refused" in each for each in caplog.messages))
        assert not ingest.sink.statistics().connected
        assert max(map(len, caplog.messages)) < 1000


async def test_answers_to_a_peer_that_never_reads_have_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent, send = [0, 0], Wire.send

    def counting(wire: Wire, parts: list[bytes]) -> bool:
        done = send(wire, parts)
        sent[done] += 1
        return done

    async with open_world() as world:
        ingest = await world.ingest(ZeroMQ(bind=HERE, window=100), Queue())
        monkeypatch.setattr(Wire, "send", counting)
        host, _, port = ingest.address.removeprefix("tcp://").rpartition(":")
        async with await deaf_peer(host, int(port)) as peer:
            flood = b"".join(frame(encode(Ping(1.0))) for _ in range(500))
            while not sent[False]:
                await peer.send_all(flood)
        # The others go on.
        work = world.work(ZeroMQ(ingest.address), Strategy())
        ingest.queue.put(ticks(50))
        await until(lambda: len(work.strategy.handled) == 50)
        ingest.queue.end()
        await ingest.done.wait()


async def deaf_peer(host: str, port: int) -> trio.SocketStream:
    """Connect as a DEALER that says what it has to, and reads nothing after that."""
    socket = trio.socket.socket()
    # So that the system takes few answers off the ingest's hands.
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await socket.connect((host, port))
    stream = trio.SocketStream(socket)
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    await stream.send_all(greeting)
    got = 0
    while got < len(greeting):
        got += len(await stream.receive_some(len(greeting) - got))
    facts = b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
    ready = b"\x05READY" + facts
    await stream.send_all(b"\x04" + bytes([len(ready)]) + ready)
    return stream


def frame(body: bytes) -> bytes:
    """Return *body* as one short message of ZeroMQ's protocol."""
    return bytes([0, len(body)]) + body


def hello(worker: bytes, name: str = "peer") -> Hello:
    return Hello(MAGIC, VERSION, "work", worker, 0, name, 64, 10, b"", [], 1.0)
