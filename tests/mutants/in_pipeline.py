"""Deliberate bugs in the pipeline's phases and in the controllers."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_phases = partial(
    Mutant,
    file="pipeline/phases.py",
    tests=("tests/pipeline/test_shutdown.py", "tests/pipeline/test_pipeline.py"),
)

MUTANTS: Final = (
    _phases(
        name="channel-not-closed-behind-the-feed",
        before="            if left := self._close_channel():",
        after="            if left := 0:",
        breaks="after the feed's end the workers wait for ticks that cannot come",
    ),
    _phases(
        name="shutdown-drops-what-waits",
        before="""            self.parts.begin_draining()
            self._feed_scope.cancel()""",
        after="            self._feed_scope.cancel()",
        breaks="what waits for room when a graceful shutdown begins is dropped",
    ),
    _phases(
        name="shutdown-without-an-end",
        before="""            await trio.sleep(self._shutdown_timeout)
        self._work_scope.cancel()""",
        after="            await trio.sleep(self._shutdown_timeout)",
        breaks="a handler that hangs keeps a pipeline from ending",
    ),
    _phases(
        name="slow-feed-holds-the-shutdown",
        before="            with trio.move_on_after(_FEED_STOP_S):\n",
        after="            with trio.move_on_after(1000 * _FEED_STOP_S):\n",
        breaks="a feed that is slow to stop holds up the shutdown",
    ),
    _phases(
        name="second-failure-in-place-of-the-first",
        before="        if self.failure is None:\n            self.failure = error",
        after="        if self.failure is None or error:\n            self.failure = error",
        breaks="the error that the user sees is not the one that ended the pipeline",
    ),
    Mutant(
        name="paused-pipeline-stays-paused",
        file="pipeline/phases.py",
        before="        self._paused = None\n        self.parts.hold(False)",
        after="        self._paused = None",
        breaks="a paused pipeline that shuts down drops what is queued",
        tests=("tests/pipeline/test_steering.py",),
    ),
    Mutant(
        name="clones-left-open",
        file="pipeline/parts.py",
        before="        for clone in clones:\n            clone.close()\n",
        after="",
        breaks="a feed that ends with a clone open leaves the pipeline waiting for ever",
        tests=("tests/pipeline/test_clones_left_open.py",),
    ),
    Mutant(
        name="gathered-ticks-in-no-count",
        file="pipeline/sink_end.py",
        before="        self._gathered = stretch\n        idle = 0",
        after="        idle = 0",
        breaks="what a sink gathers is in no count, and lost if it is cancelled",
        tests=("tests/pipeline/test_buffer_ends.py", "tests/pipeline/test_buffer_halves.py"),
    ),
    Mutant(
        name="ticks-on-their-way-finished",
        file="pipeline/source_feed.py",
        before="            found += bringing.rest()\n",
        after="            pass\n",
        breaks="ticks that wait for their turn are acknowledged before they are handled",
        tests=(
            "tests/pipeline/test_buffer_ends.py",
            "tests/pipeline/test_buffer_halves.py",
            "tests/pipeline/test_seeded_halves.py",
            "tests/brokers/test_check_buffer.py",
        ),
    ),
    Mutant(
        name="withdrawn-on-the-way-still-brought",
        file="channel/stretches.py",
        before="            self._items = [self._items[place] for place in kept]\n",
        after="",
        breaks="ticks of a lost shard are handled here and by the shard's new holder",
        tests=(
            "tests/channel/test_stretches.py",
            "tests/pipeline/test_buffer_ends.py",
            "tests/pipeline/test_buffer_halves.py",
        ),
    ),
    Mutant(
        name="gap-of-a-stretch-lost",
        file="channel/stretches.py",
        before="                stretch.gaps.append((len(items), gap))",
        after="                pass",
        breaks="a loss before the broker is not told behind it",
        tests=("tests/channel/test_stretches.py", "tests/pipeline/test_buffer_halves.py"),
    ),
    Mutant(
        name="error-lost-at-a-deadline",
        file="pipeline/block_errors.py",
        before="        raise_first([each for each in errors if each is not None])",
        after="""        if cancelled is None:
            raise_first([each for each in errors if each is not None])""",
        breaks="a deadline that passes while a pipeline winds down takes an error along",
        tests=("tests/pipeline/test_pipeline.py",),
    ),
    Mutant(
        name="sink-interrupted-in-a-step",
        file="pipeline/sink_end.py",
        before="@final\n@uninterrupted\n",
        after="@final\n",
        breaks="Ctrl-C in a buffer of a user's own leaves ticks that are in no count",
        tests=("tests/pipeline/test_ctrl_c_anywhere.py",),
    ),
    Mutant(
        name="steps-without-a-mark",
        file="uninterrupted.py",
        before="            trio.lowlevel.enable_ki_protection(function)",
        after="            pass",
        breaks="Ctrl-C in a step leaves half of it, and a ledger that is wrong for good",
        tests=("tests/pipeline/test_ctrl_c_anywhere.py",),
    ),
    Mutant(
        name="users-code-closed-to-interrupts",
        file="uninterrupted.py",
        before="        trio.lowlevel.disable_ki_protection(found)",
        after="        pass",
        breaks="a handler that never returns cannot be interrupted",
        tests=("tests/pipeline/test_ctrl_c_anywhere.py",),
    ),
    Mutant(
        name="calls-in-the-midst-of-a-step",
        file="loop.py",
        before=" and not _is_within_step()",
        after="",
        breaks="a signal handler that resizes starts a worker twice, or breaks the ledger",
        tests=("tests/pipeline/test_calls_from_threads.py",),
    ),
    Mutant(
        name="busy-loop-never-shares",
        file="metrics/loop_share.py",
        before="            self.every_s = self._sleep()",
        after="            self.every_s = _SELDOM_S",
        breaks="beside a loop that is never idle no thread gets the interpreter",
        tests=("tests/metrics/test_loop_share.py",),
    ),
    # Controllers
    Mutant(
        name="pressure-never-falls",
        file="control/pressure.py",
        before='if self._state == "shed" and queued > self._full_at * 3 // 4:',
        after='if self._state == "shed" and queued < self._full_at * 3 // 4:',
        breaks="the pressure stays at shed when the queue has drained",
        tests=("tests/control/test_pressure.py",),
    ),
    Mutant(
        name="pressure-rings-no-bell",
        file="control/pressure.py",
        before="        event.set()\n        self._log(new, old, queued, behind)",
        after="        self._log(new, old, queued, behind)",
        breaks="who waits for the pressure to fall waits for ever",
        tests=("tests/control/test_pressure.py",),
    ),
    Mutant(
        name="throttle-request-not-repeated",
        file="control/throttle_task.py",
        before="        elif now < self._repeat_at:\n            return",
        after="        else:\n            return",
        breaks="a limit whose lifting got lost leaves the feed slow for ever",
        tests=("tests/control/test_throttle.py",),
    ),
    Mutant(
        name="waiting-ticks-press-not",
        file="control/throttle_task.py",
        before="channel.used + numbers.waiting_for_room",
        after="channel.used",
        breaks="a feed is not slowed down though its ticks wait for room",
        tests=("tests/control/test_throttle_parked.py", "tests/control/test_throttle.py"),
    ),
    Mutant(
        name="pool-never-shrinks",
        file="control/scaling.py",
        before="elif aim < size and now - self._changed_at >= self._hold_s:",
        after="elif aim < size and now - self._changed_at < self._hold_s:",
        breaks="workers that are not needed stay, and needed ones go",
        tests=("tests/control/test_scaling.py",),
    ),
    Mutant(
        name="late-backlog-not-seen",
        file="control/scaling.py",
        before="            saturated = True\n",
        after="            saturated = False\n",
        breaks="a burst finds too few workers, and drops ticks",
        tests=("tests/control/test_scaling.py", "tests/control/test_scaling_pool.py"),
    ),
)
