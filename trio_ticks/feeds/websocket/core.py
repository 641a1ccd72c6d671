"""What the parts of one WebSocket feed share, over all its runs and connections."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs

from ...logs import Redactor
from ...recordings.taps import About, Tap
from ...rest import RestClient
from ..base import FeedStats, OpenTap
from ..books import BookStage
from ..recorded_items import encode_items
from ..reports import BadMessages
from ..venues import Language
from .options import WebSocketOptions
from .session import SessionSettings

__all__ = ["WebSocketCore", "record_to"]

logger = logging.getLogger("trio_ticks.feeds.websocket")


@attrs.define(kw_only=True)
class WebSocketCore:
    """The settings and the counts of a feed."""

    name: str
    """By which the events of the feed are told apart from those of other feeds."""
    url: str
    """The address of the last connection, as far as it may be shown."""
    language: Language
    options: WebSocketOptions
    names: dict[str, str]
    """By the venue's spelling, the user's name of each symbol of the feed."""
    stats: FeedStats
    books: BookStage | None
    """The books that the feed keeps, or whose updates it puts behind their snapshots;
    ``None``: it sends book updates on as they come."""
    bad: BadMessages
    redactor: Redactor
    auth_advice: str
    """What to do where the venue refuses the credentials, for errors."""
    new_rest_client: Callable[..., RestClient] | None
    """Makes what gets snapshots of books; ``None``: they come by the stream.

    A run adds its clock and its source of chance."""
    new_settings: Callable[[], Awaitable[SessionSettings]]
    """Returns the settings of the next connection; may raise ``ConnectFailed``."""
    logger: logging.Logger = logger
    tap: Tap | None = None
    """Records what the feed receives; ``None``: nobody does."""

    @property
    def takes_all(self) -> bool:
        """Whether the feed subscribes to all symbols of the venue."""
        return self.language.wildcard is not None and self.language.wildcard in self.names


def record_to(core: WebSocketCore, open_tap: OpenTap | None, /) -> None:
    """Record what the feed receives from the next connection on; ``None``: no more."""
    core.tap = None
    if open_tap is not None:
        core.tap = open_tap(
            About(
                feed=core.name,
                venue=core.language.name,
                url=core.url,
                channels=core.language.channels,
                symbols=dict(core.names),
                redactor=core.redactor,
                encode=encode_items,
            )
        )
