"""Deliberate bugs in the channel: admission, buffers, lanes, waits, losses."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_channel = partial(
    Mutant,
    tests=(
        "tests/channel/test_policies.py",
        "tests/channel/test_channel_strategies.py",
        "tests/channel/test_deliver_errors.py",
        "tests/channel/test_deliver_waiters.py",
        "tests/channel/test_channel.py",
        "tests/channel/test_channel_laws.py",
    ),
)
_buffers = partial(
    Mutant, tests=("tests/channel/test_buffers.py", "tests/channel/test_channel_laws.py")
)
_pool = partial(
    Mutant,
    tests=(
        "tests/workers/test_workers.py",
        "tests/workers/test_order.py",
        "tests/workers/test_seeded_runs.py::test_in_the_loop",
    ),
)
_gaps = partial(
    Mutant,
    tests=(
        "tests/channel/test_gap_order.py",
        "tests/channel/test_displaced_ticks.py",
        "tests/channel/test_gaps.py",
    ),
)

MUTANTS: Final = (
    # What waits for room
    _channel(
        name="withdrawn-ticks-vanish",
        file="channel/deliveries.py",
        before="""            self._drop(delivery.rest())
            self._remove(delivery, now)""",
        after="            self._remove(delivery, now)",
        breaks="ticks of a sender that is cancelled while it waits have no outcome",
    ),
    _channel(
        name="abandoned-ticks-vanish",
        file="channel/deliveries.py",
        before="self._drop(first.rest())",
        after="pass",
        breaks="what waits for room when the last receiver leaves has no outcome",
    ),
    _channel(
        name="waiting-sender-not-woken",
        file="channel/deliveries.py",
        before="""            delivery.wake_all()
        if not self.pending:""",
        after="""            pass
        if not self.pending:""",
        breaks="a sender sleeps for ever though its ticks are in",
    ),
    _channel(
        name="end-not-announced",
        file="channel/deliveries.py",
        before="self._emptied()",
        after="pass",
        breaks="receivers wait for ever after the last tick that had waited for room",
    ),
    _channel(
        name="what-still-finds-no-room-vanishes",
        file="channel/deliveries.py",
        before="delivery.leave(len(chunk), left)",
        after="delivery.leave(len(chunk))",
        breaks="of ticks that wait those that still find no room vanish",
    ),
    _channel(
        name="refused-tail-dropped",
        file="channel/deliveries.py",
        before="            delivery.leave(count)\n",
        after="            delivery.leave(len(delivery))\n",
        breaks="with one refused tick all behind it of its batch vanish",
    ),
    _channel(
        name="cancelled-batch-not-counted",
        file="channel/sending.py",
        before="""            if was_open:
                self._send_though_cancelled(ticks)""",
        after="""            if not was_open:
                self._send_though_cancelled(ticks)""",
        breaks="ticks of a send that is cancelled at once are in no count",
    ),
    _channel(
        name="thrown-away-turn-not-counted",
        file="channel/sending.py",
        before="""        if self._forget is not None:
            self._forget()""",
        after="""        if self._forget is None:
            self._forget()""",
        breaks="ticks of a delivery that nobody awaits are in no count",
    ),
    _channel(
        name="cancelled-wait-keeps-its-ticks",
        file="channel/sending.py",
        before="if not patience.cancel_called:",
        after="if patience.cancel_called:",
        breaks="a cancelled sender's ticks go on waiting, and its timed-out ones are dropped",
    ),
    Mutant(
        name="patience-per-tick",
        file="patience.py",
        before="left = timeout - in_episode_s",
        after="left = timeout - for_this_s",
        breaks="under a lasting overload nothing is ever dropped, and ticks grow old",
        tests=("tests/channel/test_channel_strategies.py", "tests/channel/test_policies.py"),
    ),
    Mutant(
        name="episode-never-over",
        file="patience.py",
        before="if used <= self._low and not self.is_over:",
        after="if used < self._low and not self.is_over:",
        breaks="patience that was spent once does not come back",
        tests=(
            "tests/channel/test_channel_strategies.py",
            "tests/channel/test_policies.py",
            "tests/channel/test_overflow.py",
        ),
    ),
    Mutant(
        name="waiting-not-charged",
        file="patience.py",
        before="            self._waited_s += now - self._since\n",
        after="            self._waited_s = now - self._since\n",
        breaks="an episode of pressure forgets what was waited in it before",
        tests=("tests/channel/test_channel_strategies.py", "tests/channel/test_policies.py"),
    ),
    # Admission
    _channel(
        name="newcomer-overtakes",
        file="channel/state.py",
        before="if waits and deliveries.holds_any({item.symbol for item in items}):",
        after="if waits and not deliveries.holds_any({item.symbol for item in items}):",
        breaks="a tick is let in before one of its symbol that waits for room",
    ),
    Mutant(
        name="parked-ticks-take-no-room",
        file="channel/state.py",
        before="free = self.maxsize - len(self.buffer) - self.lanes.parked",
        after="free = self.maxsize - len(self.buffer)",
        breaks="the channel grows beyond maxsize behind a symbol that is being handled",
        tests=(
            "tests/workers/test_room.py",
            "tests/workers/test_order.py",
            "tests/workers/test_seeded_runs.py::test_in_the_loop",
        ),
    ),
    Mutant(
        name="reserved-room-given-away",
        file="channel/state.py",
        before="return free if self.receiver is None else free - self._reserved()",
        after="return free",
        breaks="ticks that come back from a thread's batch make the queue too long",
        tests=(
            "tests/workers/test_room.py",
            "tests/workers/test_order.py::test_order_in_threads",
            "tests/workers/test_pool_laws.py",
            "tests/workers/test_threads.py",
        ),
    ),
    _channel(
        name="oversized-batch-loses-its-head",
        file="channel/admission.py",
        before="verdict.evicted += items[: -self._maxsize]",
        after="verdict.evicted += ()",
        breaks="of a batch larger than the channel the first ticks vanish uncounted",
    ),
    _channel(
        name="tick-behind-a-refused-one-lost",
        file="channel/admission.py",
        before="verdict.rest = items[index + 1 :]",
        after="verdict.rest = items[index + 2 :]",
        breaks="behind each refused tick one more is lost",
    ),
    _channel(
        name="conflated-not-counted",
        file="channel/admission.py",
        before="verdict.replaced.append(new)",
        after="pass",
        breaks="what a newer quote replaced is in no count",
    ),
    _gaps(
        name="conflation-loses-the-gap",
        file="channel/admission.py",
        before="            merged = Marked(merged, item.gap)\n        if line:",
        after="            pass\n        if line:",
        breaks="a strategy is not told of a loss whose next tick was conflated",
    ),
    _channel(
        name="part-of-a-large-batch-lost",
        file="channel/state.py",
        before="items = [*items, *chain.from_iterable(behind)]",
        after="items = [*items]",
        breaks="of a large batch that has to wait only the first 256 ticks remain",
    ),
    # Buffers and lanes
    _buffers(
        name="taken-tail-lost",
        file="channel/fifo.py",
        before="""        if limit >= len(self):
            batch = list(self)""",
        after="""        if limit >= len(self) - 1:
            batch = list(self)[:limit]""",
        breaks="with all ticks but one the last one is lost",
    ),
    _buffers(
        name="extraction-keeps-only-the-first",
        file="channel/fifo.py",
        before="self.push_many([item for item, _ in run], arrived)",
        after="self.push_many([item for item, _ in run][:1], arrived)",
        breaks="ticks beside those that go back to a broker vanish",
    ),
    _buffers(
        name="dead-entry-not-marked",
        file="channel/keyed.py",
        before="entry.live = False",
        after="entry.live = True",
        breaks="an evicted tick is taken as well: one tick with two outcomes",
    ),
    _buffers(
        name="keyed-count-not-lowered",
        file="channel/keyed.py",
        before="self._count -= 1",
        after="self._count -= 0",
        breaks="the channel is full for ever",
    ),
    _pool(
        name="lane-deleted-with-its-ticks",
        file="channel/lanes.py",
        before="""        if self.lines[symbol]:
            self.ready.append(symbol)
        else:
            del self.lines[symbol]""",
        after="        del self.lines[symbol]",
        breaks="ticks parked behind a symbol are lost when it is released",
    ),
    Mutant(
        name="called-back-tick-at-the-end",
        file="channel/lanes.py",
        before="lane.appendleft((item, arrived))",
        after="lane.append((item, arrived))",
        breaks="a tick that comes back from a thread is handled after younger ones",
        tests=(
            "tests/workers/test_threads.py",
            "tests/workers/test_gaps_behind_called_back_ticks.py",
            "tests/workers/test_order.py",
        ),
    ),
    Mutant(
        name="evicted-still-counted-as-parked",
        file="channel/lanes.py",
        before="self.parked -= len(evicted)",
        after="self.parked -= 0",
        breaks="evicted ticks keep their room: the channel is full for ever",
        tests=(
            "tests/channel/test_lane_eviction.py",
            "tests/workers/test_seeded_runs.py::test_in_the_loop",
        ),
    ),
    Mutant(
        name="oldest-lane-forgotten",
        file="channel/homes.py",
        before="heapq.heapreplace(heads, (lane[0][1], count + 1, place, lane))",
        after="heapq.heappop(heads)",
        breaks="with processes too few ticks are evicted, and room is given away twice",
        tests=("tests/channel/test_homes.py", "tests/workers/test_process_rooms.py"),
    ),
    Mutant(
        name="home-of-a-gone-worker-kept",
        file="channel/homes.py",
        before="        for symbol in home.ready:\n            self.release(symbol)",
        after="",
        breaks="symbols of a process that has left are stuck",
        tests=("tests/channel/test_homes.py",),
    ),
    # Taking and waking
    _channel(
        name="nothing-moves-up",
        file="channel/taking.py",
        before="""        batch = self._take(limit)
        self.move_up()
        while not batch""",
        after="""        batch = self._take(limit)
        while not batch""",
        breaks="what waits for room stays outside though there is room",
    ),
    _pool(
        name="tick-overtakes-its-lane",
        file="channel/taking.py",
        before="if symbol in held and not lanes.lines[symbol]:",
        after="if not lanes.lines[symbol]:",
        breaks="a tick is handled while another worker handles one of its symbol",
    ),
    _channel(
        name="closed-twice-counted-twice",
        file="channel/receiving.py",
        before="        self._closed = True\n        self._item_gate.close()",
        after="        self._item_gate.close()",
        breaks="closing a clone twice ends the channel for the others",
    ),
    Mutant(
        name="last-receiver-leaves-parked-ticks",
        file="channel/state.py",
        before="left = self.lanes.evict(self.lanes.parked)",
        after="left: list[Any] = []",
        breaks="parked ticks are in no count when the last receiver leaves",
        tests=(
            "tests/pipeline/test_shutdown.py",
            "tests/pipeline/test_seeded_shutdowns.py",
            "tests/workers/test_seeded_runs.py::test_in_the_loop",
        ),
    ),
    _pool(
        name="woken-worker-never-arrives",
        file="channel/receiving.py",
        before="""            if woken:
                sleepers.coming -= 1""",
        after="""            if woken:
                sleepers.coming -= 0""",
        breaks="after one wake-up no worker is woken any more",
    ),
    _pool(
        name="sleeper-not-counted",
        file="channel/receiving.py",
        before="        sleepers.sleeping += 1\n        woken = False",
        after="        woken = False",
        breaks="a worker that sleeps is never woken",
    ),
    _pool(
        name="nobody-woken-for-a-tick",
        file="channel/state.py",
        before="elif sleepers.sleeping and not sleepers.coming and not receiver.anyone_free():",
        after="elif sleepers.sleeping and not sleepers.coming and receiver.anyone_free():",
        breaks="a tick comes and all workers sleep on",
    ),
    Mutant(
        name="stand-in-not-called-off",
        file="channel/sleepers.py",
        before="self.standing_in.pop().call_off()\n            self.sleeping -= 1\n"
        "            self.coming += 1\n\n",
        after="self.standing_in.pop()\n            self.sleeping -= 1\n"
        "            self.coming += 1\n\n",
        breaks="a worker that reads a socket is not called to ticks of another feed",
        tests=(
            "tests/channel/test_channel.py",
            "tests/feeds/test_stand_in_frames.py",
            "tests/feeds/test_socket_watch.py",
        ),
    ),
    # Losses
    Mutant(
        name="attention-not-set-by-a-lane",
        file="channel/losses.py",
        before="""        if self.lanes.ready:
            self.attention = True""",
        after="""        if self.lanes.ready:
            pass""",
        breaks="a sprint goes on while ticks that are older wait in a lane",
        tests=("tests/channel/test_lane_eviction.py", "tests/workers/test_order.py"),
    ),
    Mutant(
        name="attention-not-set-by-a-loss",
        file="channel/losses.py",
        before="""        needed = books and self.books.lost(items, at_head=at_head)
        self.refresh_attention()""",
        after="        needed = books and self.books.lost(items, at_head=at_head)",
        breaks="the gap of a dropped tick is told too late, or a wrong book is used",
        tests=(
            "tests/channel/test_gaps.py",
            "tests/channel/test_gap_order.py",
            "tests/channel/test_book_hold.py",
        ),
    ),
    _gaps(
        name="older-gap-forgotten",
        file="channel/losses.py",
        before="            gaps[gap.symbol] = known.joined(gap)",
        after="            gaps[gap.symbol] = gap",
        breaks="of two losses in a row the strategy is told of the last alone",
    ),
    _gaps(
        name="gap-of-a-displaced-tick-lost",
        file="channel/losses.py",
        before="gap = gap if before is None else before.joined(gap)",
        after="pass",
        breaks="with a displaced tick the loss before it is forgotten",
    ),
    Mutant(
        name="held-book-let-in",
        file="channel/book_hold.py",
        before="                if not update.snapshot:\n                    held.append(item)",
        after="                if update.snapshot:\n                    held.append(item)",
        breaks="updates behind a loss are applied to a wrong book, and its snapshot is dropped",
        tests=("tests/channel/test_book_hold.py", "tests/pipeline/test_book_snapshots.py"),
    ),
    Mutant(
        name="given-back-not-counted",
        file="channel/drops.py",
        before="            self._ledger.given_back += len(items)\n            return",
        after="            return",
        breaks="ticks that go back to a broker at a shutdown are in no count",
        tests=("tests/pipeline/test_buffer_ends.py", "tests/pipeline/test_buffer_halves.py"),
    ),
    Mutant(
        name="fresh-is-stale",
        file="channel/freshness.py",
        before="now - arrived > self._limit",
        after="now - arrived < self._limit",
        breaks="fresh ticks are dropped as stale, and old ones handled",
        tests=(
            "tests/channel/test_channel_strategies.py",
            "tests/channel/test_gaps.py",
            "tests/channel/test_freshness.py",
        ),
    ),
)
