"""What flows through a pipeline: frozen values with a ``symbol`` and a ``timestamp``.

The constructors normalise and check what Python code gives them, by attrs converters.
msgspec's decoders do not run converters; they apply the ``Meta`` constraints in the
annotations instead, in C, so that a tick off the wire costs no Python call.

Rules: a codec must give timestamps in UTC, since no converter sees them. A quantity
that the venue does not say is NaN, never 0. The ``Meta`` constraints refuse NaN, so
whoever reads an absent quantity has to do so by its own means, as ``wire.py`` does.
"""

# mypy: disable-error-code="misc"
# mypy's attrs plugin does not know attrs.Converter(takes_field=True), which passes the
# field, and so its name, to the converter.

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import attrs
import msgspec

__all__ = [
    "QUANTITIES",
    "Bar",
    "BookUpdate",
    "Level",
    "MarketData",
    "Tick",
    "Trade",
    "is_quantity",
    "to_utc",
    "unchecked_book_update",
    "unchecked_tick",
    "unchecked_trade",
]

# MessagePack, unlike JSON, can say NaN and infinity.
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]


@runtime_checkable
class MarketData(Protocol):
    """Anything that a pipeline can carry: it has a symbol and the time of its event."""

    @property
    def symbol(self) -> str: ...

    @property
    def timestamp(self) -> datetime: ...


def to_utc(value: datetime) -> datetime:
    """Return *value* as an aware datetime in UTC.

    A naive datetime is taken to be in UTC already (venues that leave the zone out mean
    UTC); a datetime in another zone is converted.

    Raises:
        TypeError: *value* is not a datetime.
        ValueError: *value* has no equivalent in UTC (it lies at the edge of the
            calendar).
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


def _quantity(value: Any, field: attrs.Attribute[Any]) -> float:
    if value != value and hasattr(value, "__float__"):
        return math.nan
    return _non_negative(value, field)


def _comparable(quantity: float) -> float | None:
    """Return what *quantity* is compared by: ``None`` for NaN, which equals nothing."""
    return None if quantity != quantity else quantity


def is_quantity(value: float) -> bool:
    """Return whether *value* is finite and not negative, or NaN (absent)."""
    return value >= 0 if -math.inf < value < math.inf else value != value


def _levels(value: Any, field: attrs.Attribute[Any]) -> tuple[Level, ...]:
    return tuple((_finite(price, field), _non_negative(size, field)) for price, size in value)


_FINITE = attrs.Converter(_finite, takes_field=True)
_NON_NEGATIVE = attrs.Converter(_non_negative, takes_field=True)
_QUANTITY = attrs.Converter(_quantity, takes_field=True)
_LEVELS = attrs.Converter(_levels, takes_field=True)


@attrs.frozen(slots=True, weakref_slot=False)
class Tick:
    """The best quote of a symbol at one moment.

    ``timestamp`` is when the venue says that the quote arose: an aware datetime in UTC.
    A naive one is taken to be UTC, one in another zone is converted (:func:`to_utc`).
    Prices are finite. They may be negative (spreads, power, oil in April 2020), and
    ``bid`` may exceed ``ask`` (a crossed quote is a fact that the feed reports, not an
    error). Sizes and ``volume`` are finite and not negative, or NaN where the venue
    does not say them: any comparison with NaN is false, so no strategy takes it for a
    fact. Ticks are equal where all fields are; an absent quantity equals an absent one.

    Raises:
        TypeError: a field is of the wrong type.
        ValueError: the symbol is empty, or a price is not finite, or a quantity is
            negative or infinite.
    """

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    bid: Finite = attrs.field(converter=_FINITE)
    """Best bid, in the quote currency."""
    ask: Finite = attrs.field(converter=_FINITE)
    """Best ask, in the quote currency."""
    bid_size: NonNegative = attrs.field(converter=_QUANTITY, eq=_comparable)
    """Quantity at the best bid, in the base unit; NaN: the venue does not say."""
    ask_size: NonNegative = attrs.field(converter=_QUANTITY, eq=_comparable)
    """Quantity at the best ask, in the base unit; NaN: the venue does not say."""
    volume: NonNegative = attrs.field(converter=_QUANTITY, eq=_comparable)
    """Volume so far, in the base unit; NaN: the venue does not say.

    Over the time that the venue counts: a session, or the last 24 hours.
    """

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
        """``bid_size / ask_size``: above 1, more is bid than asked.

        It is ``inf`` where ``ask_size`` is 0, and NaN where a size is absent.
        """
        if self.ask_size:
            return self.bid_size / self.ask_size
        return math.inf if self.bid_size >= 0 else math.nan


@attrs.frozen(slots=True, weakref_slot=False)
class Trade:
    """One trade.

    ``side`` is that of the aggressor, the party whose order took the liquidity;
    ``"neutral"`` where the venue does not say.
    """

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    price: Finite = attrs.field(converter=_FINITE)
    """In the quote currency."""
    size: NonNegative = attrs.field(converter=_QUANTITY, eq=_comparable)
    """In the base unit; NaN: the venue says the last price only."""
    side: Literal["buy", "sell", "neutral"] = attrs.field(
        default="neutral", validator=attrs.validators.in_(("buy", "sell", "neutral"))
    )
    trade_id: str | None = None
    """The venue's own number for it, as text (venues use numbers beyond 2**53)."""

    @property
    def notional(self) -> float:
        """``price * size``, in the quote currency; NaN where the size is absent."""
        return self.price * self.size


