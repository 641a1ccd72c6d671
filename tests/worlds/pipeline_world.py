"""What the pipeline's tests share: scripted feeds, recording handlers, a final check.

Nothing here depends on how the pipeline works; all of it uses only the public API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from trio_ticks.ledger import REASONS

__all__ = [
    "BodyError",
    "Gate",
    "Recorder",
    "ScriptFeed",
    "Send",
    "assert_accounted",
    "listed",
    "raises_as_itself",
    "sleepy_feed",
]

Send = tt.TickSendChannel[Any]


class BodyError(Exception):
    """Raised by tests in the block of a pipeline."""


class ScriptFeed:
    """A feed that does what *script* does; it may keep statistics."""

    def __init__(self, script: Callable[[Send], Awaitable[None]]) -> None:
        self._script = script
        self.stats = tt.FeedStats(connected=True)

    async def run(self, send: Send) -> None:
        await self._script(send)


def listed(
    ticks: Iterable[Any], *, then: Callable[[], Awaitable[None]] | None = None
) -> ScriptFeed:
    """Return a feed that sends *ticks* in one batch, does *then*, and ends."""
    batch = list(ticks)

    async def script(send: Send) -> None:
        await send.send_many(batch)
        if then is not None:
            await then()

    return ScriptFeed(script)


def sleepy_feed(ticks: Iterable[Any] = ()) -> ScriptFeed:
    """Return a feed that sends *ticks* and then waits until it is cancelled.

    A quiet market looks like that.
    """
    return listed(ticks, then=trio.sleep_forever)


@attrs.define
class Recorder:
    """A handler that keeps the ticks it was given, and may take its time over each."""

    seconds: float = 0.0
    ticks: list[tt.Tick] = attrs.field(factory=list)

    async def __call__(self, tick: tt.Tick) -> None:
        self.ticks.append(tick)
        if self.seconds:
            await trio.sleep(self.seconds)


@attrs.define
class Gate:
    """A handler that stops at every tick until it is opened.

    *entered* holds the ticks that are, or were, in it.
    """

    opened: trio.Event = attrs.field(factory=trio.Event)
    entered: list[tt.Tick] = attrs.field(factory=list)

    async def __call__(self, tick: tt.Tick) -> None:
        self.entered.append(tick)
        await self.opened.wait()


def assert_accounted(report: tt.PipelineReport, **expected: int) -> None:
    """Check the law on a final *report*, and the given counters; drops by reason."""
    ledger = report.ledger
    assert ledger.unaccounted == 0, report
    assert ledger.queued == ledger.in_flight == 0, report
    assert ledger.produced == ledger.consumed + ledger.failed + ledger.dropped, report
    assert sum(ledger.dropped_by_reason.values()) == ledger.dropped, report
    actual = {
        name: report.dropped_by_reason[name] if name in REASONS else getattr(report, name)
        for name in expected
    }
    assert actual == expected, report


@contextmanager
def raises_as_itself(error: BaseException) -> Iterator[None]:
    """Check that the block raises *error*: the very object, in no group."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is, it is compared
        yield
    assert caught.value is error, f"expected {error!r} itself, got {caught.value!r}"
