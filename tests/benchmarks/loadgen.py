"""The load generator: a process that writes encoded frames to a raw socket.

``python -m tests.benchmarks.loadgen`` prints one JSON line when it listens (on
127.0.0.1, a free port), and one when a client has gone. It serves one client at a time.
The client says in the URL what it wants: ``/?ticks=1000&rate=0`` (0: as fast as the
client reads). The clock starts when the client's first message, the subscription, has
come. A slow client does not delay the timetable: a message is due at ``base_ns + number
/ rate`` whatever happened to earlier messages. Latencies are measured against that, so
that a stall counts for every tick it delays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import attrs

from .venue_words import VENUES, encode_quotes
from .wire import (
    CLOSE,
    PING,
    PONG,
    FrameReader,
    Session,
    accept_key,
    encode_session,
    server_frame,
)

__all__ = ["main", "pin"]

_BLOCK = 256 * 1024
_LEAD_NS = 50_000_000
_NAP_NS = 80_000
"""How long before a message is due it stops sleeping and spins.

A sleep alone is late by tens of microseconds.
"""
_POLL_NS = 20_000_000


def pin(core: int | None) -> None:
    """Keep this process on *core*, where the system can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def sleep_exactly() -> None:
    """Ask Linux not to round this process's sleeps up by its usual 50 µs.

    Elsewhere the spinning has to be enough.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_timerslack, nanoseconds = 29, 1
        ctypes.CDLL(None).prctl(pr_set_timerslack, nanoseconds, 0, 0, 0)


class ClientGoneError(Exception):
    """The client closed the connection."""


@attrs.define
class Served:
    """What was sent to one client."""

    asked: int = 0
    sent: int = 0
    rate: float = 0.0
    base_ns: int = 0
    """CLOCK_MONOTONIC when tick 0 was due."""
    late_us_p50: float = 0.0
    """How late the generator itself was; 0 if it had no pace to keep."""
    late_us_p99: float = 0.0
    late_us_max: float = 0.0


class Client:
    """One connection: the handshake, then data frames.

    The client's control frames are answered between the data frames.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._early = b""
        self.subscribed = False

    def handshake(self) -> tuple[int, float]:
        """Answer the upgrade; return how many ticks are wanted, and at what rate."""
        request = b""
        while b"\r\n\r\n" not in request:
            request += self._receive()
        head, self._early = request.split(b"\r\n\r\n", 1)
        lines = head.split(b"\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        query = parse_qs(urlsplit(lines[0].split(b" ")[1].decode("ascii")).query)
        self._sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept_key(headers[b"sec-websocket-key"])
            + b"\r\n\r\n"
        )
        return int(query["ticks"][0]), float(query.get("rate", ["0"])[0])

    def _receive(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ClientGoneError
        return data

    def _react(self, data: bytes) -> None:
        for opcode, payload in self._reader.feed(data):
            if opcode == PING:
                self._sock.sendall(server_frame(PONG, payload))
            elif opcode == CLOSE:
                self._sock.sendall(server_frame(CLOSE, payload))
                raise ClientGoneError
            elif opcode != PONG:
                self.subscribed = True

    def listen(self, timeout_s: float | None = 0.0) -> None:
        """Answer what has come from the client; with a timeout, wait for data first."""
        if self._early:
            data, self._early = self._early, b""
            self._react(data)
            return
        pending = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
        if pending or select.select([self._sock], [], [], timeout_s)[0]:
            self._react(self._receive())

    def flood(self, session: Session, served: Served) -> None:
        """Send as fast as the client takes it."""
        view, start, ends = memoryview(session.data), 0, session.ends
        step = max(1, int(_BLOCK / session.frame_bytes))
        served.base_ns = time.monotonic_ns()
        while served.sent < served.asked:
            last = min(served.sent + step, served.asked)
            self._sock.sendall(view[start : ends[last - 1]])
            start, served.sent = ends[last - 1], last
            self.listen()

    def pace(self, session: Session, served: Served) -> list[int]:
        """Send each message when it is due, or at once if that is past.

        Returns how late each message was, in nanoseconds.
        """
        view, start, ends, total = memoryview(session.data), 0, session.ends, served.asked
        clock, send, gap_ns = time.monotonic_ns, self._sock.sendall, 1e9 / served.rate
        served.base_ns = base = clock() + _LEAD_NS
        sent, late, polled = 0, [], base
        while sent < total:
            now = clock()
            ahead = base + int(sent * gap_ns) - now
            if ahead > 0:
                if now - polled > _POLL_NS:
                    polled = now
                    self.listen()
                elif ahead > _NAP_NS:
                    time.sleep((ahead - _NAP_NS) / 1e9)
                continue
            due = min(total, int((now - base) / gap_ns) + 1)
            due = max(due, sent + 1)
            send(view[start : ends[due - 1]])
            late += [now - base - int(index * gap_ns) for index in range(sent, due)]
            start = ends[due - 1]
            served.sent = sent = due
        return late

    def serve(self, session: Session, served: Served) -> None:
        """Wait for the subscription, send all, and stay until the client goes."""
        while not self.subscribed:
            self.listen(None)
        if served.rate:
            late = sorted(self.pace(session, served))
            served.late_us_p50, served.late_us_p99 = (
                late[len(late) // 2] / 1e3,
                late[len(late) * 99 // 100] / 1e3,
            )
            served.late_us_max = late[-1] / 1e3
        else:
            self.flood(session, served)
        while True:
            self.listen(None)


@contextlib.contextmanager
def _tls(wanted: bool) -> Iterator[tuple[ssl.SSLContext | None, str | None]]:
    """Give a server context with a new certificate for 127.0.0.1, and its CA's path."""
    if not wanted:
        yield None, None
        return
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(path)
        yield context, str(path)


def serve_one(
    connection: socket.socket, context: ssl.SSLContext | None, session: Session
) -> Served:
    """Serve one client until it has gone."""
    served = Served()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ClientGoneError, ConnectionError, ssl.SSLError, BrokenPipeError):
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            client = Client(connection)
            asked, served.rate = client.handshake()
            served.asked = min(asked, len(session.ends))
            client.serve(session, served)
    connection.close()
    return served


def main(arguments: list[str] | None = None) -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.loadgen", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument(
        "--ticks",
        type=int,
        default=100_000,
        help="how many different ticks to encode (a client may ask for fewer)",
    )
    parser.add_argument("--symbols", type=int, default=5)
    parser.add_argument("--size", type=int, help="bytes a frame (default: about 157)")
    parser.add_argument("--venue", default="flat", choices=("flat", *VENUES))
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--core", type=int, help="the core to stay on")
    options = parser.parse_args(arguments)
    pin(options.core)
    sleep_exactly()
    if options.venue in VENUES:
        session = encode_quotes(options.venue, options.ticks, symbols=options.symbols)
    else:
        session = encode_session(options.ticks, symbols=options.symbols, size=options.size)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        _tls(options.tls) as (context, authority),
    ):
        port = listener.getsockname()[1]
        hello = {
            "url": f"{'wss' if context else 'ws'}://127.0.0.1:{port}",
            "ca": authority,
            "frame_bytes": session.frame_bytes,
        }
        print(json.dumps(hello), flush=True)
        while True:
            connection, _ = listener.accept()
            print(json.dumps(attrs.asdict(serve_one(connection, context, session))), flush=True)


if __name__ == "__main__":
    main()
