"""The settings of a local Coinbase: one frozen, checked value, and keyword arguments.

Rules: the two lists of names must agree; a test compares them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypedDict

import attrs

from ...checks import check_count, check_number, check_seconds, check_word, checked
from ...errors import ConfigError
from ..limits import ClientLimits
from .faults import FAULTS

__all__ = ["CoinbaseConfig", "CoinbaseSettings"]


def _names(value: Iterable[str]) -> tuple[str, ...]:
    names = () if isinstance(value, str) else tuple(dict.fromkeys(value))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"symbols must be a list of names, not {value!r}")
    return names


def _faults(value: Iterable[str]) -> frozenset[str]:
    faults = frozenset((value,) if isinstance(value, str) else value)
    unknown = sorted(faults - FAULTS.keys())
    if unknown:
        raise ConfigError(f"there is no fault {unknown[0]!r}: there are {', '.join(FAULTS)}")
    return faults


@attrs.frozen(kw_only=True)
class CoinbaseConfig:
    """All settings of :func:`open_coinbase_exchange`.

    Raises:
        ConfigError: a value is out of range.
    """

    venue: Literal["coinbase", "coinbase-advanced"] = attrs.field(
        default="coinbase",
        validator=checked(check_word, words=("coinbase", "coinbase-advanced")),
    )
    """The dialect: that of Exchange, or that of Advanced Trade."""
    symbols: tuple[str, ...] = attrs.field(
        default=("BTC-USD", "ETH-USD", "SOL-USD"), converter=_names
    )
    """The products; a recording has those that are in it."""
    rate: float = attrs.field(default=200.0, validator=checked(check_number, above=0.0))
    """Mean number of changes a second, of all books together."""
    burst: float = attrs.field(default=0.5, validator=checked(check_number, below=1.0))
    """Share of the changes that earlier ones cause."""
    seed: int = 0
    """The same seed makes the same market."""
    limit: int | None = attrs.field(default=None, validator=checked(check_count, or_none=True))
    """The market ends after so many changes; ``None``: never."""
    levels: int = attrs.field(default=50, validator=checked(check_count, least=2))
    """Levels of each side of a book, at first."""
    capture: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Play the messages of this recording instead, without faults."""
    speed: float = attrs.field(
        default=1.0, validator=checked(check_number, above=0.0, infinite=True)
    )
    """Factor on the recording's own pace."""
    faults: frozenset[str] = attrs.field(default=frozenset(), converter=_faults)
    """Names of :data:`~trio_ticks.exchange.coinbase.FAULTS`."""
    fault_every: int = attrs.field(default=50, validator=checked(check_count, least=2))
    """After how many messages a fault happens again."""
    heartbeat_interval: float = attrs.field(
        default=1.0, validator=checked(check_seconds, positive=True)
    )
    """Seconds from one heartbeat to the next."""
    subscribe_within: float = attrs.field(
        default=5.0, validator=checked(check_seconds, positive=True)
    )
    """Seconds within which a client must have subscribed to something."""
    max_age: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Seconds after which a connection is closed in good order; ``None``: never."""
    port: int = attrs.field(default=0, validator=checked(check_count, least=0, below=65536))
    """The port on 127.0.0.1; 0 takes any free one."""
    ssl_context: ssl.SSLContext | None = None
    """Speak ``wss`` with this server-side context."""
    limits: ClientLimits = attrs.field(factory=lambda: ClientLimits(buffer_bytes=1 << 24))
    """A client for which more bytes than ``buffer_bytes`` wait is disconnected."""


class CoinbaseSettings(TypedDict, total=False):
    """The fields of :class:`CoinbaseConfig` as keyword arguments; explained there."""

    venue: Literal["coinbase", "coinbase-advanced"]
    symbols: Iterable[str]
    rate: float
    burst: float
    seed: int
    limit: int | None
    levels: int
    capture: str | Path | None
    speed: float
    faults: Iterable[str]
    fault_every: int
    heartbeat_interval: float
    subscribe_within: float
    max_age: float | None
    port: int
    ssl_context: ssl.SSLContext | None
    limits: ClientLimits
