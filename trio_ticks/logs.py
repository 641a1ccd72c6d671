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
- Text that comes from outside passes a :class:`Redactor`, where it may hold a secret,
  and :func:`one_line`, whatever it is: :func:`log_event` sees to the second.
- Nothing here knows trio.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, final

__all__ = ["Lines", "LogLimit", "Redactor", "each_event_once", "log_event", "one_line"]


def one_line(text: str, most: int | None = None) -> str:
    r"""Return *text* with line ends, control characters and the like escaped.

    So it can neither pose as a second line nor send a command to a terminal: all that
    ``str.isprintable`` does not call printable is escaped as Python writes it
    (``\x1b``, ``\u2028``). Two texts may be the same afterwards: a backslash stays as
    it is.

    Args:
        text: of any origin.
        most: the most characters that are returned; a longer text is cut.
    """
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in (text if most is None else text[: most + 1])
        )
    return text if most is None or len(text) <= most else text[: most - 3] + "..."


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
_EXCERPT_READ: Final = 4096
"""How much of a payload is searched for secrets, before it is cut to an excerpt."""

_MASK: Final = "***"
_MOST_TOLD: Final = 20


@final
class Lines(str):
    """A text of several lines that are ours, such as a stack, for a log line.

    The log keeps its line ends. Each line is escaped and indented, so that none of them
    can pose as a record.
    """

    __slots__ = ()

    def shown(self) -> Lines:
        """Return the lines as a log may show them."""
        lines = (one_line(line) for line in self.rstrip("\n").split("\n"))
        return Lines("\n".join(line if line.startswith("  ") else f"  {line}" for line in lines))


