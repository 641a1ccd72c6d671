"""Keeps in mind what a pipeline lost, and simulates what would have avoided it.

Rules: nothing happens per tick. The counters are looked at fifty times a second while
ticks come, which takes about a thousandth of a core; a simulation runs in pieces of
half a millisecond, one a look. After each advice the next one is waited for twice as
long. On a virtual clock there is none: time does not pass there while it is computed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import trio

from ..channel.state import ChannelState
from ..errors import ConfigError
from ..handlers.batches import batch_options
from ..ledger import INTENTIONAL
from ..logs import log_event
from ..overflow import OverflowStrategy
from ..settings import Settings
from ..simulation.events import Setting
from ..simulation.live import Present, advise
from ..simulation.recent import EVERY_S, Look, Recent
from ..workers.pool import WorkerPool

__all__ = ["AdviceTask"]

logger = logging.getLogger("trio_ticks.pipeline")

FIRST_S: Final = 5.0
"""How long after the first loss it is simulated, in seconds: there is more to come."""
_GENEROUS_S: Final = 300.0
"""A pipeline that lost nothing for so long may be too generous, in seconds."""
_QUIET_S: Final = 0.25
"""How often to look while nothing comes, in seconds."""
_MOST_S: Final = 3600.0
"""An advice is made anew after this long at most, in seconds, if more was lost."""
_STEPS: Final = 100
"""Events of a simulation in one piece: half a millisecond."""


@final
class AdviceTask:
    """The advice of one pipeline.

    Args:
        state: of its channel.
        pool: its workers.
        settings: of the pipeline.
        default: the strategy unless one is given.
    """

    def __init__(
        self,
        state: ChannelState[Any],
        pool: WorkerPool[Any],
        settings: Settings,
        default: OverflowStrategy,
    ) -> None:
        self._state = state
        self._pool = pool
        self._settings = settings
        self._overflow = default if settings.overflow is None else settings.overflow
        self._recent = Recent()
        self._now = state.now
        self._meters = pool.crew.meters

    async def run(self) -> None:
        """Look and advise for ever; returns at once where it cannot.

        Cancellation: the last advice stands.
        """
        if self._state.clock.is_virtual or self._present() is None:
            return
        began = next_at = self._now()
        pause_s, told, making = FIRST_S, 0, None
        before = -1
        while True:
            look = self._look()
            quiet, before = look.produced == before and making is None, look.produced
            await trio.sleep(_QUIET_S if quiet else EVERY_S)
            if making is not None:
                try:
                    shares = next(making)
                except Exception as error:
                    # A mistake of ours costs the advice, and not the pipeline.
                    log_event(logger, logging.ERROR, "advice.failed", exc_info=error)
                    shares = {}
                if shares is not None:
                    making = None
                    self._meters.advice = shares or self._meters.advice
                continue
            if look.lost == told and (told or look.at - began < _GENEROUS_S):
                next_at = look.at + FIRST_S
            elif look.at >= next_at:
                told, making = look.lost, self._begin()
                pause_s = min(2 * pause_s, _MOST_S)
                next_at = look.at + pause_s

    def _look(self) -> Look:
        state, now = self._state, self._now()
        ledger = state.ledger
        dropped = ledger.dropped_by_reason
        look = Look(
            at=now,
            produced=ledger.produced,
            lost=sum(count for reason, count in dropped.items() if reason not in INTENTIONAL),
            handled=ledger.consumed + ledger.failed,
            busy_s=self._pool.busy_s(now),
            thread_s=time.thread_time(),
        )
        self._recent.note(look, self._some_symbol())
        return look

    def _some_symbol(self) -> str | None:
        """Return the symbol of a tick of the last batch; ``None`` if it has none.

        Symbols are to be seen as often as they come. What is queued will not do: nearly
        all of it may be of one hot symbol, and the load would seem to be all that
        symbol's.
        """
        newest = self._state.newest
        if not newest:
            return None
        symbol = getattr(self._state.random.choice(newest), "symbol", None)
        return symbol if isinstance(symbol, str) else None

    def _present(self) -> Present | None:
        """Return the settings as they are; ``None`` if they cannot be simulated."""
        settings, overflow = self._settings, self._overflow
        if not isinstance(overflow, OverflowStrategy) or settings.results is not None:
            return None
        if batch_options(self._pool.crew.handler) is not None:
            return None
        age = settings.max_age
        try:
            setting = Setting(
                workers=max(1, self._pool.size),
                maxsize=settings.maxsize,
                overflow=overflow,
                ordering=settings.ordering,
                max_age=age if isinstance(age, int | float) else None,
            )
        except ConfigError:
            return None
        batches = self._meters.hand_over.total().count
        handled = self._state.ledger.consumed + self._state.ledger.failed
        return Present(
            setting=setting,
            executor=self._pool.place,
            per_batch=max(1.0, handled / batches) if batches else 1.0,
            peak=self._state.peak,
            sizes_itself=self._pool.scaling is not None,
        )

    def _begin(self) -> Iterator[Mapping[str, float] | None]:
        present = self._present()
        if present is None:
            return iter(({},))
        counts = self._pool.crew.meters.handler.counts()
        return advise(present, self._recent, counts, self._state.random, _STEPS)
