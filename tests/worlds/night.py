"""One night of a feed against a venue in memory at which everything goes wrong.

Plan: :func:`run_night` runs one pipeline through all :data:`SCENES` on a virtual clock,
and writes down for each scene what the feed counted and logged, and what the strategy
was told. The test looks into these records; ``docs/make_night_table.py`` makes a table
of them.
"""

from __future__ import annotations

import errno
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import WebSocketConnection, wrap_server_stream

import trio_ticks as tt
from tests.worlds.feed_venues import NO_JITTER, Script, answers, until_closed
from trio_ticks.clock import Clock
from trio_ticks.feeds.websocket.connect import ConnectFailed

__all__ = ["SCENES", "SYMBOLS", "Night", "Record", "Told", "run_night"]

SYMBOLS: Final = ("SPY", "QQQ", "IWM")
_EVERY_S: Final = 2.0
_CALM_S: Final = 180.37
"""The calm before the night and after each scene.

Not whole, so that no scene begins in the very moment of a quote.
"""


class NightVenue:
    """Speaks the flat dialect; the scenes change how it behaves."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._clock = Clock()
        self._leave = trio.Event()
        self._goodbye: tuple[int, str] | None = None
        # What happens to a new connection.
        self.refusal: Exception | Script | None = None
        self.only_snapshots = False
        # What happens on those that are open.
        self.is_silent = False
        self.has_heartbeat = False
        self.forgets = False
        self.garbles = False
        self.gone: frozenset[str] = frozenset()
        self.ahead: timedelta | datetime | None = None
        """How far ahead the next quote of the first symbol is stamped, or its stamp."""

    async def open_stream(self, _host: str, _port: int) -> trio.abc.Stream:
        """Take the place of :func:`trio.open_tcp_stream`."""
        await trio.lowlevel.checkpoint()
        if isinstance(self.refusal, Exception):
            raise self.refusal
        client, server = memory_stream_pair()
        self._nursery.start_soon(self.refusal or self._serve, server)
        return client

    def hang_up(self, code: int | None = None, reason: str = "") -> None:
        """End all connections: with a Close frame, or (``None``) without a word."""
        self._goodbye = None if code is None else (code, reason)
        self._leave.set()
        self._leave = trio.Event()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            ws = await (await wrap_server_stream(nursery, stream)).accept()
            await until_closed(self._talk, ws)
            if self._goodbye is not None and ws.closed is None:
                with trio.move_on_after(1):
                    await ws.aclose(*self._goodbye)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    async def _talk(self, ws: WebSocketConnection) -> None:
        symbols = json.loads(await ws.get_message())["params"]["symbols"]
        if self.only_snapshots:
            for symbol in symbols:
                await ws.send_message(self._quote(symbol))
            return

        async def until_left() -> None:
            await self._leave.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_left)
            nursery.start_soon(until_closed, self._listen, ws)
            await until_closed(lambda ws: self._send(ws, symbols), ws)
            nursery.cancel_scope.cancel()

    async def _listen(self, ws: WebSocketConnection) -> None:
        while True:
            await ws.get_message()

    async def _send(self, ws: WebSocketConnection, symbols: list[str]) -> None:
        forgotten = False
        while True:
            forgotten = forgotten or self.forgets
            if self.has_heartbeat:
                await ws.send_message('{"type":"heartbeat"}')
            for symbol in symbols:
                if not (self.is_silent or forgotten or symbol in self.gone):
                    await ws.send_message(self._quote(symbol))
            await trio.sleep(_EVERY_S)

    def _quote(self, symbol: str) -> str:
        at = self._clock.utc()
        if symbol == SYMBOLS[0] and self.ahead is not None:
            at = self.ahead if isinstance(self.ahead, datetime) else at + self.ahead
            self.ahead = None
        quote: dict[str, Any] = {"symbol": symbol, "timestamp": at.isoformat()}
        quote["bid"] = "?" if self.garbles else 1
        return json.dumps({**quote, "ask": 2, "bid_size": 3, "ask_size": 4, "volume": 5})


Act = Callable[[NightVenue], Awaitable[None]]


def _during(seconds: float, **changes: Any) -> Act:
    """Return a scene that sets attributes of the venue for so long."""

    async def act(venue: NightVenue) -> None:
        before = {name: getattr(venue, name) for name in changes}
        for name, value in changes.items():
            setattr(venue, name, value)
        await trio.sleep(seconds)
        for name, value in before.items():
            setattr(venue, name, value)

    return act


def _after(code: int | None, reason: str, then: Act) -> Act:
    """Return a scene that begins with the end of the connection."""

    async def act(venue: NightVenue) -> None:
        venue.hang_up(code, reason)
        await then(venue)

    return act


async def _forget(venue: NightVenue) -> None:
    venue.has_heartbeat = True
    await _during(_EVERY_S, forgets=True)(venue)
    await trio.sleep(120)
    venue.has_heartbeat = False


def _stamp(ahead: timedelta | datetime) -> Act:
    async def act(venue: NightVenue) -> None:
        venue.ahead = ahead
        await trio.sleep(_EVERY_S)

    return act


_REFUSED: Final = OSError(errno.ECONNREFUSED, "Connection refused")
_EXPIRED: Final = ConnectFailed(
    "the server's certificate is not acceptable: certificate has expired", permanent=True
)
"""What dialling makes of a certificate that does not verify."""
_UNAUTHORIZED: Final = answers("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

SCENES: Final[dict[str, Act]] = {
    "No market data for an hour; pings are answered": _during(3600, is_silent=True),
    "The connection is lost, new ones are refused for 10 minutes": _after(
        None, "", _during(600, refusal=_REFUSED)
    ),
    "The certificate has expired, for 5 minutes": _after(None, "", _during(300, refusal=_EXPIRED)),
    "The credentials are refused (401) for 30 s": _after(
        None, "", _during(30, refusal=_UNAUTHORIZED)
    ),
    "The venue restarts (close code 1012)": _after(1012, "service restart", _during(0)),
    "The subscription is forgotten; heartbeats go on": _forget,
    "All messages are malformed for 3 minutes": _during(180, garbles=True),
    "One of three symbols is gone for 5 minutes": _during(300, gone=frozenset({"QQQ"})),
    "One stamp is 5 s in the future": _stamp(timedelta(seconds=5)),
    "One stamp is of the year 9999": _stamp(datetime(9999, 12, 31, tzinfo=UTC)),
    "Each connection gets a snapshot and is closed, for a minute": _after(
        1011, "overloaded", _during(60, only_snapshots=True)
    ),
}
"""What happens, one after the other, with a calm before each."""


@attrs.frozen
class Told:
    """What the strategy was told of one kind in one scene."""

    times: int
    after_s: float
    """From the beginning of the scene to the first time."""


@attrs.define
class Record:
    """One scene."""

    name: str
    began_at: float
    counts: Counter[str] = attrs.field(factory=Counter)
    """By how much the counts of the feed have grown."""
    logged: Counter[str] = attrs.field(factory=Counter)
    """Lines in the log, by their event."""
    told: dict[str, Told] = attrs.field(factory=dict)
    """By ``kind``, or ``gap: reason``."""
    reasons: list[str] = attrs.field(factory=list)
    """Of the events, in their order."""
    ticks: Counter[str] = attrs.field(factory=Counter)
    """By symbol, how many came in the calm after the scene."""

    def tell(self, what: str) -> None:
        """Write down that the strategy was told."""
        known = self.told.get(what)
        after_s = trio.current_time() - self.began_at if known is None else known.after_s
        self.told[what] = Told(1 if known is None else known.times + 1, round(after_s, 3))


@attrs.define
class Night:
    """All of it."""

    records: list[Record]
    report: tt.PipelineReport
    symbols: tuple[str, ...]


class _LogTap(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(getattr(record, "event", record.getMessage()))


@contextmanager
def _tapped(write: Callable[[str], None]) -> Iterator[None]:
    """Call *write* with the event of each log line of the library, and show none."""
    logger, tap = logging.getLogger("trio_ticks"), _LogTap(write)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(tap)
    try:
        yield
    finally:
        logger.removeHandler(tap)
        logger.setLevel(before[0])
        logger.propagate = before[1]


async def _main() -> Night:
    records: list[Record] = [Record("the calm before", trio.current_time())]

    def on_feed(event: tt.FeedEvent) -> None:
        records[-1].tell(event.kind)
        records[-1].reasons.append(event.reason)

    def on_gap(gap: tt.Gap) -> None:
        records[-1].tell(f"gap: {gap.reason}")

    is_calm = False

    async def strategy(tick: tt.Tick) -> None:
        if is_calm:
            records[-1].ticks[tick.symbol] += 1

    def log(event: str) -> None:
        records[-1].logged[event] += 1

    async with trio.open_nursery() as nursery:
        venue = NightVenue(nursery)
        feed = tt.WebSocketFeed(
            "ws://venue.test/feed",
            SYMBOLS,
            open_stream=venue.open_stream,
            backoff=NO_JITTER,
            newer_only=True,
        )
        with _tapped(log):
            async with tt.open_pipeline(feed, strategy, on_feed=on_feed, on_gap=on_gap) as pipeline:
                await trio.sleep(_CALM_S)
                for name, act in SCENES.items():
                    counts = attrs.asdict(feed.stats)
                    records.append(Record(name, trio.current_time()))
                    is_calm = False
                    await act(venue)
                    is_calm = True
                    await trio.sleep(_CALM_S)
                    records[-1].counts = Counter(
                        {
                            name: value - counts[name]
                            for name, value in attrs.asdict(feed.stats).items()
                            if name not in ("messages", "connected", "expects_data", "silent_names")
                        }
                    )
                symbols = feed.symbols
        nursery.cancel_scope.cancel()
    return Night(records[1:], pipeline.report, symbols)


def run_night() -> Night:
    """Run it all, on a virtual clock, and return what was written down."""
    return trio.run(_main, clock=MockClock(autojump_threshold=0))
