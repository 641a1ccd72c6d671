"""The venues that a local exchange speaks, by name, and their faults.

Rules: every venue that can be opened here is in this one list, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

import attrs

from ..errors import ConfigError
from .binance import FAULTS as BINANCE_FAULTS
from .binance import SYMBOLS as BINANCE_SYMBOLS
from .binance import new_futures_venue, new_spot_venue
from .binance_desk import BINANCE_REST_FAULTS, BinanceDesk
from .coinbase.faults import FAULTS as COINBASE_FAULTS
from .desk import NewDesk
from .dialect import Dialect
from .flat_dialect import FlatDialect
from .kraken import FAULTS as KRAKEN_FAULTS
from .kraken import SYMBOLS as KRAKEN_SYMBOLS
from .kraken import KrakenVenue
from .recorded_binance import RecordedBinance
from .recorded_messages import Said
from .recorded_words import TickDBWords
from .tickdb_desk import TICKDB_REST_FAULTS, TickDBDesk
from .tickdb_dialect import TickDBDialect
from .venues import NewVenue, Venue

__all__ = ["SPOKEN", "Spoken", "check_faults", "fault_list"]


@attrs.frozen
class Spoken:
    """How a venue is spoken, and the faults that it can have."""

    faults: Mapping[str, str]
    """The faults that it can have, and what goes wrong with each."""
    dialect: type[Dialect] | None = FlatDialect
    """What is spoken with clients, or only how they are let in (see *new_venue*).

    ``None``: it has a server of its own, :mod:`trio_ticks.exchange.coinbase`.
    """
    new_venue: NewVenue | None = None
    """Makes the venue whose sessions speak in place of the dialect."""
    recorded: type[Dialect] | None = None
    """What is spoken with clients of a recording that is played in its own words, or
    how they are let in; ``None``: it is played in the flat protocol."""
    new_recorded_venue: Callable[[Collection[str], Sequence[Said]], Venue] | None = None
    """Makes the venue, of its symbols and the first messages of the recording, whose
    sessions speak then in its place."""
    symbols: tuple[str, ...] | None = None
    """What there is unless other symbols are named; ``None``: the usual ones."""
    new_desk: NewDesk | None = None
    """Makes what answers over REST; ``None``: it has no REST here."""


_USDM: Final = Spoken(
    BINANCE_FAULTS,
    new_venue=new_futures_venue,
    recorded=FlatDialect,
    new_recorded_venue=partial(RecordedBinance, futures=True),
    symbols=BINANCE_SYMBOLS,
)

SPOKEN: Final[Mapping[str, Spoken]] = MappingProxyType(
    {
        "flat": Spoken(FlatDialect.faults),
        "tickdb": Spoken(
            {**TickDBDialect.faults, **TICKDB_REST_FAULTS},
            TickDBDialect,
            recorded=TickDBWords,
            new_desk=TickDBDesk,
        ),
        "binance": Spoken(
            {**BINANCE_FAULTS, **BINANCE_REST_FAULTS},
            new_venue=new_spot_venue,
            recorded=FlatDialect,
            new_recorded_venue=RecordedBinance,
            symbols=BINANCE_SYMBOLS,
            new_desk=BinanceDesk,
        ),
        "binance-usdm": _USDM,
        "binance-usdm-market": _USDM,
        "kraken": Spoken(
            KRAKEN_FAULTS,
            new_venue=KrakenVenue,
            recorded=FlatDialect,
            new_recorded_venue=lambda symbols, _beginning: KrakenVenue(symbols, recorded=True),
            symbols=KRAKEN_SYMBOLS,
        ),
        "coinbase": Spoken(COINBASE_FAULTS, dialect=None),
        "coinbase-advanced": Spoken(COINBASE_FAULTS, dialect=None),
    }
)
"""By the venue's name."""


def check_faults(venue: str, faults: Collection[str]) -> None:
    """Check that *venue* can have *faults*.

    Raises:
        ConfigError: no local exchange speaks it, or it has no such fault.
    """
    if venue not in SPOKEN:
        form = "; tickdb has that form, too" if str(venue).startswith("tickdb-") else ""
        raise ConfigError(
            f"the exchange does not speak {venue!r}: it speaks {', '.join(sorted(SPOKEN))}{form}"
        )
    known = SPOKEN[venue].faults
    unknown = [fault for fault in faults if fault not in known]
    if unknown:
        have = ", ".join(known) or "none to choose from"
        raise ConfigError(f"the venue {venue!r} has no fault {unknown[0]!r}: it has {have}")


def fault_list() -> str:
    """Return all faults, a line each: venue, name, and what goes wrong."""
    lines = []
    for venue, spoken in sorted(SPOKEN.items()):
        lines += [f"{venue:<17} {name:<22} {what}" for name, what in spoken.faults.items()]
    return "\n".join(lines)
