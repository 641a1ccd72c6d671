"""What is dropped in the channel: counted, announced as a gap, logged, reported.

Rules: a drop is counted in the step in which the tick leaves the channel, with exactly
one reason. A log line comes at most once a second a reason, with the count, and what
is left without one at the end gets a last line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

from ..gaps import GapReason
from ..ledger import REASONS, DropReason, Ledger
from ..logs import LogLimit, log_event
from .losses import Losses
from .marked import plain

__all__ = ["Drops", "ItemListener", "Listener"]

logger = logging.getLogger("trio_ticks.channel")

_TOLD: dict[DropReason, GapReason] = {
    "overflow": "overflow",
    "evicted": "evicted",
    "stale": "stale",
    "held": "held",
}
"""Which drops are told as gaps, and by which reason."""

ItemListener = Callable[[Sequence[Any], DropReason | None], None]
"""Called once a batch, with what a sender brought or with what is dropped.

What was brought has no reason.
"""


class Listener(Protocol):
    """What is told when the channel has changed."""

    def queue_changed(self) -> None:
        """The number of queued ticks may have crossed a mark."""

    def book_lost(self) -> None:
        """A book needs a fresh snapshot; which one is in ``losses.books.wanted``."""


@final
class Drops:
    """Drops ticks, and tells everybody whom it concerns.

    Args:
        ledger: where drops are counted.
        losses: where they are noted, to be told as gaps.
        now: the time, for the log's limit.
        facts: what a log line shows of the channel: queued ticks, their limit, the
            strategy.
    """

    __slots__ = (
        "_facts",
        "_ledger",
        "_log_limit",
        "_losses",
        "gives_back",
        "is_silent",
        "item_listeners",
        "left",
        "listeners",
    )

    def __init__(
        self,
        ledger: Ledger,
        losses: Losses,
        now: Callable[[], float],
        facts: Callable[[], tuple[int, int, str]],
    ) -> None:
        self._ledger = ledger
        self._losses = losses
        self._facts = facts
        self._log_limit = LogLimit(now)
        self.listeners: tuple[Listener, ...] = ()
        self.item_listeners: tuple[ItemListener, ...] = ()
        self.is_silent = False
        """Whether drops are not logged: they are a simulation's."""
        self.gives_back = False
        """Whether what is left at the end goes back to a broker, and is not dropped."""
        self.left: list[Any] = []
        """What was left at the end so: at most what channel and workers held."""

    def report_items(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Report what became of *items* to those who count by symbol."""
        for listener in self.item_listeners:
            listener(items, reason)

    def queue_changed(self) -> None:
        """Tell listeners that the number of queued ticks may have crossed a mark."""
        for listener in self.listeners:
            listener.queue_changed()

    def drop(
        self,
        items: Sequence[Any],
        reason: DropReason,
        *,
        at_head: bool = True,
        by_breaker: bool = False,
    ) -> None:
        """Drop *items*, which have just left the channel, or never got into it.

        Args:
            items: what is dropped; may be marked.
            reason: why.
            at_head: whether they were the first of their symbols; else they were the
                last.
            by_breaker: whether the breaker has set their symbols aside (*reason* is
                held).
        """
        if not items:
            return
        losses = self._losses
        if reason == "shutdown" and self.gives_back:
            self.left += [losses.unmark(item, at_head=at_head) for item in items]
            self._ledger.given_back += len(items)
            return
        unmarked = [losses.unmark(item, at_head=at_head) for item in items]
        self._ledger.in_channel.add(reason, len(unmarked))
        if self.item_listeners:
            self.report_items(unmarked, reason)
        if reason in _TOLD:
            why = "breaker" if by_breaker else _TOLD[reason]
            # What a book holds back is no further loss of that book.
            books = reason != "held" or by_breaker
            if losses.lost(unmarked, why, at_head=at_head, books=books):
                self.book_lost()
        self.log(len(unmarked), reason)

    def displace(self, items: Sequence[Any]) -> None:
        """Drop *items*, each the last of its lane, which gave way to others."""
        for item in items:
            self._ledger.in_channel.add("overflow", 1)
            if self._losses.lost_in_lane(item):
                self.book_lost()
            if self.item_listeners:
                self.report_items((plain(item),), "overflow")
        self.log(len(items), "overflow")

    def conflate(self, items: Sequence[Any]) -> None:
        """Count *items*, each of which took the place of one that is dropped."""
        self._ledger.in_channel.add("conflated", len(items))
        if self.item_listeners:
            self.report_items(items, "conflated")

    def book_lost(self) -> None:
        """Tell listeners that a book needs a snapshot."""
        for listener in self.listeners:
            listener.book_lost()

    def merge_failed(self, item: Any, error: Exception) -> None:
        """Log what the user's merge function raised, at most once a second."""
        if times := self._log_limit.due("merge"):
            log_event(
                logger,
                logging.ERROR,
                "merge.failed",
                "%d times, the last with %s",
                times,
                item.symbol,
                exc_info=error,
                failed=times,
                symbol=item.symbol,
            )

    def log(self, count: int, reason: DropReason) -> None:
        """Log that *count* ticks were dropped, at most once a second per reason."""
        if not self.is_silent and (times := self._log_limit.due(reason, count)):
            self._write(times, reason)

    def flush(self) -> None:
        """Log the drops that have had no line; call it when no more will come."""
        for reason in REASONS:
            if times := self._log_limit.flush(reason):
                self._write(times, reason)

    def _write(self, times: int, reason: DropReason) -> None:
        queued, maxsize, strategy = self._facts()
        log_event(
            logger,
            logging.WARNING,
            "ticks.dropped",
            "%d %s (%d of %d queued, %s)",
            times,
            reason,
            queued,
            maxsize,
            strategy,
            reason=reason,
            dropped=times,
            queued=queued,
            maxsize=maxsize,
            strategy=strategy,
        )
