"""Whether the law holds is told alike everywhere, also where two faults cancel out."""

from __future__ import annotations

import json

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.dashboard_client import ask
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Recorder, sleepy_feed
from trio_ticks.observability.health import Health
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import parse_metrics

PATIENCE_S = 60


@pytest.mark.parametrize(
    ("produced", "delivered", "missing"),
    [(0, 0, 0), (2, 0, 2), (0, 3, -3), (-1, 0, -1), (4, 1, 4)],
    ids=["well", "lost", "both halves, the sum is 0", "too many", "both halves"],
)
async def test_every_place_tells_the_same(produced: int, delivered: int, missing: int) -> None:
    registry = CollectorRegistry()
    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(sleepy_feed(make_ticks(9)), Recorder()) as pipeline:
            await wait_all_tasks_blocked()
            url = await pipeline.serve_dashboard(0)
            pipeline.ledger.produced += produced
            pipeline.ledger.delivered += delivered
            with export_metrics(pipeline, registry):
                samples = parse_metrics(generate_latest(registry).decode())["main"]
            page = json.loads((await ask(url, "/api/snapshot"))[2])["ledger"]
            told = {
                "metrics": pipeline.metrics().unaccounted,
                "scrape": samples.count("pipeline_unaccounted_items"),
                "page": page["unaccounted"],
                "health": Health(pipeline).alive().facts["unaccounted"],
                "report": pipeline.report.ledger.unaccounted,
            }
            law_holds = True
            try:
                pipeline.ledger.check()
            except tt.LedgerError:
                law_holds = False
            # Before the block ends, which checks it.
            pipeline.ledger.produced -= produced
            pipeline.ledger.delivered -= delivered
    assert told == dict.fromkeys(told, missing)
    assert page["holds"] is law_holds is (missing == 0)
