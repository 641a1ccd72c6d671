"""A polling feed that rests: what a rest must not cost, and what it must not hide."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.feed_venues import NO_JITTER, Collector
from tests.worlds.pipeline_world import Recorder
from tests.worlds.polling_world import Script, polled, quote_at


@pytest.mark.parametrize(
    ("begins_at", "failure"),
    [
        (None, OSError("not now")),
        (2.5, OSError("not now")),
        (2.5, tt.RestError("not now", status=401)),
    ],
    ids=["before the run", "in an outage", "while credentials are refused"],
)
async def test_a_rest_is_no_part_of_an_outage(
    autojump_clock: MockClock, begins_at: float | None, failure: Exception
) -> None:
    first = 0 if begins_at is None else 2
    script = Script(lambda n: failure if first <= n < first + 3 else quote_at(n))
    feed, send = tt.PollingFeed(script, backoff=NO_JITTER, give_up_after=60), Collector()
    if begins_at is None:
        feed.suspend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, send)
        await trio.sleep(begins_at or 0)
        feed.suspend()
        await trio.sleep(3600)
        feed.resume()
        await trio.sleep(20)
        assert feed.stats.connected
        assert feed.stats.connect_failures == 3
        nursery.cancel_scope.cancel()


async def test_no_symbol_is_called_silent_for_a_rest(autojump_clock: MockClock) -> None:
    # The answer comes half a second after the rest, and between them somebody looks
    # for silent symbols.
    script = Script(lambda n: (0.5, quote_at(n)))
    async with polled(script, symbols=["SPY"], symbol_stale_after=5) as (feed, send):
        for step in range(100):
            await trio.sleep(3)
            feed.suspend()
            await trio.sleep(3.0 + 0.05 * step)
            feed.resume()
        assert send.events == []
        assert len(send.ticks) > 200


async def test_many_short_rests_do_not_make_it_ask_more_often(autojump_clock: MockClock) -> None:
    script = Script(lambda n: (0.3, quote_at(n)))
    async with polled(script) as (feed, _send):
        for _ in range(1000):
            feed.suspend()
            await trio.sleep(0.01)
            feed.resume()
            await trio.sleep(0.01)
    assert 19 <= len(script.calls) <= 21


@pytest.mark.parametrize(("asked_s", "waited_s"), [(60, 60), (1e9, 300)])
async def test_a_call_that_fails_though_it_was_cancelled_says_when_to_ask_again(
    autojump_clock: MockClock, asked_s: float, waited_s: float
) -> None:
    calls: list[float] = []
    began = trio.current_time()

    async def in_a_thread() -> tt.Tick:
        calls.append(trio.current_time() - began)
        if len(calls) == 2:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            raise tt.RestError("slow down", retry_after_s=asked_s)
        return quote_at(len(calls))

    feed = tt.PollingFeed(in_a_thread, backoff=NO_JITTER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, Collector())
        await trio.sleep(1.2)
        feed.suspend()
        await trio.sleep(1)
        feed.resume()
        await trio.sleep(400)
        nursery.cancel_scope.cancel()
    assert calls[:2] == [0, 1]
    assert 1.5 + waited_s <= calls[2] <= 2.7 + waited_s


async def test_another_pipeline_may_run_it_after_one_that_ended_in_a_pause(
    autojump_clock: MockClock,
) -> None:
    script = Script(quote_at)
    feed = tt.PollingFeed(script)
    for times in (1, 2):
        async with tt.open_pipeline(feed, Recorder()) as pipeline:
            await trio.sleep(2.5)
            pipeline.pause(feed="unsubscribe")
            await trio.sleep(5)
            assert len(script.calls) == 3 * times
