"""The settings of a local exchange: one frozen, checked value, and keyword arguments.

Rules: the two lists of names must agree;
``test_settings_and_config_have_the_same_names`` tests that.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypedDict

import attrs

from ..checks import check_count, check_flag, check_number, check_seconds, check_word, checked
from ..errors import ConfigError
from ..feeds.venues import Codec, find_language
from .limits import ClientLimits
from .registry import SPOKEN, check_faults

__all__ = ["DEFAULT_SYMBOLS", "ExchangeConfig", "Settings"]

DEFAULT_SYMBOLS = ("SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META")


def _names(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise ConfigError(
            f"symbols must be several names, not one text; did you mean {value.split(',')!r}?"
        )
    names = tuple(dict.fromkeys(value))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"symbols must be names, at least one, none of them empty, got {list(names)!r}"
        )
    return names


def _faults(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _check_venue(_config: object, _field: object, value: str | type[Codec] | None) -> None:
    if value is not None:
        find_language(value)


@attrs.frozen(slots=True, kw_only=True)
class ExchangeConfig:
    """All settings of :func:`~trio_ticks.exchange.open_exchange`.

    Raises:
        ConfigError: a value is out of range, or two do not go together.
    """

    symbols: tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    """The symbols that can be subscribed to, the hottest first.

    ``None``: eight well-known shares, or all that the capture holds.
    """
    rate: float = attrs.field(
        default=1000.0, validator=checked(check_number, above=0.0, infinite=True)
    )
    """Mean ticks a second, of all symbols together.

    ``math.inf``: as fast as the fastest client reads.
    """
    burst: float = attrs.field(default=0.5, validator=checked(check_number, below=1.0))
    """Share of the ticks that earlier ones cause, from 0 (Poisson) to less than 1."""
    seed: int | None = 0
    """The same seed gives the same ticks; ``None``: others each time."""
    skew: float = attrs.field(default=1.0, validator=checked(check_number))
    """How uneven the symbols' shares are: ``1 / rank ** skew``; 0 makes them equal."""
    limit: int | None = attrs.field(default=None, validator=checked(check_count, or_none=True))
    """The market ends after this many ticks; ``None``: never."""

    capture: Path | None = attrs.field(default=None, converter=_path)
    """Play the quotes of this recording instead of a synthetic market.

    :class:`~trio_ticks.ReplayFeed` describes recordings. Then *rate*, *burst*, *seed*
    and *skew* have no effect.
    """
    venue: str | type[Codec] | None = attrs.field(default=None, validator=_check_venue)
    """The venue: a name or a codec class.

    It says whose messages the recording holds (``None``: it is found from the first
    lines), and what the exchange speaks: a venue that it does not speak, and ``None``,
    make it speak the flat protocol to clients of a recording.
    """
    own_words: bool = attrs.field(default=True, validator=checked(check_flag))
    """Play a recording of Binance, Kraken or TickDB as it is, message by message.

    All of its market data is played then, not only quotes, to who has subscribed to it,
    with the times that it has. It begins when no request has come for 0.1 s. Of Binance
    the recorded snapshot of a book answers the first request for it over REST. False:
    its quotes are played in the flat protocol.
    """
    faults: tuple[str, ...] = attrs.field(default=(), converter=_faults)
    """The faults that the venue is to have, by name; each venue has its own."""
    fault_every: int = attrs.field(default=50, validator=checked(check_count))
    """A fault that happens now and then happens at every so many messages.

    Counted are those of one connection that it can happen to.
    """
    speed: float = attrs.field(
        default=1.0, validator=checked(check_number, above=0.0, infinite=True)
    )
    """Factor on its own pace; ``math.inf``: as fast as the fastest client reads."""
    loop: bool = False
    """Begin the recording anew when it ends."""
    timestamps: Literal["now", "original"] = attrs.field(
        default="now", validator=checked(check_word, words=("now", "original"))
    )
    """The timestamps of a recording's ticks.

    The time of sending, so that lags mean something, or their own: the venue's, or when
    they were received.
    """

    port: int = attrs.field(default=0, validator=checked(check_count, least=0, below=65536))
    """The port on 127.0.0.1; 0 takes any free one."""
    api_key: str | None = attrs.field(default=None, repr=False)
    """The value that ``X-API-Key`` must have; ``None`` lets everyone in."""
    ssl_context: ssl.SSLContext | None = None
    """Speak ``wss`` with this server-side context."""
    ping_interval: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Seconds between pings to a client; ``None``: none."""
    ping_timeout: float = attrs.field(default=5.0, validator=checked(check_seconds, positive=True))
    """Seconds that a client may take to answer a ping before it is disconnected."""
    max_age: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """Seconds after which a connection is closed in good order; ``None``: never."""
    limits: ClientLimits = attrs.field(factory=ClientLimits)

    def __attrs_post_init__(self) -> None:
        venue = self.protocol
        if self.capture is None and isinstance(self.venue, str):
            venue = self.venue
        check_faults(venue, self.faults)
        if self.plays_words and self.faults:
            raise ConfigError("a recording is played as it is: leave out faults, or the capture")
        if SPOKEN[venue].dialect is None:
            raise ConfigError(
                f"{venue!r} is opened by trio_ticks.exchange.coinbase.open_coinbase_exchange"
            )

    @property
    def protocol(self) -> str:
        """The name of the venue whose protocol it speaks."""
        spoken = SPOKEN.get(self.venue) if isinstance(self.venue, str) else None
        if spoken is None or spoken.dialect is None:
            return "flat"
        return str(self.venue) if self.capture is None or self.plays_words else "flat"

    @property
    def plays_words(self) -> bool:
        """Whether it plays a recording in the venue's own words."""
        if self.capture is None or not self.own_words or not isinstance(self.venue, str):
            return False
        return self.venue in SPOKEN and SPOKEN[self.venue].recorded is not None


class Settings(TypedDict, total=False):
    """The fields of :class:`ExchangeConfig` as keyword arguments; explained there."""

    symbols: Iterable[str] | None
    rate: float
    burst: float
    seed: int | None
    skew: float
    limit: int | None
    capture: str | Path | None
    venue: str | type[Codec] | None
    faults: Iterable[str]
    fault_every: int
    own_words: bool
    speed: float
    loop: bool
    timestamps: Literal["now", "original"]
    port: int
    api_key: str | None
    ssl_context: ssl.SSLContext | None
    ping_interval: float | None
    ping_timeout: float
    max_age: float | None
    limits: ClientLimits
