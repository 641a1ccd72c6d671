"""A codec for OKX, public channels of API v5: best quotes and trades.

Written from https://www.okx.com/docs-v5/en/ (WebSocket; public data); it has run
against messages of that documentation, not against the venue. Not sure: whether one
unknown instrument in a request leaves the others subscribed (it has been seen to).
Sizes of derivatives are in contracts.
"""

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import trio_ticks as tt

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(row: dict[str, Any]) -> datetime:
    """Return the time of *row*, which is text with milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=int(row["ts"]))


def best_quote(symbol: str, row: dict[str, Any]) -> tt.Tick | None:
    """Return the quote in a message of bbo-tbt; None while a side is empty."""
    if not (row["bids"] and row["asks"]):
        return None
    (bid, bid_size, *_), (ask, ask_size, *_) = row["bids"][0], row["asks"][0]
    sizes = float(bid_size), float(ask_size)
    return tt.Tick(symbol, moment(row), float(bid), float(ask), *sizes, math.nan)


def ticker(symbol: str, row: dict[str, Any]) -> tt.Tick:
    """Return the quote in a message of tickers, with the volume of 24 hours."""
    fields = (float(row[key]) for key in ("bidPx", "askPx", "bidSz", "askSz", "vol24h"))
    return tt.Tick(symbol, moment(row), *fields)


def trade(symbol: str, row: dict[str, Any]) -> tt.Trade:
    """Return the trade in a message of trades; its side is that of the taker."""
    price, size = float(row["px"]), float(row["sz"])
    return tt.Trade(symbol, moment(row), price, size, row["side"], row["tradeId"])


DECODE = {"bbo-tbt": best_quote, "tickers": ticker, "trades": trade}


# begin: the codec
class OkxCodec(tt.Codec):
    """OKX v5, public: best quotes (bbo-tbt or tickers) and trades."""

    url = "wss://ws.okx.com:8443/ws/v5/public"
    channels = ("bbo-tbt", "tickers", "trades")
    default_channels = ("bbo-tbt",)
    # The venue hangs up after 30 s in which it has sent nothing.
    keep_alive = tt.KeepAlive("ping", every_s=20, within_s=10)
    limits = tt.Limits(messages_per_s=3)

    def subscribe(self, symbols: Sequence[str]) -> list[str]:
        return self._request("subscribe", symbols)

    def unsubscribe(self, symbols: Sequence[str]) -> list[str]:
        return self._request("unsubscribe", symbols)

    def _request(self, op: str, symbols: Sequence[str]) -> list[str]:
        pairs = product(self.context.channels, symbols)
        args = [{"channel": channel, "instId": symbol} for channel, symbol in pairs]
        parts = [args[first : first + 100] for first in range(0, len(args), 100)]
        return [json.dumps({"op": op, "args": part}) for part in parts]

    def decode_one(self, payload: bytes) -> list[tt.Tick | tt.Trade] | None:
        if payload == b"pong":
            self.context.pong()
            return None
        message = json.loads(payload)
        if "event" in message:
            self._take_event(message["event"], message)
            return None
        symbol, decode = message["arg"]["instId"], DECODE[message["arg"]["channel"]]
        try:
            items = [decode(symbol, row) for row in message["data"]]
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise tt.MalformedMessage(str(error), symbol) from error
        return [item for item in items if item is not None]

    def _take_event(self, event: str, message: dict[str, Any]) -> None:
        code, words = message.get("code"), message.get("msg", "")
        if event == "error":  # 60018 names the instrument that does not exist
            found = re.search(r"instId:([\w-]+)", words)
            self.context.refused(found and found[1], f"{code} {words}")
        elif event == "notice" and code == "64008":
            self.context.reconnect(words)


# end: the codec
