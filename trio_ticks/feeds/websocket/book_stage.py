"""Which stage a feed needs for its order books, and who gets their snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from ...book import Book
from ...rest import RestClient
from ...rest.library import library
from ..base import FeedStats
from ..book_sync import BookSync
from ..books import BookStage, KeptBooks
from ..venues import Language
from .addresses import Access
from .options import WebSocketOptions

__all__ = ["books_of", "new_stage", "rest_client_maker"]

_TIMEOUT_S: Final = 10.0


def new_stage(language: Language, stats: FeedStats, *, keeps: bool) -> BookStage | None:
    """Return the stage for the books of a feed; ``None``: it needs none.

    Args:
        language: of the venue.
        stats: of the feed.
        keeps: whether the feed is to keep the books itself.
    """
    over_rest = language.rest_snapshots is not None
    if keeps:
        return KeptBooks(stats, language.new_book_checksum, over_rest=over_rest)
    return BookSync(stats) if over_rest else None


def books_of(stage: BookStage | None) -> Mapping[str, Book]:
    """Return the books that *stage* keeps, by the user's names."""
    return stage.books if isinstance(stage, KeptBooks) else {}


def rest_client_maker(
    access: Access, options: WebSocketOptions, language: Language, *, proxy: str | None
) -> Callable[..., RestClient] | None:
    """Return what makes the client for snapshots; ``None``: none come over REST.

    It is reached in the same way as the stream: by the same proxy, and with trust in
    the same certificates. A run adds its clock and its source of chance.

    Args:
        access: of the feed.
        options: of the feed.
        language: of the venue.
        proxy: the address of the proxy, as the user gave it.

    Raises:
        ConfigError: httpx is not installed, or the address makes no sense.
    """
    how = language.rest_snapshots
    if how is None:
        return None
    library()
    target = access.target
    url = options.rest_url
    if url is None:
        url = how.base_url(None if target is None else str(target))
    is_secure = url.lower().startswith("https:")
    make = partial(
        RestClient,
        url,
        timeout=_TIMEOUT_S,
        requests_per_minute=how.requests_per_min,
        tries=1,
        proxy=proxy,
        trust_env=access.trust_env,
        ca=access.ca if is_secure else None,
        ssl_context=access.ssl_context if is_secure else None,
    )
    make()
    return make
