"""When a new snapshot of a book is requested: at once, and again only after a while."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_book
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, raises_as_itself
from trio_ticks.feeds.snapshots import SnapshotRequests


def test_each_symbol_once_in_a_while() -> None:
    requests = SnapshotRequests(5.0)
    assert requests.take_due({"B", "A"}, 0.0) == ["A", "B"]
    assert requests.take_due({"B", "A", "C"}, 3.0) == ["C"]
    assert requests.take_due({"B", "C"}, 5.0) == ["B"]
    assert requests.take_due(set(), 6.0) == []


def test_when_to_look_again() -> None:
    requests = SnapshotRequests(5.0)
    assert requests.next_at(set()) == math.inf
    assert requests.next_at({"A"}) == -math.inf
    requests.take_due({"A"}, 1.0)
    requests.take_due({"B"}, 3.0)
    assert requests.next_at({"A", "B"}) == 6.0
    assert requests.next_at({"B"}) == 8.0


@pytest.mark.parametrize("at", [0.1, 1e9 + 0.3, 123456.789])
def test_whoever_waits_until_then_finds_something_due(at: float) -> None:
    requests = SnapshotRequests(5.0)
    requests.take_due({"A"}, at)
    assert requests.take_due({"A"}, requests.next_at({"A"})) == ["A"]


def test_what_is_kept_is_bounded() -> None:
    requests = SnapshotRequests(5.0)
    for second in range(1000):
        requests.take_due({f"S{second}"}, float(second))
    assert len(requests) <= 5


class Books(ScriptFeed):
    """A feed whose books lose updates at given times; it records snapshot requests."""

    def __init__(self, losses: dict[float, str]) -> None:
        self.asked: list[tuple[float, str]] = []
        self._losses = losses
        super().__init__(self._play)

    async def _play(self, send: Send) -> None:
        for at, symbol in self._losses.items():
            await trio.sleep_until(at)
            book = make_book(symbol, 0)
            send.mark_gap(tt.Gap(symbol, book.timestamp, "sequence", 1, book.timestamp), book=True)
        await trio.sleep_until(12)

    def request_snapshot(self, symbol: str) -> None:
        self.asked.append((trio.current_time(), symbol))


async def test_a_loss_of_another_symbol_does_not_put_off_the_next_request(
    autojump_clock: MockClock,
) -> None:
    feed = Books({0.0: "A", 3.0: "B"})
    await tt.run_pipeline(feed, Recorder())
    assert feed.asked == [(0, "A"), (3, "B"), (5, "A"), (8, "B"), (10, "A")]


async def test_a_feed_that_cannot_be_asked_ends_the_pipeline_by_its_error(
    autojump_clock: MockClock,
) -> None:
    error = ArithmeticError()

    class Broken(Books):
        def request_snapshot(self, symbol: str) -> None:
            raise error

    with raises_as_itself(error):
        await tt.run_pipeline(Broken({0.0: "A"}), Recorder())
