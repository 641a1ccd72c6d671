"""The live page in a real Chromium shows what the API says, on every screen.

After a lost connection it finds its way back.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import attrs
import pytest
import trio
from playwright.sync_api import Browser, Page, Route, expect

import trio_ticks as tt
from tests.worlds.dashboard_browser import CHROMIUM, PATIENCE_MS, Served, launched, serving, watched
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import BodyError, Recorder, ScriptFeed, Send, sleepy_feed
from trio_ticks.ledger import INTENTIONAL, REASONS, Ledger
from trio_ticks.observability.dashboard import serve as dashboard
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.dashboard.history import TIERS, Point

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt-get install chromium)"
)
expect.set_options(timeout=PATIENCE_MS)

SCREENS = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]

SAME_LOOK = """async () => {
  // The page goes on meanwhile: compare a look that it shows with the same one from the API.
  for (;;) {
    const api = await (await fetch("/api/snapshot")).json();
    const shown = Number(document.getElementById("sequence").dataset.value);
    if (shown !== api.sequence) continue;
    const all = (selector) => [...document.querySelectorAll(selector)];
  const bound = all("[data-bind]")
    .map((each) => [each.dataset.bind, each.dataset.value, each.textContent]);
  const drops = all("#drops [data-reason]")
    .map((each) => [each.dataset.reason, Number(each.dataset.value)]);
    const workers = all("#workers li").map((each) => [each.children[1].textContent, each.className,
      each.children[2].textContent, Number(each.dataset.consumed), Number(each.dataset.failed)]);
  const symbols = ["by-rate", "by-loss"]
    .map((id) => all(`#${id} tbody th`).map((each) => each.textContent));
    return { api, bound, drops: Object.fromEntries(drops), workers, symbols,
      sum: Number(document.getElementById("law-sum").dataset.value) };
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def crowd() -> Iterator[Served]:
    """A run with as much to show as there may be, for tests that only look."""
    with serving(
        lambda: overload(10_000, 2_500, 0.25), slow, workers=64, maxsize=500, write_timeout=0
    ) as served:
        yield served


def overload(symbols: int = 8, batch: int = 100, pause: float = 0.01) -> ScriptFeed:
    """Return a feed that brings much more than a slow handler can take."""
    names = [f"SYM{number:05}" for number in range(symbols)]

    async def script(send: Send) -> None:
        for first in itertools.count(step=batch):
            await send.send_many(make_ticks(batch, names, first))
            await trio.sleep(pause)

    return ScriptFeed(script)


async def slow(_tick: Any) -> None:
    await trio.sleep(0.005)


async def fussy(tick: tt.Tick) -> None:
    """Fail for some, take long over the others."""
    if tick.symbol == "BAD":
        raise BodyError
    if tick.symbol == "SLOW":
        await trio.sleep_forever()


def wait_for_look(page: Page) -> None:
    expect(page.locator("#sequence")).to_have_attribute("data-value", re.compile("[1-9]"))


def wait_for_looks(page: Page, looks: int) -> None:
    """Wait until the page has shown *looks* more snapshots."""
    shown = "Number(document.getElementById('sequence').dataset.value)"
    page.wait_for_function(f"(after) => {shown} >= after", arg=page.evaluate(shown) + looks)


def line_of(points: int) -> re.Pattern[str]:
    """Return what matches a path with more than *points* points."""
    return re.compile(rf"^M(?:[^L]*L){{{points},}}")


def ending_in(text: str) -> re.Pattern[str]:
    return re.compile(rf"{text}$")


def assert_same(found: dict[str, Any]) -> None:
    api = found["api"]
    assert len(found["bound"]) > 25
    for path, value, _text in found["bound"]:
        expected: Any = api
        for name in path.split("."):
            if expected is None:  # A part that this pipeline has not: its row is hidden.
                break
            expected = expected[name]
        else:
            said = "null" if expected is None else expected
            assert value == said or float(value) == expected, path
    assert found["drops"] == api["ledger"]["dropped_by_reason"]
    named = [
        [row["name"], row["state"], row["symbol"] or row["state"], row["consumed"], row["failed"]]
        for row in api["workers"]
    ]
    assert found["workers"] == named
    ledger = api["ledger"]
    assert found["sum"] == sum(
        ledger[name] for name in ("handled", "failed", "dropped", "queued", "in_flight")
    )
    if api["symbols"] is not None:
        assert found["symbols"] == [
            [row["symbol"] for row in api["symbols"][key]] for key in ("by_rate", "by_loss")
        ]


# Values


def test_every_value_is_the_apis(browser: Browser) -> None:
    ticks = [*make_ticks(1200, ["GOOD"]), *make_ticks(3, ["BAD"]), *make_ticks(40, ["SLOW"])]

    async def script(send: Send) -> None:
        for tick in ticks:
            await send.send(tick)
        await trio.sleep_forever()

    with (
        serving(
            lambda: ScriptFeed(script),
            fussy,
            workers=2,
            maxsize=7,
            overflow=tt.DropOldest(),
            title="forty <slow> ticks",
        ) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        wait_for_look(page)
        found = page.evaluate(SAME_LOOK)
        assert_same(found)
        texts = {path: text for path, _value, text in found["bound"]}
        assert texts["ledger.received"] == "1,243"
        assert texts["ledger.failed"] == "3"
        assert texts["title"] == "forty <slow> ticks"
        assert found["api"]["ledger"]["queued"] == 7
        assert found["api"]["ledger"]["dropped_by_reason"]["evicted"] > 0
        expect(page.locator("#law")).to_contain_text("OK")
        expect(page.locator("#flow-text")).to_contain_text("Received 1,243 ticks")
        expect(page.locator("#flow-text")).to_contain_text("(lost)")
        assert page.get_by_role("meter").get_attribute("aria-valuetext") == "7 of 7"


def test_every_value_is_the_apis_while_it_runs(browser: Browser) -> None:
    with (
        serving(overload, slow, workers=3, maxsize=50, write_timeout=0) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        wait_for_look(page)
        expect(page.locator("#by-loss tbody tr")).not_to_have_count(0)
        looks = []
        for _ in range(4):
            looks.append(page.evaluate(SAME_LOOK))
            assert_same(looks[-1])
            expect(page.locator("#sequence")).not_to_have_attribute(
                "data-value", str(looks[-1]["api"]["sequence"])
            )
        first, last = looks[0]["api"], looks[-1]["api"]
        assert last["ledger"]["received"] > first["ledger"]["received"] > 0
        assert last["ledger"]["lost"] > 0
        expect(page.locator("#chip-pressure")).to_have_text("■pressure: shedding")


def test_the_charts_follow_the_history(browser: Browser, crowd: Served) -> None:
    with watched(browser) as page:
        page.goto(crowd.url)
        line = page.locator("#chart-rates path.line.received").last
        expect(line).to_have_attribute("d", line_of(3))
        shown = page.evaluate(
            """async () => {
              const past = await (await fetch("/api/history")).json();
              const chart = document.getElementById("chart-rates");
              return [past.tiers[0].columns.received, chart.querySelector("output").textContent];
            }"""
        )
        rates, newest = shown
        assert float(newest.replace(",", "")) in [
            pytest.approx(rate, abs=0.6) for rate in rates[-2:]
        ]


MS = {
    0: "0 ms", 0.0012: "1.2 µs", 0.25: "250 µs", 0.9994: "999 µs", 0.9996: "1.00 ms",
    12.34: "12.3 ms", 999.4: "999 ms", 999.6: "1.00 s", 99_900: "99.9 s", 100_000: "2 min",
    5.96e6: "99 min", 7.2e6: "2 h", 3.6e8: "4 days", -250: "\N{MINUS SIGN}250 ms",
}  # fmt: skip


def test_durations_are_short_and_never_wrong_by_a_unit(browser: Browser, crowd: Served) -> None:
    with watched(browser) as page:
        page.goto(crowd.url)
        written = page.evaluate(
            "async (all) => { const { ms } = await import('/format.js'); return all.map(ms); }",
            list(MS),
        )
        assert dict(zip(MS, written, strict=True)) == MS
        shares = [[0, 5], [1, 1e6], [1e6 - 1, 1e6], [2, 2], [0, 0]]
        share = (
            "async (all) => { const { share } = await import('/format.js'); "
            "return all.map(([part, whole]) => share(part, whole)); }"
        )
        assert page.evaluate(share, shares) == [
            "0.0 %",
            "<0.1 %",
            ">99.9 %",
            "100.0 %",
            "\N{EN DASH}",
        ]


def test_a_broken_law_cannot_be_overlooked(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serving(lambda: sleepy_feed(make_ticks(9)), Recorder()) as served,
        watched(browser) as page,
    ):
        page.goto(served.url)
        expect(page.locator("#chip-law")).to_have_text("✓every tick accounted for")
        monkeypatch.setattr(Ledger, "consumed", property(lambda self: self._consumed() - 2))
        expect(page.locator("#chip-law")).to_have_text("✕ledger broken")
        expect(page.locator("#law")).to_have_text("✕ BROKEN 2 ticks without an outcome: a bug")
        expect(page.locator("#news")).to_have_text("ledger broken")


def test_the_page_knows_the_reasons() -> None:
    text = (files("trio_ticks.observability.dashboard") / "page" / "past.js").read_text()
    losses = json.dumps([reason for reason in REASONS if reason not in INTENTIONAL])
    intentional = json.dumps([reason for reason in REASONS if reason in INTENTIONAL])
    assert f"const LOSSES = {losses};" in text
    assert f"const INTENTIONAL = {intentional};" in text


# The stream's life


def test_it_says_that_it_lost_the_server_and_comes_back_by_itself(browser: Browser) -> None:
    with watched(browser, forgiven="ERR_") as page:
        with serving(lambda: sleepy_feed(make_ticks(5)), Recorder(), title="the first") as served:
            port = served.port
            page.goto(served.url)
            expect(page.locator("[data-bind=title]")).to_have_text("the first")
            expect(page.locator("#lost")).to_be_hidden()
        expect(page.get_by_role("alert")).to_contain_text("No connection to the pipeline since")
        expect(page.locator("body")).to_have_class(re.compile("stale"))
        with serving(lambda: sleepy_feed(make_ticks(8)), Recorder(), title="the second", port=port):
            expect(page.locator("[data-bind=title]")).to_have_text("the second")
            expect(page.locator("#lost")).to_be_hidden()
            expect(page.locator("body")).not_to_have_class(re.compile("stale"))
            expect(page.locator("[data-bind='ledger.received']").first).to_have_text("8")
            assert_same(page.evaluate(SAME_LOOK))


def test_a_page_that_nobody_sees_costs_nothing(browser: Browser) -> None:
    with serving(overload, slow, workers=1, write_timeout=0) as served, watched(browser) as page:
        page.goto(served.url)
        wait_for_look(page)
        assert served.pipeline.item_listeners
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
        )
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        while served.do(lambda: len(served.pipeline.item_listeners)):
            page.wait_for_timeout(50)
        before = page.locator("#sequence").get_attribute("data-value")
        page.wait_for_timeout(500)
        assert page.locator("#sequence").get_attribute("data-value") == before
        page.evaluate(
            "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
        )
        expect(page.locator("#sequence")).not_to_have_attribute("data-value", before or "")
        expect(page.locator("#lost")).to_be_hidden()


def test_reconnects_are_events_in_time(browser: Browser) -> None:
    feed = sleepy_feed()
    with serving(lambda: feed, Recorder()) as served, watched(browser) as page:
        page.goto(served.url)
        expect(page.locator("#events li")).to_have_text([ending_in("connected")])
        served.do(lambda: setattr(feed.stats, "connected", False))
        expect(page.locator("#chip-connection")).to_have_text(
            "\N{MULTIPLICATION SIGN}feed not connected"
        )

        def back() -> None:
            feed.stats.connect_failures, feed.stats.reconnects, feed.stats.connected = 2, 1, True

        served.do(back)
        expected = [
            "connected again",
            "could not connect \\(2\N{MULTIPLICATION SIGN}\\)",
            "connection lost",
            "connected",
        ]
        expect(page.locator("#events li")).to_have_text([ending_in(each) for each in expected])
        expect(page.locator("#strip .mark")).to_have_count(4)


# Screens


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_every_screen_shows_all_without_scrolling_sideways(
    browser: Browser, crowd: Served, width: int, scheme: str
) -> None:
    with watched(browser, width=width, scheme=scheme) as page:
        page.goto(crowd.url)
        expect(page.locator("#workers li")).to_have_count(64)
        expect(page.locator("#by-rate tbody tr")).to_have_count(12)
        expect(page.locator("#symbols-note")).to_contain_text("10,000 symbols")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []
        luminance = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
        )
        assert (sum(luminance) / 3 < 60) == (scheme == "dark")
        assert page.evaluate(WEAK) == []


def test_a_history_that_is_newer_than_the_look_stays_in_the_picture(
    browser: Browser, crowd: Served
) -> None:
    def later(route: Route) -> None:
        # A busy page asks for the history seconds after the look that it shows.
        while not (past := route.fetch().json())["tiers"][0]["columns"].get("t"):
            pass  # the first point is being made
        for tier in past["tiers"]:
            columns = tier["columns"]
            columns.update(t=[each + 20_000 for each in columns.get("t", ())])
        route.fulfill(json=past)

    with watched(browser, width=1440) as page:
        page.route("**/api/history", later)
        page.goto(crowd.url)
        expect(page.locator("#strip .pressure")).not_to_have_count(0)
        assert page.evaluate(OVERFLOWING) == []


def test_words_of_any_length_stay_on_the_flow(browser: Browser, crowd: Served) -> None:
    with watched(browser, width=390) as page:
        page.goto(crowd.url)
        wait_for_look(page)
        outside = page.evaluate(
            """async () => {
              const look = await (await fetch("/api/snapshot")).json();
              look.ledger.received = 98_765_432_101;
              look.ledger.dropped_by_reason.overflow = 87_654_321_098;
              const [{ Flow }, { svg }] = [await import("/flow.js"), await import("/svg.js")];
              const picture = svg("svg");
              document.getElementById("flow").removeAttribute("id");
              picture.id = "flow";
              document.querySelector(".flow").append(picture);
              new Flow(picture, document.createElement("p")).show(look);
              const whole = picture.getBoundingClientRect();
              const boxes = [...picture.querySelectorAll("text")]
                .map((each) => [each.textContent, each.getBoundingClientRect()]);
              const out = ([, box]) => box.left < whole.left - 0.5 || box.right > whole.right + 0.5;
              return { seen: boxes.length, outside: boxes.filter(out).map(([text]) => text) };
            }"""
        )
        assert outside["seen"] > 10
        assert outside["outside"] == []


OVERFLOWING = """() => [...document.querySelectorAll("main *, header *")]
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
  .filter((each) => !each.closest(".hidden"))
  .map((each) => `${each.tagName} ${each.id || each.className} ${each.textContent.slice(0, 40)}`)"""

WEAK = """() => {
  // Words that are too close to their background to be read: below the 4.5 of WCAG AA.
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const straight = (each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((each) => straight(each / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const found = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes]
      .some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest(".hidden, [hidden], title, defs, noscript")) continue;
    const style = getComputedStyle(element);
    const words = light(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [words, light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast >= 4.5) continue;
    const start = element.textContent.trim().slice(0, 30);
    found.add(`${element.tagName} ${start} ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""


def test_the_colours_are_what_was_chosen_also_after_a_reload(browser: Browser) -> None:
    with serving(sleepy_feed, Recorder()) as served, watched(browser, scheme="light") as page:
        page.goto(served.url)
        background = "getComputedStyle(document.body).backgroundColor"
        system = page.evaluate(background)
        button = page.get_by_role("button", name="Colours")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_accessible_name("Colours: light")
        assert page.evaluate(background) == system
        page.keyboard.press("Space")
        expect(button).to_have_accessible_name("Colours: dark")
        dark = page.evaluate(background)
        assert dark != system
        page.reload()
        assert page.evaluate(background) == dark
        page.get_by_role("button", name="Colours").click()
        assert page.evaluate(background) == system


NEWS = """async () => {
  const { News } = await import("/news.js");
  const place = document.createElement("p");
  const due = [];
  const news = new News(place, (callback) => due.push(callback));
  const told = [];
  const step = (act) => { act(); told.push(place.textContent); };
  const quiet = () => due.shift()();
  step(() => { news.note("pressure", "ok"); news.note("feed", "connected"); });
  step(() => news.note("pressure", "shedding"));
  for (let look = 0; look < 19; look++)
    step(() => news.note("pressure", look % 2 ? "shedding" : "ok"));
  step(() => news.note("feed", "lost"));
  step(quiet);
  step(() => news.note("feed", "connected"));
  step(() => news.note("feed", "lost"));
  step(quiet);
  step(() => news.note("pressure", "warning"));
  return [told, due.length];
}"""


def test_a_state_that_comes_and_goes_is_not_read_out_at_every_look(
    browser: Browser, crowd: Served
) -> None:
    with watched(browser) as page:
        page.goto(crowd.url)
        told, timers = page.evaluate(NEWS)
    # At once; then, once it was quiet, what has changed; nothing about what is as last
    # announced; and then at once again.
    assert told == ["", *["shedding"] * 21, *["ok, lost"] * 4, "warning"]
    assert timers == 1


POINTED = """() => [...new Set([...document.querySelectorAll(".chart .when")]
  .map((each) => each.textContent))]"""


def test_keys_are_enough(browser: Browser, crowd: Served) -> None:
    with watched(browser) as page:
        page.goto(crowd.url)
        expect(page.locator("#chart-rates path.line.received").last).to_have_attribute(
            "d", line_of(2)
        )
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the numbers")).to_be_focused()
        page.get_by_role("radio", name="5 min").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="1 hour")).to_be_checked()
        chart = page.get_by_role("img", name="Rates, in ticks a second")
        chart.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        when = page.locator("#chart-rates .when")
        expect(when).to_have_text(ending_in(r"\d\d:\d\d:\d\d"))
        # All charts point at the same moment, and a screen reader is told, also after
        # snapshots in which the pressure changed.
        (moment,) = page.evaluate(POINTED)
        assert re.fullmatch(r"\d\d:\d\d:\d\d", moment)
        said = page.locator("#pointed").inner_text()
        assert said.startswith("Rates, in ticks a second. ")
        wait_for_looks(page, 8)
        assert page.locator("#pointed").inner_text() == said
        expect(chart).to_be_focused()
        page.keyboard.press("Escape")
        expect(when).to_have_text("")


def test_everything_has_a_name(browser: Browser, crowd: Served) -> None:
    with watched(browser) as page:
        page.goto(crowd.url)
        wait_for_look(page)
        expect(page.locator("#by-loss tbody tr")).not_to_have_count(0)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_role("main")).to_have_count(1)
        assert page.get_by_role("heading", level=2).count() >= 12
        for role in ("img", "meter", "button", "radio", "link", "region", "listitem"):
            named = page.get_by_role(role)
            assert named.count() > 0, role
            if role != "listitem":
                for index in range(named.count()):
                    expect(named.nth(index)).to_have_accessible_name(ending_in(r"\S.*"))
        assert page.get_by_role("columnheader").count() == 9


# The past


def test_a_day_is_drawn_from_the_past_of_a_day(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DayOld(Board):
        """A board that has been looking for a day."""

        def __init__(self, pipeline: Any, title: str) -> None:
            super().__init__(pipeline, title)
            now = self._wall_ms(self._clock())
            pipeline.began_at -= 90_000
            blank = Point(
                t=0, span_s=1, received=1000, handled=900, failed=0, dropped=(0,) * len(REASONS),
                queue_mean=5, queue_max=9,
                wait_p50=1, wait_p99=9, handler_p50=None, handler_p99=None, lag_p50=1, lag_p99=9,
                pressure="ok", connected=True, throttle_rate=None,
            )  # fmt: skip
            for tier, (step_s, most) in zip(self.history.tiers, TIERS, strict=True):
                ends = [now - round(step_s * 1e3) * back for back in range(most, 0, -1)]
                tier.points.extend(
                    attrs.evolve(blank, t=t, span_s=step_s, received=1000 + t % 7) for t in ends
                )

    monkeypatch.setattr(dashboard, "Board", DayOld)
    points_of = (
        "document.querySelector('#chart-rates g > path.line.received')"
        ".getAttribute('d').split('L').length"
    )
    with serving(sleepy_feed, Recorder()) as served, watched(browser) as page:
        page.goto(served.url)
        expect(page.locator("#chart-rates path.line.received").last).to_have_attribute(
            "d", line_of(290)
        )
        seen = {300: page.evaluate(points_of)}
        for label, seconds in (("1 hour", 3600), ("1 day", 86_400)):
            page.get_by_text(label).click()
            page.wait_for_timeout(50)
            seen[seconds] = page.evaluate(points_of)
        # Enough for a line, never so many points that a phone draws slowly.
        assert all(280 <= count <= 700 for count in seen.values()), seen
        empty = page.locator("#chart-handler path.line.median").last.get_attribute("d")
        assert empty == ""
        expect(page.locator("#chart-handler output").first).to_have_text("\N{EN DASH}")


def test_nothing_from_elsewhere_is_let_in_or_out(browser: Browser) -> None:
    with (
        serving(sleepy_feed, Recorder()) as served,
        watched(browser, forgiven="Content Security Policy") as page,
    ):
        page.goto(served.url)
        wait_for_look(page)
        # Both addresses are this machine's; the policy refuses them before anything is
        # sent.
        other = served.url.replace("127.0.0.1", "127.0.0.2")
        assert (
            page.evaluate("(url) => fetch(url).then(() => 'let out', () => 'refused')", other)
            == "refused"
        )
        page.evaluate(
            "document.body.append(Object.assign("
            "document.createElement('script'), {textContent: 'window.letIn = 1'}))"
        )
        assert page.evaluate("window.letIn ?? null") is None
