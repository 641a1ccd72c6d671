"""TickDB as the exchange speaks it: its WebSocket as documented, and its old habits.

A symbol of two currencies (``EURUSD``) has a ticker with a quote and no depth; all
others have a ticker with the last price only, depth of two levels, and a trade for each
tick. Shares of mainland China (``.SH``, ``.SZ``) have trades in the flat form. The
volume of a tick makes the id of its trade, so ids rise.

Rules: sans-I/O. Every spelling is one that the venue's documentation shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Final, final
from urllib.parse import parse_qs, urlsplit

import msgspec

from ..feeds.venues.tickdb_pushes import is_pair
from .dialect import Answer, Refusal
from .flat_dialect import FlatDialect, key_refusal
from .wire import FlatTick, packed_frame, text_frame

__all__ = ["WHOLE_MARKET", "TickDBDialect", "key_of", "kind_of"]

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_CHANNELS: Final = ("ticker", "depth", "trade")
_UNIVERSE: Final = "US_Stock"
WHOLE_MARKET: Final = "*"
"""The key of the full-market subscription."""
_ARRAY: Final = 500
"""The most tickers in one array."""
_AHEAD_MS: Final = 1270
"""By how much a venue's clock was ahead of the receiver's in a recording."""
_SECOND_MS: Final = 1000

FAULTS: Final = MappingProxyType(
    {
        "forbidden": "no client is let in: 403, PERMISSION_DENIED",
        "too-many": "no client is let in: 429, 3003, Retry-After 1",
        "partial": "of each first subscription to several symbols the last ones fail (5004)",
        "busy": "each first subscription of a connection fails as a whole (3001)",
        "no-pong": "the app ping is not answered",
        "silent": "subscriptions are accepted, and no data comes",
        "early-data": "a ticker and messages of unknown kinds come before anything else",
        "text-codes": "codes are text: '0', '2002'",
        "bare-symbols": "pushes leave out the suffix: NVDA for NVDA.US",
        "zero-quotes": "tickers without a quote say '0.00' for bid and ask",
        "withdrawn": "every tenth quote is withdrawn: null in tickers, no bids in depth",
        "arrays": "pushes come in arrays",
        "repeats": "each push comes twice",
        "junk": "every tenth push is cut off",
        "clock-ahead": "the venue's clock is 1.27 s ahead",
        "whole-seconds": "times are whole seconds",
    }
)


def key_of(channel: str, symbol: str) -> str:
    """Return the key under which clients get *channel* of *symbol*."""
    return f"{channel}:{symbol}"


def kind_of(symbol: str) -> str:
    """Return the type of a symbol, as the venue names it."""
    if is_pair(symbol):
        return "forex"
    return "stock" if "." in symbol or (symbol.isalpha() and len(symbol) < 6) else "crypto"


@final
class TickDBDialect:
    """The documented form at ``/v1/realtime``, and the flat one at any other path."""

    path: ClassVar[str] = "/v1/realtime"
    compresses: ClassVar[bool] = True
    faults: ClassVar[Mapping[str, str]] = FAULTS

    def __init__(self, api_key: str | None = None, faults: frozenset[str] = frozenset()) -> None:
        self._api_key = api_key
        self.chosen = faults
        self.flat = FlatDialect(api_key)
        self.last: dict[str, dict[str, Any]] = {}
        """By symbol, the last ticker: the snapshot for a full-market subscription."""
        self._pushes = 0

    def at(self, path: str) -> TickDBDialect | FlatDialect:
        """Return itself at ``/v1/realtime``, and the flat form elsewhere."""
        return self if path == self.path else self.flat

    def refuses(self, target: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why a client is not let in: the key is in the query string."""
        if "forbidden" in self.chosen:
            return Refusal(403, "PERMISSION_DENIED")
        if "too-many" in self.chosen:
            return Refusal(429, "3003", (("Retry-After", "1"),))
        given = parse_qs(urlsplit(target).query, keep_blank_values=True).get("api_key", [])
        return key_refusal([key.encode() for key in given], self._api_key)

    def converse(self, *, deflates: bool) -> _Conversation:
        """Return the conversation with a new client."""
        return _Conversation(self, deflates)

    def keys(self, symbols: Sequence[str]) -> frozenset[str]:
        """Return the pairs of a channel and a symbol, and the whole market."""
        pairs = [key_of(channel, each) for channel in _CHANNELS for each in symbols]
        return frozenset([WHOLE_MARKET, *pairs])

    def frames(self, ticks: Sequence[FlatTick]) -> tuple[Sequence[str], Sequence[bytes]]:
        """Return the pushes that say *ticks*, and the arrays for the whole market."""
        keys: list[str] = []
        frames: list[bytes] = []
        if "silent" in self.chosen:
            return keys, frames
        changed: dict[str, dict[str, Any]] = {}
        for tick in ticks:
            self._pushes += 1
            for channel, push in self._pushes_of(tick):
                if channel == "ticker":
                    self.last[tick.symbol] = changed[tick.symbol] = push
                frame = text_frame(self._written(push))
                for _ in range(2 if "repeats" in self.chosen else 1):
                    keys.append(key_of(channel, tick.symbol))
                    frames.append(frame)
        for array in self.arrays(list(changed.values())):
            keys.append(WHOLE_MARKET)
            frames.append(packed_frame(array))
        return keys, frames

    def arrays(self, pushes: Sequence[dict[str, Any]]) -> list[bytes]:
        """Return *pushes* as arrays of the venue's size."""
        starts = range(0, len(pushes), _ARRAY)
        return [_encode(pushes[first : first + _ARRAY]) for first in starts]

    def _written(self, push: dict[str, Any]) -> bytes:
        written = _encode([push] if "arrays" in self.chosen else push)
        if "junk" in self.chosen and self._pushes % 10 == 0:
            return written[: len(written) // 2]
        return written

    def _pushes_of(self, tick: FlatTick) -> list[tuple[str, dict[str, Any]]]:
        """Return the pushes that one tick makes, each with its channel."""
        symbol, stamp = tick.symbol, self._stamp(tick.timestamp)
        shown = symbol.partition(".")[0] if "bare-symbols" in self.chosen else symbol
        head = {"symbol": shown, "type": kind_of(symbol)}
        volume = {} if tick.volume is msgspec.UNSET else {"volume_24h": f"{tick.volume}"}
        gone = "withdrawn" in self.chosen and self._pushes % 10 == 0
        last = {"last_price": f"{tick.bid}", **volume, "timestamp": stamp}
        if is_pair(symbol):
            bid = None if gone else f"{tick.bid}"
            quote = {"bid_price": bid, "ask_price": f"{tick.ask}", "spread": "0.01"}
            return [("ticker", {"cmd": "ticker", "data": {**head, **quote, **last}})]
        zeros = {"ask_price": "0.00", "bid_price": "0.00"} if "zero-quotes" in self.chosen else {}
        sizes = [0 if size is msgspec.UNSET else size for size in (tick.bid_size, tick.ask_size)]
        bids = [[f"{tick.bid}", f"{sizes[0]}"], [f"{tick.bid - 0.01:.2f}", "100"]]
        asks = [[f"{tick.ask}", f"{sizes[1]}"], [f"{tick.ask + 0.01:.2f}", "100"]]
        depth = {"symbol": shown, "bids": [] if gone else bids, "asks": asks, "timestamp": stamp}
        deal: dict[str, Any] = {
            "price": f"{tick.ask}",
            "quantity": "100",
            "side": "buy",
            "timestamp": stamp,
        }
        if symbol.endswith((".SH", ".SZ")):
            trade = {**head, **deal}
        else:
            trade = {**head, "trades": [{"id": f"{tick.volume}", **deal}]}
        return [
            ("ticker", {"cmd": "ticker", "data": {**head, **zeros, **last}}),
            ("depth", {"cmd": "depth", "data": depth}),
            ("trade", {"cmd": "trade", "data": trade}),
        ]

    def _stamp(self, timestamp: str) -> int:
        milliseconds = int(datetime.fromisoformat(timestamp).timestamp() * _SECOND_MS)
        if "clock-ahead" in self.chosen:
            milliseconds += _AHEAD_MS
        if "whole-seconds" in self.chosen:
            milliseconds -= milliseconds % _SECOND_MS
        return milliseconds


@final
class _Conversation:
    """What one client of the documented form has said so far."""

    def __init__(self, dialect: TickDBDialect, deflates: bool) -> None:
        self._dialect = dialect
        self._chosen = dialect.chosen
        self._deflates = deflates
        self._failed_once = False

    def opening(self) -> Sequence[bytes]:
        """Return nothing, or with the fault ``early-data`` what nobody asked for."""
        if "early-data" not in self._chosen:
            return ()
        early = [
            {"code": 0, "message": "connected", "data": None},
            {"cmd": "notice", "data": {"text": "hello"}},
            {"cmd": "ticker", "data": {"symbol": "EARLY", "last_price": "1", "timestamp": 1}},
        ]
        return [_encode(message) for message in early]

    def answer(
        self,
        message: str | bytes,
        *,
        symbols: Sequence[str],
        subscription: frozenset[str],
        max_rate: float | None,
    ) -> Answer:
        """Answer a command; whatever is none gets the error 2001."""
        try:
            request = _decode(message)
            cmd, data = request["cmd"], request.get("data")
            if cmd == "ping":
                return self._pong(subscription)
            if cmd not in ("subscribe", "unsubscribe"):
                raise ValueError(cmd)
            if "universes" in data:
                return self._whole_market(cmd, data, subscription)
            channel, wanted = data["channel"], list(dict.fromkeys(data["symbols"]))
            if channel not in _CHANNELS or not all(isinstance(each, str) for each in wanted):
                raise ValueError(channel)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return self._refused("error", 2001, "Invalid message format", None, subscription)
        if cmd == "unsubscribe":
            gone = frozenset(key_of(channel, each) for each in wanted)
            return self._accepted(cmd, data, subscription - gone)
        return self._subscribe(channel, wanted, frozenset(symbols), subscription)

    def _subscribe(
        self, channel: str, wanted: list[str], listed: frozenset[str], subscription: frozenset[str]
    ) -> Answer:
        data: dict[str, Any] = {"channel": channel, "symbols": wanted}
        first, self._failed_once = not self._failed_once, True
        if "busy" in self._chosen and first:
            return self._refused("subscribe", 3001, "slow down", data, subscription)
        failed = [each for each in wanted if each not in listed]
        if failed and len(wanted) == 1:
            return self._refused("subscribe", 2002, "unknown symbol", data, subscription)
        if channel == "depth" and all(map(is_pair, wanted)):
            return self._refused("subscribe", 4005, "no such channel", data, subscription)
        again: list[str] = []
        if "partial" in self._chosen and first:
            again = [each for each in wanted if each in listed][1:]
        took = [each for each in wanted if each not in failed and each not in again]
        changed = subscription | {key_of(channel, each) for each in took}
        if not failed and not again:
            return self._accepted("subscribe", data, changed)
        told = {
            "channel": channel,
            "symbols": took,
            "failed_symbols": failed + again,
            "retryable_symbols": again,
            "retryable": bool(again),
        }
        words = "realtime data temporarily unavailable"
        return self._refused("subscribe", 5004, words, told, changed)

    def _whole_market(self, cmd: str, data: Any, subscription: frozenset[str]) -> Answer:
        if not self._deflates:
            return self._refused("error", 2008, "compression is required", None, subscription)
        if data["universes"] != [_UNIVERSE] or data["channels"] != ["ticker"]:
            return self._refused("error", 2001, "no such universe", None, subscription)
        if cmd == "unsubscribe":
            return self._accepted(cmd, data, subscription - {WHOLE_MARKET})
        # Activating it cancels the subscriptions to single symbols.
        accepted = self._accepted(cmd, data, frozenset({WHOLE_MARKET}))
        snapshot = self._dialect.arrays(list(self._dialect.last.values()))
        return Answer([*accepted.messages, *snapshot], accepted.subscription)

    def _pong(self, subscription: frozenset[str]) -> Answer:
        if "no-pong" in self._chosen:
            return Answer((), subscription)
        data = {"timestamp": 1768976158541}
        return Answer((self._reply("pong", 0, "pong", data),), subscription)

    def _accepted(self, cmd: str, data: Any, subscription: frozenset[str]) -> Answer:
        return Answer((self._reply(cmd, 0, "success", data),), subscription)

    def _refused(
        self, cmd: str, code: int, words: str, data: Any, subscription: frozenset[str]
    ) -> Answer:
        return Answer((self._reply(cmd, code, words, data),), subscription, bad=True)

    def _reply(self, cmd: str, code: int, words: str, data: Any) -> bytes:
        shown: int | str = str(code) if "text-codes" in self._chosen else code
        return _encode({"cmd": cmd, "code": shown, "message": words, "data": data})
