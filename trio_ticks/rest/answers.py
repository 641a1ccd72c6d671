"""What an answer over HTTP means, and when the request is sent again.

Rules: sans-I/O; the caller brings the time and does the waiting. Nothing here shows a
text of the venue before a :class:`~trio_ticks.logs.Redactor` has seen it. A venue that
asks for a wait is never asked again sooner.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Literal, final

import attrs

from ..errors import FeedAuthError, RestError, TickError, UnknownSymbolError
from ..feeds.websocket.backoff import Backoff
from ..feeds.websocket.connect import is_permanent, shown_status

__all__ = ["Failure", "Inflater", "Judge", "TooLargeError", "judge_status", "next_wait"]

_BANNED: Final = 418
"""Binance's answer to a client that went on in spite of 429."""
_UNAUTHORIZED: Final = frozenset({401, 403})


@final
@attrs.frozen(kw_only=True)
class Failure:
    """Why a request has no answer that can be used."""

    reason: str
    """For people; it may hold words of the venue."""
    advice: str = ""
    """What to do about it, in our words."""
    again: bool
    """Whether the same request may succeed later."""
    status: int | None = None
    """The HTTP status; ``None``: no answer came."""
    code: str | None = None
    """The venue's own code, as text."""
    kind: Literal["auth", "symbol", "other"] = "other"
    """Which class of error it becomes."""
    types: tuple[str, ...] = ()
    """The kinds of instrument that an ambiguous symbol may mean."""
    retry_after_s: float | None = None
    """How long the venue asks to wait, in seconds."""

    def to_error(self, message: str, url: str, attempts: int) -> TickError:
        """Return the error that the caller of the client gets."""
        if self.kind == "auth":
            return FeedAuthError(message, url=url, status=self.status, attempts=attempts)
        kind = UnknownSymbolError if self.kind == "symbol" else RestError
        error = kind(
            message,
            url=url,
            status=self.status,
            code=self.code,
            permanent=not self.again,
            retry_after_s=self.retry_after_s,
            attempts=attempts,
        )
        if isinstance(error, UnknownSymbolError):
            error.types = self.types
        return error


Judge = Callable[[int, bytes], Failure | None]
"""Reads a venue's errors: from the HTTP status and the body, what has failed.

``None``: nothing. It is asked about each answer, since some venues report errors with
status 200. What it raises because of the body counts as an answer that makes no sense.
"""


def judge_status(status: int, _body: bytes = b"") -> Failure | None:
    """Judge an answer by its HTTP status alone."""
    if 200 <= status < 300:
        return None
    return Failure(
        reason=f"it answered {shown_status(status)}",
        status=status,
        again=status == _BANNED or not is_permanent(status),
        kind="auth" if status in _UNAUTHORIZED else "other",
    )


def next_wait(
    failure: Failure, attempts: int, tries: int, backoff: Backoff, longest_s: float
) -> float | None:
    """Return the seconds before the request is sent again; ``None``: it is not.

    It is not sent again if that cannot help, if it was sent often enough, or if the
    venue asks for too long a wait. Who is banned, and not told for how long, does not
    ask again either.

    Args:
        failure: of the last attempt.
        attempts: how many there were.
        tries: how many there may be.
        backoff: the schedule of the waits for this request.
        longest_s: the longest wait that the venue may ask for, in seconds.
    """
    if not failure.again or attempts >= tries:
        return None
    asked_s = failure.retry_after_s
    if asked_s is None:
        return None if failure.status == _BANNED else backoff.next_delay()
    return backoff.next_delay(asked_s) if asked_s <= longest_s else None


class TooLargeError(Exception):
    """A body is larger than it may be."""


@final
class Inflater:
    """Puts together the body of an answer, whose size is bounded.

    Args:
        encoding: the header ``Content-Encoding``: ``gzip``, or nothing.
        max_bytes: how large the body may be, after it was inflated.
    """

    __slots__ = ("_begun", "_body", "_inflate", "_max_bytes")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._begun = False
        # 32 + 15: a header of gzip or zlib, whichever it is, and the largest window.
        packed = encoding.strip().lower() in ("gzip", "x-gzip", "deflate")
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS) if packed else None

    def add(self, data: bytes) -> None:
        """Take in more of the body, as it came.

        Raises:
            TooLargeError: the body is too large.
            zlib.error: it cannot be inflated.
        """
        self._begun = self._begun or bool(data)
        if self._inflate is not None:
            # A few bytes may inflate to gigabytes, so never inflate beyond the limit.
            room = self._max_bytes - len(self._body) + 1
            data = self._inflate.decompress(data, room)
        if len(self._body) + len(data) > self._max_bytes:
            raise TooLargeError
        self._body += data

    def body(self) -> bytes:
        """Return the whole body.

        Raises:
            zlib.error: its end is missing.
        """
        if self._inflate is not None and self._begun and not self._inflate.eof:
            raise zlib.error("the end is missing")
        return bytes(self._body)
