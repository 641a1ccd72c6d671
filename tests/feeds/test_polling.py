"""A feed that asks again and again: its pace, its failures, and what it tells."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.feed_venues import NO_JITTER, Collector
from tests.worlds.pipeline_world import Recorder
from tests.worlds.polling_world import Script, polled, quote_at


async def run_out(script: Script, interval: float = 1.0, **options: Any) -> tt.PollingFeed:
    """Run a feed until it ends by itself."""
    feed = tt.PollingFeed(script, interval, **{"backoff": NO_JITTER, **options})
    with trio.fail_after(1e6):
        await feed.run(Collector())
    return feed


def told(send: Collector) -> list[tuple[str, str | None]]:
    return [(event.kind, event.symbol) for event in send.events]


# The pace


async def test_it_asks_at_a_steady_pace(autojump_clock: MockClock) -> None:
    script = Script(lambda n: (0.3, [quote_at(n)]))
    async with polled(script, 0.5) as (feed, send):
        await trio.sleep(10.4)
    assert script.calls == [n / 2 for n in range(21)]
    assert len(send.ticks) == 21
    assert (feed.stats.messages, feed.stats.skipped_polls) == (21, 0)


async def test_a_slow_answer_moves_no_later_call(autojump_clock: MockClock) -> None:
    script = Script(lambda n: (3.7 if n == 2 else 0.1, quote_at(n)))
    async with polled(script) as (feed, send):
        await trio.sleep(9.5)
    assert script.calls == [0, 1, 2, 6, 7, 8, 9]
    assert script.most_at_once == 1
    assert feed.stats.skipped_polls == 3
    assert len(send.ticks) == 7


async def test_an_answer_that_takes_just_one_interval_skips_none(
    autojump_clock: MockClock,
) -> None:
    script = Script(lambda n: (0.1, quote_at(n)))
    async with polled(script, 0.1) as (feed, _send):
        await trio.sleep(20.05)
    assert len(script.calls) == 201
    assert feed.stats.skipped_polls == 0


async def test_a_feed_that_rests_asks_nothing_and_is_not_given_up(
    autojump_clock: MockClock,
) -> None:
    script = Script(lambda n: (0.1, [quote_at(n, "A"), quote_at(n, "B")]))
    async with polled(script, symbols=["A", "B"], stale_after=5, give_up_after=20) as (feed, send):
        await trio.sleep(2.5)
        feed.suspend()
        feed.suspend()
        await trio.sleep(60)
        assert script.calls == [0, 1, 2]
        stats = feed.stats
        assert (stats.connected, stats.watchdog_trips, stats.silent_symbols) == (True, 0, 0)
        assert (send.events, send.gaps) == ([], [])
        feed.resume()
        feed.resume()
        await trio.sleep(1.5)
        assert script.calls == [0, 1, 2, 62.5, 63.5]
        assert stats.skipped_polls == 0
        assert {(gap.symbol, gap.reason) for gap in send.gaps} == {
            ("A", "unsubscribed"),
            ("B", "unsubscribed"),
        }
        (gone_s,) = {(gap.timestamp - gap.first_timestamp).total_seconds() for gap in send.gaps}
        assert gone_s == pytest.approx(60)


async def test_a_rest_cancels_the_call_in_progress(autojump_clock: MockClock) -> None:
    script = Script(lambda n: (0.9, quote_at(n)))
    async with polled(script) as (feed, send):
        await trio.sleep(2.5)
        feed.suspend()
        await trio.sleep(10)
        assert len(send.ticks) == 2
        assert feed.stats.connect_failures == 0
        feed.resume()
        await trio.sleep(0.95)
        assert script.calls == [0, 1, 2, 12.5]
        assert len(send.ticks) == 3


async def test_the_shortest_rest_has_a_gap_too(autojump_clock: MockClock) -> None:
    script = Script(lambda n: (0.9, quote_at(n)))
    async with polled(script, symbols=["SPY"]) as (feed, send):
        await trio.sleep(2.5)
        feed.suspend()
        feed.resume()
        await trio.sleep(1.45)
        assert script.calls == [0, 1, 2, 3]
        assert [(gap.symbol, gap.reason) for gap in send.gaps] == [("SPY", "unsubscribed")]
        assert len(send.ticks) == 3


async def test_what_comes_though_it_was_cancelled_is_not_sent(autojump_clock: MockClock) -> None:
    async def stubborn() -> tt.Tick:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
        return quote_at(int(trio.current_time()))

    send = Collector()
    feed = tt.PollingFeed(stubborn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, send)
        await trio.sleep(1.2)
        feed.suspend()
        await trio.sleep(5)
        assert len(send.ticks) == 1
        nursery.cancel_scope.cancel()


async def test_a_feed_may_rest_before_it_runs_and_while_it_is_lost(
    autojump_clock: MockClock,
) -> None:
    script = Script(lambda n: OSError("cut off") if n < 2 else quote_at(n))
    feed, send = tt.PollingFeed(script, backoff=NO_JITTER), Collector()
    feed.suspend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, send)
        await trio.sleep(10)
        assert feed.stats.messages == feed.stats.connect_failures == 0
        feed.resume()
        await trio.sleep(0.5)
        assert feed.stats.connect_failures == 1
        feed.suspend()
        await trio.sleep(100)
        feed.resume()
        await trio.sleep(10)
        assert feed.stats.connected
        assert len(send.ticks) > 3
        assert send.gaps == []
        nursery.cancel_scope.cancel()


async def test_a_pipeline_pauses_it(autojump_clock: MockClock) -> None:
    script = Script(quote_at)
    async with tt.open_pipeline(tt.PollingFeed(script), Recorder()) as pipeline:
        await trio.sleep(2.5)
        pipeline.pause(feed="unsubscribe")
        await trio.sleep(10)
        assert len(script.calls) == 3
        assert pipeline.ledger.consumed == 3
        pipeline.resume()
        await trio.sleep(1.5)
        assert len(script.calls) == 5
        pipeline.cancel()


async def test_a_full_channel_lets_it_ask_less_often(autojump_clock: MockClock) -> None:
    script = Script(lambda n: [quote_at(n)])

    async def slow(_tick: tt.Tick) -> None:
        await trio.sleep(4)

    feed = tt.PollingFeed(script, 1.0)
    async with tt.open_pipeline(
        feed, slow, workers=1, maxsize=1, overflow=tt.Block(), shutdown_timeout=60
    ) as pipeline:
        await trio.sleep(100)
    assert 24 <= len(script.calls) <= 30
    assert len(script.calls) + feed.stats.skipped_polls == pytest.approx(101, abs=4)
    pipeline.ledger.check()
    assert pipeline.ledger.dropped == 0
    # Waiting for room is no silence of the venue.
    assert feed.stats.watchdog_trips == 0


async def test_a_call_that_takes_too_long_has_failed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(lambda n: (math.inf if n == 1 else 0, quote_at(n)))
    async with polled(script, timeout=2.5) as (feed, send):
        await trio.sleep(6.5)
    assert script.calls == [0, 1, 5, 6]  # 1 + 2.5 + the first wait, and then in the pace.
    assert told(send) == [("lost", None), ("back", None)]
    assert "Script took longer than 2.5 s" in send.events[0].reason
    assert "feed.request_failed feed=Script reason=Script took longer" in caplog.text
    assert (feed.stats.connect_failures, feed.stats.reconnects) == (1, 1)


# What an answer may be


@attrs.frozen
class Own:
    """Market data of the user's."""

    symbol: str
    timestamp: datetime


