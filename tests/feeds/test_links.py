"""A feed of several connections, on a virtual clock: limits, requests, gaps, events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from tests.worlds.feed_venues import Collector, MemoryVenue, answers, memory_feed, running, tick
from trio_ticks.errors import ConfigError, FeedBrokenError
from trio_ticks.feeds.venues import Codec, CodecContext, KeepAlive, Limits, MalformedMessage
from trio_ticks.feeds.websocket.feed import WebSocketFeed

REFUSED = OSError(111, "Connection refused")
LONG = "L" * 257


class WordCodec(Codec):
    """Reads ``SYMBOL volume``, and words by which a test has it report something."""

    limits = Limits(subscriptions=2)

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return ["+" + ",".join(symbols)]

    def unsubscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
        return ["-" + ",".join(symbols)]

    def decode_one(self, payload: bytes, /) -> Any:
        word, _, rest = payload.decode().partition(" ")
        context: CodecContext = self.context
        match word:
            case "ack":
                pass
            case "pong":
                context.pong()
            case "reply":
                context.reply(rest)
            case "reconnect":
                context.reconnect(rest)
            case "refuse":
                context.refused(rest or None, "no such symbol")
            case "refuse-for-good":
                context.refused(rest, "no such symbol", final=True)
            case "gap":
                context.gap(rest, 3)
            case "snapshot":
                context.need_snapshot(rest)
            case "bad":
                raise MalformedMessage("it is bad", rest or None)
            case _:
                return tick(word, int(rest))
        return None


class Unlimited(WordCodec):
    limits = Limits()


class OneEach(WordCodec):
    """Makes one request for each symbol."""

    limits = Limits(messages_per_s=2)

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return [f"+{symbol}" for symbol in symbols]


class Wire:
    """The venue's end of a connection."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self._ws = ws
        self._began = trio.current_time()
        self._closing: trio.Event | None = None
        self.got: list[str | bytes] = []
        self.times: list[float] = []
        """When each message came, since the connection was opened."""

    async def listen(self) -> None:
        while True:
            self.got.append(await self._ws.get_message())
            self.times.append(round(trio.current_time() - self._began, 6))
            if self.got[-1] == "are you there?":
                await self._ws.send_message("pong")

    async def say(self, *messages: str) -> None:
        for message in messages:
            await self._ws.send_message(message)
        await wait_all_tasks_blocked()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._closing = trio.Event()
        await self._ws.aclose(code, reason)
        self._closing.set()
        await wait_all_tasks_blocked()

    async def closed(self) -> None:
        """Let our own side of a close be finished."""
        if self._closing is not None:
            await self._closing.wait()

    @property
    def code(self) -> int | None:
        """The code with which the feed has closed it."""
        return None if self._ws.closed is None else self._ws.closed.code


