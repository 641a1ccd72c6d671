"""What flows through a pipeline: frozen, slotted values with a ``symbol`` and a ``timestamp``.

The constructors normalise and check what Python code gives them, by attrs converters. msgspec's decoders do not run converters; they
apply the ``Meta`` constraints in the annotations instead, in C, so that a tick off the wire costs no Python call. Codecs must give UTC.
"""

# mypy: disable-error-code="misc"
# ... since mypy's attrs plugin does not know attrs.Converter, which tells a converter the name of its field.

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import attrs
import msgspec

__all__ = ["Bar", "BookUpdate", "Level", "MarketData", "Tick", "Trade", "to_utc"]

# MessagePack, unlike JSON, can say NaN and infinity.
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]


@runtime_checkable
class MarketData(Protocol):
    """Anything that a pipeline can carry: it has a symbol, and says when it happened."""

    @property
    def symbol(self) -> str: ...

    @property
    def timestamp(self) -> datetime: ...


def to_utc(value: datetime) -> datetime:
    """Return *value* as an aware datetime in UTC.

    A naive datetime is taken to be in UTC already (venues that leave the zone out mean UTC); one in another zone is converted.

    Raises:
        TypeError: *value* is not a datetime.
        ValueError: *value* cannot be expressed in UTC (it lies at the very edge of the calendar).
    """
    if not isinstance(value, datetime):
        raise TypeError(f"timestamp must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"timestamp {value!r} is outside the calendar in UTC") from error


def _symbol(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"symbol must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError("symbol must not be empty")
    return value


def _finite(value: Any, field: attrs.Attribute[Any]) -> float:
    # Decimal and NumPy scalars are numbers too; text and booleans are not.
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{field.name} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{field.name} must be finite, got {value!r}")
    return number


def _non_negative(value: Any, field: attrs.Attribute[Any]) -> float:
    number = _finite(value, field)
    if number < 0:
        raise ValueError(f"{field.name} must not be negative, got {value!r}")
    return number


def _levels(value: Any, field: attrs.Attribute[Any]) -> tuple[Level, ...]:
    return tuple((_finite(price, field), _non_negative(size, field)) for price, size in value)


_FINITE = attrs.Converter(_finite, takes_field=True)
_NON_NEGATIVE = attrs.Converter(_non_negative, takes_field=True)
_LEVELS = attrs.Converter(_levels, takes_field=True)


@attrs.frozen(slots=True, weakref_slot=False)
class Tick:
    """The best quote of a symbol at one moment.

    ``timestamp`` is when the venue says it happened: an aware datetime in UTC. A naive one is taken to be UTC, one in another zone is
    converted (:func:`to_utc`). Prices and sizes are finite; sizes and ``volume`` are not negative. Prices may be negative (spreads,
    power, oil in April 2020) and ``bid`` may exceed ``ask`` (a crossed quote is a fact of the feed, not an error of it).

    Raises:
        TypeError: a field is of the wrong type.
        ValueError: a number is not finite or is negative where it must not be, or the symbol is empty.
    """

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    bid: Finite = attrs.field(converter=_FINITE)
    """Best bid, in the quote currency."""
    ask: Finite = attrs.field(converter=_FINITE)
    """Best ask, in the quote currency."""
    bid_size: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """Quantity at the best bid, in the base unit."""
    ask_size: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """Quantity at the best ask, in the base unit."""
    volume: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """Volume so far, as the venue counts it (a session, or the last 24 hours), in the base unit."""

    @property
    def spread(self) -> float:
        """``ask - bid``, in the quote currency; negative where the quote is crossed."""
        return self.ask - self.bid

    @property
    def mid_price(self) -> float:
        """Halfway between bid and ask, in the quote currency."""
        return (self.bid + self.ask) / 2

    @property
    def pressure_ratio(self) -> float:
        """``bid_size / ask_size``: above 1, buyers press; ``inf`` where ``ask_size`` is 0."""
        return self.bid_size / self.ask_size if self.ask_size else math.inf


@attrs.frozen(slots=True, weakref_slot=False)
class Trade:
    """One trade. ``side`` is the aggressor's: who took the liquidity; ``"neutral"`` where the venue does not say."""

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    price: Finite = attrs.field(converter=_FINITE)
    """In the quote currency."""
    size: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """In the base unit."""
    side: Literal["buy", "sell", "neutral"] = attrs.field(default="neutral", validator=attrs.validators.in_(("buy", "sell", "neutral")))
    trade_id: str | None = None
    """The venue's own number for it, as text (venues use numbers beyond 2**53)."""

    @property
    def notional(self) -> float:
        """``price * size``, in the quote currency."""
        return self.price * self.size


Level = tuple[Finite, NonNegative]
"""A price and the absolute quantity that now stands there; 0 removes the level."""


@attrs.frozen(slots=True, weakref_slot=False)
class BookUpdate:
    """Levels of an order book that changed, or (``snapshot=True``) all of them.

    Quantities are absolute and 0 removes a level, as at every venue that trio_ticks speaks to. Losing one makes every later one of its
    symbol wrong until the next snapshot.
    """

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    bids: tuple[Level, ...] = attrs.field(default=(), converter=_LEVELS)
    asks: tuple[Level, ...] = attrs.field(default=(), converter=_LEVELS)
    snapshot: bool = False
    first_sequence: int | None = None
    """Number of the first change in this message, where the venue numbers them."""
    last_sequence: int | None = None
    """Number of the last change in this message, where the venue numbers them."""


@attrs.frozen(slots=True, weakref_slot=False)
class Bar:
    """Open, high, low, close and volume of one interval. ``timestamp`` is the interval's *open*."""

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    interval_s: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """Length of the interval, in seconds."""
    open: Finite = attrs.field(converter=_FINITE)
    high: Finite = attrs.field(converter=_FINITE)
    low: Finite = attrs.field(converter=_FINITE)
    close: Finite = attrs.field(converter=_FINITE)
    volume: NonNegative = attrs.field(default=0.0, converter=_NON_NEGATIVE)
    closed: bool = True
    """False while the interval is still running and the bar may change."""