@pytest.mark.parametrize("in_the_answer", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_what_ends_a_program_is_raised_as_it_is(
    error: BaseException, in_the_answer: bool
) -> None:
    def answer() -> Iterator[tt.Tick]:
        yield quote_at(0)
        raise error

    async def fetch() -> Iterator[tt.Tick]:
        if not in_the_answer:
            raise error
        return answer()

    with pytest.raises(type(error)) as caught:
        await tt.PollingFeed(fetch).run(Collector())
    assert caught.value is error


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        (None, 0),
        ([], 0),
        (quote_at(0), 1),
        ([quote_at(0), quote_at(1)], 2),
        ((quote_at(n) for n in range(3)), 3),
        ({quote_at(0): 1}.keys(), 1),
        (Own("A", quote_at(0).timestamp), 1),
        ([tt.Trade("A", quote_at(0).timestamp, 1, 2, "buy", "7")], 1),
    ],
)
async def test_what_an_answer_may_be(autojump_clock: MockClock, answer: Any, items: int) -> None:
    async with polled(lambda: _always(answer), 100.0) as (feed, send):
        await trio.sleep(1)
    assert len(send.ticks) == items
    assert feed.stats.malformed == 0
    assert feed.stats.ignored == (items == 0)


async def _always(answer: Any) -> Any:
    return answer


