"""Look at the site as it was built: links, texts, the search, and pages on a phone.

``python docs/check_site.py docs/_build/html`` fails if a link within the site leads
nowhere, a page loads anything from elsewhere or shows what autodoc would
(``attr_dict``, ``Annotated``), a page that a browser draws is wider than a phone or
reports an error, or a question is not answered by the first hit of the site's search.
The last two need Chromium and playwright, and are left out, with a line that says so,
where these are not.

The questions are those that users ask in public: in the issues of websocket-client,
websockets, aiohttp, ccxt, cryptofeed, IPython and trio, and in forums.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

QUESTIONS = {
    # websocket-client#987
    "does the websocket buffer messages that are not processed": "faq.html#does-a-websocket",
    # Stack Overflow, "asyncio queue: drop the oldest"; websocket-client#987
    "process only the latest message and skip old ones": "faq.html#how-do-i-process-only",
    # cryptofeed#406, aiohttp#7286
    "why does latency increase over time": "faq.html#why-does-the-latency",
    # websockets#105, cryptofeed#426
    "memory keeps growing": "faq.html#why-does-the-memory",
    # polygon-io/issues#125
    "connection gets closed because client is too slow": "faq.html#why-does-the-exchange-close",
    # ccxt#26945
    "missed trades after reconnect": "faq.html#which-messages-did-i-miss",
    # r/algotradingcrypto, "how do you handle trade websocket queues under high load?"
    "how to detect a performance limit, queue size or dropped events": "faq.html#how-do-i-know",
    # ipython#11829, marimo#9604
    "run in a jupyter notebook": "faq.html#can-i-use-it-with-asyncio",
    # trio-asyncio#133
    "use it with asyncio": "faq.html#can-i-use-it-with-asyncio",
    # Stack Overflow, "asyncio and CPU-bound tasks"
    "cpu bound strategy multiprocessing": "faq.html#my-strategy-needs-the-cpu",
    "order of messages per symbol": "faq.html#are-the-ticks-of-a-symbol",
    "graceful shutdown on SIGTERM": "faq.html#how-do-i-shut-it-down",
    "backtest with recorded data": "faq.html#how-do-i-back-test",
    "what happens when my strategy raises an exception": "crashes.html",
    "pip install": "installation.html",
    "open_pipeline": "api/pipeline.html#trio_ticks.open_pipeline",
    "max_age": "tuning.html#max-age",
    "--dashboard-port": "",
}
"""What is asked, and how the address of the first hit begins (``""``: anything)."""

NEVER = re.compile(
    r"attr_dict\[|Annotated\[|msgspec\.Meta|&lt;factory&gt;|\bNOTHING\b| object at 0x"
)
PHONE, DESK = 390, 1440


class Page(HTMLParser):
    """The links of a page, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link, a source of a picture, or an id."""
        found = dict(attrs)
        if found.get("id"):
            self.targets.add(str(found["id"]))
        link = found.get({"a": "href", "link": "href", "img": "src", "script": "src"}.get(tag, ""))
        if link:
            self.links.append(link)
        if link and tag != "a":
            self.loads.append(link)


def read_pages(out: Path) -> dict[Path, Page]:
    """Return each page of the site, by its file."""
    pages = {}
    for path in sorted(out.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path] = page
    return pages


def broken_links(pages: dict[Path, Page]) -> Iterator[str]:
    """Yield the links within the site that lead nowhere."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            there = next((found for found in pages if found.resolve() == target), None)
            if not target.exists():
                yield f"{path.name}: {link} does not exist"
            elif parts.fragment and there and unquote(parts.fragment) not in pages[there].targets:
                yield f"{path.name}: {link} is not on that page"


def loaded_from_elsewhere(pages: dict[Path, Page]) -> Iterator[str]:
    """Yield what the site would need the Internet for."""
    for path, page in pages.items():
        for link in page.loads:
            if urlsplit(link).netloc:
                yield f"{path.name} loads {link}"


def unreadable(out: Path) -> Iterator[str]:
    """Yield the pages of the reference that show what only a machine reads."""
    for path in sorted((out / "api").rglob("*.html")):
        found = NEVER.search(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))
        if found:
            yield f"{path.name} shows {found[0]}"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve *folder* on a free port while the block lasts; give its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def wrong_in_a_browser(out: Path) -> Iterator[str]:
    """Yield what a browser finds: errors, pages that are too wide, wrong first hits."""
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no Chromium or no playwright: search and widths of the site are not checked")
        return
    errors: list[str] = []
    with served(out) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": PHONE, "height": 844})
        page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
        for path in sorted(out.rglob("*.html")):
            if "_modules" in path.parts:
                continue
            page.goto(address + path.relative_to(out).as_posix(), wait_until="domcontentloaded")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE:
                yield f"{path.relative_to(out)} is {width} pixels wide on a phone of {PHONE}"
        for question, wanted in QUESTIONS.items():
            page.goto(f"{address}search.html?q={quote(question)}", wait_until="domcontentloaded")
            link = page.locator("#section-search-results a").first
            link.wait_for(timeout=10_000)
            found = str(link.evaluate("link => link.href")).removeprefix(address)
            if not found.startswith(wanted):
                yield f"{question!r} is answered by {found}, not by {wanted}"
        browser.close()
    yield from errors


def main(out: Path) -> int:
    """Check the site in the folder *out*; return the exit code."""
    pages = read_pages(out)
    wrong = [*broken_links(pages), *loaded_from_elsewhere(pages), *unreadable(out)]
    wrong += wrong_in_a_browser(out)
    print(*wrong, f"{len(pages)} pages, {len(wrong)} faults", sep="\n")
    return min(1, len(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
