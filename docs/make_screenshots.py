"""Take ``docs/_static/dashboard-*.png``: the live page of a real overload of a minute.

The connection is lost once in it. Run it in a checkout with Playwright, Pillow and a
Chromium installed: ``python docs/make_screenshots.py [target folder]``. The page takes
the system's own font; with Inter installed the pictures look as those in the
repository.
"""

import logging
import shutil
import sys
import threading
from io import BytesIO
from pathlib import Path

import trio
from PIL import Image
from playwright.sync_api import sync_playwright

import trio_ticks as tt
from trio_ticks.exchange import Exchange, open_exchange

SYMBOLS = [
    "SPY",
    "QQQ",
    "AAPL",
    "MSFT",
    "NVDA",
    "TSLA",
    "AMZN",
    "META",
    "GOOG",
    "AVGO",
    "AMD",
    "NFLX",
]
RATE = 20_000
FRESH_S = 0.25
FAIR = 60
SECONDS = 75
SCREENS = [
    (name, width, scheme)
    for name, width in (("", 1440), ("phone-", 390), ("whole-", 1440))
    for scheme in ("light", "dark")
]
BELOW = {"": "#chart-queue", "phone-": "#law"}
"""The last thing on a picture; one that is not here shows the whole page."""


async def run(ready: threading.Event, urls: list[str], done: trio.Event) -> None:
    """Run the overload until *done*.

    The strategy is quicker at some times than at others, and the exchange disconnects
    once.
    """
    began = trio.current_time()

    async def strategy(_tick: tt.Tick) -> None:
        elapsed = trio.current_time() - began
        await trio.sleep(0.005 if elapsed % 30 < 20 else 0.0015)

    async with open_exchange(rate=RATE, symbols=SYMBOLS, skew=0.8) as exchange:
        feed = tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        fair = tt.DropNewest(timeout=1.0, max_per_symbol=FAIR)
        async with tt.open_pipeline(
            feed, strategy, workers=12, overflow=fair, max_age=FRESH_S, shutdown_timeout=0
        ) as pipeline:
            title = f"{RATE:,} ticks/s, 12 workers, at most {FAIR} queued per symbol"
            urls.append(await pipeline.serve_dashboard(0, title=title))
            ready.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_away_once, exchange)
                await done.wait()
                nursery.cancel_scope.cancel()


async def go_away_once(exchange: Exchange) -> None:
    """Cut the feed off after 40 seconds, and refuse it for three."""
    await trio.sleep(40)
    exchange.refuse(503)
    await exchange.drop_clients()
    await trio.sleep(3)
    exchange.refuse(None)


def take(url: str, folder: Path) -> None:
    """Open the page on every screen, and take its picture when it shows something."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        # Symbols are counted while a viewer is connected, so connect one from the
        # beginning. The pictures are taken one after the other, to leave the run its
        # time.
        watcher = browser.new_page()
        watcher.goto(url)
        watcher.wait_for_timeout(SECONDS * 1e3)
        for name, width, scheme in SCREENS:
            scale = 1 if width > 1000 else 2
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                device_scale_factor=scale,
            )
            page = context.new_page()
            page.goto(url)
            page.wait_for_timeout(3000)
            if name in BELOW:
                bottom = page.evaluate(
                    "(id) => document.querySelector(id).closest('section')"
                    ".getBoundingClientRect().bottom",
                    BELOW[name],
                )
                page.set_viewport_size({"width": width, "height": int(bottom) + 16})
                page.wait_for_timeout(1500)
            picture = Image.open(BytesIO(page.screenshot(full_page=name not in BELOW))).convert(
                "RGB"
            )
            few = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            few.save(folder / f"dashboard-{name}{scheme}.png", optimize=True)
            context.close()
        browser.close()


def main(folder: Path) -> None:
    """Run the overload in a thread and the browser in this one.

    Playwright's simple interface blocks its thread.
    """
    ready, urls, done = threading.Event(), [], trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def root() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        await run(ready, urls, done)

    thread = threading.Thread(target=trio.run, args=(root,))
    thread.start()
    try:
        ready.wait()
        take(urls[0], folder)
    finally:
        trio.from_thread.run_sync(done.set, trio_token=tokens[0])
        thread.join()


if __name__ == "__main__":
    logging.disable()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_static")
