"""What happens to a feed, told to the strategy apart from the market data."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import attrs

__all__ = ["FeedEvent", "FeedEventKind"]

FeedEventKind = Literal["lost", "back", "symbol-silent", "symbol-back", "symbol-refused"]


@attrs.frozen(slots=True)
class FeedEvent:
    """Something that happened to a feed or to one of its symbols."""

    feed: str
    """The name of the feed."""
    kind: FeedEventKind
    """``"lost"``: a connection was lost, at this moment; ticks that came before may
    still be queued. ``"back"``: data may come again. ``"symbol-silent"``: no data has
    come for longer than usual, though the connection is fine. ``"symbol-back"``: data
    of a silent symbol has come. ``"symbol-refused"``: the venue will not send it; no
    symbol: it refuses all of a request, or does not say which."""
    symbol: str | None
    """The symbol, in your spelling; ``None`` for an event of the whole feed."""
    reason: str
    """For people to read; in the venue's words where it gave any."""
    at: datetime
    """When it happened, in UTC."""

    @property
    def timestamp(self) -> datetime:
        """When it happened: an event of a symbol can travel in the symbol's line."""
        return self.at
