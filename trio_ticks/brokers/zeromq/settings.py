"""The settings of a ZeroMQ buffer, with their checks.

Rules: everything is checked here, before anything runs. Secret keys are in no message,
no log line and no ``repr``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final, final

import attrs

from ...checks import check_count, check_seconds, check_text, checked
from ...errors import ConfigError
from .library import library

__all__ = ["HOW", "Curve", "ZeroMQSettings", "check_address"]

_TCP: Final = re.compile(r"tcp://(?P<host>\*|\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):(?P<port>\d+|\*)")
_IPC: Final = re.compile(r"ipc://.{1,100}")
HOW: Final = "tcp://HOST:PORT"


def check_address(name: str, value: object, *, bind: bool) -> None:
    """Raise if *value* is no address to connect to, or to bind.

    Raises:
        ConfigError: it is not.
    """
    check_text(name, value)
    text = str(value)
    if "\0" not in text and _IPC.fullmatch(text):
        return
    found = _TCP.fullmatch(text)
    if found is None:
        raise ConfigError(f"{name} must be {HOW} or ipc://PATH, got {value!r}")
    port = found["port"]
    number = 0 if port == "*" else int(port)
    if number > 65535 or not (number or bind):
        raise ConfigError(f"{name} must have a port from 1 to 65535, got {value!r}")
    if found["host"] == "*" and not bind:
        raise ConfigError(
            f"{name} must name a host to connect to, got {value!r}: only bind= takes a *"
        )


def _addresses(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise ConfigError(f"addresses must be {HOW}, or a list of these, got {value!r}")
    return tuple(value)


def _key(value: object) -> Any:
    """Return a key as text; pyzmq makes them as bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _check_key(name: str, value: object) -> None:
    # The value itself stays out of the message.
    if value is None:
        return
    if not isinstance(value, str) or len(value) != 40:
        kind = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise ConfigError(
            f"{name} must be a CURVE key, 40 characters as zmq.curve_keypair() makes them, "
            f"got {kind}"
        )
    try:
        import_module("zmq.utils.z85").decode(value.encode("latin-1"))
    except (KeyError, ValueError, UnicodeError, ArithmeticError):
        raise ConfigError(
            f"{name} must be a CURVE key in the Z85 alphabet, as zmq.curve_keypair() makes them"
        ) from None


@final
@attrs.frozen(slots=True, kw_only=True)
class Curve:
    """The keys of one end."""

    server_key: str | None = None
    public_key: str | None = None
    secret_key: str | None = attrs.field(default=None, repr=False)

    def apply(self, socket: Any, *, is_ingest: bool) -> None:
        """Set the keys at *socket*; none: nothing is encrypted."""
        if self.secret_key is None and self.server_key is None:
            return
        public, secret = self.public_key, self.secret_key
        if is_ingest:
            socket.curve_server = True
        else:
            socket.curve_serverkey = str(self.server_key).encode()
        if public is None or secret is None:
            made, hidden = library().curve_keypair()
            public, secret = made.decode(), hidden.decode()
        socket.curve_publickey = public.encode()
        socket.curve_secretkey = secret.encode()


@attrs.frozen
class ZeroMQSettings:
    """The settings of a ZeroMQ buffer, which both ends get."""

    addresses: tuple[str, ...] = attrs.field(default=(), converter=_addresses)
    """The addresses of the ingests, to connect to: ``tcp://HOST:PORT`` or
    ``ipc://PATH``; one or a list. Workers that share ingests may list them in any
    order."""
    bind: str | None = attrs.field(default=None, kw_only=True)
    """The address at which this ingest listens, such as ``tcp://*:5555``; unless given,
    the only one of *addresses*."""
    window: int = attrs.field(
        default=16_384, kw_only=True, validator=checked(check_count, below=2**31)
    )
    """How many ticks an ingest has out at most, unacknowledged, over all its workers.
    Its own memory, and what is sent again after a crash, are bounded by it. A small one
    is slow: ticks are packed by shard, and few at a time make small entries."""
    shards: int = attrs.field(default=64, kw_only=True, validator=checked(check_count, below=4096))
    """Into how many parts an ingest divides its symbols: also the most workers that can
    be busy. It must be the same at both ends."""
    pack: int = attrs.field(default=256, kw_only=True, validator=checked(check_count, below=65536))
    """How many ticks a record holds at most."""
    prefetch: int = attrs.field(
        default=8192, kw_only=True, validator=checked(check_count, below=2**31)
    )
    """How many ticks a worker process takes ahead from each ingest. After its crash
    that many come again at most, one at a time."""
    heartbeat: float = attrs.field(
        default=1.0, kw_only=True, validator=checked(check_seconds, positive=True)
    )
    """Seconds from one heartbeat to the next. The ingest's setting counts."""
    lease: float = attrs.field(
        default=5.0, kw_only=True, validator=checked(check_seconds, positive=True)
    )
    """A worker that is silent for this many seconds loses its shards. Choose more than
    the longest time for which a handler may block its process's event loop. The
    ingest's setting counts."""
    max_deliveries: int = attrs.field(
        default=3, kw_only=True, validator=checked(check_count, least=2)
    )
    """A tick at which so many workers died is given up; never before one of them died
    while it was the only tick sent again, which takes three deaths."""
    dead_letters: int = attrs.field(default=1000, kw_only=True, validator=checked(check_count))
    """How many ticks that were given up an ingest keeps in memory, the last ones."""
    server_key: str | None = attrs.field(default=None, kw_only=True, converter=_key)
    """CURVE: the public key of the ingests, at the workers. All ingests of one buffer
    share their keys."""
    public_key: str | None = attrs.field(default=None, kw_only=True, converter=_key)
    """CURVE: the public key of this end; needed at the ingest."""
    secret_key: str | None = attrs.field(default=None, kw_only=True, converter=_key, repr=False)
    """CURVE: the secret key of this end; needed at the ingest. Workers without one make
    themselves a pair: an ingest takes every worker that knows its public key, so keep
    that to your own machines."""

    def __attrs_post_init__(self) -> None:
        library()
        for address in self.addresses:
            check_address("addresses", address, bind=self.bind is None)
        if len(set(self.addresses)) < len(self.addresses):
            raise ConfigError(f"addresses must differ, got {list(self.addresses)}")
        if self.bind is not None:
            check_address("bind", self.bind, bind=True)
        if not self.addresses and self.bind is None:
            raise ConfigError(f"ZeroMQ needs an address: {HOW}, or bind= at the ingest")
        if self.lease < 2 * self.heartbeat:
            raise ConfigError(
                f"lease must be at least two heartbeats, got {self.lease:g} s and "
                f"heartbeat={self.heartbeat:g}"
            )
        for name in ("server_key", "public_key", "secret_key"):
            _check_key(name, getattr(self, name))
        if (self.public_key is None) != (self.secret_key is None):
            raise ConfigError("public_key and secret_key go together: give both, or none")

    @property
    def shown(self) -> str:
        """Return the addresses, for messages."""
        return ", ".join(self.addresses) or str(self.bind)

    @property
    def bind_address(self) -> str:
        """Return the address at which an ingest listens.

        Raises:
            ConfigError: it is not clear which one.
        """
        if self.bind is None and len(self.addresses) != 1:
            raise ConfigError(
                f"an ingest listens at one address, and here are {len(self.addresses)}: "
                "say which by bind="
            )
        return self.bind or self.addresses[0]

    @property
    def curve(self) -> Curve:
        """Return the keys."""
        return Curve(
            server_key=self.server_key, public_key=self.public_key, secret_key=self.secret_key
        )
