"""What a codec reports, and what the feed does about it.

One :class:`LinkContext` serves the codec of one connection, or of one feed that polls.
The counts and the log lines are the feed's, whatever connection they come from.

Rules: nothing here awaits. Text from the venue is redacted before it is shown.
"""

from __future__ import annotations

import logging
import reprlib
from datetime import datetime
from typing import Any, Literal, Protocol, final

from ..clock import Clock
from ..errors import ConfigError
from ..logs import LogLimit, Redactor, log_event
from .base import FeedStats
from .reports import BadMessages
from .telling import Telling
from .venues import is_sendable

__all__ = ["LinkContext", "Reports"]


class Reports(Protocol):
    """What :class:`LinkContext` needs of the connection that it belongs to."""

    clock: Clock
    stats: FeedStats
    bad: BadMessages
    redactor: Redactor
    logger: logging.Logger
    log_limit: LogLimit
    channels: tuple[str, ...]
    telling: Telling

    def reply(self, message: str | bytes) -> None: ...
    def pong_arrived(self) -> None: ...
    def wish(self, reason: str) -> None: ...
    def replace(self, reason: str) -> None: ...
    def answered(self, request: str, accepted: bool) -> None: ...
    def symbol_refused(self, symbol: str | None, reason: str, final: bool) -> None: ...


@final
class LinkContext:
    """The :class:`~trio_ticks.CodecContext` of a connection."""

    __slots__ = ("_link", "channels")

    def __init__(self, link: Reports) -> None:
        self._link = link
        self.channels = link.channels

    @property
    def arrived(self) -> datetime:
        """When the messages being decoded arrived: now."""
        return self._link.clock.utc()

    def ignored(self, count: int = 1) -> None:
        """Count messages that are no market data."""
        self._link.stats.ignored += count

    def malformed(self, payload: bytes, reason: str, symbol: str | None = None) -> None:
        """Count *payload* as malformed, and tell the strategy of the symbol's gap."""
        link = self._link
        link.stats.malformed += 1
        link.bad.record(payload, reason)
        if symbol is not None:
            link.telling.mark_gap(symbol, "malformed", 1)

    def refused(self, symbol: str | None, reason: str, *, final: bool = False) -> None:
        """Log that the venue refuses a subscription, and tell the strategy."""
        link = self._link
        words = link.redactor.excerpt(reason)
        link.stats.refused += 1
        link.symbol_refused(symbol, words, final)
        if times := link.log_limit.due("refused"):
            facts: dict[str, Any] = {"reason": words, "final": final}
            if symbol is not None:
                facts["symbol"] = link.redactor.excerpt(symbol)
            if times > 1:
                facts["times"] = times
            log_event(link.logger, logging.WARNING, "feed.refused", **facts)

    def reply(self, message: str | bytes) -> None:
        """Send *message* to the venue.

        Raises:
            ConfigError: it is neither a str nor bytes.
            ValueError: it is a str that has no UTF-8 form.
        """
        if not isinstance(message, str | bytes):
            raise ConfigError(f"reply takes a str or bytes, not {reprlib.repr(message)}")
        if not is_sendable(message):
            raise ValueError("the reply to it would have no UTF-8 form")
        self._link.reply(message)

    def pong(self) -> None:
        """Report the answer to the keep-alive message."""
        self._link.pong_arrived()

    def gap(self, symbol: str, missed: int = 0) -> None:
        """Tell the strategy of the gap in the venue's sequence."""
        self._link.telling.mark_gap(symbol, "sequence", missed)

    def need_snapshot(self, symbol: str) -> None:
        """Hold the symbol's book updates until the next snapshot."""
        self._link.telling.mark_gap(symbol, "sequence", 0, book=True)

    def reconnect(self, reason: str) -> None:
        """Have another connection made at once."""
        self._link.wish(self._link.redactor.excerpt(reason))

    def replace(self, reason: str) -> None:
        """Have another connection made, which takes over from this one."""
        self._link.replace(self._link.redactor.excerpt(reason))

    def answered(self, request: Literal["throttle", "unsubscribe"], accepted: bool) -> None:
        """Tell the throttle of the venue's answer."""
        self._link.answered(request, accepted)
