"""Write the table of all metrics into ``docs/operations/metrics.md``: ``python docs/make_metrics_table.py``. A test says when to."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

import trio_ticks as tt
from trio_ticks.observability.prometheus import export_metrics

PAGE = Path(__file__).parent / "operations" / "metrics.md"
BEGIN, END = "<!-- begin: written by docs/make_metrics_table.py -->\n", "<!-- end -->\n"
OPEN = {"pipeline", "symbol", "worker", "version", "python", "trio"}
"""Labels whose values are not ours to list."""


class Feed:
    """Sends more than is handled, tells of a loss that has no name, and can be throttled."""

    def __init__(self) -> None:
        self.stats = tt.FeedStats(connected=True)

    def throttle(self, _max_rate: float | None) -> None:
        pass

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        now = datetime.now(UTC)
        send.mark_gap(tt.Gap("A", now, "of the user's own", 1, now))
        while True:
            await send.send_many([tt.Tick("A", now, 1.0, 2.0, 1.0, 1.0, number) for number in range(20)])
            await trio.sleep(0.1)


async def rows() -> list[tuple[str, str, str, str]]:
    """Return name, type, labels and help of every metric, of a pipeline that has everything to tell."""
    registry = CollectorRegistry()

    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(0.05)

    async with tt.open_pipeline(
        Feed(), handler, workers="auto", overflow=tt.Throttle(tt.DropNewest(timeout=0)), breaker=tt.Breaker(), shutdown_timeout=0
    ) as pipeline:
        with export_metrics(pipeline, registry, symbols=["A"]):
            # Long enough for the throttle to have set in. Nothing is handed over in the event loop.
            await trio.sleep(30)
            pipeline._pool.meters.hand_over.record(0.001, trio.current_time())
            families = list(registry.collect())
    result = []
    for family in families:
        values: dict[str, dict[str, None]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, {})[value] = None
        labels = [
            f"`{label}`" if label in OPEN else f"`{label}`: {', '.join(known)}"
            for label, known in values.items()
            if label not in ("pipeline", "le")
        ]
        name = family.name + "_total" * (family.type == "counter")
        result.append((f"`{name}`", family.type, "; ".join(labels), family.documentation.replace("|", "\\|")))
    return result


def table() -> str:
    """Return the table."""
    logger = logging.getLogger("trio_ticks")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # The queue is meant to be full.
    try:
        told = trio.run(rows, clock=MockClock(autojump_threshold=0))
    finally:
        logger.setLevel(level)
    head = [("Name", "Type", "Labels beside `pipeline`", "What it says"), ("---",) * 4]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*head, *told])


def written(page: str) -> str:
    """Return *page* with the table as it is now."""
    before, rest = page.split(BEGIN)
    _old, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
