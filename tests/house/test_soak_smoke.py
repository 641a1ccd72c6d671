"""The soak run, for a few seconds instead of a minute.

It runs, it finds every bound held, and it would report one that was not. What it says
about time is not asserted here, where other tests may run beside it; ``python -m
tests.soak`` is for that.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.soak import GROWTH_MB, SLACK_S, WARM_UP_S, WRITE_TIMEOUT_S, Observations, verdicts
from tests.soak_long import LIMITS, Limit, drawn, judged
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Recorder, listed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_a_few_seconds() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.soak", "--seconds", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    missed = [line for line in lines if line.startswith("MISSED")]
    assert done.returncode == bool(missed), done.stdout
    assert [line for line in missed if " s after" not in line] == [], done.stdout
    assert sum(line.startswith("held") for line in lines) + len(missed) == 6
    assert "the law holds" in done.stdout


def samples(**growth: float) -> list[dict[str, float]]:
    """Return samples of half an hour, in which some values grow by so much an hour."""
    return [
        {
            "at_s": 5.0 * number,
            **{
                limit.name: 40 + growth.get(limit.name, 0) * number / 720 + number % 2 / 10
                for limit in LIMITS
            },
        }
        for number in range(360)
    ]


def test_half_an_hour_that_was_flat() -> None:
    assert all(judged(samples()).values())
    assert drawn(samples()).count("<polyline") == len(LIMITS)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_each_value_can_grow_too_much(limit: Limit) -> None:
    most = 8 * max(limit.per_hour, limit.spread)
    missed = [text for text, held in judged(samples(**{limit.name: most})).items() if not held]
    assert [text.partition(":")[0] for text in missed] == [limit.title]


async def _good() -> tuple[tt.PipelineReport, Observations]:
    report = await tt.run_pipeline(
        listed(make_ticks(100)), Recorder(seconds=0.01), workers=1, maxsize=10, write_timeout=0
    )
    seen = Observations(
        rss_mb=[(0.0, 10.0), (WARM_UP_S, 30.0), (60.0, 31.0)], laws=100, oldest_s=0.5, handled_s=0.6
    )
    return report, seen


def _report(
    **changes: Any,
) -> Callable[[tt.PipelineReport, Observations], tuple[tt.PipelineReport, Observations]]:
    def change(
        report: tt.PipelineReport, seen: Observations
    ) -> tuple[tt.PipelineReport, Observations]:
        if "reconnects" in changes:
            return attrs.evolve(report, reconnects=changes["reconnects"]), seen
        return attrs.evolve(report, ledger=attrs.evolve(report.ledger, **changes)), seen

    return change


def _seen(
    **changes: Any,
) -> Callable[[tt.PipelineReport, Observations], tuple[tt.PipelineReport, Observations]]:
    return lambda report, seen: (report, attrs.evolve(seen, **changes))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_seen(rss_mb=[(WARM_UP_S, 30.0), (40.0, 30.5 + GROWTH_MB), (60.0, 30.0)]), "memory"),
        (_report(reconnects=1), "reconnects"),
        (_seen(unconnected=1), "without a connection"),
        (_seen(oldest_s=WRITE_TIMEOUT_S + SLACK_S + 0.01), "entered"),
        (_seen(handled_s=WRITE_TIMEOUT_S + SLACK_S + 0.2), "handled"),
        (_seen(laws=0), "the law"),
        (_report(unaccounted=1), "the law"),
        (_report(dropped=10), "an overload"),
    ],
)
async def test_each_bound_can_be_missed(
    change: Callable[[tt.PipelineReport, Observations], tuple[tt.PipelineReport, Observations]],
    word: str,
    autojump_clock: MockClock,
) -> None:
    report, seen = await _good()
    assert all(verdicts(report, seen).values())
    missed = [text for text, held in verdicts(*change(report, seen)).items() if not held]
    assert any(word in text for text in missed)
    await trio.lowlevel.checkpoint()
