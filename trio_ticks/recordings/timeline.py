"""The times in a recording: the pipeline's own, which never go back.

The pipeline's wall time is read once, at its start, and goes on by a steady clock. If
the system's wall clock is set, the two disagree from then on: the recording says so in
an event line. A step forward is followed at once; that is also how a machine wakes that
was asleep. A step back is not, since times would go back: they stay ahead of the wall
clock until it has caught up.

Rules: sync; called by the recorder's thread only.
"""

from __future__ import annotations

from typing import Any, Final, final

from ..clock import Clock

__all__ = ["Timeline"]

_STEP_S: Final = 0.1
"""The least difference that is taken for a step, in seconds. A clock that is slewed
makes none, and reading two clocks takes no longer."""


@final
class Timeline:
    """Turns moments of a pipeline's clock into nanoseconds since 1970.

    Args:
        clock: of the pipeline.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_s = 0.0
        """The system's wall clock less the pipeline's, as it was last."""
        self._ahead_ns = 0
        """What is added to the pipeline's wall time, because of steps forward."""

    def ns(self, moment: float) -> int:
        """Return the wall time of *moment* on the pipeline's clock.

        It is read anew each time, since on a virtual clock a replay sets it.
        """
        return round(self._clock.offset_s * 1e9) + round(moment * 1e9) + self._ahead_ns

    def look(self) -> dict[str, Any] | None:
        """Return the facts of a step that the wall clock has made; ``None``: none."""
        step_s = self._clock.step_s()
        change_s = step_s - self._seen_s
        if abs(change_s) < _STEP_S:
            return None
        self._seen_s = step_s
        before, self._ahead_ns = self._ahead_ns, max(self._ahead_ns, round(step_s * 1e9))
        return {"step_s": round(change_s, 6), "followed": self._ahead_ns != before}
