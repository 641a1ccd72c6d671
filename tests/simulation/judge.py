"""What became of each tick of a run, and whether that is as promised.

Ticks are numbered as they reach the channel. Rules: an outcome that nobody saw is none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, Final, Literal, final

import attrs

import trio_ticks as tt
from tests.simulation.plan import Plan
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.feeds.websocket.frame_tap import FrameTap
from trio_ticks.feeds.websocket.frames import FrameParser
from trio_ticks.ledger import DropReason
from trio_ticks.recordings.events import read_event, unpack_message
from trio_ticks.recordings.files import LineReader

__all__ = ["Event", "Judge"]

What = Literal["begin", "end", "failed", "cut", "telling", "told"]


@attrs.frozen
class Event:
    """One step of a handling, or of the report of a failure."""

    what: What
    numbers: tuple[int, ...]
    symbols: tuple[str, ...]


@final
class Judge:
    """Watches one pipeline.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._items: Final[list[Any]] = []
        """All that reached the channel, in order; kept, so that no identity is used
        twice."""
        self._numbers: Final[dict[int, int]] = {}
        self._by_key: Final[dict[tuple[str, object], int]] = {}
        """For copies: what was conflated is one."""
        self._dropped: Final[Counter[int]] = Counter()
        self._conflated: Final[Counter[str]] = Counter()
        """By symbol: which tick was replaced is not told."""
        self._failed: Final[Counter[int]] = Counter()
        self._dropped_behind: Final[Counter[int]] = Counter()
        self._ends: Final[Counter[int]] = Counter()
        self._tries: Final[Counter[int]] = Counter()
        self._events: Final[list[Event]] = []
        self.taps: Final[list[FrameTap]] = []
        self.wrongs: Final[list[str]] = []

    # While it runs

    def hear(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Hear of what reached the channel, or was dropped there."""
        if reason is None:
            for item in items:
                self._numbers[id(item)] = self._by_key[_key(item)] = len(self._items)
                self._items.append(item)
        elif reason == "conflated":
            self._conflated.update(item.symbol for item in items)
        else:
            self._dropped.update(map(self.number, items))

    def number(self, item: Any) -> int:
        """Return the number of *item*; -1: it never reached the channel."""
        return self._numbers.get(id(item), self._by_key.get(_key(item), -1))

    def write(self, what: What, items: Sequence[Any]) -> None:
        """Write down a step with *items*."""
        symbols = tuple(item.symbol for item in items)
        self._events.append(Event(what, tuple(map(self.number, items)), symbols))

    def failed(self, item: Any) -> None:
        """Hear that ``on_error`` was called with *item*."""
        self._failed[self.number(item)] += 1

    def wrong(self, text: str) -> None:
        """Write down what is not as it should be; the first ones are enough."""
        if len(self.wrongs) < 10:
            self.wrongs.append(text)

    def demand(self, holds: bool, text: object) -> None:
        """Write *text* down unless it *holds*."""
        if not holds:
            self.wrong(str(text))

    def hear_behind(self, items: Sequence[Any], reason: DropReason | None) -> None:
        """Hear of what was dropped behind a buffer."""
        if reason is not None:
            self._dropped_behind.update(map(self.number, items))

    # At the end

    def check(self, pipeline: tt.Pipeline[Any], feed: tt.WebSocketFeed, *, calm: bool) -> None:
        """Judge the whole run.

        Args:
            pipeline: which has ended.
            feed: its feed.
            calm: whether there was time to handle all that came.
        """
        self._check_feed(feed)
        self._check_sums(pipeline)
        self._check_outcomes(pipeline, calm=calm)
        self._check_order_if_any()

    def check_buffered(
        self,
        pipeline: tt.Pipeline[Any],
        feed: tt.WebSocketFeed,
        buffer: MemoryBuffer,
        *,
        calm: bool,
    ) -> None:
        """Judge a run with *buffer* between its halves; else as :meth:`check`."""
        ingest = pipeline.ingest
        assert ingest is not None
        self._check_feed(feed)
        for half in (ingest, pipeline):
            self.demand(half.report.ledger.unaccounted == 0, f"unaccounted: {half.report.ledger}")
        in_doubt = ingest.report.in_flight
        out = self._dropped.total() + self._conflated.total() + buffer.appended + in_doubt
        self.demand(len(self._items) == out, f"{len(self._items)} came, {out} went on or dropped")
        begun, handled = self._handled()
        self.demand(-1 not in begun, "handled what never came")
        # This buffer acknowledges whole entries: who gives one back unfinished, in a
        # pause, gets all of its ticks again.
        pauses = any(fault.kind == "pause" for fault in self._plan.faults)
        twice = [number for number, count in self._ends.items() if count > 1]
        self.demand(pauses or not twice, f"handled twice: {twice}")
        done = len(handled | set(self._failed) | set(self._dropped_behind))
        acked = buffer.acknowledged
        self.demand(acked <= done, f"{acked} acknowledged, {done} have an outcome")
        if calm:
            left = buffer.appended - acked
            self.demand(not left, f"{left} left in the buffer, though there was time")
        if not pauses:
            self._check_order_if_any()

    def _check_order_if_any(self) -> None:
        if self._plan.settings["ordering"] == "symbol":
            self._check_order()

    def _check_feed(self, feed: tt.WebSocketFeed) -> None:
        """Each message that was read is a tick, or counted as something else."""
        stats, found = feed.stats, 0
        for tap in self.taps:
            found += tap.messages
            read = bytes(tap.stream.read)  # type: ignore[attr-defined]
            _head, blank, frames = read.partition(b"\r\n\r\n")
            there = 0
            if blank and tap.framed:
                parser = FrameParser(max_message_size=self._plan.feed["max_message_size"])
                there = len(parser.feed(frames)[0])
            dealt = tap.messages + tap.discarded
            self.demand(dealt <= there, f"{dealt} messages of {there} that were read")
            if tap.stream.saw_end and not tap.discarded:  # type: ignore[attr-defined]
                self.demand(
                    dealt == there, f"{dealt} messages of {there} before the connection's end"
                )
        self.demand(stats.messages == found, f"{stats.messages} messages counted of {found}")
        ticks = sum(not 10**9 <= item.volume < 10**10 for item in self._items)
        known = ticks + stats.malformed + stats.ignored + stats.unasked
        known += stats.duplicates
        # A message that is too large is never one, and yet counts as malformed.
        large = sum(tap.violation is not None and tap.violation.code == 1009 for tap in self.taps)
        self.demand(
            0 <= known - stats.messages <= large,
            f"{stats.messages} messages: {ticks} ticks, {stats.malformed} malformed, "
            f"{stats.ignored} ignored, {stats.unasked} unasked, {stats.duplicates} duplicates",
        )
        if not any(getattr(fault, "kind", "") == "corrupt" for fault in self._plan.faults):
            twice = Counter(map(_key, self._items)).most_common(1)
            self.demand(not twice or twice[0][1] == 1, f"came twice: {twice}")

    def check_recording(self, folder: Path) -> None:
        """Each message that the feed was given is in its file, in order, whatever came.

        Args:
            folder: of the recorder.
        """
        given: list[bytes] = []
        for tap in self.taps:
            _head, _blank, frames = bytes(tap.stream.read).partition(  # type: ignore[attr-defined]
                b"\r\n\r\n"
            )
            parser = FrameParser(max_message_size=self._plan.feed["max_message_size"])
            given += parser.feed(frames)[0][: tap.messages] if tap.framed else []
        found: list[bytes] = []
        for path in sorted(folder.glob("flat*")):
            with LineReader(path) as reader:
                while (line := reader.read()) is not None:
                    if read_event(line) is None:
                        found.append(unpack_message(line.partition(b" ")[2]))
        self.demand(found == given, f"{len(found)} messages recorded of {len(given)}")

    def _check_sums(self, pipeline: tt.Pipeline[Any]) -> None:
        report = pipeline.report
        try:
            pipeline.ledger.check()
        except tt.LedgerError as error:
            self.wrong(f"at the end: {error}")
        self.demand(report.ledger.unaccounted == 0, f"unaccounted for: {report.ledger}")
        self.demand(report.queued == report.in_flight == 0, f"left: {report.ledger}")
        lost = pipeline.ledger.in_pool.shutdown
        seen = (
            len(self._items),
            self._dropped.total() + self._conflated.total() + lost,
            self._failed.total(),
        )
        counted = (report.produced, report.dropped, report.failed)
        self.demand(seen == counted, f"seen {seen}, counted {counted}")

    def _check_outcomes(self, pipeline: tt.Pipeline[Any], *, calm: bool) -> None:
        lost = pipeline.ledger.in_pool.shutdown
        for name, counts in (("dropped", self._dropped), ("failed", self._failed)):
            twice = [number for number, count in counts.items() if count > 1]
            self.demand(not twice, f"{name} twice: {twice}")
        dropped, failed = set(self._dropped), set(self._failed)
        self.demand(not dropped & failed, f"dropped and failed: {dropped & failed}")
        begun, handled = self._handled()
        self.demand(-1 not in begun, "handled what never came")
        self.demand(not begun & dropped, f"begun, and dropped: {begun & dropped}")
        self.demand(failed <= begun, f"failed unseen: {failed - begun}")
        consumed = pipeline.report.consumed
        self.demand(
            consumed <= len(handled) <= consumed + lost,
            f"{len(handled)} handled, {consumed} counted, {lost} lost",
        )
        without = set(range(len(self._items))) - dropped - failed - handled
        expected = self._conflated.total() + lost - (len(handled) - consumed)
        self.demand(len(without) == expected, f"{len(without)} without an outcome, not {expected}")
        if calm:
            self.demand(not lost, f"{lost} lost in workers though there was time")
        retry = self._plan.settings["retry"]
        most = max(self._tries.values(), default=0)
        self.demand(most <= (1 if retry is None else retry.attempts), f"{most} tries")

    def _handled(self) -> tuple[set[int], set[int]]:
        """Return the ticks that were begun, and those handled without a failure."""
        ended = set[int]()
        for event in self._events:
            if event.what == "begin":
                self._tries.update(event.numbers)
                ended.difference_update(event.numbers)
            elif event.what == "end":
                self._ends.update(event.numbers)
                ended.update(event.numbers)
        return set(self._tries), ended - set(self._failed)

    def _check_order(self) -> None:
        busy: dict[str, int] = {}
        last: dict[str, tuple[int, ...]] = defaultdict(tuple)
        telling: dict[str, int] = {}
        for event in self._events:
            mine: dict[str, list[int]] = defaultdict(list)
            for symbol, number in zip(event.symbols, event.numbers, strict=True):
                mine[symbol].append(number)
            for symbol, numbers in mine.items():
                where = f"{event.what} {numbers} of {symbol} after {last[symbol]}"
                if event.what in ("end", "failed", "cut"):
                    self.demand(busy.pop(symbol, 0) == 1, f"{where}: not begun")
                elif event.what == "told":
                    telling.pop(symbol, None)
                    self.demand(symbol not in busy, f"{where}: begun before it was told")
                elif event.what == "telling":
                    telling[symbol] = numbers[0]
                    self.demand(symbol not in busy, f"{where}: told while it is handled")
                else:
                    self.demand(symbol not in busy, f"{where}: two at once")
                    self.demand(symbol not in telling, f"{where}: while {telling.get(symbol)}")
                    again = tuple(numbers) == last[symbol]
                    later = not last[symbol] or numbers[0] > last[symbol][-1]
                    rises = numbers == sorted(set(numbers))
                    self.demand(rises and (later or again), f"{where}: out of order")
                    busy[symbol], last[symbol] = 1, tuple(numbers)


def _key(item: Any) -> tuple[str, object]:
    """Return what the exchange gives to one tick alone.

    A wrong bit may have cost the tick its volume. NaN equals nothing, so such a tick is
    known by its time.
    """
    return item.symbol, item.timestamp if isnan(item.volume) else item.volume
