"""The entries of a broker: stretches of ticks as MessagePack, by shard.

Goals: one entry carries many ticks, since a broker's price is by the entry. An entry of
which anything cannot be read is junk as a whole, and costs no other entry.

The form of an entry, version 1: a list ``[1, "ticks", ticks, arrivals, items, gaps]``.
``ticks`` is how many ticks it holds, so that one who cannot read the rest can count
them. ``arrivals`` are runs ``[count, seconds since 1970]``. ``items`` is
:class:`~trio_ticks.wire.Items`. ``gaps`` is a list of ``[place, gap]``. Later versions
may append members, which older readers ignore; a change that they must not ignore has
another version.

Rules: no I/O. Times are the ingest's.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Hashable, Sequence
from operator import ne
from typing import Any, Final, Literal, final

import attrs
import msgspec

from ..buffer import Stretch
from ..errors import ConfigError, TickError
from ..gaps import Gap
from ..wire import ItemDecoder, ItemEncoder, Items

__all__ = ["VERSION", "JunkEntryError", "Packer", "Record", "Unpacker", "shard_of"]

VERSION: Final = 1
_MOST_BYTES: Final = 900_000
"""Bytes of one record that holds several ticks, about: less than what Kafka's client
and ZeroMQ's protocol take, and little enough for one round trip to Redis. Order books
of a thousand levels have some 30,000 bytes each."""
_APART: Final = 64
"""So many entries are read in two steps after one that could not be read in one."""
_MOST_DIRECT: Final = 256
"""Kinds whose decoder is kept: to make one costs as much as to read thirty entries."""
_MOST_HOMES: Final = 100_000
"""Symbols whose shard is remembered. It is only quicker than to compute it."""


def shard_of(symbol: str, shards: int) -> int:
    """Return the shard of *symbol*, from 0: the same in every process."""
    return zlib.crc32(symbol.encode("utf-8", "surrogatepass")) % shards


class JunkEntryError(TickError):
    """An entry that cannot be read.

    Attributes:
        ticks: how many ticks it says that it holds; 1 if it does not say that, or if
            it cannot hold so many.
    """

    def __init__(self, message: str, *, ticks: int = 1) -> None:
        super().__init__(message)
        self.ticks = ticks


@attrs.frozen(slots=True)
class Record:
    """Ticks of one shard, ready to be appended as one entry."""

    shard: int
    ticks: int
    body: bytes


_Part = tuple[list[Any], list[float], list[tuple[int, Gap]]]
"""Items of one shard, their arrivals, and gaps by place."""


class _Entry(msgspec.Struct, array_like=True):
    version: int
    kind: str
    ticks: int
    arrivals: list[tuple[int, float]]
    items: Items
    gaps: list[tuple[int, Gap]] = []


class _Head(msgspec.Struct, array_like=True):
    version: int = 0
    kind: str = ""
    ticks: int = 1


@functools.lru_cache(maxsize=_MOST_DIRECT)
def _direct_decoder(name: str, kind: Hashable) -> Callable[[bytes], Any]:
    """Return a function that reads entries all of whose items are of *kind*, in one go.

    It raises at every other entry, also at one with the evidence of conflated items.
    Two steps, first the entry and then its items, walk over all bytes of the items
    twice: that took a tenth of the time that an entry takes.
    """
    run = tuple[Literal[name], list[kind]]  # type: ignore[valid-type]  # found at run time
    items = msgspec.defstruct(
        "DirectItems", [("runs", tuple[run]), ("evidence", tuple[()], ())], array_like=True
    )
    entry = msgspec.defstruct(
        "DirectEntry",
        [
            ("version", Literal[VERSION]),
            ("kind", Literal["ticks"]),
            ("ticks", int),
            ("arrivals", list[tuple[int, float]]),
            ("items", items),
            ("gaps", list[tuple[int, Gap]], msgspec.field(default_factory=list)),
        ],
        array_like=True,
    )
    return msgspec.msgpack.Decoder(entry).decode


@final
class Packer:
    """Packs stretches into records.

    Args:
        shards: how many shards there are.
        pack: how many ticks a record holds at most; fewer if they are large.
    """

    def __init__(self, shards: int, pack: int) -> None:
        self._shards = shards
        self._pack = pack
        self._homes: dict[str, int] = {}
        self._items = ItemEncoder()
        self._encode = msgspec.msgpack.Encoder().encode

    def shard(self, symbol: str) -> int:
        """Return the shard of *symbol*."""
        home = self._homes.get(symbol)
        if home is None:
            if len(self._homes) >= _MOST_HOMES:
                self._homes.clear()
            home = self._homes[symbol] = shard_of(symbol, self._shards)
        return home

    def pack(self, stretch: Stretch) -> tuple[list[Record], list[tuple[Any, ConfigError]]]:
        """Pack *stretch*, each shard's ticks in their order.

        Returns:
            The records, and the items that cannot be written, each with the reason.
        """
        refused: list[tuple[Any, ConfigError]] = []
        try:
            parts = self._parts(stretch)
        except Exception:
            # To look at each symbol would cost each tick of an ingest.
            parts = self._parts(self._with_shards(stretch, refused))
        records: list[Record] = []
        for home, (items, times, places) in parts.items():
            at, size = 0, self._pack
            while at < len(items):
                end = at + size
                written, count, error = self._items.encode(items[at:end])
                end = at + count
                if count:
                    inside = [(place - at, gap) for place, gap in places if at <= place < end]
                    runs = _runs(times[at:end])
                    body = self._encode(_Entry(VERSION, "ticks", count, runs, written, inside))
                    if len(body) > _MOST_BYTES and count > 1:
                        size = max(1, min(count // 2, count * _MOST_BYTES // len(body)))
                        continue
                    records.append(Record(home, count, body))
                    size = min(2 * size, self._pack)
                if error is not None:
                    refused.append((items[end], error))
                    # Its gap is the next item's, if that is of the same symbol.
                    places = _without(places, items, end)
                    end += 1
                at = end
        return records, refused

    def _with_shards(self, stretch: Stretch, refused: list[tuple[Any, ConfigError]]) -> Stretch:
        """Return the items whose symbols have a shard; add the others to *refused*."""
        new: dict[int, int] = {}
        for place, item in enumerate(stretch.items):
            try:
                self.shard(item.symbol)
            except Exception as error:
                why = f"a {type(item).__name__} cannot be written: its symbol is no text ({error})"
                refused.append((item, ConfigError(why)))
            else:
                new[place] = len(new)
        return Stretch(
            [stretch.items[place] for place in new],
            [stretch.arrived[place] for place in new],
            [(new[place], gap) for place, gap in stretch.gaps if place in new],
        )

    def _parts(self, stretch: Stretch) -> dict[int, _Part]:
        """Return what *stretch* has for each shard."""
        parts: dict[int, _Part] = {}
        # By symbol, so that most ticks cost one look into one mapping.
        known: dict[str, _Part] = {}
        begin = 0
        for place, gap in stretch.gaps:
            self._divide(stretch, begin, place, parts, known)
            part = self._part(gap.symbol, parts, known)
            part[2].append((len(part[0]), gap))
            begin = place
        self._divide(stretch, begin, len(stretch.items), parts, known)
        return parts

    def _divide(
        self,
        stretch: Stretch,
        begin: int,
        end: int,
        parts: dict[int, _Part],
        known: dict[str, _Part],
    ) -> None:
        """Put the items from *begin* to *end* into the parts of their shards."""
        items, arrived = stretch.items[begin:end], stretch.arrived[begin:end]
        part_of = known.get
        # A statement more in here costs each tick of an ingest.
        for item, time in zip(items, arrived, strict=True):
            part = part_of(item.symbol)
            if part is None:
                part = self._part(item.symbol, parts, known)
            part[0].append(item)
            part[1].append(time)

    def _part(self, symbol: str, parts: dict[int, _Part], known: dict[str, _Part]) -> _Part:
        """Return the part of *symbol*, and keep it in *parts* and *known*."""
        part = known[symbol] = parts.setdefault(self.shard(symbol), ([], [], []))
        return part


def _runs(times: list[float]) -> list[tuple[int, float]]:
    """Return *times* as runs: how many are equal, and the time."""
    # The places at which a run ends, found without a step of Python for each time.
    changes = map(ne, times, itertools.islice(times, 1, None))
    ends = [*itertools.compress(itertools.count(1), changes), len(times)]
    found: list[tuple[int, float]] = []
    begin = 0
    for end in ends:
        found.append((end - begin, times[begin]))
        begin = end
    return found


def _without(
    places: Sequence[tuple[int, Gap]], items: Sequence[Any], left_out: int
) -> list[tuple[int, Gap]]:
    """Return *places* with the gap of an item that is left out at its symbol's next."""
    lost = next((gap for place, gap in places if place == left_out), None)
    if lost is None:
        return list(places)
    kept = {place: gap for place, gap in places if place != left_out}
    following = (at for at in range(left_out + 1, len(items)) if items[at].symbol == lost.symbol)
    after = next(following, None)
    if after is not None:
        kept[after] = lost.joined(kept[after]) if after in kept else lost
    return sorted(kept.items(), key=lambda each: each[0])


