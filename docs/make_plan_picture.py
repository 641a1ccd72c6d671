"""Take ``docs/_static/plan.png``: the page of a plan, of a minute with bursts.

The ticks are made from a seed, with bursts that cause others, as real ones do; the
strategy waits for an exponential time. Run it in a checkout, on a quiet machine, with
Playwright and a Chromium installed: ``python docs/make_plan_picture.py [target.png]
[--busy-host]``.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import trio
from playwright.sync_api import sync_playwright

import trio_ticks as tt

SYMBOLS = ["SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META"]
WEIGHTS = [5, 4, 3, 3, 2, 2, 1, 1]
SECONDS = 60.0
BASE = 150.0
"""Ticks a second that nothing caused."""
CAUSED = 0.7
"""How many further ticks each one causes, on average."""
BEGAN_NS = 1_770_000_000_000_000_000

chance = random.Random(7)


async def strategy(_tick: tt.Tick) -> None:
    """Wait as long as a remote model takes to answer: 3 ms on average."""
    await trio.sleep(chance.expovariate(1 / 0.003))


def record(path: Path) -> None:
    """Write a recording of ticks of which each causes others, soon after it."""
    dice = random.Random(11)
    moments: list[float] = []
    at = 0.0
    while (at := at + dice.expovariate(BASE)) < SECONDS:
        family = [at]
        while family:
            moment = family.pop()
            moments.append(moment)
            while dice.random() < CAUSED / (1 + CAUSED):
                family.append(moment + dice.expovariate(20))
    with path.open("w", encoding="utf-8") as file:
        for moment in sorted(moments):
            tick = {
                "symbol": dice.choices(SYMBOLS, WEIGHTS)[0],
                "timestamp": "2026-02-02T03:20:00Z",
                "bid": 100.0,
                "ask": 100.01,
                "bid_size": 3,
                "ask_size": 2,
                "volume": 1,
            }
            file.write(f"{BEGAN_NS + int(moment * 1e9)} {json.dumps(tick)}\n")


def main() -> None:
    """Plan, and take the picture."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    target = Path(words[0]) if words else Path(__file__).parent / "_static" / "plan.png"
    with tempfile.TemporaryDirectory() as folder:
        recording, page = Path(folder) / "minute.log", Path(folder) / "plan.html"
        record(recording)
        plan = tt.plan(
            recording,
            strategy,
            p99_lag=0.05,
            executor="loop",
            busy_host="--busy-host" in sys.argv,
            progress=lambda what, done, _all: print(f"\r{what} {done:,.0f}   ", end=""),
        )
        print(f"\n{plan}")
        page.write_text(plan.to_html().replace(str(recording), "minute.log"), encoding="utf-8")
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium)
            view = browser.new_page(viewport={"width": 1080, "height": 1560})
            view.goto(page.as_uri())
            view.screenshot(path=target)
            browser.close()


if __name__ == "__main__":
    main()
