"""A codec for Alpaca's stream of US stocks: quotes and trades.

Written from https://docs.alpaca.markets/docs/streaming-market-data; it has run against
messages of that documentation, not against the venue. Not sure: whether the venue hangs
up after the errors 402 and 406 (the codec does), and whether sizes of quotes are shares
or round lots for each of the feeds.
"""

import json
import math
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import trio_ticks as tt

LOST = (402, 404, 406, 407, 500)
"""Errors after which a session brings nothing more.

In this order: auth failed, auth timeout, connection limit exceeded, slow client,
internal error.
"""


def quote(message: dict[str, Any]) -> tt.Tick:
    """Return a quote; the venue says no volume with it."""
    # Nanoseconds are cut off.
    symbol, at = message["S"], datetime.fromisoformat(message["t"])
    bid, ask, bid_size, ask_size = (message[key] for key in ("bp", "ap", "bs", "as"))
    return tt.Tick(symbol, at, bid, ask, bid_size, ask_size, math.nan)


def trade(message: dict[str, Any]) -> tt.Trade:
    """Return a trade; the venue does not say whose side took the liquidity."""
    symbol, at = message["S"], datetime.fromisoformat(message["t"])
    return tt.Trade(symbol, at, message["p"], message["s"], trade_id=str(message["i"]))


DECODE: dict[str, Any] = {"q": quote, "t": trade}


# begin: the codec
class AlpacaCodec(tt.Codec):
    """Alpaca, US stocks: quotes and trades."""

    url = "wss://stream.data.alpaca.markets/v2/iex"
    channels = ("quotes", "trades")
    wildcard = "*"
    key = os.environ.get("APCA_API_KEY_ID", "")
    secret = os.environ.get("APCA_API_SECRET_KEY", "")

    def __init__(self, context: tt.CodecContext) -> None:
        super().__init__(context)
        self._logged_in = False
        self._wanted: dict[str, None] = {}
        context.reply(json.dumps({"action": "auth", "key": self.key, "secret": self.secret}))

    def subscribe(self, symbols: Sequence[str]) -> list[str]:
        self._wanted.update(dict.fromkeys(symbols))
        return self._request("subscribe", list(symbols))

    def unsubscribe(self, symbols: Sequence[str]) -> list[str]:
        for symbol in symbols:
            self._wanted.pop(symbol, None)
        return self._request("unsubscribe", list(symbols))

    def _request(self, action: str, symbols: list[str]) -> list[str]:
        if not (self._logged_in and symbols):
            return []
        return [json.dumps({"action": action, **dict.fromkeys(self.context.channels, symbols)})]

    def decode_one(self, payload: bytes) -> list[tt.Tick | tt.Trade]:
        return [item for item in map(self._decode, json.loads(payload)) if item is not None]

    def _decode(self, message: dict[str, Any]) -> Any:
        if message["T"] in DECODE:
            return DECODE[message["T"]](message)
        if message["T"] == "success" and message["msg"] == "authenticated":
            self._logged_in = True
            for request in self._request("subscribe", list(self._wanted)):
                self.context.reply(request)
        elif message["T"] == "error":
            words = f"{message['code']} {message['msg']}"
            self.context.refused(None, words)
            if message["code"] in LOST:
                self.context.reconnect(words)
        return None


# end: the codec