# A codec's decoder has checked the values already, and the constructors' checks cost
# several times as much as that. The fastest way is to fill an object of another class,
# with the same slots, and to make it one of this class then. That other class has no
# __init__, since calling one would take a third of the time.


class _RawTick:
    __slots__ = tuple(field.name for field in attrs.fields(Tick))


def unchecked_tick(
    symbol: str,
    timestamp: datetime,
    bid: float,
    ask: float,
    bid_size: float,
    ask_size: float,
    volume: float,
    /,
) -> Tick:
    """Return a tick of values that a codec has checked, which are not checked again.

    The arguments are the fields of :class:`Tick`, of exactly their types: prices are
    finite floats, quantities not negative or NaN, and the timestamp is in UTC.
    """
    tick: Any = _RawTick()
    tick.symbol = symbol
    tick.timestamp = timestamp
    tick.bid = bid
    tick.ask = ask
    tick.bid_size = bid_size
    tick.ask_size = ask_size
    tick.volume = volume
    tick.__class__ = Tick
    return tick  # type: ignore[no-any-return]


class _RawTrade:
    __slots__ = tuple(field.name for field in attrs.fields(Trade))


def unchecked_trade(
    symbol: str,
    timestamp: datetime,
    price: float,
    size: float,
    side: Literal["buy", "sell", "neutral"],
    trade_id: str | None,
    /,
) -> Trade:
    """Return a trade of values that a codec has checked, which are not checked again.

    The arguments are the fields of :class:`Trade`, all of them, of exactly their types.
    """
    trade: Any = _RawTrade()
    trade.symbol = symbol
    trade.timestamp = timestamp
    trade.price = price
    trade.size = size
    trade.side = side
    trade.trade_id = trade_id
    trade.__class__ = Trade
    return trade  # type: ignore[no-any-return]


Level = tuple[Finite, NonNegative]
"""A price and the absolute quantity that now stands there; 0 removes the level."""


@attrs.frozen(slots=True, weakref_slot=False)
class BookUpdate:
    """Levels of an order book that changed, or (``snapshot=True``) all of them.

    Quantities are absolute, and 0 removes a level, as at every venue that trio_ticks
    speaks to. If one update of a symbol is lost, all its later ones give a wrong book,
    until the next snapshot.
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
    depth: int | None = None
    """How many levels a side the venue keeps up to date; ``None``: all, or not said.

    A level that is pushed out of them is not removed by an update."""
    checksum: int | None = None
    """The venue's checksum of its book after this update, where it sends one."""
    message: bytes | None = attrs.field(default=None, eq=False, repr=False)
    """The venue's message, where its checksum is made of the digits as they were sent.

    A float does not keep them: 0.00031250 becomes 0.0003125."""


class _RawBookUpdate:
    __slots__ = tuple(field.name for field in attrs.fields(BookUpdate))


def unchecked_book_update(
    symbol: str,
    timestamp: datetime,
    bids: tuple[Level, ...],
    asks: tuple[Level, ...],
    snapshot: bool,
    first_sequence: int | None = None,
    last_sequence: int | None = None,
    depth: int | None = None,
    checksum: int | None = None,
    message: bytes | None = None,
    /,
) -> BookUpdate:
    """Return an update of values that a codec has checked, which are not checked again.

    The arguments are the fields of :class:`BookUpdate`, of exactly their types.
    """
    update: Any = _RawBookUpdate()
    update.symbol = symbol
    update.timestamp = timestamp
    update.bids = bids
    update.asks = asks
    update.snapshot = snapshot
    update.first_sequence = first_sequence
    update.last_sequence = last_sequence
    update.depth = depth
    update.checksum = checksum
    update.message = message
    update.__class__ = BookUpdate
    return update  # type: ignore[no-any-return]


@attrs.frozen(slots=True, weakref_slot=False)
class Bar:
    """Open, high, low, close and volume of one interval.

    ``timestamp`` is the beginning of the interval, its *open*.
    """

    symbol: Annotated[str, msgspec.Meta(min_length=1)] = attrs.field(converter=_symbol)
    timestamp: datetime = attrs.field(converter=to_utc)
    interval_s: NonNegative = attrs.field(converter=_NON_NEGATIVE)
    """Length of the interval, in seconds."""
    open: Finite = attrs.field(converter=_FINITE)
    high: Finite = attrs.field(converter=_FINITE)
    low: Finite = attrs.field(converter=_FINITE)
    close: Finite = attrs.field(converter=_FINITE)
    volume: NonNegative = attrs.field(default=math.nan, converter=_QUANTITY, eq=_comparable)
    """In the base unit; NaN: the venue does not say."""
    closed: bool = True
    """False while the interval is still running and the bar may change."""


QUANTITIES: Mapping[type[Any], tuple[str, ...]] = MappingProxyType(
    {Tick: ("bid_size", "ask_size", "volume"), Trade: ("size",), Bar: ("volume",)}
)
"""The fields of each class that are NaN where the venue does not say them."""
