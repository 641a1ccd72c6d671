"""Whether an executor is worth its cost: said once, and only where it is not."""

from __future__ import annotations

import logging

import pytest

from trio_ticks.handlers.kinds import Place
from trio_ticks.workers.hand_over import HandOver


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("executor.hand_over")
    ]


def record(
    place: Place, handed_s: float, handled_s: float, *, batches: int = 200, every_s: float = 0.1
) -> None:
    hand_over = HandOver(place)
    for number in range(batches):
        hand_over.record(handed_s, handled_s, number * every_s)


@pytest.mark.parametrize(
    ("place", "advice"),
    [("thread", "make the handler an async def"), ("process", 'executor="thread"')],
)
def test_it_is_said_once(place: Place, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    record(place, 0.0003, 0.0001)
    (line,) = said(caplog)
    assert line.startswith(
        "executor.hand_over: 0.30 ms a batch, more than the 0.10 ms of handling: "
    )
    assert advice in line
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("place", "handled_s", "batches", "every_s"),
    [
        ("process", 0.001, 200, 0.1),
        ("process", 0.0001, 25, 1.0),
        ("process", 0.0001, 200, 0.01),
        ("loop", 0.0001, 200, 0.1),
    ],
    ids=["worth it", "few batches", "not long enough", "loop"],
)
def test_nothing_is_said(
    place: Place, handled_s: float, batches: int, every_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    record(place, 0.0003, handled_s, batches=batches, every_s=every_s)
    assert said(caplog) == []


def test_the_first_seconds_decide(caplog: pytest.LogCaptureFixture) -> None:
    hand_over = HandOver("process")
    for number in range(100):
        hand_over.record(0.0003, 0.01, number * 0.1)
    for number in range(100, 300):
        hand_over.record(0.0003, 0.0, number * 0.1)
    assert said(caplog) == []
