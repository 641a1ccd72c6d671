"""A codec class with its declarations checked, and the venues that are known by name.

Rules: only this module reads the class attributes of a codec, so that a wrong one is
found before anything connects.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import attrs

from ...book import Checksum
from ...checks import check_instance
from ...errors import ConfigError
from ...logs import log_event
from .base import Codec, CodecContext, KeepAlive, Limits, Packing, RateCodec
from .binance import BinanceCodec, BinanceUsdmCodec, BinanceUsdmMarketCodec
from .coinbase import CoinbaseCodec
from .coinbase_advanced import CoinbaseAdvancedCodec
from .flat import FlatCodec
from .kraken import KrakenCodec
from .rest_snapshots import RestSnapshots
from .tickdb import TickDBCodec, TickDBFlatCodec, TickDBMarketCodec, TickDBOldCodec

__all__ = ["VENUES", "Language", "find_language", "is_sendable", "requests_of"]

logger = logging.getLogger("trio_ticks.feeds.venues")

_METHODS: Final = (
    "subscribe",
    "unsubscribe",
    "request_snapshot",
    "place_of",
    "succeed",
    "decode",
    "decode_one",
    "throttle",
)
_NAMES: Final = frozenset({*_METHODS, *(name for name in vars(Codec) if not name.startswith("_"))})
"""All that a codec may declare or have."""

VENUES: Final = MappingProxyType[str, type[Any]](
    {
        "flat": FlatCodec,
        "binance": BinanceCodec,
        "binance-usdm": BinanceUsdmCodec,
        "binance-usdm-market": BinanceUsdmMarketCodec,
        "tickdb": TickDBCodec,
        "tickdb-market": TickDBMarketCodec,
        "tickdb-old": TickDBOldCodec,
        "tickdb-flat": TickDBFlatCodec,
        "coinbase": CoinbaseCodec,
        "coinbase-advanced": CoinbaseAdvancedCodec,
        "kraken": KrakenCodec,
    }
)
"""The codec classes of the venues, by name. The first line of each one's docstring is
what ``--venue list`` shows."""


@attrs.frozen(kw_only=True)
class Language:
    """A codec class and what it declares; see :class:`Codec` for the fields."""

    name: str
    new_codec: Callable[[CodecContext], Codec]
    url: str | None
    channels: tuple[str, ...]
    """The channels that are subscribed to: those chosen, or the default ones."""
    all_channels: tuple[str, ...]
    """All channels that the codec knows."""
    wildcard: str | None
    keep_alive: KeepAlive | None
    limits: Limits
    packing: Packing | None
    compression: Literal["permessage-deflate"] | None
    final_close_codes: frozenset[int]
    asks_for_rate: bool
    """Whether the codec can ask the venue for a lower rate."""
    unsubscribes: bool
    """Whether the codec has its own method ``unsubscribe``."""
    key_parameter: str | None = None
    notices: tuple[str, ...] = ()
    """What a user should know of the channels that are subscribed to."""
    asks_for_snapshots: bool = False
    """Whether the codec has its own method ``request_snapshot``."""
    new_book_checksum: Callable[[], Checksum] | None = None
    rest_snapshots: RestSnapshots | None = None
    """Of the channels that are subscribed to."""
    hands_over: bool = False
    """Whether the codec has its own method ``place_of``."""
    makes_fresh_items: bool = False
    """Whether the codec keeps no tick, trade or book update that it has returned.

    Then a feed may rename those in place. The library's codecs keep none.
    """

    def codec_for(self, context: CodecContext) -> Codec:
        """Return a new codec, for one connection.

        Raises:
            ConfigError: its constructor leaves out that of :class:`Codec`.
        """
        codec = self.new_codec(context)
        if Codec in type(codec).__mro__ and not hasattr(codec, "context"):
            raise ConfigError(
                f"the codec {type(codec).__name__} has no context: its __init__(self, context)"
                " must call super().__init__(context)"
            )
        return codec

    def symbols_in(self, items: Sequence[Any]) -> set[str]:
        """Return the symbols of *items*, which the codec has decoded.

        Raises:
            ConfigError: they are no list of items: the codec is wrong.
        """
        # What can be read only once would be empty when it is handed on.
        if type(items) is not list and not isinstance(items, tuple):
            raise self.no_items(items)
        try:
            return {item.symbol for item in items}
        except (AttributeError, TypeError):
            raise self.no_items(items) from None

    def no_items(self, items: object) -> ConfigError:
        """Return what to raise where the codec has decoded *items*, which are none."""
        codec = f"the codec {getattr(self.new_codec, '__name__', self.name)}"
        if not isinstance(items, list | tuple):
            return ConfigError(
                f"{codec}: decode must return a list of items, not {reprlib.repr(items)}"
            )
        wrong = next(
            (item for item in items if not isinstance(getattr(item, "symbol", None), str)), None
        )
        return ConfigError(
            f"{codec} returned {reprlib.repr(wrong)}, which is no market data: an item has a"
            " symbol, which is a str, and a timestamp"
        )

    def max_message_size(self, chosen: int) -> int:
        """Return the size of the largest message to take, in bytes.

        It is the *chosen* one, or what the venue may send if that is more.
        """
        return max(chosen, self.limits.message_bytes or 0)

    @property
    def has_snapshots(self) -> bool:
        """Whether the snapshot of a book can be asked for."""
        return self.asks_for_snapshots or self.rest_snapshots is not None

    @property
    def max_symbols(self) -> int | None:
        """How many symbols one connection takes; ``None``: no limit is known."""
        most = self.limits.subscriptions
        return None if most is None else max(1, most // max(1, len(self.channels)))


def find_language(venue: object, channels: Iterable[str] | str | None = None) -> Language:
    """Return the language of *venue*.

    Args:
        venue: the name of a venue, or a codec class.
        channels: the channels to subscribe to; ``None``: the venue's default ones,
            ``"all"``: all that the codec knows.

    Raises:
        ConfigError: there is no such venue or channel, or the class is no codec.
    """
    if isinstance(venue, str):
        if venue not in VENUES:
            raise ConfigError(
                f"unknown venue {venue!r}: choose one of {', '.join(sorted(VENUES))},"
                " or give a codec class"
            )
        return _read(venue, VENUES[venue], channels)
    if not isinstance(venue, type):
        raise ConfigError(
            "venue must be the name of a venue or a codec class, not an object of type"
            f" {type(venue).__name__}"
        )
    known = (name for name, codec in VENUES.items() if codec is venue)
    own = re.sub("Codec$", "", venue.__name__).lower() or venue.__name__
    return _read(next(known, own), venue, channels)


def _read(name: str, codec: type[Any], channels: Iterable[str] | str | None) -> Language:
    shown = f"the codec {codec.__name__}"

    def declared(field: str, default: Any, kind: Any, what: str) -> Any:
        value = getattr(codec, field, default)
        check_instance(f"{shown}: {field}", value, kind=kind, shown=what)
        return value

    for method in ("subscribe", "unsubscribe", "decode"):
        own = getattr(codec, method, None)
        left_out = method == "subscribe" or (method == "decode" and _same(codec, "decode_one"))
        if not callable(own) or (left_out and _same(codec, method)):
            also = " or decode_one" if method == "decode" else ""
            raise ConfigError(f"{shown} has no method {method}{also}")
    _check_methods(shown, codec)
    known = declared("channels", (), tuple, "a tuple of names")
    usual = declared("default_channels", (), tuple, "a tuple of names") or known
    packing = declared("packing", None, str | None, "None, 'gzip' or 'deflate'")
    if packing is not None and packing not in get_args(Packing):
        raise ConfigError(f"{shown}: packing must be None, 'gzip' or 'deflate', not {packing!r}")
    compression = declared("compression", None, str | None, "None or 'permessage-deflate'")
    if compression not in (None, "permessage-deflate"):
        raise ConfigError(f"{shown}: compression must be None or 'permessage-deflate'")
    chosen = _choose(name, channels, known, usual)
    strange = [channel for channel in usual if channel not in known]
    if strange:
        raise ConfigError(f"{shown}: default_channels has {strange[0]!r}, and channels has not")
    notices = declared("notices", {}, Mapping, "a mapping from channels to texts")
    rest = declared("rest_snapshots", None, RestSnapshots | None, "a RestSnapshots or None")
    codes = declared("final_close_codes", frozenset(), set | frozenset, "a set of close codes")
    return Language(
        name=name,
        new_codec=codec,
        url=declared("url", None, str | None, "a str or None"),
        key_parameter=declared("key_parameter", None, str | None, "a str or None"),
        channels=chosen,
        notices=tuple(notices[channel] for channel in chosen if channel in notices),
        all_channels=known,
        wildcard=declared("wildcard", None, str | None, "a str or None"),
        keep_alive=declared("keep_alive", None, KeepAlive | None, "a KeepAlive or None"),
        limits=declared("limits", Limits(), Limits, "a Limits"),
        packing=packing,
        compression=compression,
        final_close_codes=frozenset(codes),
        makes_fresh_items=codec in VENUES.values(),
        asks_for_rate=issubclass(codec, RateCodec),
        unsubscribes=not _same(codec, "unsubscribe"),
        asks_for_snapshots=not _same(codec, "request_snapshot"),
        hands_over=not _same(codec, "place_of"),
        rest_snapshots=rest if rest is not None and rest.channels.intersection(chosen) else None,
        new_book_checksum=declared(
            "new_book_checksum", None, Callable | None, "a function without arguments"
        ),
    )


def _check_methods(shown: str, codec: type[Any]) -> None:
    """Refuse methods that cannot work, and warn of names that look misspelt."""
    for method in _METHODS:
        own = getattr(codec, method, None)
        if own is not None and not callable(own):
            raise ConfigError(f"{shown}: {method} must be a method, not {own!r}")
        if inspect.iscoroutinefunction(own):
            raise ConfigError(f"{shown}: {method} must be a plain def: a codec never waits")
    try:
        inspect.signature(codec).bind(None)
    except TypeError as error:
        text = f"{shown} must be made with a context, __init__(self, context): {error}"
        raise ConfigError(text) from None
    for name in vars(codec):
        if name.startswith("_") or name in _NAMES:
            continue
        meant = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.85)
        if meant:
            log_event(
                logger,
                logging.WARNING,
                "codec.misspelt",
                "%s has %s; is it meant to be %s?",
                shown,
                name,
                meant[0],
                codec=codec.__name__,
                attribute=name,
                meant=meant[0],
            )


def requests_of(codec: Codec, method: str, argument: object) -> Sequence[str | bytes]:
    """Return the messages that *method* of *codec* makes of *argument*.

    Raises:
        ConfigError: they are not a list of texts or bytes.
    """
    messages = getattr(codec, method)(argument)
    if isinstance(messages, list | tuple) and all(isinstance(m, str | bytes) for m in messages):
        if all(is_sendable(message) for message in messages):
            return messages
        raise ConfigError(
            f"the codec {type(codec).__name__}: {method} made a text that is not Unicode: it has"
            f" half a surrogate pair, {reprlib.repr(messages)}"
        )
    raise ConfigError(
        f"the codec {type(codec).__name__}: {method} must return a list of str or bytes, not"
        f" {reprlib.repr(messages)}"
    )


def is_sendable(message: str | bytes) -> bool:
    """Return whether *message* can be sent: text needs an UTF-8 form."""
    if isinstance(message, str):
        try:
            message.encode()
        except UnicodeEncodeError:
            return False
    return True


def _same(codec: type[Any], method: str) -> bool:
    """Return whether *codec* leaves *method* as :class:`Codec` has it, or has none."""
    return getattr(codec, method, None) in (None, getattr(Codec, method, None))


def _choose(
    name: str, chosen: Iterable[str] | str | None, known: tuple[str, ...], usual: tuple[str, ...]
) -> tuple[str, ...]:
    if chosen is None:
        return usual
    if chosen == "all":
        return known
    if not isinstance(chosen, Iterable):
        raise ConfigError(f"channels must be a list of channels, not {type(chosen).__name__}")
    wanted = [chosen] if isinstance(chosen, str) else list(chosen)
    unknown = [channel for channel in wanted if channel not in known]
    if unknown or not wanted:
        have = ", ".join(known) or "no channels to choose from"
        raise ConfigError(
            f"the venue {name!r} has no channel {unknown[0]!r}: it has {have}"
            if unknown
            else "channels must be a list of at least one channel, None, or 'all'"
        )
    return tuple(dict.fromkeys(wanted))
