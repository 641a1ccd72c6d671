"""Take the pictures of a strategy that fails, and of the same one that is well.

``docs/_static/failing-*.png`` is the live page, ``docs/_static/failing.svg`` and
``well.svg`` the terminal at 80 by 24. Run it in a checkout with Playwright, Pillow and
a Chromium installed: ``python docs/make_failure_pictures.py [target folder]``.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from io import BytesIO, StringIO
from pathlib import Path

import trio
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console

import trio_ticks as tt
from trio_ticks.exchange import open_exchange
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render

SYMBOLS = ["SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA"]
SECONDS = 20


class DeadConnectionError(Exception):
    """What the client of a broker raises whose connection is gone."""


async def run(
    failing: bool, ready: threading.Event, urls: list[str], done: trio.Event, target: Path
) -> None:
    """Run until *done*; draw the terminal into *target* after some seconds."""
    began = trio.current_time()

    async def strategy(_tick: tt.Tick) -> None:
        if failing and trio.current_time() - began > SECONDS / 2:
            raise DeadConnectionError("the broker is gone")

    async with open_exchange(rate=2_000, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        async with tt.open_pipeline(feed, strategy, shutdown_timeout=0) as pipeline:
            urls.append(await pipeline.serve_dashboard(0, title="2,000 ticks/s, 4 workers"))
            ready.set()
            history = History()
            for _ in range(2 * SECONDS):
                await trio.sleep(0.5)
                history.add(pipeline.metrics())
            console = Console(width=80, height=24, record=True, file=StringIO())
            scene = Scene(subtitle="2,000 ticks/s")
            console.print(
                render(pipeline.metrics(), history=history, width=80, height=24, scene=scene)
            )
            svg = console.export_svg(title="trio-ticks top")
            await trio.Path(target).write_text(svg)
            await done.wait()


def take(page: Page, path: Path) -> None:
    """Take the picture of the page down to the ledger."""
    page.wait_for_timeout((SECONDS + 3) * 1e3)
    bottom = page.evaluate(
        "document.querySelector('#chart-rates').closest('section').getBoundingClientRect().bottom"
    )
    width = page.viewport_size["width"] if page.viewport_size else 1440
    page.set_viewport_size({"width": width, "height": int(bottom) + 16})
    page.wait_for_timeout(1500)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main(folder: Path) -> None:
    """Run each of them in a thread, and the browser in this one."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, failing in (("failing", True), ("well", False)):
            ready, urls, done = threading.Event(), [], trio.Event()
            tokens: list[trio.lowlevel.TrioToken] = []

            async def root(
                name: str = name,
                failing: bool = failing,
                ready: threading.Event = ready,
                urls: list[str] = urls,
                done: trio.Event = done,
                tokens: list[trio.lowlevel.TrioToken] = tokens,
            ) -> None:
                tokens.append(trio.lowlevel.current_trio_token())
                await run(failing, ready, urls, done, folder / f"{name}.svg")

            thread = threading.Thread(target=trio.run, args=(root,))
            thread.start()
            try:
                ready.wait()
                pages = {}
                for width in (1440, 390):
                    size = {"width": width, "height": 900}
                    pages[width] = browser.new_page(viewport=size)
                    pages[width].goto(urls[0])
                for width, page in pages.items():
                    take(page, folder / f"{name}-{width}.png")
                    page.close()
            finally:
                trio.from_thread.run_sync(done.set, trio_token=tokens[0])
                thread.join()
        browser.close()


if __name__ == "__main__":
    logging.disable()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_static")