class Wires:
    """A venue that remembers its connections; the tests have it speak."""

    def __init__(self) -> None:
        self.all: list[Wire] = []

    def __getitem__(self, number: int) -> Wire:
        return self.all[number]

    async def script(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            wire = Wire(await request.accept())
            self.all.append(wire)
            try:
                await wire.listen()
            except ConnectionClosed:
                await wire.closed()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    @property
    def first(self) -> list[str | bytes]:
        """The first request on each connection."""
        return [wire.got[0] for wire in self.all]


class Started:
    def __init__(
        self, feed: WebSocketFeed, venue: MemoryVenue, wires: Wires, send: Collector
    ) -> None:
        self.feed, self.venue, self.wires, self.send = feed, venue, wires, send

    @property
    def events(self) -> list[tuple[str, str | None, str]]:
        return [(event.kind, event.symbol, event.reason) for event in self.send.events]

    @property
    def gaps(self) -> list[tuple[str, str, int]]:
        return [(gap.symbol, gap.reason, gap.count) for gap in self.send.gaps]


@asynccontextmanager
async def started(
    symbols: Any, venue: type[Codec] = WordCodec, *failures: Any, **options: Any
) -> AsyncIterator[Started]:
    """Run a feed during the block; *failures* happen to its first connections."""
    wires, send = Wires(), Collector()
    options = {"stale_after": None, "ping_interval": None, **options}
    async with (
        memory_feed(*failures, wires.script, symbols=symbols, venue=venue, **options) as (
            feed,
            memory,
        ),
        running(feed, send),
    ):
        await wait_all_tasks_blocked()
        yield Started(feed, memory, wires, send)


# Several connections


async def test_symbols_are_spread_over_connections(autojump_clock: MockClock) -> None:
    async with started(["A", "B", "C", "D", "E"]) as s:
        assert sorted(map(str, s.wires.first)) == ["+A,B", "+C,D", "+E"]
        assert s.feed.connected
        for wire in s.wires.all:
            symbol = str(wire.got[0])[1]
            await wire.say(f"{symbol} 7")
        assert sorted(item.symbol for item in s.send.ticks) == ["A", "C", "E"]
        assert s.feed.stats.messages == 3
        assert s.feed.reconnects == 0
        assert s.events == []


async def test_each_connection_has_a_codec_of_its_own(autojump_clock: MockClock) -> None:
    made: list[Codec] = []

    class Counted(WordCodec):
        def __init__(self, context: CodecContext) -> None:
            super().__init__(context)
            made.append(self)

    async with started(["A", "B", "C"], Counted) as s:
        assert len(made) == 2
        await s.wires[0].close()
        await trio.sleep(1.5)
        assert len(set(map(id, made))) == 3


async def test_a_feed_of_which_a_part_is_missing_is_not_connected(
    autojump_clock: MockClock,
) -> None:
    async with started(["A", "B", "C"], WordCodec, REFUSED) as s:
        assert len(s.wires.all) == 1
        assert not s.feed.connected
        await trio.sleep(1.5)
        assert s.feed.connected
        assert s.feed.stats.connect_failures == 1
        # It was no reconnect, and nothing was missed.
        assert s.feed.reconnects == 0
        assert s.events == []
        assert s.gaps == []


async def test_one_connection_lost(autojump_clock: MockClock) -> None:
    async with started(["A", "B", "C", "D", "E"]) as s:
        (lost,) = [wire for wire in s.wires.all if wire.got == ["+C,D"]]
        (other,) = [wire for wire in s.wires.all if wire.got == ["+A,B"]]
        lost_at = trio.current_time()
        await lost.close(1001, "maintenance")
        assert not s.feed.connected
        assert s.events == [("lost", None, "maintenance (connection 2 of 3)")]
        assert s.gaps == []
        await other.say("A 1")
        await trio.sleep(1.5)
        assert s.feed.connected
        assert s.feed.reconnects == 1
        assert s.events[1:] == [("back", None, "connected again (connection 2 of 3)")]
        assert {event.feed for event in s.send.events} == {"word"}
        assert s.gaps == [("C", "reconnect", 0), ("D", "reconnect", 0)]
        for gap in s.send.gaps:
            assert gap.timestamp - gap.first_timestamp == timedelta(seconds=1)
        assert s.wires[3].got == ["+C,D"]
        await s.wires[3].say("D 2")
        assert [item.symbol for item in s.send.ticks] == ["A", "D"]
        assert trio.current_time() - lost_at == pytest.approx(1.5)


async def test_a_single_connection_needs_no_number(autojump_clock: MockClock) -> None:
    async with started(["A", "B"], name="mine") as s:
        await s.wires[0].close(4000)
        await trio.sleep(1.5)
        assert s.events == [
            ("lost", None, "closed by the server"),
            ("back", None, "connected again"),
        ]
        assert {event.feed for event in s.send.events} == {"mine"}


async def test_each_connection_waits_for_itself(autojump_clock: MockClock) -> None:
    async with started(["A", "B", "C"]) as s:
        await s.wires[0].close()
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        await s.wires[2].close()
        await s.wires[1].close()
        await trio.sleep(1.5)
        # The other one was lost for the first time.
        assert len(s.wires.all) == 4
        await trio.sleep(1)
        assert len(s.wires.all) == 5


async def test_one_connection_that_cannot_be_had_ends_them_all(
    autojump_clock: MockClock,
) -> None:
    wires = Wires()
    scripts = [wires.script, answers("HTTP/1.1 404 X\r\n\r\n")]
    async with memory_feed(*scripts, symbols=["A", "B", "C"], venue=WordCodec) as (feed, _):
        began = trio.current_time()
        with pytest.raises(FeedBrokenError, match="404"):
            await feed.run(Collector())
        # Not when the other one, which was well, has ended as well.
        assert trio.current_time() - began < 5
        await wait_all_tasks_blocked()
    assert not feed.connected


async def test_it_ends_when_all_connections_have_ended_in_good_order(
    autojump_clock: MockClock,
) -> None:
    wires = Wires()
    async with memory_feed(
        wires.script, symbols=["A", "B", "C"], venue=WordCodec, reconnect=False
    ) as (feed, _):
        ended = trio.Event()

        async def run() -> None:
            await feed.run(Collector())
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            await wires[0].close()
            await trio.sleep(10)
            assert not ended.is_set()
            assert not feed.connected
            await wires[1].close()
        assert ended.is_set()


# The venue's limits


async def test_messages_are_spread_over_time(autojump_clock: MockClock) -> None:
    async with started(list("ABCDEFG"), OneEach) as s:
        await trio.sleep(10)
        (wire,) = s.wires.all
        assert wire.got == [f"+{symbol}" for symbol in "ABCDEFG"]
        assert wire.times == [0, 0, 1, 1, 2, 2, 3]


async def test_a_reply_waits_behind_the_subscription(autojump_clock: MockClock) -> None:
    async with started(list("ABCDE"), OneEach) as s:
        await s.wires[0].say("reply here")
        await trio.sleep(10)
        assert s.wires[0].got[-2:] == ["+E", "here"]
        assert s.wires[0].times[-2:] == [2, 2]


@pytest.mark.parametrize("failing", [False, True])
async def test_connections_are_spread_over_time(failing: bool, autojump_clock: MockClock) -> None:
    class Slow(WordCodec):
        limits = Limits(subscriptions=1, connects_per_min=2)

    symbols = ["A"] if failing else list("ABCDE")
    async with started(symbols, Slow, *([REFUSED] * 4 if failing else [])) as s:
        await trio.sleep(200)
        began = s.venue.dialled_at[0]
        dialled = [round(at - began, 6) for at in s.venue.dialled_at]
        assert dialled == ([0, 1, 60, 64, 120] if failing else [0, 0, 60, 60, 120])
        assert s.feed.connected


async def test_a_venue_that_asks_for_ever_more(autojump_clock: MockClock) -> None:
    async with started(["A"], OneEach) as s:
        await s.wires[0].say(*["reply x"] * 4200)
        await trio.sleep(3)
        assert s.events[0] == ("lost", None, "the venue takes fewer messages than it asks for")
        assert len(s.wires.all) == 2


async def test_a_throttled_feed_asks_each_connection_for_its_share(
    autojump_clock: MockClock,
) -> None:
    class Throttling(WordCodec):
        def throttle(self, max_rate: float | None) -> list[str]:
            return [f"rate {max_rate}"]

    async with started(["A", "B", "C"], Throttling) as s:
        s.feed.throttle(30.0)
        await wait_all_tasks_blocked()
        assert {tuple(wire.got) for wire in s.wires.all} == {
            ("+A,B", "rate 20.0"),
            ("+C", "rate 10.0"),
        }
        lost = s.wires[0].got[::-1]
        await s.wires[0].close()
        await trio.sleep(1.5)
        assert s.wires[2].got == lost


async def test_symbols_are_paused_on_their_own_connections(autojump_clock: MockClock) -> None:
    async with started(["A", "B", "C"]) as s:
        s.feed.throttle(10.0)
        of = {str(wire.got[0]): wire for wire in s.wires.all}
        for _ in range(40):
            for text, wire in (("A 1", of["+A,B"]), ("C 1", of["+C"])):
                await wire.say(*[text] * 3)
            await trio.sleep(0.1)
        assert s.feed.paused_symbols == ("C", "B")
        assert of["+C"].got == ["+C", "-C"]
        assert of["+A,B"].got == ["+A,B", "-B"]


# Keep-alive messages


async def test_keep_alive_without_an_answer(autojump_clock: MockClock) -> None:
    class Pinging(Unlimited):
        keep_alive = KeepAlive(b"tick", every_s=20)

    async with started(["A"], Pinging) as s:
        await trio.sleep(65)
        assert s.wires[0].got == ["+A", b"tick", b"tick", b"tick"]
        assert s.wires[0].times == [0, 20, 40, 60]


async def test_keep_alive_that_is_answered(autojump_clock: MockClock) -> None:
    class Pinging(Unlimited):
        keep_alive = KeepAlive("are you there?", every_s=20, within_s=5)

    async with started(["A"], Pinging) as s:
        await trio.sleep(3600)
        assert len(s.wires.all) == 1
        assert s.feed.ignored == s.wires[0].got.count("are you there?") >= 179


async def test_keep_alive_that_is_not_answered(autojump_clock: MockClock) -> None:
    class Pinging(Unlimited):
        keep_alive = KeepAlive("hello?", every_s=20, within_s=5)

    async with started(["A"], Pinging) as s:
        await trio.sleep(23)
        # Other data is no answer.
        await s.wires[0].say("A 1", "ack")
        await trio.sleep(3.5)
        assert s.events == [
            ("lost", None, "no answer to a keep-alive in 5 s"),
            ("back", None, "connected again"),
        ]
        assert s.wires[0].code == 1001


# Symbols that come and go


async def test_subscribe_and_unsubscribe_without_a_reconnect(autojump_clock: MockClock) -> None:
    async with started(["A"], Unlimited) as s:
        (wire,) = s.wires.all
        s.feed.subscribe(["B", "A"])
        assert list(s.feed.symbols) == ["A", "B"]
        await wire.say("B 1")
        assert wire.got == ["+A", "+B"]
        left_at = trio.current_time()
        s.feed.unsubscribe(["B", "X"])
        assert list(s.feed.symbols) == ["A"]
        await wire.say("B 2", "A 3")
        assert wire.got == ["+A", "+B", "-B"]
        assert s.feed.stats.unasked == 1
        await trio.sleep(7)
        assert s.gaps == []
        s.feed.subscribe(["B"])
        await wire.say("B 4")
        assert wire.got == ["+A", "+B", "-B", "+B"]
        assert [item.volume for item in s.send.ticks] == [1, 3, 4]
        assert s.gaps == [("B", "unsubscribed", 0)]
        (gap,) = s.send.gaps
        assert (gap.timestamp - gap.first_timestamp).total_seconds() == pytest.approx(
            trio.current_time() - left_at
        )
        assert len(s.wires.all) == 1
        # What was added is subscribed to on the next connection, too.
        await wire.close()
        await trio.sleep(1.5)
        assert s.wires[1].got == ["+A,B"]


async def test_a_full_connection_takes_no_more(autojump_clock: MockClock) -> None:
    async with started(["A"]) as s:
        s.feed.subscribe(["B", "C", "D", "E"])
        assert not s.feed.connected
        await wait_all_tasks_blocked()
        assert s.feed.connected
        assert s.wires[0].got == ["+A", "+B"]
        assert sorted(str(wire.got[0]) for wire in s.wires.all[1:]) == ["+C,D", "+E"]
        s.feed.unsubscribe(["A"])
        s.feed.subscribe(["F"])
        await wait_all_tasks_blocked()
        assert s.wires[0].got[2:] == ["-A", "+F"]
        assert len(s.wires.all) == 3
        assert s.gaps == []


async def test_subscribe_while_it_is_not_connected(autojump_clock: MockClock) -> None:
    async with started(["A"], Unlimited, REFUSED) as s:
        s.feed.subscribe(["B"])
        s.feed.unsubscribe(["A"])
        await trio.sleep(1.5)
        assert s.wires[0].got == ["+B"]


async def test_symbols_may_change_between_runs(autojump_clock: MockClock) -> None:
    wires = Wires()
    async with memory_feed(wires.script, symbols=["A"], venue=WordCodec) as (feed, _):
        feed.unsubscribe(["A"])
        assert feed.symbols == ()
        async with running(feed, Collector()):
            await wait_all_tasks_blocked()
            assert wires[0].got == []
            assert feed.connected
            feed.subscribe(["B", "C", "D"])
            await wait_all_tasks_blocked()
            assert [wire.got for wire in wires.all] == [["+B,C"], ["+D"]]
        feed.subscribe(["E"])
        async with running(feed, Collector()):
            await wait_all_tasks_blocked()
            assert sorted(map(str, wires.first[2:])) == ["+B,C", "+D,E"]


async def test_a_venue_that_cannot_unsubscribe(autojump_clock: MockClock) -> None:
    class Forgetful(WordCodec):
        unsubscribe = Codec.unsubscribe

    async with started(["A", "B"], Forgetful) as s:
        s.feed.unsubscribe(["A"])
        await s.wires[0].say("A 1", "B 2")
        assert s.wires[0].got == ["+A,B"]
        assert [item.symbol for item in s.send.ticks] == ["B"]
        assert s.feed.stats.unasked == 1


@pytest.mark.parametrize("symbols", ["A", [""], [5], [["A"]], {"A": ""}, {"A": None}, None])
async def test_what_are_no_symbols(symbols: Any, autojump_clock: MockClock) -> None:
    with pytest.raises(ConfigError, match="symbols"):
        WebSocketFeed("ws://x", symbols, venue=WordCodec)
    feed = WebSocketFeed("ws://x", ["A"], venue=WordCodec)
    for change in (feed.subscribe, feed.unsubscribe):
        with pytest.raises(ConfigError, match="symbols"):
            change(symbols)
    assert feed.symbols == ("A",)


def test_no_symbols_change_nothing() -> None:
    class Wild(WordCodec):
        wildcard = "*"

    feed = WebSocketFeed("ws://x", ["A"], venue=Wild)
    feed.subscribe([])
    feed.unsubscribe([])
    assert feed.symbols == ("A",)


def test_symbols_cannot_be_assigned() -> None:
    feed: Any = WebSocketFeed("ws://x", ["A"], venue=WordCodec)
    with pytest.raises(AttributeError):
        feed.symbols = ["B"]


# Names


async def test_symbols_under_names_of_ones_own(autojump_clock: MockClock) -> None:
    names = {"btcusdt": "BTC", "ethusdt": "ETH"}
    async with started(names) as s:
        (wire,) = s.wires.all
        assert s.feed.symbols == ("BTC", "ETH")
        assert wire.got == ["+btcusdt,ethusdt"]
        await wire.say("btcusdt 1", "BTC 2", "gap ethusdt", "refuse btcusdt")
        assert s.send.ticks == [tick("BTC", 1)]
        assert s.feed.stats.unasked == 1
        assert s.gaps == [("ETH", "sequence", 3)]
        assert s.events == [("symbol-refused", "BTC", "no such symbol")]
        s.feed.unsubscribe(["BTC"])
        await wire.say()
        assert wire.got[1:] == ["-btcusdt"]
        s.feed.unsubscribe(["ethusdt"])
        assert list(s.feed.symbols) == ["ETH"]


async def test_names_may_come_later(autojump_clock: MockClock) -> None:
    async with started(["A"], Unlimited) as s:
        s.feed.subscribe({"btcusdt": "BTC"})
        await s.wires[0].say("btcusdt 1", "A 2")
        assert s.send.ticks == [tick("BTC", 1), tick("A", 2)]


async def test_names_may_cross(autojump_clock: MockClock) -> None:
    async with started({"A": "B", "B": "A"}) as s:
        await s.wires[0].say("A 1", "B 2")
        assert s.send.ticks == [tick("B", 1), tick("A", 2)]


def test_names_taken_twice() -> None:
    with pytest.raises(ConfigError, match="must not have the same name 'BTC'"):
        WebSocketFeed("ws://x", {"btcusdt": "BTC", "btcusdc": "BTC"}, venue=WordCodec)
    feed = WebSocketFeed("ws://x", {"btcusdt": "BTC"}, venue=WordCodec)
    for symbols in ({"btcusdc": "BTC"}, ["BTC"]):
        with pytest.raises(ConfigError, match="'BTC' belongs to another symbol"):
            feed.subscribe(symbols)
    feed.subscribe({"btcusdt": "other"})
    assert feed.symbols == ("BTC",)


# What codecs report


async def test_a_wish_for_another_connection(autojump_clock: MockClock) -> None:
    async with started(["A"]) as s:
        await trio.sleep(6)
        await s.wires[0].say("A 1", "reconnect the venue goes down")
        assert s.wires[0].code == 1001
        assert len(s.wires.all) == 2
        assert s.venue.gaps == [6]
        assert s.events == [
            ("lost", None, "the venue goes down"),
            ("back", None, "connected again"),
        ]
        # One right at the beginning has to wait.
        await s.wires[1].say("reconnect again")
        await trio.sleep(1.5)
        assert s.venue.gaps == [6, 1]
        assert [item.volume for item in s.send.ticks] == [1]


async def test_replies(autojump_clock: MockClock) -> None:
    async with started(["A"]) as s:
        await s.wires[0].say("reply one", "A 1", "reply two")
        assert s.wires[0].got == ["+A", "one", "two"]


async def test_refusals(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with started(["A", "B", "C"], Unlimited) as s:
        wire = s.wires[0]
        await wire.say("refuse-for-good A", "refuse B", "refuse", "refuse X")
        assert s.events == [
            ("symbol-refused", "A", "no such symbol"),
            ("symbol-refused", "B", "no such symbol"),
            ("symbol-refused", None, "no such symbol"),
        ]
        assert (s.feed.stats.refused, s.feed.ignored) == (4, 4)
        assert [m for m in caplog.messages if "refused" in m] == [
            "feed.refused reason=no such symbol final=True symbol=A"
        ]
        await trio.sleep(1)
        await wire.say("refuse B")
        assert [m for m in caplog.messages if "refused" in m][1:] == [
            "feed.refused reason=no such symbol final=False symbol=B times=4"
        ]
        await wire.close()
        await trio.sleep(1.5)
        # What was refused for good is not asked for again, unless the user does.
        assert s.wires[1].got == ["+B,C"]
        s.feed.unsubscribe(["A"])
        s.feed.subscribe(["A"])
        await wait_all_tasks_blocked()
        assert s.wires[1].got == ["+B,C", "+A"]


async def test_gaps(autojump_clock: MockClock) -> None:
    async with started(["A", "B"]) as s:
        await s.wires[0].say("bad A", "bad X", "bad", "gap B", "gap X", "snapshot A")
        assert s.gaps == [("A", "malformed", 1), ("B", "sequence", 3), ("A", "sequence", 0)]
        assert (s.feed.malformed, s.feed.ignored) == (3, 3)


async def test_a_feed_of_all_symbols(autojump_clock: MockClock) -> None:
    class Wild(WordCodec):
        wildcard = "*"

    async with started((), Wild) as s:
        (wire,) = s.wires.all
        assert wire.got == ["+*"]
        assert s.feed.symbols == ("*",)
        await wire.say("A 1", "B 2", f"{LONG} 3", "gap B", f"gap {LONG}", "bad C")
        assert [item.symbol for item in s.send.ticks] == ["A", "B"]
        assert s.gaps == [("B", "sequence", 3), ("C", "malformed", 1)]
        assert s.feed.stats.unasked == 0
        assert s.feed.malformed == 2


@pytest.mark.parametrize(("code", "ends"), [(4001, True), (1008, True), (4002, False)])
async def test_final_close_codes(code: int, ends: bool, autojump_clock: MockClock) -> None:
    class Final(WordCodec):
        final_close_codes = frozenset({4001})

    wires = Wires()
    async with memory_feed(wires.script, symbols=["A"], venue=Final, final_close_codes=[1008]) as (
        feed,
        _,
    ):

        async def close_it() -> None:
            await wait_all_tasks_blocked()
            await wires[0].close(code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_it)
            if ends:
                with pytest.raises(FeedBrokenError, match=f"the final code {code}"):
                    await feed.run(Collector())
            else:
                with trio.move_on_after(5) as scope:
                    await feed.run(Collector())
                assert scope.cancelled_caught
                assert len(wires.all) == 2


async def test_channels_reach_the_codec(autojump_clock: MockClock) -> None:
    class Channelled(WordCodec):
        channels = ("quotes", "trades")
        default_channels = ("quotes",)
        limits = Limits(subscriptions=4)

        def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
            return [f"{','.join(symbols)}@{channel}" for channel in self.context.channels]

    async with started(["A", "B", "C"], Channelled) as s:
        assert [wire.got for wire in s.wires.all] == [["A,B,C@quotes"]]
    async with started(["A", "B", "C"], Channelled, channels="all") as s:
        assert sorted(wire.got for wire in s.wires.all) == [
            ["A,B@quotes", "A,B@trades"],
            ["C@quotes", "C@trades"],
        ]
