"""What the live page's browser tests share: a pipeline, and a page checked for errors.

Playwright's sync interface blocks its thread, so the pipeline's event loop runs in
another one.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio

import trio_ticks as tt
from trio_ticks.pipeline.running import Pipeline

try:
    from playwright.sync_api import Browser, Page, sync_playwright
except ImportError:  # pragma: no cover - it has no wheel for every platform
    pytest.skip("needs playwright", allow_module_level=True)

__all__ = ["CHROMIUM", "Served", "launched", "serving", "watched"]

PATIENCE_MS = 20_000
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@attrs.define
class Served:
    """A pipeline that runs elsewhere, and its page."""

    url: str
    pipeline: Pipeline[Any]
    token: trio.lowlevel.TrioToken

    @property
    def port(self) -> int:
        found = urlsplit(self.url).port
        assert found is not None
        return found

    def do(self, function: Callable[[], Any]) -> Any:
        """Call *function* in the pipeline's event loop."""
        return trio.from_thread.run_sync(function, trio_token=self.token)


@contextmanager
def serving(
    make_feed: Callable[[], tt.Feed],
    handler: Any,
    *,
    port: int = 0,
    title: str = "a test",
    **settings: Any,
) -> Iterator[Served]:
    """Run a pipeline with a page in a thread, until the block is left."""
    ready = threading.Event()
    served: list[Served] = []
    failures: list[BaseException] = []
    stop = trio.Event()

    async def main() -> None:
        async with tt.open_pipeline(
            make_feed(), handler, shutdown_timeout=0, **settings
        ) as pipeline:
            url = await pipeline.serve_dashboard(port, title=title)
            served.append(Served(url, pipeline, trio.lowlevel.current_trio_token()))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20)
        if not served:
            raise failures[0]
        yield served[0]
    finally:
        if served:
            with suppress(trio.RunFinishedError):
                served[0].do(stop.set)
        thread.join(20)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


@contextmanager
def launched() -> Iterator[Browser]:
    """Launch Chromium, headless."""
    assert CHROMIUM is not None
    arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as root it has no sandbox
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(
    browser: Browser,
    *,
    width: int = 1440,
    height: int = 900,
    scheme: Any = "light",
    forgiven: str | None = None,
) -> Iterator[Page]:
    """Open an empty page, and check it at the end.

    It must not have written to the console, nor requested anything from another host.

    Args:
        browser: whose page.
        width: in pixels.
        height: in pixels.
        scheme: ``"light"`` or ``"dark"``, as the system has it.
        forgiven: part of the messages that are expected.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    hosts: set[str | None] = set()
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    try:
        yield page
        assert [said for said in complaints if forgiven is None or forgiven not in said] == []
        assert hosts == {"127.0.0.1"}
    finally:
        context.close()
