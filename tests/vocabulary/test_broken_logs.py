"""A log of the application's that raises loses lines, and ends nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from trio_ticks.logs import log_event

LOGGER = logging.getLogger("trio_ticks")


@pytest.fixture(params=["handler", "filter"])
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    """Break the log, by an exception of a class that no other test has seen."""

    class FullError(Exception):
        pass

    class BrokenHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise FullError("the disk is full")

    class BrokenFilter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise FullError("a bug in a filter")

    handler: logging.Handler = logging.StreamHandler()
    if request.param == "handler":
        handler = BrokenHandler()
    else:
        handler.addFilter(BrokenFilter())
    LOGGER.addHandler(handler)
    yield request.param
    LOGGER.removeHandler(handler)


@pytest.mark.usefixtures("broken")
async def test_a_pipeline_that_has_much_to_say_ends_well() -> None:
    def failing(_tick: tt.Tick) -> None:
        raise ValueError("a bug in the strategy")

    async def on_error(_tick: tt.Tick, _error: Exception) -> None: ...

    feed = tt.IterableFeed(make_ticks(50))
    report = await tt.run_pipeline(
        feed, failing, maxsize=5, overflow=tt.DropOldest(), on_error=on_error, signals=False
    )
    assert report.produced == 50
    assert report.failed > 0
    assert report.dropped > 0
    assert report.ledger.unaccounted == 0


def test_it_is_told_once_on_standard_error(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        log_event(LOGGER, logging.WARNING, "a.event", "%d ticks", 3)
    error = "the disk is full" if broken == "handler" else "a bug in a filter"
    told = capsys.readouterr().err
    assert told.count("--- Logging error: the line of a.event was lost ---") == 1
    assert told.count(f"FullError: {error}") == 1


@pytest.mark.usefixtures("broken")
def test_nothing_is_written_where_logging_is_told_to_be_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log_event(LOGGER, logging.WARNING, "a.event", "%d ticks", 3)
    assert not capsys.readouterr().err


def test_a_sentence_that_does_not_fit_its_values_is_our_mistake(broken: str) -> None:
    with pytest.raises(TypeError):
        log_event(LOGGER, logging.WARNING, "a.event", "%d ticks", "many")
