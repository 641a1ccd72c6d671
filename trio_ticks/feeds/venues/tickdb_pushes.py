"""TickDB's pushes as msgspec reads them.

Rules: sans-I/O. The decoders are not strict, because TickDB sends numbers as text; the
constraints refuse what is no number, such as "nan". NaN, 0 and ``None`` stand for
absent fields.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Annotated, Final, Literal

import msgspec

from ...ticks import Level

__all__ = ["Data", "Deal", "Push", "decode_any", "decode_push", "decode_pushes", "is_pair"]

_CURRENCIES: Final = frozenset(
    re.findall(
        r"\w+",
        "AED AUD BRL CAD CHF CLP CNH CNY COP CZK DKK EUR GBP HKD HUF IDR ILS INR JPY KRW MXN MYR"
        " NOK NZD PHP PLN RON RUB SAR SEK SGD THB TRY TWD USD ZAR XAU XAG XPT XPD",
    )
)
"""ISO 4217 codes: two of them in a row are a pair of forex, or a metal's price."""
_CODE: Final = 3
"""The length of a code."""
_MOST: Final = sys.float_info.max
_Price = Annotated[float, msgspec.Meta(ge=-_MOST, le=_MOST)]
_Size = Annotated[float, msgspec.Meta(ge=0, le=_MOST)]
_Side = Literal["buy", "sell", "neutral"]


class Deal(msgspec.Struct, gc=False):
    """One trade of the array form."""

    price: _Price
    quantity: _Size
    id: str | int | None = None
    side: _Side = "neutral"
    timestamp: int = 0


class Data(msgspec.Struct, gc=False):
    """The fields of all pushes."""

    symbol: str = ""
    last_price: _Price = math.nan
    bid_price: _Price = math.nan
    ask_price: _Price = math.nan
    volume_24h: _Size = math.nan
    timestamp: int = 0
    bids: tuple[Level, ...] | None = None
    asks: tuple[Level, ...] | None = None
    trades: list[Deal] | None = None
    price: _Price = math.nan
    quantity: _Size = math.nan
    side: _Side = "neutral"
    id: str | int | None = None


class Push(msgspec.Struct, gc=False):
    """A push; a message with other keys may be read as one with another ``cmd``."""

    cmd: str
    data: Data


decode_push: Final = msgspec.json.Decoder(Push, strict=False).decode
decode_pushes: Final = msgspec.json.Decoder(list[Push], strict=False).decode
decode_any: Final = msgspec.json.Decoder().decode


def is_pair(symbol: str) -> bool:
    """Return whether *symbol* is of forex or a metal, as far as its letters tell."""
    return (
        len(symbol) == 2 * _CODE and symbol[:_CODE] in _CURRENCIES and symbol[_CODE:] in _CURRENCIES
    )
