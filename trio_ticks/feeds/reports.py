"""What feeds say in the log: events with facts, bad messages at most once a second, and never a secret.

Rules: no trio here; whatever came from outside passes a :class:`Redactor` before it is logged or put into an error.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, final
from urllib.parse import quote, quote_plus

__all__ = ["BadMessages", "Redactor", "log_event"]

EXCERPT_CHARS: Final = 120
_MASK: Final = "***"


def log_event(logger: logging.Logger, level: int, event: str, **facts: object) -> None:
    """Log *event* with its facts, as ``key=value`` in the message and as attributes of the record."""
    if logger.isEnabledFor(level):
        text = " ".join([event, *(f"{key}={value}" for key, value in facts.items())])
        logger.log(level, "%s", text, extra={"event": event, **facts})


@final
class Redactor:
    """Takes secrets out of text that came from outside: a venue may repeat the key that it refuses.

    A secret is found as it is, as JSON writes it and as a URL writes it; not when the venue has transformed it in other ways.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            forms |= {
                secret,
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
                quote(secret, safe=""),
                quote_plus(secret),
            }
        forms.discard("")
        # The longest first, so that a secret inside another one leaves no remains of it.
        self._secrets = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def text(self, text: str) -> str:
        """Return *text* without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def excerpt(self, payload: bytes | str) -> str:
        """Return the beginning of *payload*, printable ASCII on one line, at most 120 characters, without the secrets."""
        if isinstance(payload, bytes):
            payload = payload.decode("utf-8", "backslashreplace")
        # The secrets go first: cutting first could leave the better half of one.
        shown = ascii(self.text(payload))[1:-1]
        return shown if len(shown) <= EXCERPT_CHARS else shown[: EXCERPT_CHARS - 3] + "..."

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._secrets)} forms>"


@final
class BadMessages:
    """Warns about malformed messages, at most once a second, each time with how many there were since.

    Args:
        logger: where the warnings go.
        redactor: takes the secrets out of the excerpts.
        clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_excerpt", "_logger", "_next", "_reason", "_redactor", "_unreported")

    interval_s: Final = 1.0

    def __init__(self, logger: logging.Logger, redactor: Redactor | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._redactor = redactor or Redactor()
        self._clock = clock
        self._next = float("-inf")
        self._unreported = 0
        self._excerpt = self._reason = ""

    def note(self, payload: bytes, reason: str) -> None:
        """Take notice of one bad message; the first of a second is reported at once, the others with the next report."""
        self._unreported += 1
        due = self._clock() >= self._next
        if due or self._unreported == 1:
            self._reason, self._excerpt = self._redactor.text(reason), self._redactor.excerpt(payload)
        if due:
            self.flush()

    def flush(self) -> None:
        """Report what has not been reported yet; call it when no more messages will come."""
        if not self._unreported:
            return
        count, self._unreported = self._unreported, 0
        self._next = self._clock() + self.interval_s
        log_event(self._logger, logging.WARNING, "feed.malformed", count=count, reason=self._reason, excerpt=self._excerpt)
