"""What the two dialects of Coinbase have in common: names, books and trade numbers.

Rules: sans-I/O, no trio. State is kept only of symbols that were asked for, so that it
is bounded whatever the venue sends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, final

import msgspec

from .base import CodecContext

__all__ = [
    "TAKER_SIDE",
    "Books",
    "Id",
    "Moment",
    "Name",
    "Names",
    "Price",
    "Size",
    "TradeNumbers",
    "without_empty",
]

# The bounds also keep out NaN and infinity, which msgspec reads from text.
Price = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Size = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Id = Annotated[int, msgspec.Meta(ge=0)]

TAKER_SIDE: Final[dict[str, Literal["buy", "sell"]]] = {
    "buy": "sell",
    "sell": "buy",
    "BUY": "sell",
    "SELL": "buy",
}
"""The side of the taker, by the side that Coinbase names, which is the maker's."""


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """Return *fields* without those that say nothing: null, or an empty text."""
    return {key: value for key, value in fields.items() if value is not None and value != ""}


@final
class Names:
    """The symbols that were asked for, by the venue's spelling.

    Args:
        aliases: whether the venue answers for ``X-USD`` where ``X-USDC`` was asked for.
    """

    def __init__(self, *, aliases: bool = False) -> None:
        self.asked: dict[str, str] = {}
        """By the venue's spelling, the spelling in which a symbol was asked for."""
        self.settled: set[str] = set()
        """Those that are not to be asked for once more on this connection."""
        self._aliases = aliases

    def ask(self, symbols: Iterable[str]) -> list[str]:
        """Remember *symbols*, and return them in the venue's spelling."""
        spelt = []
        for symbol in symbols:
            name = symbol.upper()
            spelt.append(name)
            self.asked[name] = symbol
            self.settled.discard(symbol)
            if self._aliases and name.endswith("-USDC"):
                # Where both are asked for, what comes is that of the one in dollars.
                self.asked.setdefault(name[:-1], symbol)
        return spelt

    def has(self, symbol: str | None) -> bool:
        """Return whether *symbol* was asked for."""
        return symbol is not None and symbol.upper() in self.asked

    def not_settled_after(self, refused: str | None) -> list[str]:
        """Return the symbols to ask for again because *refused* was refused.

        None if it is not known which one was refused, or if that is no news.
        """
        if refused is None or refused in self.settled:
            return []
        self.settled.add(refused)
        symbols = dict.fromkeys(self.asked.values())
        return [symbol for symbol in symbols if symbol not in self.settled]

    def find(self, words: str) -> str | None:
        """Return the first symbol in *words* that was asked for, as it was asked."""
        for word in words.replace(",", " ").replace('"', " ").split():
            found = self.asked.get(word.strip(".:;'()[]"))
            if found is not None:
                return found
        return None


@final
class Books:
    """Which order books are whole, and which wait for their snapshot.

    A book waits from the venue's acknowledgement to its snapshot. Updates that come
    before that belong to a book that nobody has: they are passed on, after a gap. From
    a message that is missing or makes no sense until the next snapshot, the pipeline
    holds the updates back.

    Args:
        context: of the connection.
    """

    def __init__(self, context: CodecContext) -> None:
        self._context = context
        self._whole: set[str] = set()
        self._broken: set[str] = set()
        self.waiting: dict[str, bool] = {}
        """The symbols that wait for a snapshot; whether that has been reported."""

    def forget(self, symbols: Iterable[str]) -> None:
        """Begin anew with *symbols*, which are subscribed to or unsubscribed from."""
        for symbol in symbols:
            self._whole.discard(symbol)
            self._broken.discard(symbol)
            self.waiting.pop(symbol, None)

    def acknowledged(self, symbols: Iterable[str]) -> None:
        """Notice that the venue will send the snapshots of *symbols*."""
        for symbol in symbols:
            if symbol not in self._whole:
                self.waiting.setdefault(symbol, False)

    def snapshot_came(self, symbol: str, *, asked: bool) -> None:
        """Notice that the book of *symbol* is whole."""
        if asked:
            self._whole.add(symbol)
            self._broken.discard(symbol)
        self.waiting.pop(symbol, None)

    def update_came(self, symbol: str) -> None:
        """Report *symbol* if its snapshot has not come yet. Call it while some wait."""
        if self.waiting.get(symbol) is False:
            self.waiting[symbol] = True
            self._context.gap(symbol)

    def broke(self, symbol: str) -> None:
        """Notice that a message of the book makes no sense."""
        if symbol not in self._broken:
            self.all_lost((symbol,))

    def all_lost(self, symbols: Iterable[str]) -> None:
        """Report the books of *symbols* as wrong until their next snapshots."""
        for symbol in symbols:
            self._whole.discard(symbol)
            self._broken.add(symbol)
            self.waiting[symbol] = True
            self._context.need_snapshot(symbol)


@final
class TradeNumbers:
    """The numbers of a symbol's trades, which have no holes.

    A heartbeat names the last trade. It may overtake that trade's own message, so a
    trade counts as missing only if the next heartbeat comes before it.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._named: dict[str, int] = {}

    def forget(self, symbols: Iterable[str]) -> None:
        """Begin anew with *symbols*."""
        for symbol in symbols:
            self._last.pop(symbol, None)
            self._named.pop(symbol, None)

    def begin(self, symbol: str, number: int) -> None:
        """Notice that the trade *number* was the last one before the subscription."""
        self._last.setdefault(symbol, number)

    def trade_came(self, symbol: str, number: int) -> int:
        """Notice a trade, and return how many are missing before it."""
        last = self._last.get(symbol, number - 1)
        self._last[symbol] = max(last, number)
        return max(0, number - last - 1)

    def heartbeat_came(self, symbol: str, number: int) -> int:
        """Notice a heartbeat that names the trade *number*.

        Returns:
            int: how many trades of those that the heartbeat before has named are
            missing.
        """
        last = self._last.setdefault(symbol, number)
        named = self._named.get(symbol, 0)
        self._named[symbol] = number
        if named <= last:
            return 0
        self._last[symbol] = named
        return named - last
