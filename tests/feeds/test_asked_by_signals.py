"""A signal handler may change a feed's symbols, whatever line of it is interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

import trio_ticks as tt
from tests.worlds.ctrl_c import Interrupt, handled_by
from tests.worlds.feed_venues import memory_feed, tick
from trio_ticks.feeds.venues import Codec
from trio_ticks.feeds.websocket.wishes import SymbolWishes

FEEDS = re.compile("trio_ticks/(feeds/websocket|loop[.]py)")


class WordCodec(Codec):
    """Reads ``SYMBOL volume``."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str | bytes]:
        return ["+" + ",".join(symbols)]

    def unsubscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
        return ["-" + ",".join(symbols)]

    def decode_one(self, payload: bytes, /) -> Any:
        symbol, _, volume = payload.decode().partition(" ")
        return tick(symbol, int(volume))


class Venue:
    """Sends the symbols that are subscribed to, in turn."""

    def __init__(self) -> None:
        self.symbols: set[str] = set()
        self._sent = 0

    async def script(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            ws = await request.accept()
            nursery.start_soon(self._speak, ws)
            with suppress(ConnectionClosed):
                while True:
                    self._heed(str(await ws.get_message()))
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    def _heed(self, request: str) -> None:
        symbols = request[1:].split(",")
        if request[0] == "+":
            self.symbols.update(symbols)
        else:
            self.symbols.difference_update(symbols)

    async def _speak(self, ws: WebSocketConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await trio.sleep(0.0005)
                for symbol in sorted(self.symbols):
                    self._sent += 1
                    await ws.send_message(f"{symbol} {self._sent}")


@pytest.mark.parametrize("every", [67, 151])
@pytest.mark.parametrize("at", [400, 500, 600])
def test_symbols_come_and_go(at: int, every: int) -> None:
    async def handler(_tick: tt.Tick) -> None: ...

    venue, interrupt = Venue(), Interrupt(at, FEEDS, every)
    asked: list[Callable[[], object]] = []

    async def main() -> None:
        async with memory_feed(
            venue.script, symbols=["A", "B"], venue=WordCodec, stale_after=None
        ) as (feed, _memory):
            async with tt.open_pipeline(feed, handler) as pipeline:

                def exchange() -> None:
                    feed.unsubscribe(["A", "C"])
                    feed.subscribe(["A"])

                wishes = cycle(
                    [
                        lambda: feed.subscribe(["C", "D"]),
                        exchange,
                        lambda: pipeline.pause(feed="unsubscribe"),
                        lambda: feed.subscribe([f"E{interrupt.count}"]),
                        pipeline.resume,
                    ]
                )
                asked.append(lambda: next(wishes)())
                while interrupt.count < 100:  # noqa: ASYNC110 - the handler sets no event
                    await trio.sleep(0.001)
                asked.clear()
                pipeline.resume()
                # Whoever asked last is heard, and the venue is told all of it.
                with trio.fail_after(60):
                    while venue.symbols != set(feed.symbols):  # noqa: ASYNC110 - a peer's
                        await trio.sleep(0.001)
                assert feed.reconnects == 0
                assert {"A", "B", "D"} <= set(feed.symbols)
                assert len([name for name in feed.symbols if name[0] == "E"]) >= 19
            pipeline.ledger.check()
            assert pipeline.report.ledger.dropped == 0

    with handled_by(lambda: [function() for function in asked]), interrupt:
        trio.run(main)


def refuse(error: Exception) -> None:
    raise AssertionError from error


@pytest.mark.parametrize("is_running", [False, True])
def test_what_is_asked_in_the_midst_of_another_wish_is_kept(is_running: bool) -> None:
    done: list[frozenset[str]] = []

    async def main(at: int) -> bool:
        wishes = SymbolWishes({"A": "A"}, lambda: done.append(frozenset(wishes.now)))
        if is_running:
            wishes.begin(refuse)
        with (
            handled_by(lambda: wishes.add(["C"])),
            Interrupt(at, re.compile("websocket/wishes")) as interrupt,
        ):
            wishes.add(["B"])
            wishes.remove(["A"])
        await trio.testing.wait_all_tasks_blocked()
        assert set(wishes.names) == ({"B", "C"} if interrupt.count else {"B"}), interrupt.where
        assert done[-1] == set(wishes.names), interrupt.where
        return bool(interrupt.count)

    at = 1
    while trio.run(main, at):
        at += 1
    assert at > 20


def test_what_is_asked_while_a_feed_begins_or_ends_is_acted_on_after_it() -> None:
    acted: list[set[str]] = []

    def act() -> None:
        before = set(wishes.now)
        if len(acted) in (0, 3):  # as by a signal
            wishes.add([f"S{len(acted)}"])
        acted.append(before)

    async def main() -> None:
        wishes.begin(refuse)
        wishes.end()

    wishes = SymbolWishes({"A": "A"}, act)
    trio.run(main)
    assert acted == [{"A"}, {"A", "S0"}, {"A", "S0"}]


async def test_a_wish_of_a_thread_that_cannot_be_fulfilled_ends_the_feed() -> None:
    class Wrong(WordCodec):
        def unsubscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
            raise ZeroDivisionError

    async def handler(_tick: tt.Tick) -> None: ...

    async with memory_feed(Venue().script, symbols=["A", "B"], venue=Wrong, stale_after=None) as (
        feed,
        _memory,
    ):

        async def main() -> None:
            async with tt.open_pipeline(feed, handler) as pipeline:
                with trio.fail_after(60):
                    while not feed.connected:  # noqa: ASYNC110 - the venue's doing
                        await trio.sleep(0.001)
                    await trio.to_thread.run_sync(feed.unsubscribe, ["A"])
                    await pipeline.wait()

        with pytest.raises(ZeroDivisionError):
            await main()
