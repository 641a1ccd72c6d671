"""What the events in a recording mean for its decoding: connections, symbols, losses.

A live feed has a new codec for each connection, leaves out symbols that nobody asked
for, and gives the others the user's names. The recorder writes down what is needed to
do the same, so that the same items come out of the recording.

Rules: sync, no I/O. An event that makes no sense has no effect. What is kept by
connection and by symbol is bounded, whatever the file holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, final

from ..gaps import GapReason
from ..recordings.events import facts_of
from .venues import Codec, Language, requests_of

__all__ = ["Connections"]

Loss = tuple[str, GapReason, bool]
"""The venue's symbol, why items of it are missing, and whether its book is wrong."""
_MOST_CONNECTIONS: Final = 1000
_MOST_SYMBOLS: Final = 100_000
"""Symbols with a name, of a connection, and of those that are told of a loss."""


@final
class Connections:
    """The codecs of a recording's connections, and the names of its symbols.

    Args:
        language: of the venue.
        new_codec: makes the codec of a connection.
        subscribed: in the venue's spelling, if the recording does not say it.
    """

    def __init__(
        self, language: Language, new_codec: Callable[[], Codec], subscribed: Iterable[str]
    ) -> None:
        self.names: dict[str, str] | None = None
        """By the venue's spelling, the user's names; ``None``: not known."""
        self.takes_all = True
        """Whether items of symbols that are not in ``names`` are good, too."""
        self.renames = False
        self._wildcard: Final = language.wildcard
        self._new_codec = new_codec
        self._subscribed = list(subscribed)
        self._codecs: OrderedDict[int, Codec] = OrderedDict()
        self._symbols: dict[int, list[str]] = {}
        """Those of a connection, where it does not have all."""
        self._run: tuple[object, object] = (None, None)
        """The run of the recorder, and the part of it."""
        self._seen: dict[str, None] = {}
        self._current = 1
        self.decode = self._open(1).decode
        """Of the connection that the next message came by."""

    def _open(self, number: int) -> Codec:
        """Return a new codec, for connection *number*."""
        codec = self._codecs[number] = self._new_codec()
        self._codecs.move_to_end(number)
        if len(self._codecs) > _MOST_CONNECTIONS:
            gone, _ = self._codecs.popitem(last=False)
            self._symbols.pop(gone, None)
        # It makes messages, which nobody needs, and learns what it is about.
        wanted = self._subscribed if self.names is None else self.names
        requests_of(codec, "subscribe", list(self._symbols.get(number, wanted)))
        return codec

    def _use(self, number: int) -> None:
        self._current = number
        codec = self._codecs.get(number)
        self.decode = (self._open(number) if codec is None else codec).decode

    def saw(self, symbols: Iterable[str]) -> None:
        """Remember *symbols*, of which there were items."""
        if len(self._seen) < _MOST_SYMBOLS:
            self._seen.update(dict.fromkeys(symbols))

    def take(self, word: str, body: bytes) -> list[Loss]:
        """Do what an event asks for.

        Returns:
            The losses that it shows.
        """
        facts = facts_of(body)
        if word == "recording":
            return self._begin(facts)
        if word in ("dropped", "damaged"):
            return [(symbol, "sequence", True) for symbol in self._all()]
        number = facts.get("connection")
        if word == "connection" and isinstance(number, int):
            self._use(number)
        elif word == "opened" and isinstance(number, int):
            return self._opened(number, facts)
        elif word == "subscribed" and isinstance(facts.get("symbols"), dict):
            self._rename({**(self.names or {}), **facts["symbols"]})
            for codec in self._codecs.values():
                requests_of(codec, "subscribe", list(facts["symbols"]))
        elif word == "unsubscribed" and isinstance(facts.get("symbols"), list):
            gone = set(map(str, facts["symbols"]))
            self._rename({key: name for key, name in (self.names or {}).items() if key not in gone})
        return []

    def _begin(self, facts: Mapping[str, Any]) -> list[Loss]:
        """Begin with a file; what an earlier part of the same run has shown, stays."""
        before, self._run = self._run, (facts.get("run"), facts.get("part"))
        symbols = facts.get("symbols")
        self._rename(symbols if isinstance(symbols, dict) else None)
        run, part = before
        if run == facts.get("run") and isinstance(part, int) and facts.get("part") == part + 1:
            self._use(1)
            return []
        self._codecs.clear()
        self._symbols.clear()
        self._use(1)
        return [] if run is None else [(symbol, "reconnect", False) for symbol in self._all()]

    def _opened(self, number: int, facts: Mapping[str, Any]) -> list[Loss]:
        symbols = facts.get("symbols")
        self._symbols.pop(number, None)
        if isinstance(symbols, list):
            self._symbols[number] = list(map(str, symbols[:_MOST_SYMBOLS]))
        old = facts.get("after")
        past = self._codecs.pop(old, None) if isinstance(old, int) else None
        codec = self._open(number)
        if past is not None:
            codec.succeed(past)
        self._use(self._current if self._current != old else number)
        if not facts.get("again"):
            return []
        return [(symbol, "reconnect", False) for symbol in self._symbols.get(number, self._all())]

    def _rename(self, names: Mapping[str, Any] | None) -> None:
        if names is None:
            self.names = None
        else:
            first = islice(names.items(), _MOST_SYMBOLS)
            self.names = {symbol: str(name) for symbol, name in first}
        found = self.names or {}
        self.takes_all = self.names is None or self._wildcard in found
        self.renames = any(symbol != name for symbol, name in found.items())

    def _all(self) -> list[str]:
        if self.names is None or self.takes_all:
            return list(self._seen)
        return list(self.names)
