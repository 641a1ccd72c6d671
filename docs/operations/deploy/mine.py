"""The strategy of the files in this folder: put yours in its place."""

import logging

import trio_ticks as tt

logger = logging.getLogger("mine")


async def on_tick(tick: tt.Tick) -> None:
    """Say where the spread is wider than a hundredth of the price."""
    if tick.spread > tick.mid_price / 100:
        logger.warning("%s: the spread is %s", tick.symbol, tick.spread)
