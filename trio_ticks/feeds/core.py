"""What the parts of a feed over the network need of the feed that they belong to.

Rules: protocols only. Each kind of feed has a class with these attributes, and with
those of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from .base import FeedStats
from .books import BookStage
from .hours import ExpectData
from .reports import BadMessages

__all__ = ["FeedCore", "WatchOptions"]


class WatchOptions(Protocol):
    """The settings that say which items a feed sends on, and when it is silent."""

    @property
    def stale_after(self) -> float | None: ...
    @property
    def symbol_stale_after(self) -> float | None: ...
    @property
    def expect_data(self) -> ExpectData | None: ...
    @property
    def newer_only(self) -> bool: ...


class FeedCore(Protocol):
    """The settings and the counts of a feed, over all its runs."""

    @property
    def name(self) -> str:
        """By which the events of the feed are told apart from those of other feeds."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """By the venue's spelling, the user's name of each symbol of the feed."""
        ...

    @property
    def takes_all(self) -> bool:
        """Whether the feed sends any symbol on, not only those of ``names``."""
        ...

    @property
    def options(self) -> WatchOptions: ...
    @property
    def stats(self) -> FeedStats: ...
    @property
    def bad(self) -> BadMessages: ...

    @property
    def books(self) -> BookStage | None:
        """The books that the feed keeps itself; ``None``: it sends book updates on."""
        ...

    @property
    def logger(self) -> logging.Logger: ...
