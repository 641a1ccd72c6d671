"""The last failure and what does not return: labels from bounded sets, whatever comes.

An exception's class may be made anew at each failure, and a symbol is whatever a venue
sent. So only the first of them have labels of their own.
"""

from __future__ import annotations

from typing import Final, final

from ..metrics.snapshots import LastFailure, Overdue
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
        self._overdue: set[str] = set()

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

    def read_overdue(self, sink: Sink, overdue: Overdue | None) -> None:
        """Pass to *sink* which handlers do not return; ``None``: all do."""
        text = (
            "Workers whose handler has not returned for a second at least, and for three times "
            "as long as the slowest handling of the last minute; or whose on_error has not for 5 s."
        )
        sink.gauge("handler_overdue_workers", text, 0 if overdue is None else overdue.workers)
        text = (
            "For how long the first of these handlers has not returned, by its tick's symbol; "
            f"beyond {MOST_FAILURES} symbols it is other. Absent while all return."
        )
        name = "handler_overdue_seconds"
        if overdue is None:
            sink.gauge(name, text, None)
            return
        symbol = shown(overdue.symbol)
        if symbol in self._overdue or len(self._overdue) < MOST_FAILURES:
            self._overdue.add(symbol)
        else:
            symbol = _OTHER
        sink.gauge(name, text, overdue.for_s, symbol=symbol)
