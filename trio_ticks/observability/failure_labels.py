"""The labels of the last failure: from bounded sets, whatever handlers raise.

An exception's class may be made anew at each failure, and a symbol is whatever a venue
sent. So only the first of them have labels of their own.
"""

from __future__ import annotations

from typing import Final, final

from ..metrics.snapshots import LastFailure
from .shown import shown
from .sink import Sink

__all__ = ["MOST_FAILURES", "FailureLabels"]

MOST_FAILURES: Final = 20
"""How many pairs of exception and symbol have labels of their own; as many exceptions
have one with the symbol ``other``."""
_OTHER: Final = "other"


@final
class FailureLabels:
    """Remembers which labels one pipeline's failures have had."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self._errors: set[str] = set()

    def of(self, failure: LastFailure) -> dict[str, str]:
        """Return the labels of *failure*."""
        error, symbol = shown(failure.error), shown(failure.symbol)
        pair = error, symbol
        if pair in self._pairs or len(self._pairs) < MOST_FAILURES:
            self._pairs.add(pair)
        else:
            symbol = _OTHER
            if error not in self._errors and len(self._errors) >= MOST_FAILURES:
                error = _OTHER
            self._errors.add(error)
        return {"error": error, "symbol": symbol}

    def read(self, sink: Sink, last: LastFailure | None) -> None:
        """Pass the time of the *last* failure to *sink*."""
        text = (
            "When the handler raised last, in seconds since the epoch, by the exception's "
            f"class and the tick's symbol; beyond {MOST_FAILURES} pairs they are other. "
            "Absent before the first failure."
        )
        name = "handler_last_failure_timestamp_seconds"
        if last is None:
            sink.gauge(name, text, None)
        else:
            sink.gauge(name, text, last.at.timestamp(), **self.of(last))