class _Shown:
    """A value of a log line, written without line ends and control characters."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))


def _shown(value: object) -> object:
    if isinstance(value, Lines):
        return value.shown()
    if isinstance(value, str):
        return one_line(value)
    # Numbers stay what they are, for %d and %.3f.
    return value if value is None or hasattr(value, "__float__") else _Shown(value)


_logged: Final[ContextVar[set[str] | None]] = ContextVar("trio_ticks.logged", default=None)
"""The events that this context has logged, where each is to be logged once."""


@contextmanager
def each_event_once() -> Iterator[None]:
    """Log each kind of event once in the block, and in all that it starts.

    A replay on a virtual clock goes through hours in seconds. The limits of its lines
    are by its own clock, so there would be a line for each second of it.
    """
    token = _logged.set(set())
    try:
        yield
    finally:
        _logged.reset(token)


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
    Whatever the values hold, the message is one line without control characters, and so
    are facts that are texts; :class:`Lines` keep their line ends.

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
    logged = _logged.get()
    if logged is not None:
        if event in logged:
            return
        logged.add(event)
    if text:
        message, args = event + ": " + text, tuple(map(_shown, args))
    else:
        message = "%s"
        args = (one_line(" ".join([event, *(f"{key}={value}" for key, value in facts.items())])),)
    # stacklevel: the record names the caller's line, not this one.
    extra = {
        "event": event,
        **{key: one_line(fact) if isinstance(fact, str) else fact for key, fact in facts.items()},
    }
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


_ESCAPE: Final = r"\\{1,4}"
_SHORT_ESCAPES: Final = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_ESCAPED: Final = frozenset("\"\\/'") | _SHORT_ESCAPES.keys()


def _spellings(char: str) -> str:
    r"""Return a pattern for *char*: as it is, and as JSON and URLs may write it.

    JSON may write any character as ``\uXXXX``, and some with a backslash alone. A text
    that is JSON inside JSON has more backslashes: up to four, so that a long row of
    them takes no long search.
    """
    units = char.encode("utf-16-be", "surrogatepass")
    unicode = "".join(rf"{_ESCAPE}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    percent = "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
    forms = [f"(?i:{unicode}|{percent})"]
    if char == "\\":
        forms.append(_ESCAPE)
    elif char in "\"/'":
        forms.append(r"\\{0,4}" + char)
    else:
        forms.append(re.escape(char))
    if char in _SHORT_ESCAPES:
        forms.append(_ESCAPE + _SHORT_ESCAPES[char])
    if char == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


def _signs(secret: str) -> set[bytes]:
    r"""Return pieces of bytes of which one is in any spelling of *secret*.

    It is spelt as it is, or with a ``\u`` or a ``%`` in it, or with a backslash before
    a character that JSON may write so.
    """
    plain = secret.encode("utf-8", "surrogatepass")
    signs = {plain, plain.replace(b" ", b"+"), b"\\u", b"%"}
    if not _ESCAPED.isdisjoint(secret):
        signs.add(b"\\")
    return signs


def _pattern(secret: str) -> str:
    """Return a pattern for *secret*; a very short one is found only by itself.

    Every text has an ``a`` in it somewhere: masked everywhere, a key of one letter
    would make the log unreadable, and would be known from the holes.
    """
    spelt = "".join(map(_spellings, secret))
    if len(secret) >= _MASKED_ANYWHERE:
        return spelt
    if len(secret) >= _MASKED_AS_WORD:
        return rf"(?<!\w){spelt}(?!\w)"
    # Only as a whole value: quoted, after "=", or at the end of a line after ": ".
    return rf"""(?:(?:(?<=["'=])|\A){spelt}(?=["'&,;)}}\]\s]|\Z)|(?<=[:=]\ ){spelt}(?=\s*\Z))"""


_MASKED_ANYWHERE: Final = 4
"""Secrets of so many characters are masked wherever they stand."""
_MASKED_AS_WORD: Final = 3
"""Secrets of so many characters are masked where they are a word of their own."""


@final
class Redactor:
    r"""Takes secrets out of text from outside; a venue may repeat the key it refuses.

    A secret is found as it is, in every way in which JSON may write it (``\u0041``,
    ``\/``), and as a URL writes it. It is not found if the venue has transformed it in
    another way. Secrets of less than four characters are found only where they are a
    word, those of one or two only where they are a whole value, as in ``key=x``.
    """

    __slots__ = ("_always", "_learnt", "_longest", "_search", "_secrets", "_signs")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._always = frozenset(secrets)
        self._learnt: OrderedDict[frozenset[str], None] = OrderedDict()
        """The groups of secrets learnt later, the last one last."""
        self._arrange()

    def learn(self, secrets: Iterable[str], *, most: int = 16) -> None:
        """Take out *secrets*, too, for as long as they are among the last.

        Args:
            secrets: a group that came together, such as those of one log-in.
            most: how many groups are kept; those learnt first are forgotten.
        """
        group = frozenset(secrets)
        self._learnt[group] = None
        self._learnt.move_to_end(group)
        while len(self._learnt) > most:
            self._learnt.popitem(last=False)
        self._arrange()

    def _arrange(self) -> None:
        # The longest first: else a secret inside another would leave the rest of that
        # one.
        secrets = self._always.union(*self._learnt) - {""}
        self._secrets = len(secrets)
        self._longest = max(map(len, secrets), default=0)
        ordered = sorted(secrets, key=lambda secret: (-len(secret), secret))
        self._search = re.compile("|".join(map(_pattern, ordered))) if ordered else None
        self._signs = frozenset(sign for secret in secrets for sign in _signs(secret))

    def text(self, text: str) -> str:
        """Return *text* without the secrets."""
        return text if self._search is None else self._search.sub(_MASK, text)

    def may_be_in(self, data: bytes) -> bool:
        """Tell quickly whether a secret may be in *data*; False is certain."""
        return any(sign in data for sign in self._signs)

    def payload(self, payload: bytes) -> bytes:
        """Return *payload* without the secrets; it need not be text."""
        if self._search is None or not self.may_be_in(payload):
            return payload
        text = payload.decode("utf-8", "surrogateescape")
        return self._search.sub(_MASK, text).encode("utf-8", "surrogateescape")

    def excerpt(self, payload: bytes | str) -> str:
        """Return the beginning of *payload* without the secrets, on one line.

        It is printable ASCII of at most 120 characters.
        """
        # A character of a secret may take 12 bytes: two units of UTF-16, written out.
        # And a character that is cut is shown by its bytes.
        margin = 12 * self._longest + 16 if self._longest else 0
        read = payload[: _EXCERPT_READ + margin]
        if isinstance(read, bytes):
            read = read.decode("utf-8", "backslashreplace")
        # Take the secrets out before cutting, or half of one might remain at the end.
        shown = self.text(read)
        if margin and len(payload) > _EXCERPT_READ + margin:
            shown = shown[:-margin]
        shown = ascii(shown)[1:-1]
        return shown if len(shown) <= EXCERPT_CHARS else shown[: EXCERPT_CHARS - 3] + "..."

    def __repr__(self) -> str:
        return f"<Redactor of {self._secrets} secrets>"
