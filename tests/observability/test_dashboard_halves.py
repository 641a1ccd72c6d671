"""The live page in a real Chromium shows the buffer of a half, and each feed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from playwright.sync_api import Browser, Page, expect

import trio_ticks as tt
from tests.worlds.dashboard_browser import CHROMIUM, PATIENCE_MS, launched, serving, watched
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.pipeline_world import sleepy_feed

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt-get install chromium)"
)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


class Named:
    """A feed with a name that sends ticks of its own symbol without end."""

    is_named = True

    def __init__(self, name: str, symbol: str) -> None:
        self.name = name
        self.stats = tt.FeedStats(connected=True)
        self._symbol = symbol

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        for number in itertools.count():
            self.stats.messages += 20
            await send.send_many([make_tick(self._symbol, number * 20 + k) for k in range(20)])
            await trio.sleep(0.01)


def two_feeds() -> Any:
    return [Named("nyse", "A"), Named("a feed with a very long name indeed, so long", "B")]


async def slow(_tick: Any) -> None:
    await trio.sleep(0.005)


def cell(page: Page, name: str) -> Any:
    """Return the place of the number called *name* in the buffer's card."""
    return page.locator(f"#buffer dl div:has(dt:text-is('{name}')) dd")


def small() -> MemoryBuffer:
    told = {"round_trip_s": 0.000215, "lag_s": 1.25, "redelivered": 3, "dead": 1}
    return MemoryBuffer(maxsize=300, prefetch=50, told=told)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_both_halves_on_one_page(browser: Browser, width: int, scheme: str) -> None:
    buffer = small()
    with (
        serving(two_feeds, slow, buffer=buffer, maxsize=100, overflow=tt.DropOldest()) as served,
        watched(browser, width=width, scheme=scheme) as page,
    ):
        page.goto(served.url)
        card = page.locator("#buffer")
        expect(card).to_be_visible()
        expect(card.locator(".chip")).to_have_text("●broker connected")
        expect(card.locator("h2")).to_contain_text("of 300 ticks")
        expect(cell(page, "round trip")).to_have_text("215 µs")
        expect(cell(page, "oldest of them")).to_have_text("1.25 s")
        expect(cell(page, "redelivered")).to_have_text("▲ 3")
        expect(cell(page, "dead letters")).to_have_text("✕ 1")
        expect(cell(page, "shards")).to_have_text("4")
        expect(cell(page, "ingest: queue")).to_contain_text("of 100")
        expect(cell(page, "ingest: lost")).to_contain_text("✕")
        expect(cell(page, "ingest: ledger")).to_have_text("OK")
        expect(page.locator("#feeds li")).to_have_count(2)
        expect(page.locator("#feeds li").first).to_contain_text("nyse")
        assert fits(page)

        served.do(lambda: setattr(buffer, "away", True))
        expect(card.locator(".chip")).to_have_text("\N{MULTIPLICATION SIGN}broker away")
        bad = "getComputedStyle(document.querySelector('#buffer .chip .word')).color"
        assert page.evaluate(bad) != page.evaluate("getComputedStyle(document.body).color")
        expect(page.locator("#chip-connection")).to_have_text("●feed connected")
        assert fits(page)


def fits(page: Page) -> bool:
    """Return whether nothing is cut off in the card, nor wider than the page."""
    inside = page.evaluate(
        "[...document.querySelectorAll('#buffer dd')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    return bool(
        inside and page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    )


def test_an_ingest_alone_speaks_of_what_it_appends(browser: Browser) -> None:
    with (
        serving(two_feeds, None, buffer=small(), overflow=tt.DropOldest()) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator(".figure.handled h2")).to_have_text("Appended")
        expect(page.locator("#flow")).to_contain_text("in doubt")
        expect(cell(page, "in doubt")).to_be_visible()
        expect(page.locator("#pool")).to_be_hidden()
        expect(page.locator("#given-back")).to_be_hidden()
        expect(page.locator("#law")).to_contain_text("OK")


def test_workers_alone_speak_of_the_broker(browser: Browser) -> None:
    buffer = MemoryBuffer()
    with (
        serving(lambda: None, slow, buffer=buffer) as served,  # type: ignore[arg-type,return-value]
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator("#chip-connection")).to_have_text("●broker connected")
        expect(page.locator("#given-back")).to_be_visible()
        expect(cell(page, "round trip")).to_have_text("\N{EN DASH}")
        served.do(lambda: setattr(buffer, "away", True))
        expect(page.locator("#chip-connection")).to_have_text("\N{MULTIPLICATION SIGN}broker away")
        served.do(served.pipeline.pause)
        # A work that has given its shards back has no connection.
        expect(page.locator("#chip-connection")).to_have_text("\N{DOUBLE VERTICAL LINE}broker left")
        expect(page.locator("#buffer .chip")).to_have_text("\N{DOUBLE VERTICAL LINE}given back")


def test_what_was_given_back_is_in_the_sum(browser: Browser) -> None:
    buffer = small()

    async def stuck(_tick: Any) -> None:
        await trio.sleep_forever()

    async def fill() -> None:
        await tt.run_pipeline(tt.IterableFeed(make_ticks(40)), None, buffer=buffer, signals=False)

    trio.run(fill)
    with (
        serving(lambda: None, stuck, buffer=buffer) as served,  # type: ignore[arg-type,return-value]
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator("#law")).to_contain_text("40 in, 40 accounted for")
        # What the shutdown does: the time is up, and the rest goes back.
        served.do(served.pipeline.shutdown)
        expect(page.locator("#given-back output")).to_have_text("40")
        expect(page.locator("#law")).to_contain_text("40 in, 40 accounted for")
        expect(page.locator("#flow")).to_contain_text("given back")


def test_without_a_buffer_there_is_no_card_and_one_feed_has_no_row(browser: Browser) -> None:
    with (
        serving(lambda: sleepy_feed(make_ticks(3)), slow) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator("#chip-law")).to_have_text("✓every tick accounted for")
        expect(page.locator("#buffer")).to_be_hidden()
        expect(page.locator("#feeds")).to_be_hidden()
        expect(page.locator(".figure.handled h2")).to_have_text("Handled")


def test_results_have_a_row_where_they_go_somewhere(browser: Browser) -> None:
    async def keep(_tick: Any) -> int:
        await trio.sleep(0.001)
        return 1

    async def away(_result: tt.Result) -> None:
        raise ConnectionRefusedError

    with (
        serving(two_feeds, keep, workers=2, results=away, overflow=tt.DropOldest()) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        row = page.locator("#results")
        expect(row).to_contain_text("written 0 · waiting 2 · failed 0")
        served.do(served.pipeline.cancel)
    with serving(two_feeds, keep, overflow=tt.DropOldest()) as served, watched(browser) as page:
        page.goto(served.url)
        expect(page.locator("#pool")).to_be_visible()
        expect(page.locator("#results")).to_be_hidden()
