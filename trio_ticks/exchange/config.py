"""What a local exchange can be told: one frozen, checked value, and the same as keyword arguments.

The two lists of names must agree; ``test_settings_and_config_have_the_same_names`` holds them together.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict

import attrs

from ..errors import ConfigError

__all__ = ["DEFAULT_SYMBOLS", "ClientLimits", "ExchangeConfig", "Settings"]

DEFAULT_SYMBOLS = ("SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META")


def _number(*, least: float = 0.0, open_: bool = False, infinite: bool = False, below: float = math.inf) -> Any:
    def check(_instance: object, field: attrs.Attribute[Any], value: Any) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if not fits or value < least or (open_ and value == least) or (value >= below and not (infinite and value == math.inf)):
            bound = f"{'more than' if open_ else 'at least'} {least:g}" + (f" and less than {below:g}" if math.isfinite(below) else "")
            raise ConfigError(f"{field.name} must be a {'' if infinite else 'finite '}number, {bound}, got {value!r}")

    return check


def _names(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise ConfigError(f"symbols must be several names, not one text; did you mean {value.split(',')!r}?")
    names = tuple(dict.fromkeys(value))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"symbols must be names, at least one, none of them empty, got {list(names)!r}")
    return names


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _number_or_none(_instance: object, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _number(open_=True)(_instance, field, value)


def _known_timestamps(_instance: object, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in ("now", "original"):
        raise ConfigError(f'{field.name} must be "now" or "original", got {value!r}')


@attrs.frozen(slots=True, kw_only=True)
class ClientLimits:
    """How much a client may cost the exchange.

    Raises:
        ConfigError: a value is out of range.
    """

    buffer_bytes: int = attrs.field(default=1 << 20, validator=_number(least=4096))
    """Frames that wait for one client; what comes beyond is skipped, counted and logged. The system's socket buffer comes on top.
    A recording skips nothing: it stands still until its clients have room for more."""
    slow_timeout_s: float | None = attrs.field(default=10.0, validator=_number_or_none)
    """A client whose buffer has not been empty for so long since something was skipped is disconnected, and so is one that a recording has
    waited for while it took nothing; ``None``: never."""
    socket_buffer_bytes: int | None = attrs.field(default=None, validator=_number_or_none)
    """Size of the system's send buffer (``SO_SNDBUF``); ``None`` leaves it to the system, which takes megabytes."""
    close_timeout_s: float = attrs.field(default=2.0, validator=_number())
    """How long a client may take to answer our close; and, when the exchange shuts down, to take what waits for it as well."""
    handshake_timeout_s: float = attrs.field(default=10.0, validator=_number(open_=True))


@attrs.frozen(slots=True, kw_only=True)
class ExchangeConfig:
    """Everything :func:`~trio_ticks.exchange.open_exchange` can be told.

    Raises:
        ConfigError: a value is out of range, or two do not go together.
    """

    symbols: tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    """What can be subscribed to, the hottest first. ``None``: eight well-known shares, or all that the capture holds."""
    rate: float = attrs.field(default=1000.0, validator=_number(open_=True, infinite=True))
    """Mean ticks a second, of all symbols together. ``math.inf``: as fast as the fastest client reads."""
    burst: float = attrs.field(default=0.5, validator=_number(below=1.0))
    """Share of the ticks that earlier ones set off, from 0 (Poisson) to less than 1."""
    seed: int | None = 0
    """The same seed gives the same ticks; ``None``: others each time."""
    skew: float = attrs.field(default=1.0, validator=_number())
    """How much hotter the first symbols are: shares like ``1 / rank ** skew``; 0 is even."""
    limit: int | None = attrs.field(default=None, validator=_number_or_none)
    """End after so many ticks; ``None``: never."""

    capture: Path | None = attrs.field(default=None, converter=_path)
    """Play this recording (:mod:`trio_ticks.feeds.captures`) instead of a synthetic market; then *rate* to *skew* do nothing."""
    speed: float = attrs.field(default=1.0, validator=_number(open_=True, infinite=True))
    """The recording's own pace times this. ``math.inf``: as fast as the fastest client reads."""
    loop: bool = False
    """Begin the recording anew when it ends."""
    timestamps: Literal["now", "original"] = attrs.field(default="now", validator=_known_timestamps)
    """What a recording's ticks say about their time: that of sending, so that lags mean something, or that of the recording."""

    port: int = attrs.field(default=0, validator=_number(below=65536))
    """On 127.0.0.1; 0 takes any free one."""
    api_key: str | None = attrs.field(default=None, repr=False)
    """What ``X-API-Key`` must say; ``None`` lets everyone in."""
    ssl_context: ssl.SSLContext | None = None
    """Speak ``wss`` with this server-side context."""
    ping_interval: float | None = attrs.field(default=None, validator=_number_or_none)
    """Seconds between pings to a client; ``None``: none."""
    ping_timeout: float = attrs.field(default=5.0, validator=_number(open_=True))
    """Seconds that a client may take to answer a ping before it is disconnected."""
    limits: ClientLimits = attrs.field(factory=ClientLimits)


class Settings(TypedDict, total=False):
    """The fields of :class:`ExchangeConfig`, as keyword arguments; their meaning is documented there."""

    symbols: Iterable[str] | None
    rate: float
    burst: float
    seed: int | None
    skew: float
    limit: int | None
    capture: str | Path | None
    speed: float
    loop: bool
    timestamps: Literal["now", "original"]
    port: int
    api_key: str | None
    ssl_context: ssl.SSLContext | None
    ping_interval: float | None
    ping_timeout: float
    limits: ClientLimits
