"""Binance as nobody wishes it: what comes over the stream and over REST is wrong.

Plan: a small venue on real sockets keeps its book in two dicts, independently of the
library. Faults come first, then the venue behaves. In the end the book of the feed has
to equal those dicts, level by level.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, until
from tests.worlds.http_venue import Request, Response, open_http_venue

SYMBOL = "BTCUSDT"
NOW_MS = 1_772_461_800_000
QUICKLY = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02)


def plainly(update: dict[str, Any]) -> str:
    return json.dumps(update)


class Cut(Exception):
    """The venue ends the connection."""


class Venue:
    """A market that moves 50 times a second, and what it says about it.

    Args:
        answers: to the first requests for a snapshot: what to say in place of the right
            one, made from that.
        messages: what is said in place of one update each, made from that; ``None``:
            the update is not told.
    """

    def __init__(
        self,
        *answers: Callable[[dict[str, Any]], Response],
        messages: dict[int, Callable[[dict[str, Any]], str | None]] | None = None,
    ) -> None:
        self.bids = {100.0 - n: 1.0 for n in range(20)}
        self.asks = {101.0 + n: 1.0 for n in range(20)}
        self.number = 1000
        self.told = 0
        self.requests = 0
        self.stands_still = False
        self._answers = iter(answers)
        self._messages = messages or {}

    def move(self) -> dict[str, Any]:
        """Change a level of each side, and return the update."""
        self.number += 1
        n = self.number
        changes = []
        for levels, price in ((self.bids, 100.0 - n * 7 % 20), (self.asks, 101.0 + n * 5 % 20)):
            size = float(n % 4) if price not in (100.0, 101.0) else float(n)
            levels[price] = size
            if not size:
                del levels[price]
            changes.append([[str(price), str(size)]])
        # A second of the venue's time a change.
        when = NOW_MS + n * 1000
        fields = {"e": "depthUpdate", "E": when, "s": SYMBOL, "U": n, "u": n}
        return {**fields, "b": changes[0], "a": changes[1]}

    def snapshot(self) -> dict[str, Any]:
        def listed(levels: dict[float, float]) -> list[list[str]]:
            return [[str(price), str(size)] for price, size in levels.items()]

        return {
            "lastUpdateId": self.number,
            "bids": listed(self.bids),
            "asks": listed(self.asks),
        }

    def rest(self, _request: Request) -> Response:
        self.requests += 1
        right = self.snapshot()
        wrong = next(self._answers, None)
        return Response(right) if wrong is None else wrong(right)

    async def stream(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            await ws.get_message()
            while True:
                if not self.stands_still:
                    update = self.move()
                    self.told += 1
                    make = self._messages.get(self.told, plainly)
                    text = make(update)
                    if text is not None:
                        stream = f"{SYMBOL.lower()}@depth"
                        await ws.send_message(f'{{"stream":"{stream}","data":{text}}}')
                await trio.sleep(0.02)
        except (ConnectionClosed, Cut):
            return

    def is_copied_by(self, book: tt.Book) -> bool:
        return (
            book.state == "valid"
            and dict(book.bids()) == self.bids
            and dict(book.asks()) == self.asks
        )


@attrs.define
class World:
    venue: Venue
    feed: tt.WebSocketFeed
    gaps: list[tt.Gap] = attrs.field(factory=list)
    items: list[Any] = attrs.field(factory=list)
    own: tt.Book = attrs.field(factory=lambda: tt.Book(SYMBOL))

    async def handle(self, item: Any) -> None:
        self.items.append(item)
        if isinstance(item, tt.BookUpdate):
            self.own.apply(item)

    def note_gap(self, gap: tt.Gap) -> None:
        self.gaps.append(gap)
        self.own.mark_stale(gap.reason)

    @property
    def book(self) -> tt.Book:
        return self.feed.books.get(SYMBOL, self.own)

    async def ends_right(self) -> None:
        """Wait until the book is right, while the market stands still for a moment."""
        with trio.fail_after(2 * PATIENCE):
            while True:
                await until(lambda: self.book.state == "valid")
                self.venue.stands_still = True
                with trio.move_on_after(0.5):
                    await until(partial(self.venue.is_copied_by, self.book))
                    return
                self.venue.stands_still = False
                await trio.sleep(0.2)


@asynccontextmanager
async def world(venue: Venue, **options: Any) -> AsyncIterator[World]:
    async with open_http_venue(venue.rest) as rest, trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_websocket, venue.stream, "127.0.0.1", 0, ssl_context=None)
        )
        url = f"ws://127.0.0.1:{server.port}/stream"
        feed = tt.WebSocketFeed(
            url,
            [SYMBOL],
            venue="binance",
            channels="depth",
            rest_url=rest.url,
            backoff=QUICKLY,
            **options,
        )
        one = World(venue, feed)
        async with tt.open_pipeline(feed, one.handle, on_gap=one.note_gap) as pipeline:
            yield one
            pipeline.ledger.check()
        nursery.cancel_scope.cancel()


# Snapshots


def text(body: bytes, status: int = 200) -> Callable[[dict[str, Any]], Response]:
    return lambda _right: Response(body, status)


def with_(**changes: Any) -> Callable[[dict[str, Any]], Response]:
    return lambda right: Response({**right, **changes})


SNAPSHOTS = {
    "a page": text(b"<html><body>We will be back soon.</body></html>"),
    "nothing": text(b""),
    "cut off": lambda right: Response(json.dumps(right).encode()[:-40]),
    "trouble": text(b"{}", 500),
    "too many requests": text(b'{"code":-1003,"msg":"Too many requests."}', 429),
    "another shape": text(b'[[["1","2"]]]'),
    "nested": text(b"[" * 100_000),
    "too large": text(b'{"lastUpdateId":1,"bids":[' + b" " * 40_000_000 + b"]}"),
    "old": with_(lastUpdateId=3),
    "ahead": with_(lastUpdateId=2**62),
    "too large a number": with_(lastUpdateId=2**70),
    "no number": with_(lastUpdateId=None),
    "crossed": with_(bids=[["500", "1"]]),
    "not finite": with_(bids=[["NaN", "1"]]),
    "a negative size": with_(bids=[["99", "-1"]]),
}


async def ends_right_after(answer: Callable[[dict[str, Any]], Response], books: bool) -> None:
    venue = Venue(answer)
    async with world(venue, books=books) as one:
        await until(lambda: venue.requests >= 2)
        await one.ends_right()


async def test_wrong_snapshots_end_in_a_right_book() -> None:
    async with trio.open_nursery() as nursery:
        for answer in SNAPSHOTS.values():
            nursery.start_soon(ends_right_after, answer, True)
        # Without books the feed looks at numbers only.
        for name in ("a page", "ahead", "old"):
            nursery.start_soon(ends_right_after, SNAPSHOTS[name], False)


# Updates


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda update: json.dumps({**update, **changes})


def shifted(by: int) -> Callable[[dict[str, Any]], str]:
    return lambda update: json.dumps({**update, "U": update["U"] + by, "u": update["u"] + by})


def cut(_update: dict[str, Any]) -> str:
    raise Cut


UPDATES: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "missed": lambda _update: None,
    "cut off": lambda update: json.dumps(update)[:-9],
    "a cut": cut,
    "no number": changed(u=None),
    "no first number": changed(U=0),
    "first after last": changed(U=10**9),
    "a negative number": changed(U=-5, u=-5),
    "far ahead": shifted(2**62),
    "more than 64 bits": shifted(2**70),
    "far behind": shifted(-900),
    "not finite": changed(b=[["NaN", "1"]]),
    "an infinite size": changed(b=[["99", "1e999"]]),
    "a negative size": changed(a=[["105", "-1"]]),
    "no price": changed(a=[["", "1"]]),
    "one number a level": changed(a=[["105"]]),
    "crossed": changed(b=[["500", "1"]]),
    "another symbol": changed(s="ETHUSDT"),
    "no symbol": changed(s=None),
    "junk for a symbol": changed(s="\u0000\ud800"),
    "a time that no calendar has": changed(E=10**30),
}


async def ends_right_in_spite_of(fault: Callable[[dict[str, Any]], str | None]) -> None:
    venue = Venue(messages={25: fault, 40: fault})
    async with world(venue, books=True) as one:
        await until(lambda: venue.told > 45)
        await one.ends_right()
        await until(lambda: len(one.gaps) > 0)
        assert {gap.symbol for gap in one.gaps} == {SYMBOL}


async def test_wrong_updates_are_told_and_end_in_a_right_book() -> None:
    async with trio.open_nursery() as nursery:
        for fault in UPDATES.values():
            nursery.start_soon(ends_right_in_spite_of, fault)
