"""The protocol of a codec: how to subscribe at a venue, and how to read its messages.

A venue's language is one class. Its methods make requests and decode messages; its
class attributes declare everything that needs no code: the address, the limits, the
keep-alive message, the compression. One object of the class serves one connection.

Rules: sans-I/O, no trio. A codec never raises because of a message from the venue; it
reports the message to its context. The peculiarities of a venue stay in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import attrs

from ...book import Checksum
from ...checks import check_count, check_instance, check_seconds, checked
from ...errors import ConfigError
from .rest_snapshots import RestSnapshots

__all__ = [
    "BAD_MESSAGE",
    "Codec",
    "CodecContext",
    "KeepAlive",
    "Limits",
    "MalformedMessage",
    "Packing",
    "RateCodec",
]

Packing = Literal["gzip", "deflate"]

BAD_MESSAGE: tuple[type[Exception], ...] = (
    ValueError,  # of msgspec and json too
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    OSError,  # of datetime.fromtimestamp, and of gzip
    EOFError,
    StopIteration,  # of next(), if what a codec looks for is not there
)
"""What reading a message may raise if the message is not what the codec expects."""


@final
class MalformedMessage(ValueError):
    """A message of the venue makes no sense. Raised by :meth:`Codec.decode_one`.

    Args:
        reason: what is wrong with it.
        symbol: the symbol that it is about, where that can be read. What is no text, or
            empty, is left out: it was read from a broken message.
    """

    def __init__(self, reason: str, symbol: object = None) -> None:
        super().__init__(reason)
        self.symbol = symbol if isinstance(symbol, str) and symbol else None


@final
@attrs.frozen(kw_only=True)
class Limits:
    """What a venue allows. ``None``: no limit is known.

    Raises:
        ConfigError: a limit is not positive.
    """

    subscriptions: int | None = attrs.field(
        default=None, validator=checked(check_count, or_none=True)
    )
    """Subscriptions of one connection: its symbols times the channels.

    The feed opens as many connections as its symbols need.
    """
    messages_per_s: int | None = attrs.field(
        default=None, validator=checked(check_count, or_none=True)
    )
    """Messages that a connection may send in a second; the feed spreads them out."""
    connects_per_min: int | None = attrs.field(
        default=None, validator=checked(check_count, or_none=True)
    )
    """Connections that may be opened in a minute, over all of a feed."""
    subscribe_within_s: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """The venue hangs up unless the first request arrives within so many seconds.

    The feed gives up a connection on which it could not send one in that time.
    """
    connection_s: float | None = attrs.field(
        default=None, validator=checked(check_seconds, positive=True, or_none=True)
    )
    """The venue closes a connection after so many seconds.

    The feed replaces it in time, see ``max_connection_age`` of the feed.
    """
    message_bytes: int | None = attrs.field(
        default=None, validator=checked(check_count, or_none=True)
    )
    """The largest message that the venue may send, in bytes.

    The feed takes messages of this size even if its ``max_message_size`` is smaller.
    """


@final
@attrs.frozen
class KeepAlive:
    """A message that the venue wants to have regularly, beside WebSocket's own pings.

    Args:
        message: what to send.
        every_s: seconds from one to the next.
        within_s: give the connection up when the codec has not reported an answer
            (:meth:`CodecContext.pong`) so many seconds after one was sent; ``None``:
            wait for no answer.

    Raises:
        ConfigError: a value makes no sense.
    """

    message: str | bytes = attrs.field(
        validator=checked(check_instance, kind=str | bytes, shown="a str or bytes")
    )
    every_s: float = attrs.field(kw_only=True, validator=checked(check_seconds, positive=True))
    within_s: float | None = attrs.field(
        default=None, kw_only=True, validator=checked(check_seconds, positive=True, or_none=True)
    )


class CodecContext(Protocol):
    """What a codec knows of its connection, and how it reports all but market data."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels to subscribe to, of those that the codec declares."""

    @property
    def arrived(self) -> datetime:
        """When the messages being decoded arrived, in UTC.

        It is the timestamp for market data to which the venue gives none.
        """

    def ignored(self, count: int = 1) -> None:
        """Count messages that are no market data: heartbeats, acknowledgements."""

    def malformed(self, payload: bytes, reason: str, symbol: str | None = None) -> None:
        """Count *payload* as malformed.

        Args:
            payload: the message, shown in the log as an excerpt without secrets.
            reason: what is wrong with it.
            symbol: the symbol that it is about, where that can be read; the strategy is
                told of a gap of it.
        """

    def refused(self, symbol: str | None, reason: str, *, final: bool = False) -> None:
        """Report that the venue refuses a subscription.

        Args:
            symbol: which one, in the venue's spelling; ``None`` where the venue does
                not say, or refuses all of the request.
            reason: in the venue's words.
            final: whether to leave the symbol out from now on; otherwise it is asked
                for again on the next connection.
        """

    def reply(self, message: str | bytes) -> None:
        """Send *message* to the venue: the answer to its ping, a log-in.

        Raises:
            ConfigError: it is neither a str nor bytes, which ends the feed.
            ValueError: it is a str that has no UTF-8 form. It was made of a message of
                the venue, and that is malformed.
        """

    def pong(self) -> None:
        """Report the answer to the message of :attr:`Codec.keep_alive`."""

    def gap(self, symbol: str, missed: int = 0) -> None:
        """Report that messages of *symbol* are missing from the venue's sequence.

        Args:
            symbol: in the venue's spelling.
            missed: how many; 0 where nobody can know.
        """

    def need_snapshot(self, symbol: str) -> None:
        """Report that the order book of *symbol* is wrong until its next snapshot."""

    def reconnect(self, reason: str) -> None:
        """Have the connection closed and opened anew, at once: the venue wishes it."""

    def replace(self, reason: str) -> None:
        """Have the connection replaced by another one, which is opened before.

        Where the codec has no :meth:`Codec.place_of`, it is as :meth:`reconnect`.
        """

    def answered(self, request: Literal["throttle", "unsubscribe"], accepted: bool) -> None:
        """Report the venue's answer to a request of that kind."""


