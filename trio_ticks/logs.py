"""How the library writes to the log: events with facts, few lines, and no secret.

Rules:

- Every line goes through :func:`log_event`. It begins with its event: a word for the
  subject and a word for what happened (``ticks.dropped``). Its facts are fields of the
  record.
- A line whose facts need a sentence has one: ``pressure.warn: 500 of 1000 ticks
  queued``. Any other line shows its facts as they are: ``feed.connected url=wss://x
  reconnects=1``.
- Code that may log many times a second asks a :class:`LogLimit` first. The kinds of a
  limit are few and written in the code: a text from outside (a symbol, an address) is
  no kind, or the limit would grow without bound.
- Text that comes from outside passes a :class:`Redactor`. Nothing here knows trio.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, final
from urllib.parse import quote, quote_plus

__all__ = ["LogLimit", "Redactor", "log_event"]


@final
class LogLimit:
    """Says when a line is due: at most one in *interval_s* for each kind.

    Args:
        clock: seconds that only go forward: ``trio.current_time``, or a
            :class:`~trio_ticks.clock.Clock`'s ``now`` where threads ask too.
        interval_s: seconds from one line of a kind to the next; 1 unless given.
    """

    __slots__ = ("_clock", "_interval_s", "_next", "_silent")

    interval_s: Final = 1.0

    def __init__(self, clock: Callable[[], float], interval_s: float | None = None) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._next: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def due(self, kind: str, count: int = 1) -> int:
        """Count *count* more of *kind*; return whether a line about them is due now.

        Returns:
            How many events the line stands for, including those without a line; 0: no
            line is due yet.
        """
        now = self._clock()
        total = self._silent.pop(kind, 0) + count
        if now < self._next.get(kind, now):
            self._silent[kind] = total
            return 0
        self._next[kind] = now + self._wait_s
        return total

    def restart(self) -> None:
        """Forget all lines so far, which a clock may have timed that is gone."""
        self._next.clear()
        self._silent.clear()

    def flush(self, kind: str) -> int:
        """Return how many of *kind* had no line, for the caller to write one."""
        total = self._silent.pop(kind, 0)
        if total:
            self._next[kind] = self._clock() + self._wait_s
        return total

    @property
    def _wait_s(self) -> float:
        return self.interval_s if self._interval_s is None else self._interval_s


EXCERPT_CHARS: Final = 120


_MASK: Final = "***"
_MOST_TOLD: Final = 20
_ESCAPED: Final = re.compile("[&<>]")
_HEX: Final = re.compile("%[0-9A-F]{2}")


def log_event(
    logger: logging.Logger,
    level: int,
    event: str,
    text: str = "",
    /,
    *args: object,
    exc_info: Any = None,
    **facts: object,
) -> None:
    """Log *event* with its facts.

    A filter or a handler of the application's that raises loses the line, and no more.

    Args:
        logger: of the part of the library that logs.
        level: as :mod:`logging` has it.
        event: two words with a dot between them.
        text: a sentence with the facts, filled in with *args*. Without it the message
            shows the facts as ``key=value``.
        args: the values for the sentence, by the rules of ``%``.
        exc_info: an exception whose traceback is logged, too; True: the current one.
        facts: fields of the record, beside ``event``, which is always one.
    """
    if not logger.isEnabledFor(level):
        return
    if text:
        message = event + ": " + text
    else:
        message = "%s"
        args = (" ".join([event, *(f"{key}={value}" for key, value in facts.items())]),)
    # stacklevel: the record names the caller's line, not this one.
    extra = {"event": event, **facts}
    try:
        logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=2)
    except Exception as error:
        message % args  # If this raises, the mistake is ours.
        _tell_of_broken_log(event, error)


_told_of: set[type[Exception]] = set()


def _tell_of_broken_log(event: str, error: Exception) -> None:
    """Write *error* of the application's log to standard error, once for each class.

    A filter or a handler that raises must not end the pipeline that has something to
    say. ``logging.raiseExceptions`` rules this as it rules what logging itself writes.
    """
    if type(error) in _told_of or len(_told_of) >= _MOST_TOLD or not logging.raiseExceptions:
        return
    _told_of.add(type(error))
    with suppress(Exception):
        print(f"--- Logging error: the line of {event} was lost ---", file=sys.stderr)  # noqa: T201
        traceback.print_exception(error, file=sys.stderr)


def _as_go_writes(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _forms_of(secrets: Iterable[str]) -> frozenset[str]:
    """Return each of *secrets* as it is, as JSON writes it and as a URL writes it.

    JSON may escape more than it must: PHP does so with ``/``, Go with ``&``, ``<`` and
    ``>``; and the hexadecimal digits of a URL may be small letters.
    """
    forms: set[str] = set()
    for secret in secrets:
        as_json = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
        in_url = quote(secret, safe=""), quote_plus(secret)
        forms |= {secret, *as_json, *in_url}
        forms |= {form.replace("/", r"\/") for form in as_json}
        forms |= {_ESCAPED.sub(_as_go_writes, form) for form in as_json}
        forms |= {_HEX.sub(lambda match: match[0].lower(), form) for form in in_url}
    forms.discard("")
    return frozenset(forms)


@final
class Redactor:
    """Takes secrets out of text from outside; a venue may repeat the key it refuses.

    A secret is found as it is, as JSON writes it and as a URL writes it. It is not
    found if the venue has transformed it in another way.
    """

    __slots__ = ("_always", "_forms", "_learnt")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._always = _forms_of(secrets)
        self._learnt: OrderedDict[frozenset[str], None] = OrderedDict()
        """The groups of secrets learnt later, the last one last."""
        self._arrange()

    def learn(self, secrets: Iterable[str], *, most: int = 16) -> None:
        """Take out *secrets*, too, for as long as they are among the last.

        Args:
            secrets: a group that came together, such as those of one log-in.
            most: how many groups are kept; those learnt first are forgotten.
        """
        group = _forms_of(secrets)
        self._learnt[group] = None
        self._learnt.move_to_end(group)
        while len(self._learnt) > most:
            self._learnt.popitem(last=False)
        self._arrange()

    def _arrange(self) -> None:
        # The longest first: else a secret inside another would leave the rest of that
        # one.
        forms = self._always.union(*self._learnt)
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def text(self, text: str) -> str:
        """Return *text* without the secrets."""
        for form in self._forms:
            text = text.replace(form, _MASK)
        return text

    def excerpt(self, payload: bytes | str) -> str:
        """Return the beginning of *payload* without the secrets, on one line.

        It is printable ASCII of at most 120 characters.
        """
        if isinstance(payload, bytes):
            payload = payload.decode("utf-8", "backslashreplace")
        # Take the secrets out before cutting, or half of one might remain at the end.
        shown = ascii(self.text(payload))[1:-1]
        return shown if len(shown) <= EXCERPT_CHARS else shown[: EXCERPT_CHARS - 3] + "..."

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"
