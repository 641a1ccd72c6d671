"""From symbols to the connections that carry them, and to the requests about them.

The throttle and the user speak of symbols by the user's names. Each symbol belongs to
one connection, whose codec makes the request for it, in the venue's spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import final

from ..venues import requests_of
from .link import Link

__all__ = ["RateSwitchboard", "Request", "Switchboard"]

Request = tuple[Link, str | bytes]
"""A message, and the connection to send it on."""


class Switchboard:
    """Makes requests for symbols, each on the connection that carries the symbol."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.spelling: dict[str, str] = {}
        """By the user's name, the venue's spelling of each symbol of the feed."""
        self.only: Link | None = None
        """The connection that requests are made for; ``None``: all."""
        self.restart_book: Callable[[str], object] | None = None
        """Gets a snapshot by another way than a request; ``None``: there is none."""

    def _parts(self, symbols: Iterable[str]) -> Iterable[tuple[Link, list[str]]]:
        spelling = self.spelling
        wanted = [spelling[symbol] for symbol in symbols if symbol in spelling]
        rank = {symbol: number for number, symbol in enumerate(wanted)}
        for link in self.links if self.only is None else (self.only,):
            # Looks at the fewer of the two: there may be thousands of either.
            mine = sorted(rank.keys() & link.symbols.keys(), key=rank.__getitem__)
            part = [symbol for symbol in mine if symbol not in link.refused]
            if part and link.codec is not None:
                yield link, part

    def subscribe(self, symbols: Sequence[str], /) -> list[Request]:
        """Return the requests that subscribe to *symbols*."""
        return [
            (link, message)
            for link, part in self._parts(symbols)
            if link.codec is not None
            for message in requests_of(link.codec, "subscribe", part)
        ]

    def unsubscribe(self, symbols: Sequence[str], /) -> list[Request]:
        """Return the requests that unsubscribe from *symbols*."""
        return [
            (link, message)
            for link, part in self._parts(symbols)
            if link.codec is not None
            for message in requests_of(link.codec, "unsubscribe", part)
        ]

    def request_snapshot(self, symbol: str, /) -> None:
        """Ask for a snapshot of the book of *symbol*, if its connection is open."""
        if self.restart_book is not None:
            self.restart_book(symbol)
            return
        for link, part in self._parts([symbol]):
            if link.codec is not None:
                for spelling in part:
                    link.post(requests_of(link.codec, "request_snapshot", spelling))


@final
class RateSwitchboard(Switchboard):
    """A switchboard for venues that accept a limit on their rate."""

    def throttle(self, max_rate: float | None, /) -> list[Request]:
        """Return the requests for at most *max_rate* ticks a second.

        Each connection gets a share by the number of its symbols.
        """
        total = sum(len(link.symbols) for link in self.links) or 1
        requests: list[Request] = []
        for link in self.links if self.only is None else (self.only,):
            if link.codec is not None:
                share = None if max_rate is None else max_rate * len(link.symbols) / total
                messages = requests_of(link.codec, "throttle", share)
                requests += [(link, message) for message in messages]
        return requests
