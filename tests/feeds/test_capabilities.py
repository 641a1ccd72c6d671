"""What a feed and a send channel can do is asked in one place; a slip is reported.

A slip is a misspelt name of a capability.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Recorder
from trio_ticks.feeds.base import (
    AsksForSnapshots,
    Capabilities,
    Throttled,
    WaitsForRoom,
    capabilities_of,
    send_capabilities_of,
    waits_for_room,
)
from trio_ticks.feeds.iterable import IterableFeed
from trio_ticks.feeds.merged import MergedFeed

PACKAGE = Path(tt.__file__).parent


class Plain:
    async def run(self, send: Any, /) -> None:
        await send.send_many(make_ticks(3))


class Able(Plain):
    def throttle(self, max_rate: float | None) -> None: ...

    async def request_snapshot(self, symbol: str) -> None: ...


class Wrapper:
    """Passes on the attributes that it lacks."""

    def __init__(self, feed: object) -> None:
        self._feed = feed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)


def misspelt(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    facts = [vars(record) for record in caplog.records if "feed.misspelt" in record.getMessage()]
    return [(fact["method"], fact["meant"]) for fact in facts]


def test_a_feed_that_can_do_all(caplog: pytest.LogCaptureFixture) -> None:
    feed = Able()
    can = capabilities_of(feed)
    assert can == Capabilities(throttle=feed.throttle, request_snapshot=feed.request_snapshot)
    assert isinstance(feed, Throttled)
    assert isinstance(feed, AsksForSnapshots)
    assert misspelt(caplog) == []


def test_a_feed_that_can_do_no_more_than_run(caplog: pytest.LogCaptureFixture) -> None:
    assert capabilities_of(Plain()) == Capabilities(throttle=None, request_snapshot=None)
    assert not isinstance(Plain(), Throttled | AsksForSnapshots)
    assert misspelt(caplog) == []


def test_a_wrapper_can_do_what_it_passes_on() -> None:
    feed = Able()
    assert capabilities_of(Wrapper(feed)) == capabilities_of(feed)


class Patient(Plain):
    waits_for_room = True


class Impatient(Plain):
    waits_for_room = False


async def test_only_a_feed_that_can_wait_for_room_is_made_to(autojump_clock: MockClock) -> None:
    for feed, dropped in ((Patient(), 0), (Wrapper(Patient()), 0), (Impatient(), 1), (Plain(), 1)):
        assert waits_for_room(feed) == (dropped == 0)
        report = await tt.run_pipeline(feed, Recorder(seconds=9.0), workers=1, maxsize=1)
        assert report.dropped_by_reason["overflow"] == dropped
    assert isinstance(Patient(), WaitsForRoom)
    assert not isinstance(Plain(), WaitsForRoom)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("request_snapshots", "request_snapshot"),
        ("requestSnapshot", "request_snapshot"),
        ("request_snaphot", "request_snapshot"),
        ("throtle", "throttle"),
        ("throttled", "throttle"),
        ("set_throttle", "throttle"),
    ],
)
def test_a_method_with_nearly_the_name_is_told(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    feed = type("MyFeed", (Plain,), {name: lambda _self, _argument: None})()
    assert getattr(capabilities_of(feed), meant) is None
    assert misspelt(caplog) == [(name, meant)]
    text = f"MyFeed.{name} is never called; is it meant to be the method {meant} of a feed?"
    assert text in caplog.text


@pytest.mark.parametrize(
    "name", ["snapshot", "get_snapshot", "subscribe", "_throttled", "reset", "rate", "total"]
)
def test_other_names_are_left_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    capabilities_of(type("MyFeed", (Plain,), {name: lambda _self: None})())
    assert misspelt(caplog) == []


def test_nearly_the_name_beside_the_right_one_is_no_slip(caplog: pytest.LogCaptureFixture) -> None:
    capabilities_of(type("MyFeed", (Able,), {"throttled": lambda _self: True})())
    assert misspelt(caplog) == []


def test_what_is_no_method_is_told(caplog: pytest.LogCaptureFixture) -> None:
    feed = type("MyFeed", (Plain,), {"throttle": 100.0})()
    assert capabilities_of(feed).throttle is None
    assert "MyFeed.throttle cannot be called" in caplog.text


@pytest.mark.parametrize("feed", [tt.IterableFeed([]), Able()], ids=["IterableFeed", "Able"])
def test_nothing_is_told_of_a_good_feed(feed: object, caplog: pytest.LogCaptureFixture) -> None:
    capabilities_of(feed)
    assert misspelt(caplog) == []


async def test_a_pipeline_tells_of_a_slip_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feed = type("MyFeed", (Plain,), {"request_snapshots": lambda _self, _symbol: None})()
    await tt.run_pipeline(feed, Recorder())
    assert misspelt(caplog) == [("request_snapshots", "request_snapshot")]


@attrs.define
class Bare:
    taken: list[Any] = attrs.field(factory=list)

    async def send_many(self, items: Any) -> None:
        self.taken += items


def test_what_a_send_channel_can_do() -> None:
    bare = Bare()
    to = send_capabilities_of(bare)
    assert (to.deliver, to.mark_gap, to.watches) == (bare.send_many, None, None)
    channel: tuple[tt.TickSendChannel[tt.Tick], Any] = tt.open_tick_channel(10)
    send = channel[0]
    to = send_capabilities_of(send)
    assert (to.deliver, to.mark_gap) == (send.deliver, send.mark_gap)
    assert to.watches is not None


ASKED = {"throttle", "request_snapshot", "stats", "deliver", "mark_gap", "watches"}


def test_no_other_module_asks() -> None:
    asking = {
        f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "feeds" / "base.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"getattr", "hasattr"}
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value in ASKED
    }
    assert asking == set()


def test_a_method_that_an_object_has_switched_off_is_not_misspelt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    feeds = MergedFeed([IterableFeed([])])
    assert capabilities_of(feeds).request_snapshot is None
    assert caplog.messages == []