class Codec(Protocol):
    """A venue's language. Derive from it, and write :meth:`subscribe` and one of
    :meth:`decode_one` and :meth:`decode`.

    It is constructed with a :class:`CodecContext` for each connection. If the venue
    accepts a limit on its rate, the codec also has a method ``throttle(max_rate)`` that
    returns the messages that ask for at most *max_rate* ticks a second (``None``:
    without a limit).
    """

    url: ClassVar[str | None] = None
    """The venue's own address; ``None``: the user gives one."""
    key_parameter: ClassVar[str | None] = None
    """The parameter of the address's query string that carries the user's key.

    ``None``: the key goes into the header ``X-API-Key``.
    """
    channels: ClassVar[tuple[str, ...]] = ()
    """All channels that the codec knows; empty: it has no choice of channels."""
    default_channels: ClassVar[tuple[str, ...]] = ()
    """The channels that are subscribed to where the user names none."""
    notices: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """By channel, what a user should know of it; logged when a feed with it starts."""
    wildcard: ClassVar[str | None] = None
    """The symbol that stands for all symbols of the venue, if it has one."""
    keep_alive: ClassVar[KeepAlive | None] = None
    """The message that the venue wants regularly."""
    limits: ClassVar[Limits] = Limits()
    """What the venue allows."""
    packing: ClassVar[Packing | None] = None
    """How the venue packs each message; :meth:`decode` gets them unpacked."""
    compression: ClassVar[Literal["permessage-deflate"] | None] = None
    """The WebSocket extension that the venue demands."""
    new_book_checksum: ClassVar[Callable[[], Checksum] | None] = None
    """Makes what checks a :class:`Book` of the venue, if its updates have checksums."""
    final_close_codes: ClassVar[frozenset[int]] = frozenset()
    """Codes of a Close frame after which it makes no sense to come back."""

    rest_snapshots: ClassVar[RestSnapshots | None] = None
    """How the snapshots of books are had over REST; ``None``: they come by the
    stream."""

    context: CodecContext

    def __init__(self, context: CodecContext) -> None:
        self.context = context

    def subscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
        """Return the messages that subscribe to *symbols*, in the venue's spelling.

        The feed calls it at the start of each connection, and again for symbols that
        are added or resumed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method subscribe")

    def unsubscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
        """Return the messages that unsubscribe from *symbols*.

        A codec without this method leaves the feed no way to pause symbols; it then
        drops what comes of symbols that were unsubscribed from.
        """
        return ()

    def request_snapshot(self, symbol: str, /) -> Sequence[str | bytes]:
        """Return the messages that ask for a snapshot of the book of *symbol*.

        None if nothing is to be asked, since there is no book of it. Where a codec
        lacks this method, a feed that keeps books connects anew for a snapshot.
        """
        return ()

    def place_of(self, payload: bytes, /) -> tuple[str, int] | None:
        """Return the stream that *payload* belongs to, and its number in that stream.

        Numbers of a stream rise from message to message, on all connections alike.
        ``None`` if it has no number, as an acknowledgement. Where a codec has this
        method, the feed replaces a connection without a gap and without a double: it
        opens the next one first, and compares the numbers of both. It is called for the
        messages of that time only, and never raises.
        """
        return None

    def succeed(self, codec: Codec, /) -> None:
        """Go on with what *codec* has kept, whose connection this one replaces.

        It is called before the first market data is decoded.
        """
        return

    def decode(self, payloads: Sequence[bytes], /) -> Sequence[Any]:
        """Return the market data in *payloads*, in their order.

        Each payload makes market data or is counted as malformed or ignored; a bad
        payload never affects a good one. By default each goes to :meth:`decode_one`.
        """
        items: list[Any] = []
        for payload in payloads:
            try:
                decoded = self.decode_one(payload)
            except BAD_MESSAGE as error:
                if isinstance(error, ConfigError):
                    raise  # of the context: the codec is wrong, and not the message
                symbol = error.symbol if isinstance(error, MalformedMessage) else None
                self.context.malformed(payload, _reason(error), symbol)
                continue
            if decoded is None:
                self.context.ignored()
                continue
            if not isinstance(decoded, list | tuple):
                items.append(decoded)
            elif decoded:
                items += decoded
            else:
                self.context.ignored()
        return items

    def decode_one(self, payload: bytes, /) -> Any:
        """Return the market data in *payload*.

        One item, a list or tuple of items, or ``None`` for a message that is no market
        data.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
                RecursionError, OSError, EOFError, StopIteration: the message is
                malformed; a :class:`MalformedMessage` can say which symbol it is about.
        """
        name = type(self).__name__
        raise NotImplementedError(f"{name} has neither decode nor decode_one")


@runtime_checkable
class RateCodec(Protocol):
    """A codec that can ask the venue for a lower rate."""

    def throttle(self, max_rate: float | None, /) -> Sequence[Any]:
        """Return the messages that ask for at most *max_rate* ticks a second.

        ``None``: without a limit.
        """
        ...


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error) or type(error).__name__
