"""Kraken's checksum of an order book: CRC32 over the digits of its ten best levels.

Each level stands for the digits of its price and its quantity as they were sent,
without the point and without leading zeros; the asks come first, each side from the
best level on. Facts: docs.kraken.com/exchange/guides/websockets/book-checksum-v2.

Rules: sans-I/O. Digits are read from the message itself, since a float does not keep
them (0.00031250), and only here, so that they cost nothing where no book is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final, final
from zlib import crc32

import msgspec

from ...book import MOST_LEVELS, Book
from ...ticks import BookUpdate, Level
from .base import BAD_MESSAGE

__all__ = ["KrakenChecksum"]

_LEVELS: Final = 10
_SPARE: Final = 100
_LONGEST: Final = 400
"""Digits of a number with an exponent; a float has at most 324 behind the point."""


class _RawLevel(msgspec.Struct, gc=False):
    price: msgspec.Raw
    qty: msgspec.Raw


class _RawEntry(msgspec.Struct, gc=False):
    bids: list[_RawLevel] = []
    asks: list[_RawLevel] = []


class _RawFrame(msgspec.Struct, gc=False):
    data: tuple[_RawEntry]


_raw_frame: Final = msgspec.json.Decoder(_RawFrame).decode


def _digits(number: bytes) -> bytes:
    """Return the digits of a JSON *number*, without the point and leading zeros.

    Raises:
        ValueError: it has an exponent that makes it absurdly long.
    """
    digits = number.replace(b".", b"", 1)
    if not digits.isdigit():
        # It has an exponent, which stands for as many digits as it says.
        value = Decimal(number.decode())
        if not value:
            return b""
        if abs(value.adjusted()) > _LONGEST:
            raise ValueError("a number of too many digits")
        digits = format(value, "f").encode().replace(b".", b"")
    return digits.lstrip(b"0")


@final
class KrakenChecksum:
    """Checks one :class:`~trio_ticks.Book` of Kraken after each of its updates.

    Give it to a book that you keep in a handler: ``tt.Book(symbol,
    checksum=KrakenChecksum())``. A feed with ``books=True`` does so by itself. It is
    called for all updates of the book, in their order. An update without a checksum, or
    a book with levels whose digits never came here, is not checked and passes.
    """

    __slots__ = ("_asks", "_bids")

    def __init__(self) -> None:
        self._bids: dict[float, bytes] = {}
        self._asks: dict[float, bytes] = {}

    def __call__(self, book: Book, update: BookUpdate) -> bool:
        """Return whether *book*, to which *update* has been applied, is right."""
        if update.snapshot:
            self._bids.clear()
            self._asks.clear()
        if update.message is not None and not self._read(update.message):
            return False
        depth = MOST_LEVELS if book.depth is None else book.depth
        if len(self._bids) + len(self._asks) > 4 * depth + _SPARE:
            _forget_others(self._bids, book.bids())
            _forget_others(self._asks, book.asks())
        if update.checksum is None:
            return True
        try:
            digits = [self._asks[price] for price, _ in book.asks(_LEVELS)]
            digits += [self._bids[price] for price, _ in book.bids(_LEVELS)]
        except KeyError:
            return True
        return crc32(b"".join(digits)) == update.checksum

    def _read(self, message: bytes) -> bool:
        """Keep the digits of the levels in *message*; return whether it can be read."""
        try:
            (entry,) = _raw_frame(message).data
            for levels, digits in ((entry.bids, self._bids), (entry.asks, self._asks)):
                for level in levels:
                    price, quantity = bytes(level.price), _digits(bytes(level.qty))
                    if quantity:
                        digits[float(price)] = _digits(price) + quantity
                    else:
                        digits.pop(float(price), None)
        except BAD_MESSAGE:
            return False
        return True


def _forget_others(digits: dict[float, bytes], levels: Iterable[Level]) -> None:
    """Keep only the digits of *levels*; those of levels pushed out stay otherwise."""
    kept = {price: digits[price] for price, _ in levels if price in digits}
    digits.clear()
    digits.update(kept)