class Sly:
    """Raises whatever it is asked."""

    @property
    def symbol(self) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "junk",
    [
        5,
        "SPY",
        b"SPY",
        {"symbol": "SPY", "bid": 1},
        object(),
        Sly(),
        SimpleNamespace(symbol="SPY", timestamp=5),
        SimpleNamespace(symbol="SPY", timestamp=datetime(2026, 3, 2)),
        SimpleNamespace(symbol=5, timestamp=quote_at(0).timestamp),
        SimpleNamespace(symbol="S" * 300, timestamp=quote_at(0).timestamp),
        tt.Tick("S" * 300, quote_at(0).timestamp, 1, 2, 3, 4, 5),
    ],
    ids=lambda junk: type(junk).__name__,
)
async def test_what_is_no_market_data_costs_itself_alone(
    autojump_clock: MockClock, junk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [junk, [quote_at(1), junk, quote_at(2)], [junk, junk]]
    script = Script(lambda n: answers[n] if n < 3 else None)
    async with polled(script) as (feed, send):
        await trio.sleep(4.5)
    assert [tick.timestamp for tick in send.ticks] == [quote_at(n).timestamp for n in (1, 2)]
    assert feed.stats.malformed == 4
    assert feed.stats.connect_failures == 0
    assert "feed.malformed" in caplog.text
    assert told(send) == []


async def test_a_bad_item_of_a_known_symbol_is_a_gap_of_it(autojump_clock: MockClock) -> None:
    bad = SimpleNamespace(symbol="QQQ", timestamp=None)
    script = Script(lambda n: [bad, quote_at(n)])
    async with polled(script, 100.0, symbols={"QQQ": "Q", "SPY": "SPY"}) as (_feed, send):
        await trio.sleep(1)
    assert [(gap.symbol, gap.reason, gap.count) for gap in send.gaps] == [("Q", "malformed", 1)]


async def test_an_answer_that_breaks_off_gives_what_it_had(autojump_clock: MockClock) -> None:
    def broken(n: int) -> Iterator[tt.Tick]:
        yield quote_at(n)
        if n == 1:
            raise OSError("cut off")
        yield quote_at(n + 0.5)

    script = Script(broken)
    async with polled(script) as (feed, send):
        await trio.sleep(3.5)
    assert len(send.ticks) == 2 + 1 + 2 + 2
    assert feed.stats.connect_failures == 1
    assert told(send) == [("lost", None), ("back", None)]
    assert "OSError: cut off" in send.events[0].reason


async def test_an_endless_answer_is_cut(autojump_clock: MockClock) -> None:
    def endless() -> Iterator[tt.Tick]:
        n = 0
        while True:
            yield quote_at(n)
            n += 1

    async with polled(Script(lambda _n: endless()), 100.0, max_items=50) as (feed, send):
        await trio.sleep(1)
    assert (len(send.ticks), feed.stats.malformed) == (50, 1)


async def test_only_the_symbols_asked_for_under_your_names(autojump_clock: MockClock) -> None:
    spy, other = quote_at(0), quote_at(0, "IWM")
    script = Script(lambda _n: [spy, other])
    async with polled(script, symbols={"SPY": "S"}, newer_only=False) as (feed, send):
        await trio.sleep(1.5)
    assert [tick.symbol for tick in send.ticks] == ["S", "S"]
    assert feed.stats.unasked == 2
    assert spy.symbol == "SPY"  # The caller's own item is left as it is.


async def test_what_cannot_be_renamed_is_malformed(autojump_clock: MockClock) -> None:
    item = SimpleNamespace(symbol="SPY", timestamp=quote_at(0).timestamp)
    script = Script(lambda _n: [item, quote_at(0)])
    async with polled(script, 100.0, symbols={"SPY": "S"}) as (feed, send):
        await trio.sleep(1)
    assert [tick.symbol for tick in send.ticks] == ["S"]
    assert feed.stats.malformed == 1


async def test_what_was_said_before_is_left_out(autojump_clock: MockClock) -> None:
    times = [0, 0, 1, 0, 1, 2]
    script = Script(lambda n: [quote_at(times[min(n, 5)])])
    async with polled(script) as (feed, send):
        await trio.sleep(6.5)
    assert [tick.timestamp for tick in send.ticks] == [quote_at(n).timestamp for n in (0, 1, 2)]
    assert feed.stats.duplicates == 4


async def test_the_snapshot_of_an_unchanged_book_is_left_out(autojump_clock: MockClock) -> None:
    at = quote_at(0).timestamp
    books = [
        tt.BookUpdate("SPY", at, ((1.0, size),), ((2.0, 1.0),), True) for size in (1.0, 1.0, 2.0)
    ]
    script = Script(lambda n: books[min(n, 2)])
    async with polled(script) as (feed, send):
        await trio.sleep(5.5)
    seen: list[Any] = list(send.ticks)
    assert [book.bids[0][1] for book in seen] == [1.0, 2.0]
    assert feed.stats.duplicates == 4


async def test_counts_go_on_in_the_next_run(autojump_clock: MockClock) -> None:
    feed = tt.PollingFeed(Script(lambda _n: quote_at(0)))
    for _ in range(2):
        with trio.move_on_after(2.5):
            await feed.run(Collector())
    assert (feed.stats.messages, feed.stats.duplicates) == (6, 4)


# Failures


async def test_after_failures_it_waits_and_keeps_its_pace(autojump_clock: MockClock) -> None:
    down = OSError("down")
    script = Script(lambda n: quote_at(n) if n in (0, 5, 6) else down)
    async with polled(script, 2.0, symbols=["SPY", "QQQ"]) as (feed, send):
        await trio.sleep(30.5)
    # Waits of 1, 2, 4 and 8 s, each up to the next moment of the pace.
    assert script.calls[:7] == [0, 2, 4, 6, 10, 18, 20]
    assert told(send) == [("lost", None), ("back", None), ("lost", None)]
    assert [(gap.symbol, gap.reason) for gap in send.gaps] == [
        ("SPY", "reconnect"),
        ("QQQ", "reconnect"),
    ]
    since = send.gaps[0].timestamp - send.gaps[0].first_timestamp
    assert since.total_seconds() == pytest.approx(18)
    assert feed.stats.reconnects == 1
    assert feed.stats.skipped_polls == 0  # Left out on purpose.


async def test_without_symbols_those_seen_have_the_gap(autojump_clock: MockClock) -> None:
    answers: list[Any] = [[quote_at(0), quote_at(0, "QQQ")], OSError("down"), None]
    script = Script(lambda n: answers[min(n, 2)])
    async with polled(script) as (_feed, send):
        await trio.sleep(4.5)
    assert [gap.symbol for gap in send.gaps] == ["SPY", "QQQ"]


class Busy(Exception):
    """What a client may raise: it names the wait."""

    retry_after_s = 42.0


class HTTPStatus(Exception):
    """As httpx has it: with a response."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"{status} for url 'https://venue.test/q?key=hidden'")
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = SimpleNamespace(status_code=status, headers=headers)


@pytest.mark.parametrize(
    ("error", "comes_back"),
    [
        (Busy(), 44),
        (HTTPStatus(429, retry_after="30"), 32),
        (ExceptionGroup("one", [HTTPStatus(429, retry_after="30")]), 32),
        (HTTPStatus(429, retry_after="junk"), 3),
        (HTTPStatus(503), 3),
        (HTTPStatus(429, retry_after="100000"), 302),
    ],
)
async def test_it_waits_as_long_as_the_venue_asks_for(
    autojump_clock: MockClock, error: Exception, comes_back: float
) -> None:
    script = Script(lambda n: error if n == 2 else (0.2, quote_at(n)))
    async with polled(script, stale_after=None) as (_feed, _send):
        await trio.sleep(400)
    assert script.calls[:4] == [0, 1, 2, comes_back]


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_refusal_that_no_retry_mends_ends_it_at_the_beginning(
    autojump_clock: MockClock, status: int
) -> None:
    script = Script(lambda _n: HTTPStatus(status))
    with pytest.raises(tt.FeedBrokenError, match=f"raised HTTPStatus: {status}") as caught:
        await run_out(script, name="mine")
    assert str(caught.value).startswith("mine: Script raised")
    assert "hidden" not in str(caught.value)
    assert caught.value.status == status
    assert caught.value.__cause__ is None
    assert len(script.calls) == 1


async def test_the_same_refusal_later_is_an_outage(autojump_clock: MockClock) -> None:
    script = Script(lambda n: HTTPStatus(404) if n == 1 else quote_at(n))
    async with polled(script) as (feed, send):
        await trio.sleep(3.5)
    assert told(send) == [("lost", None), ("back", None)]
    assert feed.stats.connect_failures == 1


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("junk"), HTTPStatus(500)])
async def test_anything_else_is_retried_from_the_beginning(
    autojump_clock: MockClock, error: Exception
) -> None:
    script = Script(lambda n: error if n < 4 else quote_at(n))
    async with polled(script) as (feed, send):
        await trio.sleep(20)
        assert feed.connected
    assert send.ticks
    assert told(send) == []  # It was never there before.


async def test_what_says_that_it_is_permanent_is_believed(autojump_clock: MockClock) -> None:
    error = ValueError("no such symbol")
    error.permanent = True  # type: ignore[attr-defined]
    with pytest.raises(tt.FeedBrokenError, match="no such symbol"):
        await run_out(Script(lambda _n: error))


async def test_a_feed_auth_error_is_final_at_any_time(autojump_clock: MockClock) -> None:
    error = tt.FeedAuthError("the key has expired", status=401)
    script = Script(lambda n: error if n == 3 else quote_at(n))
    with pytest.raises(tt.FeedAuthError, match="the key has expired") as caught:
        await run_out(script)
    assert caught.value is error
    assert len(script.calls) == 4


async def test_credentials_refused_for_a_minute_end_it(autojump_clock: MockClock) -> None:
    script = Script(lambda n: HTTPStatus(401) if n else quote_at(n))
    with pytest.raises(tt.FeedAuthError, match="401 Unauthorized"):
        await run_out(script)
    assert 60 <= script.calls[-1] - script.calls[1] <= 75


@pytest.mark.parametrize("give_up_after", [0.0, 30.0])
async def test_it_gives_up_after_an_outage(autojump_clock: MockClock, give_up_after: float) -> None:
    script = Script(lambda n: OSError("down") if n > 9 else quote_at(n))
    with pytest.raises(tt.FeedBrokenError, match="at last: Script raised OSError: down"):
        await run_out(script, give_up_after=give_up_after)
    # The outage begins with the last good answer.
    assert give_up_after <= script.calls[-1] - 9 <= give_up_after + 1


async def test_secrets_in_the_text_of_an_error_are_cut_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    text = "cannot get https://me:hidden@venue.test/q?api_key=hidden&x=hidden now"
    async with polled(Script(lambda _n: OSError(text))) as (_feed, _send):
        await trio.sleep(0.5)
    assert "cannot get https://***venue.test/q*** now" in caplog.text
    assert "hidden" not in caplog.text


async def test_what_is_no_async_function_is_said_at_once(autojump_clock: MockClock) -> None:
    fetch: Any = lambda: [quote_at(0)]  # noqa: E731
    with pytest.raises(tt.FeedBrokenError, match="fetch must be an async function"):
        await tt.PollingFeed(fetch).run(Collector())


async def test_errors_of_the_channel_are_raised_as_they_are(autojump_clock: MockClock) -> None:
    async def strategy(_tick: tt.Tick) -> None:
        await trio.sleep(10)

    feed = tt.PollingFeed(Script(lambda n: [quote_at(n + k / 10) for k in range(9)]))
    with pytest.raises(tt.QueueFullError):
        await tt.run_pipeline(feed, strategy, maxsize=2, overflow=tt.Fail(), signals=False)


# Silence


async def test_no_new_data_is_a_loss(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # The venue answers, and says the same, or nothing, for 100 s.
    script = Script(lambda n: [quote_at(max(10, n - 100))] if n % 2 else None)
    async with polled(script, symbols=["SPY"], stale_after=30) as (feed, send):
        await trio.sleep(60)
        assert not feed.connected
        assert feed.stats.watchdog_trips == 1
        await trio.sleep(60)
        assert feed.connected
    assert sorted(kind for kind, _ in told(send)) == [
        "back",
        "lost",
        "symbol-back",
        "symbol-silent",
    ]
    assert [gap.symbol for gap in send.gaps] == ["SPY"]
    assert "no new market data for 30 s" in caplog.text


async def test_silence_is_no_fault_while_the_market_is_closed(autojump_clock: MockClock) -> None:
    is_open = False
    script = Script(lambda _n: [quote_at(0)])
    options: Any = {"expect_data": lambda _now: is_open, "stale_after": 30, "symbols": ["SPY"]}
    async with polled(script, **options) as (feed, send):
        await trio.sleep(3600)
        assert (send.events, feed.stats.expects_data) == ([], False)
        is_open = True
        await trio.sleep(100)
    assert set(told(send)) == {("lost", None), ("symbol-silent", "SPY")}


async def test_a_silent_symbol_is_told_while_the_others_come(autojump_clock: MockClock) -> None:
    script = Script(lambda n: [quote_at(n), quote_at(n if n < 50 else 50, "QQQ")])
    async with polled(script, symbols=["SPY", "QQQ"]) as (feed, send):
        # After 20 of its intervals, which are taken for 2 s at most, and a check.
        await trio.sleep(50 + 40 + 15)
        assert feed.stats.silent_names == ("QQQ",)
    assert told(send) == [("symbol-silent", "QQQ")]
    assert feed.stats.silent_symbols == 0


async def test_answers_without_news_end_no_outage_but_keep_it_from_giving_up(
    autojump_clock: MockClock,
) -> None:
    script = Script(lambda _n: [quote_at(0)])
    async with polled(script, stale_after=10, give_up_after=20) as (feed, send):
        await trio.sleep(600)
        assert not feed.connected
    assert told(send) == [("lost", None)]


# The feed among others


async def test_in_a_pipeline_every_item_is_accounted_for(autojump_clock: MockClock) -> None:
    seen: list[float] = []

    async def strategy(tick: tt.Tick) -> None:
        seen.append(tick.bid)

    events: list[tt.FeedEvent] = []
    answers = {3: OSError("down"), 7: None}
    script = Script(lambda n: answers.get(n, [quote_at(n, bid=n + 1)]))
    feeds = [
        tt.PollingFeed(script, 1.0, backoff=NO_JITTER),
        tt.PollingFeed(Script(lambda n: quote_at(n, "QQQ", bid=100)), 1.0, symbols=["QQQ"]),
    ]
    async with tt.open_pipeline(feeds, strategy, on_feed=events.append) as pipeline:
        await trio.sleep(10.5)
        assert pipeline.metrics().producer_connected
        assert list(pipeline.feed_statistics) == ["Script", "Script-2"]
    pipeline.ledger.check()
    assert pipeline.ledger.consumed == len(seen) == 11 + 9
    assert [(event.feed, event.kind) for event in events] == [
        ("Script", "lost"),
        ("Script", "back"),
    ]


async def test_one_run_at_a_time(autojump_clock: MockClock) -> None:
    script = Script(lambda n: quote_at(n))
    async with polled(script) as (feed, _send):
        await trio.sleep(1)
        with pytest.raises(trio.BusyResourceError):
            await feed.run(Collector())
        assert feed.connected
    assert not feed.connected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fetch": 5}, "fetch must be an async function"),
        ({"interval": 0}, "interval"),
        ({"interval": math.inf}, "interval"),
        ({"symbols": "SPY"}, "symbols"),
        ({"name": ""}, "name"),
        ({"timeout": 0}, "timeout"),
        ({"stale_after": -1}, "stale_after"),
        ({"max_items": 0}, "max_items"),
        ({"give_up_after": -1}, "give_up_after"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(tt.ConfigError, match=message):
        tt.PollingFeed(**{"fetch": _always, **arguments})


def test_its_repr_says_what_it_asks() -> None:
    feed = tt.PollingFeed(_always, 2.5, symbols=["A", "B"])  # type: ignore[arg-type]
    assert repr(feed) == "<PollingFeed _always every 2.5 s symbols=2 connected=False>"
    assert (feed.name, feed.symbols, feed.interval) == ("_always", ("A", "B"), 2.5)
    assert tt.PollingFeed(functools.partial(functools.partial(_always), 5)).name == "_always"


async def test_log_lines_of_a_storm_are_few(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks")
    script = Script(lambda n: OSError("down") if n % 2 else quote_at(n))
    policy = tt.BackoffPolicy(initial_s=0.001, maximum_s=0.001)
    async with polled(script, 0.01, backoff=policy):
        await trio.sleep(10.005)
    assert len(script.calls) == 1001
    lines = [r for r in caplog.records if r.message.startswith("feed.request_failed")]
    assert len(lines) <= 11
