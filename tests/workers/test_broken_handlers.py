"""A handler that raises what is no ``Exception``: its tick is named before the end.

In the event loop, in threads, in processes and in batches alike.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import assert_accounted
from trio_ticks.failures import is_request_to_end


class PanicError(BaseException):
    """What PyO3's panics look like from Python."""


class StubbornPanicError(BaseException):
    """One that no other process can rebuild."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__("stubborn")


class StopAllError(Exception):
    pass


class OwnText(str):
    __slots__ = ()


class OwnTextError(Exception):
    def __str__(self) -> str:
        return OwnText("text of its own kind")


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raised_at(number: int) -> BaseException:
    """Return one of some errors that are hard to write down."""
    error: BaseException
    if number == 0:
        return ValueError("half a character: \ud800")
    if number == 1:
        return OwnTextError()
    if number == 2:
        return SilentError()
    if number == 3:
        error = ValueError("several")
        error.__notes__ = (1,)  # type: ignore[assignment]
        return error
    error = ValueError("deep")
    for _ in range(3000):
        error = ExceptionGroup("several", [error])
    return error


def raises_what_is_hard_to_write(tick: tt.Tick) -> None:
    raise raised_at(number(tick))


async def in_loop(tick: tt.Tick) -> None:
    if tick.volume == 5:
        raise PanicError("index out of bounds")


def plain(tick: tt.Tick) -> None:
    if tick.volume == 5:
        raise PanicError("index out of bounds")


def stubborn(tick: tt.Tick) -> None:
    if tick.volume == 5:
        raise StubbornPanicError(1, 2)


@tt.batch_handler(max_size=4)
async def batch_in_loop(ticks: list[tt.Tick]) -> None:
    for tick in ticks:
        await in_loop(tick)


@tt.batch_handler(max_size=4)
def batch_plain(ticks: list[tt.Tick]) -> None:
    for tick in ticks:
        plain(tick)


CASES: dict[str, tuple[Any, str]] = {
    "loop": (in_loop, "loop"),
    "thread": (plain, "thread"),
    "process": (plain, "process"),
    "batch-loop": (batch_in_loop, "loop"),
    "batch-thread": (batch_plain, "thread"),
    "batch-process": (batch_plain, "process"),
}


async def run(
    handler: Any, executor: str, told: list[tuple[Any, Any]] | None, **settings: Any
) -> tuple[BaseException, tt.Pipeline[Any]]:
    """Run until the handler breaks; return what the pipeline raised."""
    if told is not None:
        settings.setdefault("on_error", lambda tick, error: told.append((tick, error)))
    pipeline: tt.Pipeline[Any] | None = None
    feed = tt.IterableFeed(make_ticks(20, "A"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is no Exception
        async with tt.open_pipeline(
            feed, handler, executor=executor, workers=1, **settings
        ) as pipeline:
            await pipeline.wait()
    assert pipeline is not None
    pipeline.ledger.check()
    assert_accounted(pipeline.report)
    error = caught.value
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error, pipeline


@pytest.mark.parametrize("case", CASES)
async def test_the_tick_is_named_and_told_before_the_end(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[Any, Any]] = []
    handler, executor = CASES[case]
    error, pipeline = await run(handler, executor, told)
    assert type(error) is PanicError
    expected = [4, 5, 6, 7] if case.startswith("batch") else [5]
    assert [number(tick) for tick, _ in told] == expected
    assert all(each is error for _, each in told), "the very error that the pipeline raises"
    assert pipeline.ledger.failed == len(expected)
    assert pipeline.ledger.consumed == expected[0]
    notes = [note for note in error.__notes__ if "raised by the handler of A" in note]
    assert len(notes) == 1
    assert f"volume={expected[0]}" in notes[0]
    lines = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert len(lines) == 1
    assert "handler.broke" in lines[0].getMessage()
    assert "PanicError, of A" in lines[0].getMessage()
    assert f"volume={expected[0]}" in lines[0].getMessage()
    last = pipeline.report.last_failure
    assert last is not None
    assert (last.error, last.symbol) == ("PanicError", "A")


@pytest.mark.parametrize("case", ["loop", "thread", "process"])
async def test_it_has_a_dead_letter(case: str, tmp_path: Path) -> None:
    handler, executor = CASES[case]
    path = tmp_path / "failed.jsonl"
    error, _pipeline = await run(handler, executor, None, on_error=tt.DeadLetterFile(path))
    assert type(error) is PanicError
    (letter,) = tt.read_dead_letters(path)
    assert letter.item == make_ticks(6, "A")[5]
    assert letter.error.endswith("PanicError")
    assert letter.message == "index out of bounds"


async def test_one_that_cannot_be_rebuilt_here_ends_the_pipeline_as_well() -> None:
    told: list[tuple[Any, Any]] = []
    error, pipeline = await run(stubborn, "process", told)
    assert isinstance(error, tt.RemoteHandlerError)
    assert error.kind == "StubbornPanicError"
    assert [number(tick) for tick, _ in told] == [5]
    assert "raised by the handler of A" in "".join(error.__notes__)
    assert pipeline.ledger.failed == 1


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_errors_that_are_hard_to_write_fail_their_ticks_and_no_more(
    executor: Any, tmp_path: Path
) -> None:
    told: list[BaseException] = []
    letters = tt.DeadLetterFile(tmp_path / "failed.jsonl")

    def on_error(tick: tt.Tick, error: Exception) -> None:
        told.append(error)
        letters(tick, error)

    with letters:
        report = await tt.run_pipeline(
            tt.IterableFeed(make_ticks(5, "A")),
            raises_what_is_hard_to_write,
            executor=executor,
            on_error=on_error,
        )
    assert (report.failed, len(told), letters.written) == (5, 5, 5)
    texts = [letter.message for letter in tt.read_dead_letters(letters.path)]
    assert "half a character: \\ud800" in texts[0]
    assert "text of its own kind" in texts[1]


@pytest.mark.parametrize("notes", [None, (), [1], "text"])
async def test_what_notes_an_error_has_does_not_matter(
    notes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = PanicError("index out of bounds")
    broken.__notes__ = notes

    async def handler(_tick: tt.Tick) -> None:
        raise broken

    told: list[Any] = []
    error, _pipeline = await run(handler, "loop", told)
    assert error is broken
    assert len(told) == 1
    assert "handler.broke" in caplog.text


@pytest.mark.parametrize("case", ["loop", "batch-loop"])
async def test_on_error_that_waits_is_cut_off(case: str, autojump_clock: MockClock) -> None:
    began = trio.current_time()

    async def slow(_tick: Any, _error: Exception) -> None:
        await trio.sleep(0.4 if case == "loop" else 3600)

    error, _pipeline = await run(CASES[case][0], "loop", None, on_error=slow)
    assert type(error) is PanicError
    assert trio.current_time() - began <= 4 * 0.5 + 0.1


@pytest.mark.parametrize("case", ["loop", "thread"])
async def test_on_error_that_fails_hides_nothing(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_tick: Any, _error: Exception) -> None:
        raise StopAllError

    error, _pipeline = await run(*CASES[case], None, on_error=broken)
    assert type(error) is PanicError
    assert "pipeline.second_error" in caplog.text
    assert "StopAllError" in caplog.text


async def test_without_on_error_the_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    error, pipeline = await run(in_loop, "loop", None)
    assert type(error) is PanicError
    assert pipeline.ledger.failed == 1
    assert "handler.broke" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("batch", [False, True])
async def test_a_request_to_end_is_no_failure(kind: type[BaseException], batch: bool) -> None:
    async def handler(tick: Any) -> None:
        raise kind

    told: list[tuple[Any, Any]] = []
    error, pipeline = await run(tt.batch_handler(handler) if batch else handler, "loop", told)
    assert type(error) is kind
    assert not told
    assert pipeline.ledger.failed == 0
    assert pipeline.report.last_failure is None


async def test_a_cancelled_handler_is_no_failure() -> None:
    told: list[tuple[Any, Any]] = []
    feed = tt.IterableFeed(make_ticks(3))
    begun = trio.Event()

    async def handler(_tick: tt.Tick) -> None:
        begun.set()
        await trio.sleep_forever()

    async with tt.open_pipeline(
        feed, handler, on_error=lambda *each: told.append(each)
    ) as pipeline:
        await begun.wait()
        pipeline.cancel()
    assert not told
    assert pipeline.report.failed == 0
    pipeline.ledger.check()


def test_what_asks_to_end() -> None:
    assert is_request_to_end(KeyboardInterrupt())
    assert is_request_to_end(BaseExceptionGroup("x", [ValueError(), SystemExit()]))
    assert not is_request_to_end(PanicError())
    assert not is_request_to_end(BaseExceptionGroup("x", [ValueError(), PanicError()]))
