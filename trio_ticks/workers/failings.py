"""What failed last, for those who look at the pipeline.

Rules: noting a failure costs next to nothing, however many there are: words and times
are made when somebody asks.
"""

from __future__ import annotations

from typing import Any, final

from ..clock import Clock
from ..errors import RemoteHandlerError
from ..metrics.snapshots import LastFailure

__all__ = ["Failings"]


@final
class Failings:
    """The last failure of one pool.

    Args:
        clock: the pipeline's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: tuple[str, str, float] | None = None

    def note(self, item: Any, error: BaseException) -> None:
        """Note that *item* failed by *error*, now. The error itself is not kept."""
        name = error.kind if isinstance(error, RemoteHandlerError) else type(error).__name__
        self._last = name, item.symbol, self._clock.now()

    @property
    def last(self) -> LastFailure | None:
        """The last failure; ``None`` before the first."""
        if self._last is None:
            return None
        name, symbol, at = self._last
        return LastFailure(error=name, symbol=symbol, at=self._clock.utc_at(at))
