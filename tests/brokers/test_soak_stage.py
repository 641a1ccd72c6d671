"""The stage of the brokers' proof says so when its ticks come to an end too early."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.soak_brokers.stage import RunError, Stage
from tests.soak_brokers.stations import ZEROMQ, opened

PATIENCE_S = 60.0


async def test_a_worker_without_ingests_is_not_waited_for(tmp_path: Path) -> None:
    with opened(ZEROMQ, ingests=1, fsync="", lease_s=2.0) as station:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                stage = Stage(nursery, station, tmp_path, 1, count=800)
                try:
                    await stage.begin(workers=1)
                    (worker,) = stage.workers["workers"]
                    await stage.until_says(worker, "shards")
                    with pytest.raises(RunError, match="before a worker had what it never says"):
                        await stage.until_says(worker, "what it never says")
                finally:
                    stage.close()
                    nursery.cancel_scope.cancel()
