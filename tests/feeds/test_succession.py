"""When a connection is replaced, and what becomes of it where something goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection

import trio_ticks as tt
from tests.worlds.feed_venues import (
    WHEN,
    Collector,
    Script,
    answers,
    memory_feed,
    running,
    says,
    until_closed,
    websocket,
)


class Counting(tt.Codec):
    """A venue whose messages have numbers, and that may announce its end."""

    limits = tt.Limits(connection_s=100.0)

    def subscribe(self, symbols: Sequence[str]) -> list[str]:
        return [json.dumps({"subscribe": list(symbols)})]

    def place_of(self, payload: bytes) -> tuple[str, int] | None:
        fields = json.loads(payload)
        return (fields["s"], fields["n"]) if "n" in fields else None

    def decode_one(self, payload: bytes) -> Any:
        fields = json.loads(payload)
        if "n" in fields:
            return tt.Trade(fields["s"], WHEN, 1, 1, trade_id=str(fields["n"]))
        if "leave" in fields:
            self.context.replace("it leaves")
        return None


class Unnumbered(tt.Codec):
    """The same without numbers."""

    subscribe = Counting.subscribe
    decode_one = Counting.decode_one


def trade(number: int) -> str:
    return json.dumps({"s": "A", "n": number})


class Server:
    """Sends the seconds since its beginning, on each connection alike.

    Args:
        lags_s: how far behind each connection is; the last holds for all others too.
        ends: after how many seconds of the server a connection is cut.
        silent: connections on which nothing comes.
        answers: whether the subscription is answered.
    """

    def __init__(
        self,
        lags_s: Sequence[float] = (0.0,),
        *,
        ends: dict[int, float] | None = None,
        silent: Sequence[int] = (),
        leaves: dict[int, float] | None = None,
        answers: bool = False,
    ) -> None:
        self.began = trio.current_time()
        self.opened: list[float] = []
        self.asked: list[Any] = []
        self._lags_s = lags_s
        self._ends = ends or {}
        self._silent = silent
        self._leaves = leaves or {}
        self._answers = answers

    async def __call__(self, ws: WebSocketConnection) -> None:
        index = len(self.opened)
        self.opened.append(trio.current_time() - self.began)
        lag_s = self._lags_s[min(index, len(self._lags_s) - 1)]
        if self._answers:
            await ws.send_message('{"answer":true}')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._talk, ws, index, lag_s)
            with trio.move_on_at(self.began + self._ends.get(index, math.inf)):
                await until_closed(self._listen, ws)
            nursery.cancel_scope.cancel()

    async def _listen(self, ws: WebSocketConnection) -> None:
        while True:
            self.asked.append(json.loads(await ws.get_message()))

    async def _talk(self, ws: WebSocketConnection, index: int, lag_s: float) -> None:
        # What happens from now on is sent, so a connection has all that comes after.
        number = int(trio.current_time() - self.began) + 1
        while ws.closed is None:
            await trio.sleep_until(self.began + number + lag_s)
            with suppress(ConnectionClosed):
                if index not in self._silent:
                    await ws.send_message(trade(number))
                if number == self._leaves.get(index):
                    await ws.send_message('{"leave":true}')
            number += 1


def numbers(send: Collector) -> list[int]:
    items: list[Any] = list(send.ticks)
    return [int(item.trade_id or 0) for item in items if isinstance(item, tt.Trade)]


def check_whole(send: Collector) -> None:
    found = numbers(send)
    assert found == list(range(found[0], found[-1] + 1))
    assert send.gaps == []
    assert send.events == []


def script(server: Server) -> Script:
    return websocket(server, cut=True)


@pytest.mark.parametrize("lags_s", [(0.0,), (0.0, 0.3), (0.3, 0.0), (2.5, 0.0), (0.0, 2.5)])
async def test_a_connection_is_replaced_before_the_venue_closes_it(
    autojump_clock: MockClock, lags_s: Sequence[float]
) -> None:
    server, send = Server(lags_s), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(250)
        assert feed.connected
    # After 93 to 98 of 100 s, and that again.
    assert len(server.opened) == 3
    assert 93 <= server.opened[1] <= 98
    assert feed.reconnects == 2
    check_whole(send)


async def test_the_age_can_be_chosen(autojump_clock: MockClock) -> None:
    server, send = Server(), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"], "max_connection_age": 20}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(90)
    assert 4 <= len(server.opened) <= 5
    check_whole(send)


async def test_a_venue_that_announces_its_end_is_left_in_time(autojump_clock: MockClock) -> None:
    server, send = Server(leaves={0: 10}, ends={0: 14}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(60)
    assert len(server.opened) == 2
    check_whole(send)


async def test_one_that_announces_it_at_once_is_replaced_when_it_has_taken_over(
    autojump_clock: MockClock,
) -> None:
    server, send = Server(leaves={0: 10, 1: 11}, ends={0: 14, 1: 18}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(60)
    assert len(server.opened) == 3
    check_whole(send)


async def test_the_old_connection_stays_where_no_new_one_can_be_had(
    autojump_clock: MockClock,
) -> None:
    server, send = Server(leaves={0: 10}), Collector()
    refusing = answers("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    scripts = [script(server), refusing, refusing, script(server)]
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(*scripts, **options) as (feed, venue), running(feed, send):
        await trio.sleep(60)
        assert len(venue.dialled_at) == 4
    assert len(server.opened) == 2
    assert feed.reconnects == 1
    check_whole(send)


async def test_one_on_which_nothing_comes_never_takes_over(autojump_clock: MockClock) -> None:
    server, send = Server(leaves={0: 10}, silent=(1, 2)), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"], "stale_after": 1000}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(90)
    assert len(server.opened) == 4
    assert feed.reconnects == 1
    check_whole(send)


async def test_one_that_only_answers_never_takes_over(autojump_clock: MockClock) -> None:
    """Its subscription is refused, for example, while the old one goes on."""
    server, send = Server(leaves={0: 10}, silent=(1, 2), answers=True), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"], "stale_after": 1000}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(90)
    assert len(server.opened) == 4
    assert feed.reconnects == 1
    check_whole(send)


async def test_a_cut_while_both_are_open_loses_nothing(autojump_clock: MockClock) -> None:
    # The new one is a second behind, so that it has not taken over yet.
    server, send = Server((0.0, 0.9), leaves={0: 10}, ends={0: 12.5}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(60)
    assert len(server.opened) == 2
    check_whole(send)


async def test_a_cut_before_the_new_one_is_proven_is_a_loss_as_any(
    autojump_clock: MockClock,
) -> None:
    server, send = Server((0.0, 30.0, 0.0), leaves={0: 10}, ends={0: 15.5}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"], "stale_after": 1000}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(60)
    assert [event.kind for event in send.events] == ["lost", "back"]
    assert [gap.reason for gap in send.gaps] == ["reconnect"]
    assert len(server.opened) == 3
    assert len(set(numbers(send))) == len(numbers(send))


async def test_symbols_that_are_added_meanwhile_are_asked_for_on_the_new_connection(
    autojump_clock: MockClock,
) -> None:
    server, send = Server((0.0, 5.0, 0.0), leaves={0: 10}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with (
        memory_feed(script(server), **options) as (feed, _),
        running(feed, send),
    ):
        await trio.sleep(12.5)
        assert len(server.opened) == 2
        feed.subscribe(["B"])
        await trio.sleep(40)
        assert len(server.opened) == 3
    assert server.asked == [{"subscribe": ["B"]}]
    check_whole(send)


async def test_without_numbers_the_connection_is_closed_first(autojump_clock: MockClock) -> None:
    server, send = Server(leaves={0: 10}), Collector()
    options: Any = {"venue": Unnumbered, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, _), running(feed, send):
        await trio.sleep(60)
    assert len(server.opened) == 2
    assert [gap.reason for gap in send.gaps] == ["reconnect"]
    assert [event.kind for event in send.events] == ["lost", "back"]


def test_an_age_is_not_for_a_venue_without_numbers() -> None:
    with pytest.raises(tt.ConfigError, match="max_connection_age is not for the venue"):
        tt.WebSocketFeed("ws://x", ["A"], venue=Unnumbered, max_connection_age=5)
    with pytest.raises(tt.ConfigError, match="max_connection_age"):
        tt.WebSocketFeed("ws://x", ["A"], venue=Counting, max_connection_age=0)


async def test_ending_the_feed_ends_both_connections(autojump_clock: MockClock) -> None:
    server, send = Server((0.0, 60.0), leaves={0: 10}), Collector()
    options: Any = {"venue": Counting, "symbols": ["A"]}
    async with memory_feed(script(server), **options) as (feed, venue):
        async with running(feed, send):
            await trio.sleep(13)
            assert len(server.opened) == 2
        for stream in venue.streams:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
    check_whole(send)


async def test_a_quiet_connection_is_replaced_too(autojump_clock: MockClock) -> None:
    send = Collector()
    options: Any = {"venue": Counting, "symbols": ["A"], "max_connection_age": 20}
    async with (
        memory_feed(websocket(says(trade(1))), websocket(says()), **options) as (feed, venue),
        running(feed, send),
    ):
        await trio.sleep(35)
        assert len(venue.dialled_at) == 2
    assert numbers(send) == [1]
    assert send.events == []
