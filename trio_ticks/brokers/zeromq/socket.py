"""A ZeroMQ socket on trio, without threads of ours.

ZeroMQ tells by a file descriptor that something *may* have happened, and by its option
``EVENTS`` what. The descriptor is told of changes only, and each call may take the
change away, so ``EVENTS`` is asked after every send and receive, and no sleep is longer
than a fraction of a second.

Rules: one task sleeps at a time; any task of the same thread may send. What cannot be
sent at once is not sent. Closing waits a bounded time for what was sent, with the
thread that ends the context out of trio's way.
"""

from __future__ import annotations

import errno
from typing import Any, Final, final

import trio

from ...errors import BrokerError
from .library import library
from .protocol import MOST_FROM_INGEST, MOST_FROM_WORKER
from .settings import ZeroMQSettings

__all__ = ["LONGEST_SLEEP_S", "Wire", "bound", "connected"]

LONGEST_SLEEP_S: Final = 0.25
"""Nobody relies on the descriptor for longer, in seconds."""
_LINGER_MS: Final = 500
"""How long closing waits for what was sent, in milliseconds."""
_MOST_ANSWERS: Final = 10_000
"""Messages without ticks that wait for one worker to read them."""
_MOST_PARTS: Final = 4
"""Parts of a message that are looked at."""


def bound(settings: ZeroMQSettings) -> Wire:
    """Return the ingest's socket.

    Raises:
        BrokerError: the address is in use, or not one of this machine.
    """
    wire = Wire(settings, "ROUTER")
    try:
        wire.bind(settings.bind_address)
    except BaseException:
        wire.abandon()
        raise
    return wire


def connected(settings: ZeroMQSettings, address: str) -> Wire:
    """Return a worker's socket to the ingest at *address*, which need not be there yet.

    Raises:
        BrokerError: the address cannot be used.
    """
    wire = Wire(settings, "DEALER")
    try:
        wire.connect(address)
    except BaseException:
        wire.abandon()
        raise
    return wire


@final
class Wire:
    """One socket, with a context of its own."""

    def __init__(self, settings: ZeroMQSettings, kind: str) -> None:
        zmq = self._zmq = library()
        self._shown = settings.shown
        self._context = zmq.Context()
        self._context.blocky = False
        try:
            socket = self._socket = self._context.socket(getattr(zmq, kind))
        except BaseException:
            self._context.destroy(linger=0)
            raise
        is_ingest = kind == "ROUTER"
        socket.linger = 0
        # Credit is the bound of the ticks that are sent, of which each message has one.
        # So this refuses none of them, also where all are sent twice; but it bounds the
        # answers to a peer that asks again and again and never reads. What strangers
        # send has a bound, too: it waits in their own machine then.
        socket.sndhwm = 2 * settings.window + _MOST_ANSWERS if is_ingest else 0
        socket.rcvhwm = 1000 if is_ingest else 0
        socket.maxmsgsize = MOST_FROM_WORKER if is_ingest else MOST_FROM_INGEST
        socket.ipv6 = any("[" in address for address in (*settings.addresses, settings.bind or ""))
        # So that a connection to a machine that is gone ends, and is tried again.
        socket.heartbeat_ivl = int(settings.heartbeat * 1000)
        socket.heartbeat_timeout = int(settings.lease * 1000)
        if is_ingest:
            # So that a message to a worker that is gone is refused, not just dropped.
            socket.router_mandatory = 1
        else:
            # The option IMMEDIATE stays off: it drops what was received and not read
            # yet when the connection is lost (seen with libzmq 4.3.5).
            socket.reconnect_ivl = 100
            socket.reconnect_ivl_max = 1000
        settings.curve.apply(socket, is_ingest=is_ingest)
        self._descriptor: int = socket.getsockopt(zmq.FD)
        self._sleep: trio.CancelScope | None = None

    @property
    def address(self) -> str:
        """Return the address that the socket is bound to, with the real port."""
        return str(self._socket.getsockopt_string(self._zmq.LAST_ENDPOINT))

    def bind(self, address: str) -> None:
        """Listen at *address*.

        Raises:
            BrokerError: it is in use, or not one of this machine.
        """
        zmq = self._zmq
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise self._error("listen at", address, error) from None

    def connect(self, address: str) -> None:
        """Connect to *address*, now or when somebody listens there.

        Raises:
            BrokerError: the address cannot be used.
        """
        try:
            self._socket.connect(address)
        except self._zmq.ZMQError as error:
            raise self._error("connect to", address, error) from None

    def _error(self, what: str, address: str, error: Any) -> BrokerError:
        zmq = self._zmq
        advice = {
            zmq.EADDRINUSE: ": another program listens there. End it, or choose another port",
            errno.ENODEV: ": this machine has no such interface. Bind tcp://*:PORT for all",
            zmq.EADDRNOTAVAIL: ": this machine has no such address. Bind tcp://*:PORT for all",
            errno.EINVAL: ": write tcp://HOST:PORT",
        }.get(error.errno, "")
        return BrokerError(f"cannot {what} {address} ({error}){advice}", buffer=self._shown)

    def send(self, parts: list[bytes]) -> bool:
        """Send one message; return whether it is on its way.

        It is not if the worker is gone. What is for an ingest that is not connected
        waits until it is.
        """
        zmq = self._zmq
        try:
            if len(parts) == 1:
                self._socket.send(parts[0], zmq.NOBLOCK)
            else:
                self._socket.send_multipart(parts, zmq.NOBLOCK, copy=True)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def rouse(self) -> None:
        """Wake the task that sleeps if there is something to receive.

        To be called after sending: that may have taken the sleeper's signal away.
        """
        if self._sleep is not None and self._has_input:
            self._sleep.cancel()

    @property
    def _has_input(self) -> bool:
        return bool(self._socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN)

    def receive(self, most: int) -> list[list[bytes]]:
        """Return what is there, at most *most* messages, without waiting."""
        zmq = self._zmq
        found: list[list[bytes]] = []
        try:
            while len(found) < most:
                found.append(self._socket.recv_multipart(zmq.NOBLOCK)[:_MOST_PARTS])
        except zmq.Again:
            pass
        return found

    async def sleep(self, at_most_s: float) -> None:
        """Return when there may be something to receive, or after *at_most_s* seconds.

        Cancellation: nothing is lost.
        """
        if self._has_input:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.move_on_after(min(max(at_most_s, 0.0), LONGEST_SLEEP_S)) as self._sleep:
                await trio.lowlevel.wait_readable(self._descriptor)
        finally:
            self._sleep = None

    def abandon(self, *, linger_s: float = 0.0) -> None:
        """Close without a checkpoint; what was sent has *linger_s* to leave.

        It blocks for as long, if somebody does not read.
        """
        self._context.destroy(linger=int(linger_s * 1000))

    async def close(self) -> None:
        """Close when what was sent is with the kernel, half a second later at most.

        Cancellation: it goes on; it is short.
        """
        self._socket.close(linger=_LINGER_MS)
        # The context ends when the last socket has sent what it has. That may block,
        # but for half a second at most.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._context.term)
