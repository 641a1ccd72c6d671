"""The faults that the local Coinbase can have, each switched on by its name.

Rules: sans-I/O. A fault that happens now and then happens at every so many messages
that it can happen to, of one connection, so that a test knows when.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

from ..venues import Faults

__all__ = ["FAULTS", "CoinbaseFaults", "with_bad_price", "with_bad_quote"]

FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "big-snapshot": "The snapshot of a book is larger than 5 MB.",
        "broken-update": "Now and then a level has a price that is no number.",
        "clock-ahead": "The venue's clock is 1.27 s ahead.",
        "cut": "Now and then the connection ends without a Close.",
        "data-before-ack": "The first data come before the acknowledgement.",
        "dropped-message": "Now and then a message is left out: a trade in Exchange,"
        " where only these have numbers without holes.",
        "late-snapshot": "The snapshot of a book comes after five of its updates.",
        "lower-sequence": "Now and then an older message comes again.",
        "no-heartbeat": "There are no heartbeats.",
        "no-pong": "Pings are not answered.",
        "no-sizes": "Quotes come without sizes, as in 2021.",
        "repeated-message": "Now and then a message comes twice.",
        "silence": "After some data nothing more comes; the socket stays open.",
        "snapshot-in-mid-stream": "Now and then the snapshot of a book comes again.",
        "unknown-message": "Now and then comes a message of a kind that nobody knows.",
        "withdrawn-quote": "Now and then a quote is without its bid.",
    }
)
"""The faults that the local Coinbase can have, and what each of them does."""

_SIZES: Final = ("best_bid_size", "best_ask_size", "best_bid_quantity", "best_ask_quantity")


@final
class CoinbaseFaults(Faults):
    """The faults of one connection, and what they do to a ticker."""

    silent = False
    """Whether the silence has begun, which does not end."""

    def spoil_quote(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return *message*, a ticker, without what a fault takes from it."""
        withdrawn, bare = self.due("withdrawn-quote"), "no-sizes" in self.names
        return with_bad_quote(message, withdrawn=withdrawn, bare=bare)


def with_bad_quote(message: dict[str, Any], *, withdrawn: bool, bare: bool) -> dict[str, Any]:
    """Return a ticker without its bid, or without sizes."""
    if not (withdrawn or bare):
        return message
    bad = copy.deepcopy(message)
    rows = [row for event in bad.get("events", ()) for row in event["tickers"]] or [bad]
    for row in rows:
        if withdrawn:
            row["best_bid"] = None
        for key in _SIZES if bare else ():
            row.pop(key, None)
    return bad


def with_bad_price(message: dict[str, Any]) -> dict[str, Any]:
    """Return an update of a book with prices that are no numbers."""
    bad = copy.deepcopy(message)
    for change in bad.get("changes", ()):
        change[1] = "x"
    for level in (level for event in bad.get("events", ()) for level in event["updates"]):
        level["price_level"] = "x"
    return bad