@final
class Unpacker:
    """Reads entries back into stretches."""

    def __init__(self) -> None:
        self._items = ItemDecoder(imports=False)
        self._kinds: set[type] = set()
        """The classes of items that were found to be market data."""
        self._plain = ""
        """The last kind of item that was alone in an entry and is one of these."""
        self._decode = msgspec.msgpack.Decoder(_Entry).decode
        self._head = msgspec.msgpack.Decoder(_Head).decode
        self._direct: Callable[[bytes], Any] | None = None
        """Reads entries of the kind ``_plain`` in one step."""
        self._apart = 0
        """How many entries are read in two steps before ``_direct`` is tried again."""

    def unpack(self, body: bytes, shift_s: float = 0.0, latest: float = math.inf) -> Stretch:
        """Return the ticks and gaps of one entry.

        Args:
            body: the entry.
            shift_s: is added to the times of arrival: for a clock other than the
                writer's.
            latest: no time of arrival is later than this.

        Raises:
            JunkEntryError: it is none of ours, of a version that we do not know, or
                broken. Nothing of it is to be handled.
        """
        entry: Any = None
        if self._apart:
            self._apart -= 1
        elif self._direct is not None:
            try:
                entry = self._direct(body)
            except Exception:
                # Another kind of item, several kinds, an absent quantity, or junk.
                self._apart = _APART
        if entry is not None:
            items = entry.items.runs[0][1]
        else:
            entry, items = self._unpack_in_steps(body)
        arrived: list[float] = []
        total = 0.0
        for count, time in entry.arrivals:
            total += time
            if not 0 <= count <= len(items) - len(arrived):
                break
            time += shift_s
            arrived += [time if time < latest else latest] * count
        # Of the sum, since a look at each time would cost more than to read it.
        if not math.isfinite(total):
            raise self._junk(body, "a time of arrival is none")
        if not len(items) == len(arrived) == entry.ticks:
            raise self._junk(body, "the counts of its ticks disagree")
        last = -1
        for place, gap in entry.gaps:
            if not last < place < len(items) or items[place].symbol != gap.symbol:
                raise self._junk(body, "a gap is out of place")
            last = place
        return Stretch(items, arrived, entry.gaps)

    def _unpack_in_steps(self, body: bytes) -> tuple[_Entry, list[Any]]:
        """Return an entry of any kind of items, and its items."""
        try:
            entry = self._decode(body)
        except Exception as error:
            # A ValidationError, a DecodeError, or a RecursionError.
            raise self._junk(body, f"it cannot be read ({error})") from None
        if entry.version != VERSION or entry.kind != "ticks":
            raise self._junk(
                body, f"it has the version {entry.version} and the kind {entry.kind!r:.40}"
            )
        items, wrong = self._items.decode(entry.items)
        if wrong is not None:
            raise self._junk(body, f"an item cannot be read ({wrong})") from wrong
        runs = entry.items.runs
        if len(runs) != 1 or runs[0][0] != self._plain:
            self._check_kinds(body, items)
            if items and len(runs) == 1 and not entry.items.evidence:
                self._plain = runs[0][0]
                kind: Any = type(items[0])
                self._direct = _direct_decoder(self._plain, kind)
            else:
                self._plain, self._direct = "", None
        return entry, items

    def _check_kinds(self, body: bytes, items: list[Any]) -> None:
        """Raise if *items* are not all market data."""
        for kind in set(map(type, items)) - self._kinds:
            # It may be any class that is loaded here.
            item = next(item for item in items if type(item) is kind)
            if not (hasattr(item, "symbol") and hasattr(item, "timestamp")):
                raise self._junk(body, f"{kind.__name__:.100} is no market data")
            self._kinds.add(kind)

    def count(self, body: bytes) -> int:
        """Return how many ticks an entry says that it holds, without reading them.

        It is 1 for an entry that does not say it, or that cannot hold so many.
        """
        try:
            ticks = self._head(body).ticks
        except Exception:
            return 1
        # A tick takes a byte at least, and a ledger is not to count what cannot be.
        return ticks if 0 < ticks <= len(body) else 1

    def _junk(self, body: bytes, why: str) -> JunkEntryError:
        text = f"an entry of {len(body)} bytes is junk: {why}"
        return JunkEntryError(text, ticks=self.count(body))
