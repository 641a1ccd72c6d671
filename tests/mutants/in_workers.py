"""Deliberate bugs in the workers and around the user's handler."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_loop = partial(
    Mutant,
    file="workers/loop_work.py",
    tests=(
        "tests/workers/test_room.py",
        "tests/channel/test_gap_order.py",
        "tests/workers/test_order.py",
        "tests/workers/test_workers.py",
        "tests/workers/test_seeded_runs.py::test_in_the_loop",
    ),
)
_batches = partial(
    Mutant,
    file="workers/batch_work.py",
    tests=(
        "tests/workers/test_threads.py",
        "tests/workers/test_pool_laws.py",
        "tests/handlers/test_batch_handlers.py",
    ),
)
_leases = partial(_batches, file="workers/leases.py")
_results = partial(Mutant, tests=("tests/workers/test_results.py",))

MUTANTS: Final = (
    # In the event loop
    _loop(
        name="sprint-ignores-lanes",
        before="if lines and item.symbol in lines:",
        after="if lines and item.symbol not in lines:",
        breaks="two ticks of one symbol are handled at once",
    ),
    _loop(
        name="failed-tick-keeps-its-symbol",
        before="""                self._release(item.symbol)
                # If nothing has changed""",
        after="""                # If nothing has changed""",
        breaks="after a failure in a sprint no tick of its symbol is handled any more",
    ),
    _loop(
        name="sprint-goes-on-after-others-took-ticks",
        before="if self._sprinter is not worker or losses.attention or",
        after="if losses.attention or",
        breaks="after a report that waited, ticks of one symbol are handled at once",
    ),
    _loop(
        name="lease-of-a-waiting-handler-not-written",
        before="""            if self._ordered:
                self._state.lanes.lines[sprinter.current.symbol] = None""",
        after="",
        breaks="another worker takes a symbol's next tick while its handler waits",
    ),
    _loop(
        name="sprint-ignores-attention",
        before="""            if losses.attention:
                break
        else:""",
        after="""            if False:
                break
        else:""",
        breaks="a gap that a sprint's own tick made is told too late",
    ),
    _loop(
        name="waiting-ticks-forgotten-in-a-sprint",
        before="""        self._letting_in = False
        self._claim()
        self._taking.move_up()""",
        after="""        self._letting_in = False
        self._claim()""",
        breaks="what waits for room stays outside while a handler waits",
    ),
    Mutant(
        name="ready-lanes-forgotten",
        file="workers/crew.py",
        before="while not (self.state.buffer or self.lanes.ready):",
        after="while not self.state.buffer:",
        breaks="ticks that come back after the last one has come are dropped",
        tests=(
            "tests/workers/test_threads.py",
            "tests/workers/test_order.py",
            "tests/workers/test_seeded_runs.py::test_in_threads",
        ),
    ),
    _loop(
        name="cancelled-tick-counted-as-failed",
        before="    if is_request_to_end(error):\n        return\n    worker.failed += 1",
        after="    worker.failed += 1",
        breaks="a tick that a shutdown cut off counts as failed, and on_error is told",
    ),
    # What workers share
    Mutant(
        name="release-rings-no-bell",
        file="workers/crew.py",
        before="released, self._released = self._released, trio.Event()\n        released.set()",
        after="_released, self._released = self._released, trio.Event()",
        breaks="workers at the channel's end never hear of ticks that come back",
        tests=(
            "tests/workers/test_threads.py",
            "tests/workers/test_workers.py",
            "tests/workers/test_seeded_runs.py::test_in_threads",
        ),
    ),
    Mutant(
        name="chain-of-wake-ups-broken",
        file="workers/crew.py",
        before="""                if other is not worker and other.free:
                    return
            sleepers.wake(1)""",
        after="""                if other is not worker and other.free:
                    return""",
        breaks="one worker handles all while the others sleep",
        tests=("tests/workers/test_workers.py", "tests/workers/test_order.py"),
    ),
    Mutant(
        name="gap-counted-as-a-tick",
        file="workers/crew.py",
        before="            self.state.ledger.delivered -= 1\n",
        after="",
        breaks="each announced gap counts as one more tick",
        tests=("tests/channel/test_gaps.py", "tests/workers/test_gaps_in_every_executor.py"),
    ),
    Mutant(
        name="reported-tick-finished-too-early",
        file="workers/crew.py",
        before="worker.reporting.append(item)\n        try:\n            await call_apart",
        after="try:\n            await call_apart",
        breaks="a broker is told that a tick is finished before its dead letter is written",
        tests=("tests/workers/test_outcomes.py", "tests/pipeline/test_buffer_halves.py"),
    ),
    Mutant(
        name="gate-without-a-bell",
        file="workers/gate.py",
        before="stirred.set()",
        after="del stirred",
        breaks="a paused pool never goes on",
        tests=("tests/pipeline/test_steering.py",),
    ),
    Mutant(
        name="gone-worker's-counts-lost",
        file="workers/roster.py",
        before="        self._consumed += worker.consumed\n",
        after="",
        breaks="what a worker handled that has left is in no count",
        tests=("tests/pipeline/test_steering.py", "tests/workers/test_workers_that_left.py"),
    ),
    Mutant(
        name="ticks-in-flight-vanish",
        file="workers/pool.py",
        before='            self.ledger.in_pool.add("shutdown", lost)\n',
        after="",
        breaks="ticks that a worker held when it was cancelled have no outcome",
        tests=("tests/workers/test_workers.py", "tests/pipeline/test_shutdown.py"),
    ),
    # Threads, batches
    _leases(
        name="called-back-in-reverse",
        before="for item, arrived in reversed(rest):",
        after="for item, arrived in rest:",
        breaks="ticks that come back from a thread are handled in reverse",
    ),
    _leases(
        name="called-back-still-delivered",
        before="state.ledger.delivered -= len(rest)",
        after="state.ledger.delivered -= 0",
        breaks="ticks that come back from a thread are delivered twice",
    ),
    _leases(
        name="called-back-too-many",
        before="if (over := state.used - state.maxsize) > 0:",
        after="if (over := state.used - state.maxsize) > 1000:",
        breaks="with ticks that come back the channel holds more than maxsize",
    ),
    _leases(
        name="stale-batch-keeps-its-symbols",
        before="""            for symbol in symbols:
                losses.release(symbol)
            return None, gaps""",
        after="            return None, gaps",
        breaks="symbols whose ticks were all stale are never handled again",
    ),
    _leases(
        name="settled-batch-keeps-its-symbols",
        before="""        for symbol in batch.symbols:
            self._state.losses.release(symbol)""",
        after="        return",
        breaks="after its first batch a symbol is never handled again",
    ),
    _batches(
        name="failed-also-consumed",
        before="worker.consumed += done - len(failures) - len(old)",
        after="worker.consumed += done - len(old)",
        breaks="a failed tick of a batch counts twice",
    ),
    _leases(
        name="next-tick-before-the-report",
        before="self.put_back(batch, rest, under_way | failed | batch.reporting)",
        after="self.put_back(batch, rest, under_way)",
        breaks="a symbol's next tick begins before its failure was reported",
    ),
    _batches(
        name="failures-of-a-cancelled-batch-not-told",
        before="with trio.CancelScope(shield=True, deadline=deadline):",
        after="with trio.CancelScope(deadline=deadline):",
        breaks="on_error is not told of failures that a shutdown meets",
    ),
    Mutant(
        file="workers/batch_work.py",
        name="held-back-still-in-the-batch",
        before="            batch.items[:] = [item for item, _arrived in rest]\n",
        after="",
        breaks="ticks that the breaker holds back are dropped and handled",
        tests=("tests/handlers/test_breaker.py", "tests/handlers/test_breaker_in_threads.py"),
    ),
    Mutant(
        name="called-back-and-kept",
        file="workers/batch.py",
        before="        del self.items[keep:], self.arrivals[keep:]\n        return list(rest)",
        after="        return list(rest)",
        breaks="ticks that were called back are counted as the thread's as well",
        tests=("tests/workers/test_threads.py", "tests/workers/test_pool_laws.py"),
    ),
    Mutant(
        name="abandoned-thread-goes-on",
        file="workers/runners.py",
        before="            self._left.set()\n            batch.stop()\n",
        after="            self._left.set()\n",
        breaks="a thread of a pipeline that has ended goes on with ticks counted as dropped",
        tests=("tests/workers/test_threads.py",),
    ),
    Mutant(
        name="recalled-worker-counts-as-coming",
        file="workers/threads.py",
        before="            self._is_recalled = False\n            self._sleepers.coming -= 1",
        after="            self._is_recalled = False",
        breaks="no worker is woken any more, since one seems to be on its way",
        tests=("tests/workers/test_lone_ticks_in_threads.py", "tests/workers/test_threads.py"),
    ),
    Mutant(
        name="thread-lingers-without-a-second-look",
        file="workers/threads.py",
        before="        if not self._is_wanted():\n            with suppress(Empty):",
        after="        if True:\n            with suppress(Empty):",
        breaks="a tick that comes while a thread lies down waits until that gets up",
        tests=("tests/workers/test_lone_ticks_in_threads.py",),
    ),
    # Results
    _results(
        name="result-not-written-again",
        file="workers/outlet.py",
        before="                    self._why = repr(error)\n",
        after="                    self._why = repr(error)\n                    break\n",
        breaks="a result is lost when its store is away, and its tick counts as handled",
    ),
    _results(
        name="tick-settled-before-its-result",
        file="workers/batch.py",
        before="return self.done if self.kept is None else min(self.done, self.kept)",
        after="return self.done",
        breaks="a tick counts as handled though its result was never written",
    ),
    # Processes
    Mutant(
        name="crashed-tick-handled-twice",
        file="workers/processes/work.py",
        before="done, begun = process.progress.of(number)",
        after="_done, begun = process.progress.of(number)\n        done = 0",
        breaks="after a crash ticks that were handled are handled again, or failed",
        tests=("tests/workers/test_process_crashes.py", "tests/workers/test_process_laws.py"),
    ),
    Mutant(
        name="crash-loses-the-tick",
        file="workers/processes/work.py",
        before="        batch.failures += [(index, error) for index in range(done, begun)]\n",
        after="",
        breaks="the tick in which a process crashed counts as handled",
        tests=("tests/workers/test_process_crashes.py",),
    ),
    Mutant(
        name="progress-of-the-last-job",
        file="workers/processes/progress.py",
        before="        self.end(0)\n        self.begin(0)\n",
        after="",
        breaks="a process that crashes at once is said to have handled ticks",
        tests=(
            "tests/workers/test_process_sessions.py",
            "tests/workers/test_process_crashes.py",
            "tests/workers/test_process_laws.py",
        ),
    ),
    # Handlers
    Mutant(
        name="one-try-too-many",
        file="handlers/retry.py",
        before="for _ in range(self.attempts - 1):",
        after="for _ in range(self.attempts):",
        breaks="a tick is tried once more than the user allowed",
        tests=("tests/handlers/test_handling.py",),
    ),
    Mutant(
        name="breaker-late",
        file="handlers/breaker.py",
        before="if count + 1 < self._breaker.failures:",
        after="if count + 1 <= self._breaker.failures:",
        breaks="a failing symbol is set aside one failure too late",
        tests=("tests/handlers/test_breaker.py",),
    ),
    Mutant(
        name="breaker-never-well",
        file="handlers/breaker.py",
        before="and self._until.pop(symbol, None) is not None",
        after="and self._until.get(symbol) is not None",
        breaks="a symbol stays set aside though its trial went well",
        tests=("tests/handlers/test_breaker.py",),
    ),
    Mutant(
        name="timed-out-is-well",
        file="handlers/prepared.py",
        before="        if scope.cancelled_caught:\n            raise HandlerTimeoutError(",
        after="        if not scope.cancelled_caught:\n            return value\n"
        "        if scope.cancelled_caught and timeout_s < 0:\n"
        "            raise HandlerTimeoutError(",
        breaks="a tick whose handler was cut off counts as handled",
        tests=("tests/handlers/test_handler_timeout.py",),
    ),
    Mutant(
        name="dead-letters-behind-a-rotation-lost",
        file="handlers/dead_letters.py",
        before="                    written += count\n                if written < len(lines):",
        after="                    written = len(lines)\n                if written < len(lines):",
        breaks="of letters that no longer fit into the file some are never written",
        tests=(
            "tests/handlers/test_dead_letter_rotation.py",
            "tests/handlers/test_dead_letters.py",
        ),
    ),
)
