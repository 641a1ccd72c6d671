"""Write the table of all metrics into ``docs/operations/metrics.md``.

Run it in a checkout: ``python docs/make_metrics_table.py``. A test fails while the
table is out of date.
"""

import itertools
import logging
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

import trio_ticks as tt
from trio_ticks.buffer import BufferStatistics, Outcomes, Receive, Send
from trio_ticks.observability.prometheus import export_metrics

PAGE = Path(__file__).parent / "operations" / "metrics.md"
BEGIN, END = "<!-- begin: written by docs/make_metrics_table.py -->\n", "<!-- end -->\n"
OPEN = {"pipeline", "feed", "symbol", "worker", "version", "python", "trio"}
"""Labels whose values are not listed, since they depend on the user."""


class Feed:
    """Sends more than is handled, announces a gap of its own, and can be throttled."""

    def __init__(self) -> None:
        self.stats = tt.FeedStats(connected=True, silent_symbols=1, silent_names=("A",))

    def throttle(self, _max_rate: float | None) -> None:
        pass

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        now = datetime.now(UTC)
        send.mark_gap(tt.Gap("A", now, "of the user's own", 1, now))
        while True:
            await send.send_many(
                [tt.Tick("A", now, 1.0, 2.0, 1.0, 1.0, number) for number in range(20)]
            )
            await trio.sleep(0.1)


class Buffer:
    """Takes all that it gets, holds nothing, and tells all that a buffer may tell."""

    def sink(self) -> "Buffer":
        return self

    def source(self) -> "Source":
        return Source()

    def __init__(self) -> None:
        self.appended = 0

    async def run(self, receive: Receive) -> None:
        with suppress(trio.EndOfChannel):
            while True:
                self.appended += len((await receive.take(100)).items)

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(connected=True, appended=self.appended, maxsize=100, **KNOWN)


KNOWN: dict[str, float] = {
    "round_trip_s": 0.0,
    "used": 0,
    "lag": 0,
    "lag_s": 0.0,
    "clock_difference_s": 0.0,
    "clock_error_s": 0.0,
}


class Source:
    """Brings nothing."""

    def __init__(self) -> None:
        self.drained = trio.Event()

    async def run(self, _send: Send, _outcomes: Outcomes) -> None:
        await self.drained.wait()

    def drain(self) -> None:
        self.drained.set()

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(connected=True, maxsize=100, **KNOWN)


async def rows() -> list[tuple[str, str, str, str]]:
    """Return name, type, labels and help of each metric of a pipeline with them all."""
    registry = CollectorRegistry()

    handled = itertools.count()

    async def handler(_tick: tt.Tick) -> None:
        number = next(handled)
        if number == 20:
            raise ValueError
        # The last one of the first pipeline: some metrics are there only meanwhile.
        if number == 200:
            await trio.sleep_forever()
        await trio.sleep(0.05)

    async def write(_result: tt.Result) -> None:
        await trio.lowlevel.checkpoint()

    folder = tempfile.TemporaryDirectory()
    async with tt.open_pipeline(
        Feed(),
        handler,
        record=tt.Recorder(folder.name),
        workers="auto",
        overflow=tt.Throttle(tt.DropNewest(timeout=0)),
        breaker=tt.Breaker(),
        max_age=tt.MaxAge(60.0, since="timestamp"),
        results=write,
        shutdown_timeout=0,
    ) as pipeline:
        with export_metrics(pipeline, registry, symbols=["A"]):
            # Long enough for the throttle to begin. A handler in the event loop needs
            # no hand-over, so one is recorded here.
            await trio.sleep(25)
            pipeline.metrics()  # on a virtual clock only a look finds what is overdue
            await trio.sleep(5)
            pipeline.meters.hand_over.record(0.001, trio.current_time())
            async with tt.open_pipeline([Feed(), Feed()], handler, buffer=Buffer()) as halves:
                with export_metrics(halves, registry, name="halves"):
                    families = list(registry.collect())
    folder.cleanup()
    result = []
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        values: dict[str, dict[str, None]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, {})[value] = None
        labels = [
            f"`{label}`" if label in OPEN else f"`{label}`: {', '.join(known)}"
            for label, known in values.items()
            if label not in ("pipeline", "le")
            # Every metric has a half, where there is a buffer; some have it only there.
            and (label != "half" or ("_buffer_" in name and len(known) == 1))
        ]
        result.append(
            (f"`{name}`", family.type, "; ".join(labels), family.documentation.replace("|", "\\|"))
        )
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
