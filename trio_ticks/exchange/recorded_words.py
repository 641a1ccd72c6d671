"""Recordings of venues, played by the exchange in their own words.

Plan: :func:`open_recorded_words` reads the messages; each knows the keys under which
clients get it. Requests are answered as in a made-up market.

Rules: sans-I/O but for the opening. A message of several symbols goes whole to who gets
any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, final

import msgspec

from ..errors import ConfigError
from ..feeds.captures import capture_symbols
from ..feeds.playback import call
from ..feeds.venues import find_language
from .dialect import Conversation, Refusal
from .flat_dialect import FlatDialect
from .recorded_binance import read_binance
from .recorded_messages import RecordedMessages, Said
from .tickdb_dialect import WHOLE_MARKET, TickDBDialect, key_of
from .wire import packed_frame, text_frame

__all__ = ["TickDBWords", "open_recorded_words", "read_kraken", "read_tickdb"]

_decode: Final = msgspec.json.Decoder().decode
_raw_rows: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_TICKDB_CHANNELS: Final = frozenset({"ticker", "depth", "trade"})
_KRAKEN_CHANNELS: Final = frozenset({"ticker", "book", "trade", "ohlc", "instrument"})


def read_kraken(payload: bytes) -> Said | None:
    """Return what a message of Kraken says to clients; ``None``: nothing.

    Its keys are channel, symbol, and the minutes of a candle. A book has none for its
    depth, which its messages do not say: who subscribes to another depth than was
    recorded gets the recorded one.
    """
    fields = _fields(payload)
    channel, rows = fields.get("channel"), fields.get("data")
    if channel not in _KRAKEN_CHANNELS:
        return None
    if channel == "instrument":
        return Said("", frozenset({(channel, "", 0)}), payload)
    keys = set()
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(symbol := row.get("symbol"), str):
            minutes = row.get("interval", 1) if channel == "ohlc" else 0
            keys.add((channel, symbol, minutes if isinstance(minutes, int) else 0))
    return Said(_only(key[1] for key in keys), frozenset(keys), payload) if keys else None


def read_tickdb(payload: bytes) -> Said | None:
    """Return what a message of TickDB says to clients; ``None``: nothing.

    Its keys are those of :class:`~.tickdb_dialect.TickDBDialect`. An array goes whole
    to who gets the whole market, and row by row to who gets some symbols.
    """
    fields = _fields(payload)
    if fields:
        key = _tickdb_key(fields)
        return None if key is None else Said(fields["data"]["symbol"], frozenset({key}), payload)
    try:
        rows = _raw_rows(payload)
        parts = [(_tickdb_key(_fields(bytes(row))), bytes(row)) for row in rows]
    except (msgspec.DecodeError, RecursionError):
        return None
    known = tuple((key, row) for key, row in parts if key is not None)
    if not known:
        return None
    symbols = (key.partition(":")[2] for key, _row in known)
    return Said(_only(symbols), frozenset({WHOLE_MARKET}), payload, known)


def _tickdb_key(fields: Mapping[str, Any]) -> str | None:
    cmd, data = fields.get("cmd"), fields.get("data")
    if cmd not in _TICKDB_CHANNELS or not isinstance(data, dict):
        return None
    symbol = data.get("symbol")
    return key_of(cmd, symbol) if isinstance(symbol, str) and symbol else None


def _fields(payload: bytes) -> dict[str, Any]:
    """Return the fields of an object; none if it is something else."""
    try:
        found = _decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _only(symbols: Iterator[str]) -> str:
    found = set(symbols)
    return found.pop() if len(found) == 1 else ""


@final
class TickDBWords:
    """TickDB's protocol for a recording: the requests are answered as usual.

    Args:
        api_key: as for :class:`TickDBDialect`.
        faults: none; a recording is played as it is.
    """

    path: ClassVar[str] = TickDBDialect.path
    compresses: ClassVar[bool] = True
    faults: ClassVar[Mapping[str, str]] = TickDBDialect.faults

    def __init__(self, api_key: str | None = None, faults: frozenset[str] = frozenset()) -> None:
        self._usual = TickDBDialect(api_key, faults)

    def at(self, path: str) -> TickDBWords | FlatDialect:
        """Return itself at ``/v1/realtime``; elsewhere the flat form, without data."""
        return self if path == self.path else self._usual.flat

    def refuses(self, target: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why a client is not let in: the key is in the query string."""
        return self._usual.refuses(target, headers)

    def converse(self, *, deflates: bool) -> Conversation:
        """Return the conversation with a new client."""
        return self._usual.converse(deflates=deflates)

    def keys(self, symbols: Sequence[str]) -> frozenset[str]:
        """Return the pairs of a channel and a symbol, and the whole market."""
        return self._usual.keys(symbols)

    def frames(self, said: Sequence[Any]) -> tuple[Sequence[str], Sequence[bytes]]:
        """Return the recorded messages *said*, each under its key."""
        keys: list[str] = []
        frames: list[bytes] = []
        for each in said:
            for key in each.keys:
                keys.append(key)
                packed = packed_frame if key == WHOLE_MARKET else text_frame
                frames.append(packed(each.payload))
            for key, payload in each.parts:
                keys.append(key)
                frames.append(text_frame(payload))
        return keys, frames


_READERS: Final = {
    "binance": read_binance,
    "binance-usdm": read_binance,
    "binance-usdm-market": read_binance,
    "kraken": read_kraken,
    "tickdb": read_tickdb,
}


async def open_recorded_words(
    path: Path,
    venue: str,
    *,
    symbols: Collection[str] | None,
    speed: float,
    loop: bool,
    in_thread: bool = True,
) -> RecordedMessages[Said]:
    """Open the recording at *path* of *venue*.

    Args:
        path: the recording.
        venue: Binance, ``"kraken"`` or ``"tickdb"``.
        symbols: those that can be subscribed to; ``None``: all of the recording.
        speed: a factor on the recording's own pace.
        loop: whether to begin anew at the end, for ever.
        in_thread: whether to read in a thread; False on a virtual clock.

    Raises:
        ConfigError: it cannot be read, or makes no market data of the venue.

    Cancellation: waits for the thread that reads.
    """
    find = partial(capture_symbols, path, find_language(venue, "all"))
    found = await call(find, in_thread=in_thread)
    wanted = found if symbols is None else tuple(symbols)
    unknown = [symbol for symbol in wanted if symbol not in found]
    if unknown:
        raise ConfigError(f"the recording has no symbol {unknown[0]!r}: it has {', '.join(found)}")
    words = RecordedMessages(path, _READERS[venue], wanted, speed, loop=loop, in_thread=in_thread)
    await words.read_ahead()
    return words
