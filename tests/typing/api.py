"""The public API as a user types it.

Never run: mypy (strict) compiles it, and ``assert_type`` says what it must see. An
``ignore`` with a code is a claim too: with ``warn_unused_ignores``, mypy complains if
it no longer finds the mistake.
"""

import datetime
from collections.abc import AsyncIterator
from typing import Any, assert_type

import trio_ticks as tt
from trio_ticks.exchange import Exchange, open_exchange


class MyFeed:
    """A feed is whatever has this method."""

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        """Send one tick."""
        await send.send(tt.Tick("A", datetime.datetime.now(datetime.UTC), 1.0, 2.0, 3.0, 4.0, 5.0))
        await send.send("A tick")  # type: ignore[arg-type]


class NotAFeed:
    """Has the wrong name for it."""

    async def start(self) -> None:
        """Do nothing."""


async def on_tick(tick: tt.Tick) -> None:
    """Take a tick, in the loop."""


def on_tick_blocking(tick: tt.Tick) -> None:
    """Take a tick, in a thread."""


class Strategy:
    """Makes a handler per worker."""

    async def __call__(self, tick: tt.Tick) -> None:
        """Take a tick."""


@tt.batch_handler(max_size=64, max_wait=0.01)
def on_ticks(ticks: list[tt.Tick]) -> None:
    """Take many, in a thread."""


def on_error(tick: tt.Tick, error: Exception) -> None:
    """Take what a handler raised."""


def ticks() -> None:
    """Read a tick's fields and what is derived from them."""
    tick = tt.Tick(
        symbol="A",
        timestamp=datetime.datetime.now(),
        bid=1,
        ask=2,
        bid_size=3,
        ask_size=4,
        volume=5,
    )
    assert_type(tick.spread, float)
    assert_type(tick.mid_price, float)
    assert_type(tick.pressure_ratio, float)
    tick.bid = 2.0  # type: ignore[misc]
    trade = tt.Trade("A", datetime.datetime.now(), 1.0, 2.0, "buy")
    assert_type(trade.notional, float)
    data: tt.MarketData = tick
    data = trade
    data = tt.Bar("A", datetime.datetime.now(), 60, 1, 2, 0.5, 1.5)
    data = tt.BookUpdate("A", datetime.datetime.now(), bids=((1.0, 2.0),), snapshot=True)
    assert_type(data.symbol, str)


async def channel() -> None:
    """Give a channel the type of what it carries, and have it back from both ends."""
    send: tt.TickSendChannel[tt.Tick]
    receive: tt.TickReceiveChannel[tt.Tick]
    send, receive = tt.open_tick_channel(maxsize=10, overflow=tt.DropOldest(), max_age=0.5)
    assert_type(await receive.receive(), tt.Tick)
    assert_type(await receive.receive_many(10), list[tt.Tick])
    assert_type(send.ledger, tt.Ledger)
    assert_type(receive.ledger.dropped_by_reason, dict[str, int])
    async with send.clone() as another:
        assert_type(another, tt.TickSendChannel[tt.Tick])
        await another.send_many([])
    async for tick in receive:
        assert_type(tick, tt.Tick)


async def pipeline() -> None:
    """Run pipelines out of every kind of feed and handler."""
    feed = tt.WebSocketFeed("ws://127.0.0.1:1", symbols=["A"], api_key=None)
    async with tt.open_pipeline(
        feed, on_tick, workers=2, overflow=tt.DropNewest(timeout=0.5), on_error=on_error
    ) as running:
        assert_type(running.metrics(), tt.PipelineMetrics)
        assert_type(running.metrics().queue_wait_ms, tt.LatencyStats)
        assert_type(running.metrics().workers, tuple[tt.WorkerMetrics, ...])
        running.shutdown()
        await running.wait()
        await running.pressure.wait_for("shed")
    assert_type(running.report, tt.PipelineReport)
    assert_type(running.report.ledger, tt.LedgerSnapshot)
    assert_type(await tt.run_pipeline(MyFeed(), on_tick_blocking), tt.PipelineReport)
    assert_type(await tt.run_pipeline(tt.IterableFeed([]), on_tick), tt.PipelineReport)
    assert_type(
        await tt.run_pipeline(MyFeed(), Strategy, retry=tt.Retry(TimeoutError)), tt.PipelineReport
    )
    assert_type(await tt.run_pipeline(MyFeed(), on_ticks, breaker=tt.Breaker(3)), tt.PipelineReport)
    await tt.run_pipeline(NotAFeed(), on_tick)  # type: ignore[arg-type]
    async with tt.open_pipeline(feed, on_tick, ordering="sideways"):  # type: ignore[arg-type]
        pass
    async with tt.open_pipeline(feed, on_tick, workrs=2):  # type: ignore[call-arg]
        pass


async def feeds(source: AsyncIterator[tt.Trade]) -> None:
    """Assign feeds to the protocols that they keep."""
    of_mine: tt.Feed = MyFeed()
    of_mine = tt.IterableFeed(source)
    of_mine = tt.ReplayFeed("capture.gz", speed=2)
    assert of_mine
    async with open_exchange(symbols=["A"], rate=10.0) as exchange:
        assert_type(exchange, Exchange)
        assert_type(exchange.url, str)


def policies() -> dict[type, tt.OverflowStrategy]:
    """Name a strategy for each kind."""
    return {tt.Tick: tt.Conflate(), tt.Trade: tt.Block(timeout=1.0)}


def errors(error: tt.TickError) -> Any:
    """Find the facts as attributes."""
    if isinstance(error, tt.FeedBrokenError):
        assert_type(error.status, int | None)
        assert_type(error.attempts, int)
    if isinstance(error, tt.QueueFullError):
        assert_type(error.maxsize, int)
    value: ValueError = tt.ConfigError("a ConfigError is a ValueError")
    return value
