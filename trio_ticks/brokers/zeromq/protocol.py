"""The messages between an ingest and its workers: MessagePack lists with a name first.

Goals: another version and another kind of peer are recognised and told; everything else
that is not understood is junk, which is counted by the reader and never fatal.

The messages, by who sends them:

- a worker: :class:`Hello` (again after each loss of the connection), :class:`Ping`,
  :class:`Acked`, :class:`GivenUp`, :class:`Leaving`, :class:`Left`;
- an ingest: :class:`Welcome` or :class:`Refused`, :class:`Stranger` (say hello),
  :class:`Pong`, :class:`Grant`, :class:`Revoke`, :class:`Parcel`, :class:`Bye`,
  :class:`Ended`.

Rules: sans-I/O. Later versions may append members to a message, which older readers
ignore. The first four members of ``Hello``, ``Welcome`` and ``Refused`` (name, magic,
version, kind) stay what they are in every version. Sequences count the ticks of one
shard, from 1; an epoch is one time for which a worker holds a shard. Times are seconds
since 1970 by the clock of whoever wrote them.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, final

import msgspec

from ...errors import TickError

__all__ = [
    "AGAIN",
    "DEAD",
    "FRESH",
    "MAGIC",
    "MOST_FROM_INGEST",
    "MOST_FROM_WORKER",
    "VERSION",
    "Acked",
    "Bye",
    "Ended",
    "Entry",
    "FromIngest",
    "FromWorker",
    "GivenUp",
    "Grant",
    "Hello",
    "JunkMessageError",
    "Leaving",
    "Left",
    "OtherPeerError",
    "Parcel",
    "Ping",
    "Pong",
    "Reader",
    "Refused",
    "Revoke",
    "Stranger",
    "Welcome",
    "encode",
]

MAGIC: Final = "trio-ticks"
VERSION: Final = 1
MOST_FROM_WORKER: Final = 2**18
"""The largest message that an ingest reads, in bytes: a hello with all its shards."""
MOST_FROM_INGEST: Final = 2**24
"""The largest message that a worker reads, in bytes."""

FRESH: Final = 0
"""The kind of an entry that nobody had before."""
AGAIN: Final = 1
"""The kind of an entry that was sent to a worker before."""
DEAD: Final = 2
"""The kind of an entry with one tick that is given up: count it, do not handle it."""


class JunkMessageError(TickError):
    """A message that cannot be read."""


class OtherPeerError(TickError):
    """A peer that is of another version or another kind; the message says it."""


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    """A worker presents itself, or comes back after its connection was lost."""

    magic: str
    version: int
    kind: str
    worker: bytes
    """Identifies the worker's source; a new one has another."""
    session: int
    """Grows when the worker has let go of all that it had from this ingest."""
    name: str
    """How logs show the worker."""
    shards: int
    credit: int
    """How many ticks may be sent to it before it has acknowledged some."""
    ingest: bytes
    """The ingest that *holds* are of; empty: none."""
    holds: list[tuple[int, int, int]]
    """The shards that it has: shard, epoch, and the last sequence acknowledged."""
    at: float


class Ping(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    """A worker's heartbeat."""

    at: float


class Acked(msgspec.Struct, array_like=True, frozen=True, tag="acked"):
    """Ticks that are finished: shard, epoch, and the sequence of the last of them."""

    shards: list[tuple[int, int, int]]


class GivenUp(msgspec.Struct, array_like=True, frozen=True, tag="given-up"):
    """Shards that the worker has no more, each with the last sequence finished."""

    shards: list[tuple[int, int, int]]


class Leaving(msgspec.Struct, array_like=True, frozen=True, tag="leaving"):
    """Send nothing more, and take the shards back."""


class Left(msgspec.Struct, array_like=True, frozen=True, tag="left"):
    """The worker has given everything up and goes."""


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag="welcome"):
    """The answer to a hello; it is the first sample of the clocks' difference too."""

    magic: str
    version: int
    kind: str
    session: int
    """From the hello."""
    ingest: bytes
    """Identifies this run of the ingest."""
    shards: int
    window: int
    heartbeat_s: float
    lease_s: float
    at: float
    """From the hello."""
    received: float
    sent: float


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """The answer to a hello with which nothing can be done."""

    magic: str
    version: int
    kind: str
    reason: str


