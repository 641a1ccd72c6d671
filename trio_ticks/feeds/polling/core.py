"""What the parts of one polling feed share, over all its runs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import attrs

from ...logs import Redactor
from ..base import FeedStats
from ..codec_context import Reports
from ..reports import BadMessages
from .options import PollingOptions
from .rests import Rests

__all__ = ["Fetch", "OpenFetch", "PollingCore", "Source"]

Fetch: TypeAlias = Callable[[], Awaitable[Any]]
"""Asks once: returns an item, an iterable of items, or ``None`` for nothing."""

OpenFetch: TypeAlias = Callable[[Reports], AbstractAsyncContextManager[Fetch]]
"""Makes the function that asks, for one run of the feed."""


@attrs.frozen(kw_only=True)
class Source:
    """What a feed asks."""

    asked: str
    """The name of the user's function, or an address without secrets."""
    open_fetch: OpenFetch
    channels: tuple[str, ...] = ()
    url: str | None = None


@attrs.define(kw_only=True)
class PollingCore:
    """The settings and the counts of a feed."""

    name: str
    """By which the events of the feed are told apart from those of other feeds."""
    asked: str
    """What is asked: the name of the user's function, or an address without secrets."""
    interval: float
    open_fetch: OpenFetch
    options: PollingOptions
    names: dict[str, str]
    """By the venue's spelling, the user's name of each symbol; empty: any is taken."""
    channels: tuple[str, ...]
    stats: FeedStats
    bad: BadMessages
    redactor: Redactor
    logger: logging.Logger
    rests: Rests = attrs.field(factory=Rests)
    url: str | None = None
    """The address, if the feed knows it."""
    books: None = None

    @property
    def takes_all(self) -> bool:
        """Whether the feed sends any symbol on."""
        return not self.names
