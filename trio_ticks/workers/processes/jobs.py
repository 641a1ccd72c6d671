"""Jobs for worker processes and their replies, as MessagePack with a version. No I/O.

Rules: a message of another version is refused. The items of a job are written by the
schema of ``trio_ticks.wire``. Only the user's exceptions are pickled: they come from
our own child process, and their text is sent as well.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import ConfigError
from ...wire import ItemEncoder, Items

__all__ = [
    "VERSION",
    "Job",
    "JobEncoder",
    "Reply",
    "WireFailure",
    "decode_failure",
    "decode_job",
    "decode_reply",
    "encode",
]

VERSION = 2
"""Of the format of jobs and replies."""


class Job(msgspec.Struct, array_like=True, frozen=True):
    """A batch for a worker process."""

    version: int
    number: int
    items: Items
    lives_s: tuple[float, ...] = ()
    """For how long each item is still fresh, in seconds; empty if none grows stale."""
    arrivals: bytes = b""
    """When each item arrived, on the parent's clock: an array of doubles."""
    offset_s: float = 0.0
    """Wall time (seconds since 1970) less that clock."""


class WireFailure(msgspec.Struct, array_like=True, frozen=True):
    """An exception of the user's as text, and pickled if it can be unpickled."""

    index: int
    kind: str
    message: str
    traceback: str
    pickled: bytes | None


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The outcomes of a batch. Times are seconds since the process received it."""

    version: int
    number: int
    done: int
    """How many items have an outcome: it stops at the first failure or stale item."""
    failures: tuple[WireFailure, ...]
    began: bytes
    """When each item's turn came, and last when the run ended: an array of doubles."""
    total_s: float
    """From receiving the batch to sending this reply, in seconds."""
    cpu_s: float
    """Processor time that the batch took, in all threads of the process, in seconds."""
    timeouts: int = 0
    """How many tries took longer than ``handler_timeout``."""
    retries: int = 0
    """How many tries were not the first."""
    values: tuple[tuple[int, Items], ...] = ()
    """What the handler returned, by the index of the item, if results are wanted."""
    broken: bool = False
    """Whether it was no ``Exception`` that the handler raised, so that the pipeline has
    to end by it."""


_job_decoder = msgspec.msgpack.Decoder(Job)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_failure_decoder = msgspec.msgpack.Decoder(WireFailure)
_encode = msgspec.msgpack.Encoder().encode


def encode(message: Job | Reply | WireFailure) -> bytes:
    """Return *message* as bytes."""
    return _encode(message)


def decode_job(data: bytes) -> Job:
    """Return the job that *data* holds.

    Raises:
        RuntimeError: the other side speaks another version.
    """
    job = _job_decoder.decode(data)
    _check_version(job.version)
    return job


def decode_reply(data: bytes) -> Reply:
    """Return the reply that *data* holds.

    Raises:
        RuntimeError: the other side speaks another version.
    """
    reply = _reply_decoder.decode(data)
    _check_version(reply.version)
    return reply


def decode_failure(data: bytes) -> WireFailure:
    """Return the failure that *data* holds."""
    return _failure_decoder.decode(data)


def _check_version(version: int) -> None:
    if version != VERSION:
        raise RuntimeError(
            f"the other process speaks version {version} of the batch format, this one {VERSION}"
        )


class JobEncoder:
    """Writes jobs; remembers which kinds of items the other side can read."""

    def __init__(self) -> None:
        self._items = ItemEncoder()

    def encode(
        self,
        number: int,
        items: Sequence[Any],
        lives_s: Sequence[float] = (),
        arrivals: Sequence[float] = (),
        offset_s: float = 0.0,
    ) -> tuple[bytes, int, ConfigError | None]:
        """Write the job *number* with *items*, up to the first that cannot be written.

        Returns:
            The job, how many items it holds, and what keeps the next one from being
            written, or ``None`` where all of them are in it.
        """
        written, count, wrong = self._items.encode(items)
        times = array("d", arrivals).tobytes()
        job = Job(VERSION, number, written, tuple(lives_s[:count]), times, offset_s)
        return encode(job), count, wrong