class Stranger(msgspec.Struct, array_like=True, frozen=True, tag="stranger"):
    """The answer to whatever comes from a connection without a hello."""


class Pong(msgspec.Struct, array_like=True, frozen=True, tag="pong"):
    """The answer to a ping."""

    at: float
    received: float
    sent: float
    used: int
    """Ticks in the ingest's window."""
    oldest: float | None
    """When the oldest of them arrived at the ingest."""
    yours: int
    """Ticks of the worker's shards that were not sent to it yet."""


class Grant(msgspec.Struct, array_like=True, frozen=True, tag="grant"):
    """Shards that the worker holds from now on: shard, epoch, first sequence."""

    shards: list[tuple[int, int, int]]


class Revoke(msgspec.Struct, array_like=True, frozen=True, tag="revoke"):
    """Shards that the worker is to finish and to give up: shard and epoch."""

    shards: list[tuple[int, int]]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One record of ticks."""

    shard: int
    epoch: int
    first: int
    """The sequence of its first tick."""
    ticks: int
    kind: int
    body: bytes


class Parcel(msgspec.Struct, array_like=True, frozen=True, tag="parcel"):
    """Records of any shards that the worker holds, each shard's in order."""

    entries: list[Entry]


class Bye(msgspec.Struct, array_like=True, frozen=True, tag="bye"):
    """The answer to :class:`Left`."""


class Ended(msgspec.Struct, array_like=True, frozen=True, tag="ended"):
    """The ingest ends; *in_doubt* ticks of its window are lost with it."""

    in_doubt: int


FromWorker = Hello | Ping | Acked | GivenUp | Leaving | Left
FromIngest = Welcome | Refused | Stranger | Pong | Grant | Revoke | Parcel | Bye | Ended

encode = msgspec.msgpack.Encoder().encode

M = TypeVar("M")


class _Head(msgspec.Struct, array_like=True):
    name: str
    magic: str = ""
    version: int = VERSION
    kind: str = ""


@final
class Reader:
    """Reads the messages of one kind of peer.

    Args:
        peer: what the peer must be: ``"ingest"`` or ``"work"``.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        kinds: Any = FromIngest if peer == "ingest" else FromWorker
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        self._head = msgspec.msgpack.Decoder(_Head).decode

    def read(self, body: bytes) -> Any:
        """Return the message in *body*.

        Raises:
            JunkMessageError: it is none.
            OtherPeerError: a peer of another version or kind presents itself.
        """
        try:
            message = self._decode(body)
        except Exception as error:
            # A ValidationError, a DecodeError, or a RecursionError.
            self._check(body)
            raise JunkMessageError(f"{len(body)} bytes are no message: {error}") from None
        if isinstance(message, Hello | Welcome | Refused):
            self._check(body)
            if message.magic != MAGIC:
                raise JunkMessageError(f"a {type(message).__name__} of something else")
        return message

    def _check(self, body: bytes) -> None:
        """Raise if *body* presents a peer of ours that is not what it must be."""
        try:
            head = self._head(body)
        except Exception:
            return
        if head.name not in ("hello", "welcome", "refused") or head.magic != MAGIC:
            return
        if head.version != VERSION:
            raise OtherPeerError(
                f"it speaks version {head.version} of the wire protocol, and this program "
                f"version {VERSION}. Run the same version of trio-ticks at both ends"
            )
        if head.kind != self._peer:
            raise OtherPeerError(
                f"it is of the kind {head.kind!r:.40}, not {self._peer!r}: workers connect "
                "to ingests, and ingests to nobody"
            )
