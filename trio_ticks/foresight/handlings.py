"""How long a handling takes on a virtual clock, and what came of every tick.

What a handler waits for, it waits for on the virtual clock. What it computes takes no
time there, unless the user says how much, or has it measured.

Rules: a handler in the event loop that computes keeps everybody else from running, so
the clock advances at once. A plain function runs in a thread, and others run meanwhile:
the time that it blocks is slept, and only the time that it computes advances the clock,
since one thread at a time holds the interpreter.
"""

from __future__ import annotations

import hashlib
import logging
import math
import struct
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any, Final, Literal, final

import trio

from ..checks import check_seconds, is_number
from ..clock import monotonic, thread_cpu
from ..errors import ConfigError
from ..ledger import DropReason
from ..logs import log_event
from ..uninterrupted import await_theirs, call_theirs
from .virtual_clock import VirtualClock

__all__ = ["Handlings", "Outcomes", "Service", "check_service"]

Service = float | Callable[[Any], float] | Literal["measured"] | None
"""The time that the code of a handler takes: in seconds, by tick, or as measured."""

_SAMPLE: Final = 16
"""One handling in so many is timed where nothing depends on it."""

_NOTABLE_WAIT_S: Final = 2.0
"""A handler that has really waited for so long, in all, makes a replay slow."""

logger = logging.getLogger("trio_ticks.foresight")

_pack: Final = struct.Struct("<dd").pack


def check_service(service: object) -> None:
    """Raise unless *service* is a :data:`Service`.

    Raises:
        ConfigError: it is not.
    """
    if service is None or service == "measured" or callable(service):
        return
    if not is_number(service):
        raise ConfigError(
            "service must be a number of seconds, a function that returns one for a tick, "
            f'"measured" or None, got {service!r}'
        )
    check_seconds("service", service)


@final
class Outcomes:
    """A fingerprint of what came of each tick, and when."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=16)

    def on_items(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Take in what came into the channel, or was dropped for *reason*."""
        for item in items:
            self.add(reason or "came", item)

    def add(self, what: str, item: Any) -> None:
        """Take in *what* happened to *item* now; of a batch, to each of its items."""
        for each in item if isinstance(item, list) else (item,):
            stamp = each.timestamp.timestamp()
            self._hash.update(_pack(self._clock.current_time(), stamp))
            self._hash.update(f"{what} {each.symbol}\n".encode(errors="surrogatepass"))

    def fingerprint(self) -> str:
        """Return the fingerprint, as 32 hexadecimal digits."""
        return self._hash.hexdigest()


@final
class Handlings:
    """Puts handlings on a virtual clock.

    Args:
        clock: the clock.
        service: how long the code of a handler takes.
        outcomes: is told of each handling.
        plain: whether the handler is a plain function, which runs in threads live.
    """

    def __init__(
        self, clock: VirtualClock, service: Service, outcomes: Outcomes, *, plain: bool
    ) -> None:
        self._clock = clock
        self._service = service
        self._outcomes = outcomes
        self._plain = plain
        self._handled = 0
        self._timed_handlings = 0
        self._computed_s = 0.0
        self._waited_s = 0.0

    def around(self, handler: Callable[..., Any]) -> Callable[[Any], Any]:
        """Return what calls *handler*, and lets its time pass."""
        call = self._call_plain if self._plain else self._call_async

        async def handle(item: Any) -> Any:
            self._outcomes.add("begun", item)
            try:
                value = await call(handler, item)
            except BaseException:
                self._outcomes.add("raised", item)
                raise
            self._outcomes.add("done", item)
            return value

        return handle

    @property
    def computed_s(self) -> float:
        """How long the code of a handling really took, in seconds, on average."""
        return self._computed_s / max(1, self._timed_handlings)

    def _given_s(self, item: Any) -> float:
        """Return how long the user says that the handling of *item* takes."""
        service = self._service
        if service is None or service == "measured":
            return 0.0
        seconds: float = service if isinstance(service, float | int) else call_theirs(service, item)
        if not 0.0 <= seconds < math.inf:
            raise ConfigError(f"service returned {seconds!r} for a tick: seconds, from 0 on")
        return seconds

    async def _call_async(self, handler: Callable[..., Any], item: Any) -> Any:
        self._handled += 1
        if self._service == "measured" or self._handled % _SAMPLE == 1:
            if self._service != "measured":
                self._clock.advance(self._given_s(item))
            self._timed_handlings += 1
            return await self._timed(await_theirs(handler, item))
        self._clock.advance(self._given_s(item))
        return await await_theirs(handler, item)

    @coroutine
    def _timed(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run *work*, and measure its steps; advance the clock by them if asked to."""
        moves = self._service == "measured"
        step: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            began = thread_cpu()
            if moves:
                self._clock.begin_step()
            try:
                wish = step(value)
            except StopIteration as end:
                return end.value
            finally:
                self._computed_s += self._clock.end_step() if moves else thread_cpu() - began
            step = work.send
            try:
                value = yield wish
            except BaseException as error:
                step, value = work.throw, error

    async def _call_plain(self, handler: Callable[..., Any], item: Any) -> Any:
        given_s = self._given_s(item)
        began, cpu_began = monotonic(), thread_cpu()
        try:
            value = await await_theirs(handler, item)
        finally:
            took_s, cpu_s = monotonic() - began, thread_cpu() - cpu_began
            self._computed_s += cpu_s
            self._timed_handlings += 1
            self._note_waiting(took_s - cpu_s)
            if self._service == "measured":
                self._clock.advance(min(cpu_s, took_s))
                given_s = max(0.0, took_s - cpu_s)
            if given_s:
                await trio.sleep(given_s)  # noqa: ASYNC102  # a cancellation ends it
        return value

    def _note_waiting(self, waited_s: float) -> None:
        """Say once why a replay is slow whose handler really waits."""
        self._waited_s += waited_s
        if self._waited_s >= _NOTABLE_WAIT_S:
            each_s = self._waited_s / self._timed_handlings
            log_event(
                logger,
                logging.WARNING,
                "replay.waits",
                "the handler blocks for %.3g ms a tick, as time.sleep or a request does. The "
                "virtual clock cannot skip that, so the replay is no faster than it: while "
                "tt.replaying(), leave the wait out, and give it by service=%.3g",
                each_s * 1e3,
                each_s,
                mean_ms=each_s * 1e3,
            )
