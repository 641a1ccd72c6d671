"""Draw ``docs/_static/demo.svg``: the terminal view of a real run.

It shows the end of an overload of eight seconds. Run it in a checkout with the extra
``cli`` installed: ``python docs/make_demo_picture.py [target.svg]``.
"""

import io
import logging
import re
import sys
from pathlib import Path

import trio
from rich.console import Console

import trio_ticks as tt
from trio_ticks.exchange import open_exchange
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render

SYMBOLS = ["SPY", "QQQ", "AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "META"]
RATE, STRATEGY_MS, SHARE, SECONDS = 20_000, 5, 125, 8
WIDTH, HEIGHT = 100, 32


async def strategy(tick: tt.Tick) -> None:
    await trio.sleep(STRATEGY_MS / 1e3)


async def draw() -> str:
    """Run the overload; return its last view as SVG."""
    history = History()
    async with open_exchange(rate=RATE, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(exchange.url, symbols=SYMBOLS)
        fair = tt.DropNewest(timeout=1.0, max_per_symbol=SHARE)
        async with tt.open_pipeline(
            feed, strategy, workers=8, overflow=fair, shutdown_timeout=0
        ) as pipeline:
            for _ in range(SECONDS * 4):
                await trio.sleep(0.25)
                metrics = pipeline.metrics()
                history.add(metrics)
    scene = Scene(
        title="trio-ticks demo",
        subtitle=f"{RATE:,} ticks/s, strategy {STRATEGY_MS} ms, max_per_symbol={SHARE}",
        duration_s=10.0,
    )
    console = Console(
        record=True,
        width=WIDTH,
        height=HEIGHT,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(render(metrics, history=history, width=WIDTH, height=HEIGHT, scene=scene))
    svg = console.export_svg(title="trio-ticks demo")
    # Rich would have the picture fetch its font from the network.
    return re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg).replace(
        "Fira Code", "DejaVu Sans Mono, Menlo, Consolas"
    )


if __name__ == "__main__":
    logging.disable()
    target = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_static" / "demo.svg"
    )
    target.write_text(trio.run(draw))
