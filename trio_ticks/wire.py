"""Ticks on their way to a worker process and what comes back: MessagePack by schema, with a version. No I/O, no clock; never pickle.

Rules: a batch is written as runs of items of one kind, so that each is decoded in C straight into its class; what cannot be written
costs that one item, never its neighbours; the evidence of conflated items travels beside them.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from .conflation import Conflation, base_of, conflation_of, with_evidence, without_evidence
from .errors import ConfigError

__all__ = ["VERSION", "ItemDecoder", "ItemEncoder", "Job", "Reply", "WireFailure", "decode_job", "decode_reply", "encode"]

VERSION = 1
_LIST_OF_ONE = b"\x91"
"""What MessagePack writes before the one item of a list."""


class Job(msgspec.Struct, array_like=True, frozen=True):
    """A batch for a worker process."""

    version: int
    number: int
    runs: tuple[tuple[str, msgspec.Raw], ...]
    """Items that follow each other and are of one kind: the kind's name, and a list of them."""
    evidence: tuple[tuple[int, Conflation], ...] = ()
    """What the conflated items stand for, by their place in the batch."""
    lives_s: tuple[float, ...] = ()
    """For how much longer each item is fresh, in seconds; empty where none grows stale."""


class WireFailure(msgspec.Struct, array_like=True, frozen=True):
    """An exception of the user's, as text; and pickled, where that can be undone."""

    index: int
    kind: str
    message: str
    traceback: str
    pickled: bytes | None


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """What came of a batch. Times are seconds since the process had received it."""

    version: int
    number: int
    done: int
    """So many of its items have an outcome; it stops at the first failure, and at what has grown stale."""
    failures: tuple[WireFailure, ...]
    began: bytes
    """When each item's turn came, and when the last one's was over: doubles."""
    total_s: float
    """From receiving the batch to sending this."""
    cpu_s: float
    """Processor time that it took, all threads of the process together."""
    timeouts: int = 0
    """How many tries took longer than they may."""
    retries: int = 0
    """How many tries were not the first."""


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
encode = _encoder.encode


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


def _check_version(version: int) -> None:
    if version != VERSION:
        raise RuntimeError(f"the other process speaks version {version} of the batch format, this one {VERSION}")


class ItemEncoder:
    """Writes items; knows which kinds can be read again on the other side."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}

    def encode(self, number: int, items: Sequence[Any], lives_s: Sequence[float] = ()) -> tuple[bytes, int, ConfigError | None]:
        """Return the job *number* with *items*, how many of them it holds, and what keeps the next one from being written."""
        try:
            return self._encode(number, items, lives_s), len(items), None
        except Exception:
            count, error = self._writable(items)
        return self._encode(number, items[:count], lives_s[:count]), count, error

    def _encode(self, number: int, items: Sequence[Any], lives_s: Sequence[float]) -> bytes:
        evidence: tuple[tuple[int, Conflation], ...] = ()
        if not self._names.keys() >= set(map(type, items)):
            # None of these is the class of what was conflated, which goes without its evidence.
            evidence = tuple((index, found) for index, item in enumerate(items) if (found := conflation_of(item)) is not None)
            items = [without_evidence(item) for item in items]
        runs = tuple((self._names[kind], msgspec.Raw(encode(list(run)))) for kind, run in itertools.groupby(items, type))
        return encode(Job(VERSION, number, runs, evidence, tuple(lives_s)))

    def _writable(self, items: Sequence[Any]) -> tuple[int, ConfigError | None]:
        for index, item in enumerate(items):
            try:
                self._check(base_of(item), item)
            except Exception as error:
                kind = base_of(item)
                failure = ConfigError(
                    f"a {kind.__module__}.{kind.__qualname__} cannot go to a worker process: {error}. It takes a class at module level "
                    "(attrs, dataclass or msgspec.Struct) whose annotated fields msgspec can write and read"
                )
                failure.__cause__ = error
                return index, failure
        return len(items), None

    def _check(self, kind: type, item: Any) -> None:
        """Write *item*; the first of its kind is also read again, and must be the same."""
        plain = without_evidence(item)
        written = encode([plain])
        if kind in self._names:
            return
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _find(name) is not kind:
            raise TypeError(f"its class cannot be imported as {name}")
        (read,) = msgspec.msgpack.Decoder(list[kind]).decode(written)  # type: ignore[valid-type]  # a type that is found at run time
        if kind.__eq__ is not object.__eq__ and read != plain:
            raise TypeError(f"it is read as {read!r} after {plain!r} was written")
        self._names[kind] = name


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


class ItemDecoder:
    """Reads items into their classes."""

    def __init__(self) -> None:
        self._decoders: dict[str, msgspec.msgpack.Decoder[list[Any]]] = {}

    def decode(self, job: Job) -> tuple[list[Any], Exception | None]:
        """Return the items of *job*, up to the first that cannot be read, and what is wrong with that one."""
        items: list[Any] = []
        wrong: Exception | None = None
        for name, run in job.runs:
            try:
                items += self._decoder(name).decode(run)
            except Exception:
                wrong = self._decode_singly(name, run, items)
                break
        for index, evidence in job.evidence:
            if index < len(items):
                items[index] = with_evidence(items[index], evidence)
        return items, wrong

    def _decoder(self, name: str) -> msgspec.msgpack.Decoder[list[Any]]:
        decoder = self._decoders.get(name)
        if decoder is None:
            decoder = self._decoders[name] = msgspec.msgpack.Decoder(list[_find(name)])  # type: ignore[misc]  # found at run time
        return decoder

    def _decode_singly(self, name: str, run: msgspec.Raw, items: list[Any]) -> Exception | None:
        for one in msgspec.msgpack.decode(run, type=list[msgspec.Raw]):
            try:
                items += self._decoder(name).decode(_LIST_OF_ONE + bytes(one))
            except Exception as error:
                return error
        return None
