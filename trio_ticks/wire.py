"""Items (ticks and other market data) as MessagePack by schema, never as pickle.

Rules: no I/O, no clock. Items are written as runs of one kind, so that each run is
decoded in C straight into its class; only a run in which a quantity is absent (NaN,
which the constraints of the class refuse) takes a second reading. An item that cannot
be written or read costs itself alone, never its neighbours. The evidence of conflated
items is written beside them. The message that carries the items (a job, an entry of a
broker), and its version, is the caller's.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec

from .conflation import Conflation, base_of, conflation_of, with_evidence, without_evidence
from .errors import ConfigError
from .ticks import QUANTITIES, is_quantity

__all__ = ["ItemDecoder", "ItemEncoder", "Items"]

_MOST_KINDS = 1000
"""Kinds whose decoder is kept."""
_LIST_OF_ONE = b"\x91"
"""The MessagePack header of a list with one item."""


class Items(msgspec.Struct, array_like=True, frozen=True):
    """Items as they are written: a value to put into the caller's own message."""

    runs: tuple[tuple[str, msgspec.Raw], ...]
    """Runs of items of one kind: the kind's name, and the list of the items."""
    evidence: tuple[tuple[int, Conflation], ...] = ()
    """The evidence of the conflated items, by their place among all items."""


_encode = msgspec.msgpack.Encoder().encode


class ItemEncoder:
    """Writes items; remembers the kinds that it found can be read again."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}

    def encode(self, items: Sequence[Any]) -> tuple[Items, int, ConfigError | None]:
        """Write *items*, up to the first that cannot be written.

        Returns:
            What was written, how many items it holds, and why the next one cannot be
            written; ``None`` if all of them were.
        """
        try:
            return self._encode(items), len(items), None
        except Exception:
            count, error = self._writable(items)
        return self._encode(items[:count]), count, error

    def _encode(self, items: Sequence[Any]) -> Items:
        evidence: tuple[tuple[int, Conflation], ...] = ()
        kinds = set(map(type, items))
        if not kinds <= self._names.keys():
            # A conflated item has a class of its own, which has no name here, so the
            # evidence is written beside the plain item.
            evidence = tuple(
                (index, found)
                for index, item in enumerate(items)
                if (found := conflation_of(item)) is not None
            )
            items = [without_evidence(item) for item in items]
        elif len(kinds) == 1:
            # As it is nearly always: no look at each item, and no copy.
            return Items(((self._names[kinds.pop()], msgspec.Raw(_encode(items))),))
        runs = tuple(
            (self._names[kind], msgspec.Raw(_encode(list(run))))
            for kind, run in itertools.groupby(items, type)
        )
        return Items(runs, evidence)

    def _writable(self, items: Sequence[Any]) -> tuple[int, ConfigError | None]:
        for index, item in enumerate(items):
            try:
                self._check(base_of(item), item)
            except Exception as error:
                kind = base_of(item)
                failure = ConfigError(
                    f"a {kind.__module__}.{kind.__qualname__} cannot go to another process: "
                    f"{error}. It takes a class at module level (attrs, dataclass or "
                    "msgspec.Struct) whose annotated fields msgspec can write and read"
                )
                failure.__cause__ = error
                return index, failure
        return len(items), None

    def _check(self, kind: type, item: Any) -> None:
        """Write *item*; read the first of its kind again, which must give the same."""
        plain = without_evidence(item)
        written = _encode([plain])
        if kind in self._names:
            return
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _find(name) is not kind:
            raise TypeError(f"its class cannot be imported as {name}")
        decode = _decoder_of(kind)
        (read,) = decode(written)
        if kind.__eq__ is not object.__eq__ and read != plain:
            # One that holds NaN does not even equal itself, read twice.
            (again,) = decode(written)
            if read == again or _encode([read]) != written:
                raise TypeError(f"it is read as {read!r} after {plain!r} was written")
        self._names[kind] = name


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _decoder_of(kind: type[Any]) -> Callable[[bytes | msgspec.Raw], list[Any]]:
    """Return a function that reads a list of items of *kind*."""
    strict = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]  # a type that is found at run time
    names = [
        name for base, fields in QUANTITIES.items() if issubclass(kind, base) for name in fields
    ]
    if not names:
        return strict
    read_sparse: Callable[[bytes | msgspec.Raw], list[Any]] | None = None

    def read(run: bytes | msgspec.Raw) -> list[Any]:
        nonlocal read_sparse
        try:
            return strict(run)
        except msgspec.ValidationError:
            if read_sparse is None:
                read_sparse = _sparse_decoder_of(kind, names)
            items = read_sparse(run)
            if all(is_quantity(getattr(item, name)) for item in items for name in names):
                return items
            raise

    return read


def _sparse_decoder_of(
    kind: type[Any], names: Sequence[str]
) -> Callable[[bytes | msgspec.Raw], list[Any]]:
    """Return a function that reads items of *kind*; those of *names* are any floats."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field.name for field in attrs.fields(kind)]
    twin = msgspec.defstruct(
        f"Sparse{kind.__name__}",
        [(name, float if name in names else hints[name]) for name in fields],
    )
    decode = msgspec.msgpack.Decoder(list[twin]).decode  # type: ignore[valid-type]  # made at run time

    def read(run: bytes | msgspec.Raw) -> list[Any]:
        new, fill = object.__new__, object.__setattr__
        items = []
        for values in decode(run):
            item = new(kind)
            # The class is frozen; attrs itself fills frozen instances in this way.
            for name in fields:
                fill(item, name, getattr(values, name))
            items.append(item)
        return items

    return read


class ItemDecoder:
    """Reads items into their classes.

    Args:
        imports: whether to import the module of a class that is not loaded here. Say no
            where others may write what is read: what is imported is run.
    """

    def __init__(self, *, imports: bool = True) -> None:
        self._imports = imports
        self._decoders: dict[str, Callable[[bytes | msgspec.Raw], list[Any]]] = {}

    def decode(self, written: Items) -> tuple[list[Any], Exception | None]:
        """Read *written*, up to the first item that cannot be read.

        Returns:
            The items, and the error of the first that cannot be read, or ``None``.
        """
        items: list[Any] = []
        wrong: Exception | None = None
        for name, run in written.runs:
            try:
                items += self._decoder(name)(run)
            except Exception:
                wrong = self._decode_singly(name, run, items)
                break
        for index, evidence in written.evidence:
            if 0 <= index < len(items):
                items[index] = with_evidence(items[index], evidence)
        return items, wrong

    def _decoder(self, name: str) -> Callable[[bytes | msgspec.Raw], list[Any]]:
        decoder = self._decoders.get(name)
        if decoder is None:
            if not self._imports and name.partition(":")[0] not in sys.modules:
                raise TypeError(f"the module of its class {name:.100} is not imported here")
            kind = _find(name)
            # Under other names, which others may make up without end, it is refused.
            if not isinstance(kind, type) or name != f"{kind.__module__}:{kind.__qualname__}":
                raise TypeError(f"{name:.100} is no name of a class")
            if len(self._decoders) >= _MOST_KINDS:
                self._decoders.clear()
            decoder = self._decoders[name] = _decoder_of(kind)
        return decoder

    def _decode_singly(self, name: str, run: msgspec.Raw, items: list[Any]) -> Exception | None:
        try:
            singles = msgspec.msgpack.decode(run, type=list[msgspec.Raw])
        except Exception as error:
            return error  # it is no list at all
        for one in singles:
            try:
                items += self._decoder(name)(_LIST_OF_ONE + bytes(one))
            except Exception as error:
                return error
        return None
