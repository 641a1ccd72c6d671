"""TickDB over REST: what its tickers and order books say, asked again and again.

Facts: github.com/TickDB/tickdb-api-docs, the pages on REST. ``/v1/market/ticker`` takes
up to 50 symbols a request, ``/v1/market/depth`` one. The rows of an answer have the
fields of the venue's pushes, so its codec reads them; how they are wrapped is
documented by example only, so that any wrapping is taken that holds one list.

Rules: requests are made one after another. What good answers have brought goes on even
if a later request fails. A symbol that the venue does not know, or has no depth of, is
told as refused, and not asked for again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, final

import msgspec

from ...clock import Clock
from ...errors import ConfigError, FeedAuthError, RestError, UnknownSymbolError
from ...rest import RestClient, open_venue
from ..codec_context import LinkContext, Reports
from ..venues.tickdb import TickDBCodec
from ..venues.tickdb_pushes import is_pair
from .core import Fetch, Source

__all__ = ["tickdb_source"]

_CHANNELS: Final = ("quote", "ticker", "depth")
_DEFAULT: Final = ("quote",)
_MOST_SYMBOLS: Final = 50
"""In a request for tickers."""
_LEVELS: Final = 10
_UNAUTHORIZED: Final = 401
_NOT_OF_SYMBOL: Final = frozenset({"2001", "4005"})
"""Codes of a request for one symbol that has no such data, or not with this key."""
_encode: Final = msgspec.json.encode


class _Answer(msgspec.Struct):
    data: Any = None


def _sources(symbol: str, channels: Iterable[str]) -> set[str]:
    """Return the interfaces, ``ticker`` or ``depth``, that bring *channels*."""
    quote = "ticker" if is_pair(symbol) else "depth"
    return {quote if channel == "quote" else channel for channel in channels}


def _requests_each_time(symbols: Iterable[str], channels: Sequence[str]) -> int:
    """Return how many requests bring *channels* of *symbols* once."""
    found = [_sources(symbol, channels) for symbol in symbols]
    tickers = sum("ticker" in sources for sources in found)
    return -(-tickers // _MOST_SYMBOLS) + sum("depth" in sources for sources in found)


@final
class _TickDB:
    """Asks for all symbols once at each call; made for one run of a feed.

    Args:
        client: open.
        context: gets what the codec reports.
        symbols: in the venue's spelling.
    """

    def __init__(self, client: RestClient, context: LinkContext, symbols: Iterable[str]) -> None:
        self._client = client
        self._context = context
        self._codec = TickDBCodec(context)
        wanted = list(symbols)
        # It makes messages for a WebSocket, which nobody needs, and learns how the
        # symbols are spelled.
        self._codec.subscribe(wanted)
        by_source = {symbol: _sources(symbol, context.channels) for symbol in wanted}
        self._tickers = [s for s, sources in by_source.items() if "ticker" in sources]
        self._depths = [s for s, sources in by_source.items() if "depth" in sources]
        self._refused: dict[str, RestError] = {}

    async def fetch(self) -> Iterator[Any]:
        """Return what all symbols' tickers and books say now.

        The iterator raises at its end if a request has failed.
        """
        items: list[Any] = []
        error: Exception | None = None
        tickers = self._known(self._tickers)
        try:
            for first in range(0, len(tickers), _MOST_SYMBOLS):
                await self._ask_tickers(tickers[first : first + _MOST_SYMBOLS], items)
            for symbol in self._known(self._depths):
                await self._ask_depth(symbol, items)
        except FeedAuthError as refused:
            # Credentials that were good may be refused for a while, as elsewhere.
            error = RestError(str(refused), status=refused.status or _UNAUTHORIZED)
        except RestError as failed:
            error = failed
        if error is None and not self._known(self._tickers + self._depths):
            error = next(iter(self._refused.values()))
        return _and_then(items, error)

    def _known(self, symbols: Iterable[str]) -> list[str]:
        return [symbol for symbol in symbols if symbol not in self._refused]

    async def _ask_tickers(self, symbols: Sequence[str], items: list[Any]) -> None:
        """Add the items of *symbols*, and find those that the venue does not know."""
        try:
            answer = await self._client.get(
                "/v1/market/ticker", {"symbols": ",".join(symbols)}, type=_Answer
            )
        except UnknownSymbolError as error:
            if len(symbols) == 1:
                self._refuse(symbols[0], error)
                return
            # The venue does not say which of them it is: halve until it is found.
            half = len(symbols) // 2
            await self._ask_tickers(symbols[:half], items)
            await self._ask_tickers(symbols[half:], items)
            return
        items += self._decoded("ticker", _rows(answer.data))

    async def _ask_depth(self, symbol: str, items: list[Any]) -> None:
        try:
            answer = await self._client.get(
                "/v1/market/depth", {"symbol": symbol, "limit": _LEVELS}, type=_Answer
            )
        except RestError as error:
            if not isinstance(error, UnknownSymbolError) and error.code not in _NOT_OF_SYMBOL:
                raise
            self._refuse(symbol, error)
            return
        rows = [
            {"symbol": symbol, **row} if isinstance(row, Mapping) else row
            for row in _rows(answer.data)
        ]
        items += self._decoded("depth", rows)

    def _decoded(self, channel: str, rows: Iterable[Any]) -> Sequence[Any]:
        # Each row by itself: a bad one then costs nothing but itself.
        return self._codec.decode([_encode({"cmd": channel, "data": row}) for row in rows])

    def _refuse(self, symbol: str, error: RestError) -> None:
        if symbol not in self._refused:
            self._refused[symbol] = error
            self._context.refused(symbol, str(error), final=True)


def _rows(data: Any) -> list[Any]:
    """Return the rows in an answer: a list, one object, or an object with a list."""
    if isinstance(data, list):
        return data
    if isinstance(data, Mapping) and "symbol" not in data and "timestamp" not in data:
        lists = [value for value in data.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
    return [] if data is None else [data]


def _and_then(items: Iterable[Any], error: Exception | None) -> Iterator[Any]:
    yield from items
    if error is not None:
        raise error


def tickdb_source(
    symbols: Mapping[str, str],
    interval: float,
    *,
    api_key: Any = None,
    channels: Any = None,
    url: Any = None,
    requests_per_minute: Any = None,
) -> Source:
    """Return TickDB as a source, for a feed that asks every *interval* seconds.

    Args:
        symbols: by the venue's spelling.
        interval: in seconds.
        api_key: the user's.
        channels: as the user gave them.
        url: the address, in place of the venue's own.
        requests_per_minute: how many requests the venue takes.

    Raises:
        ConfigError: a setting makes no sense, or httpx is not installed.
    """
    if not symbols:
        raise ConfigError("symbols must be a list of at least one symbol")
    chosen = _check_channels(channels)

    def new_client(clock: Clock | None = None) -> RestClient:
        # The feed has its own time limit, and asks again by itself.
        return open_venue(
            "tickdb",
            url=url,
            api_key=api_key,
            requests_per_minute=requests_per_minute,
            timeout=math.inf,
            tries=1,
            clock=clock,
        )

    shown = new_client().url
    _check_rate(_requests_each_time(symbols, chosen), interval, requests_per_minute)

    @asynccontextmanager
    async def open_fetch(reports: Reports) -> AsyncIterator[Fetch]:
        async with new_client(reports.clock) as client:
            yield _TickDB(client, LinkContext(reports), symbols).fetch

    return Source(asked=shown, open_fetch=open_fetch, channels=chosen, url=shown)


def _check_rate(requests: int, interval: float, most: int | None) -> None:
    """Refuse a pace at which the venue would be asked more often than it allows."""
    if most is not None and requests * 60 / interval > most:
        needed = math.ceil(requests * 60 / most * 10) / 10
        raise ConfigError(
            f"these symbols need {requests} requests each time, and {most} a minute are"
            f" allowed: choose an interval of at least {needed:g} s"
        )


def _check_channels(channels: Iterable[str] | str | None) -> tuple[str, ...]:
    """Return the *channels* to poll.

    Raises:
        ConfigError: there is no such channel over REST.
    """
    if channels is None:
        return _DEFAULT
    if channels == "all":
        return _CHANNELS
    if not isinstance(channels, Iterable):
        raise ConfigError(f"channels must be a list of channels, not {type(channels).__name__}")
    chosen = tuple(dict.fromkeys([channels] if isinstance(channels, str) else channels))
    wrong = [channel for channel in chosen if channel not in _CHANNELS]
    if wrong or not chosen:
        what = f"polls no channel {wrong[0]!r}" if wrong else "needs a channel"
        raise ConfigError(f"the venue 'tickdb' {what}: it has {', '.join(_CHANNELS)}")
    return chosen
