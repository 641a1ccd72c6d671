"""The live page shows that ticks fail, and that the event loop stands still."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest
import trio
from playwright.sync_api import Browser, expect

import trio_ticks as tt
from tests.worlds.dashboard_browser import CHROMIUM, PATIENCE_MS, launched, serving, watched
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send
from trio_ticks.observability.dashboard import board

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt-get install chromium)"
)
expect.set_options(timeout=PATIENCE_MS)


class OutOfCashError(Exception):
    pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


def steady() -> ScriptFeed:
    async def script(send: Send) -> None:
        for first in itertools.count(step=20):
            await send.send_many(make_ticks(20, "AB", first))
            await trio.sleep(0.02)

    return ScriptFeed(script)


@pytest.mark.parametrize("width", [1440, 390])
def test_failures_have_a_line_a_tile_and_a_colour(browser: Browser, width: int) -> None:
    failing = True

    async def handler(_tick: tt.Tick) -> None:
        if failing:
            raise OutOfCashError

    with (
        serving(steady, handler, on_error=lambda *_: None) as served,
        watched(browser, width=width) as page,
    ):
        page.goto(served.url)
        line, tile = page.locator("#failing"), page.locator("#figure-failed")
        expect(line).to_be_visible()
        expect(line).to_have_text(
            re.compile(r"100\.0 % of the ticks fail, [\d,.]+/s: last OutOfCashError, of [AB], at ")
        )
        expect(tile).to_have_class(re.compile(r"\bnow\b"))
        expect(tile.locator("output")).not_to_have_text("0")
        expect(page.locator(".figure.handled output")).to_have_text("0")
        expect(page).to_have_title(re.compile("^✕ failing"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        failing = False
        expect(line).to_be_hidden()
        expect(tile).not_to_have_class(re.compile(r"\bnow\b"))
        served.do(served.pipeline.ledger.check)


def test_a_loop_that_stood_still_has_a_line(browser: Browser) -> None:
    async def handler(_tick: tt.Tick) -> None:
        pass

    with serving(steady, handler) as served, watched(browser) as page:
        page.goto(served.url)
        expect(page.locator("#sequence")).to_have_attribute("data-value", re.compile("[1-9]"))
        watch = served.pipeline.loop_watch
        assert watch is not None

        def stand_still() -> None:
            watch.blocks += 1
            watch.delays.record(0.412, trio.current_time())

        served.do(stand_still)
        expect(page.locator("#blocked")).to_have_text(
            re.compile(r"the event loop stood still for (412|\d{3,}) ms, \d+. since the start")
        )


async def test_the_snapshot_tells_it() -> None:
    async def handler(_tick: tt.Tick) -> None:
        raise OutOfCashError

    async with tt.open_pipeline(steady(), handler, on_error=lambda *_: None) as pipeline:
        shown = board.Board(pipeline, "a test")
        assert json.loads(shown.snapshot())["failures"] == {"last": None, "overdue": None}
        await trio.sleep(0.5)
        found = json.loads(shown.snapshot())
        pipeline.cancel()
    assert found["failures"]["last"]["error"] == "OutOfCashError"
    assert found["failures"]["last"]["symbol"] in "AB"
    assert found["loop"]["delay_ms"] >= 0


def test_a_handler_that_does_not_return_has_a_line(browser: Browser) -> None:
    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep_forever()

    with (
        serving(steady, handler, workers=2) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator("#overdue")).to_have_text(
            re.compile(r"2 handlers do not return: for \d+\.\d s so far, of [AB]: the log shows")
        )
        expect(page.locator("#failing")).to_be_hidden()
