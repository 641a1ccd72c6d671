"""Why a request of a polling feed has failed, and what that means for the next one.

Rules: sans-I/O. What the user's function raises is known by attributes that it may
have, so that any HTTP client's errors are understood: ``status`` or
``response.status_code``, ``retry_after_s`` or the header of ``response``, and
``permanent``. The text of an error may show an address with a key in it; therefore
query strings and user info are cut out, and the error is nobody's cause.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, final

import attrs

from ...checks import is_number, is_whole
from ...errors import ConfigError, RestError
from ...logs import Redactor
from ..raised import auth_error_in, innermost, where_raised
from ..websocket.backoff import parse_retry_after
from ..websocket.connect import is_permanent, shown_status

__all__ = ["PollFailure", "RequestEnded", "failure_of"]

_SECRET_PARTS: Final = re.compile(r"(?<=://)[^/@\s'\"]+@|\?[^\s'\"<>]*=[^\s'\"<>]*")


@final
@attrs.frozen(kw_only=True)
class PollFailure:
    """Why a request has no answer."""

    reason: str
    status: int | None = None
    """The HTTP status, if there was an answer."""
    permanent: bool = False
    """The same request would fail again."""
    final: bool = False
    """The user's function says that trying again makes no sense."""
    retry_after_s: float | None = None
    """How long the venue asks to wait, in seconds."""
    auth_error: Exception | None = None
    """The error with which the user's function ends the feed."""

    def __str__(self) -> str:
        return self.reason


@final
@attrs.frozen
class RequestEnded:
    """A failure in the words in which :class:`Comeback` asks how something ended."""

    failure: PollFailure
    code: None = None
    violation: bool = False
    stale: bool = False
    pings_answered: bool = False
    wished: bool = False

    @property
    def reason(self) -> str:
        """For people to read."""
        return self.failure.reason


def failure_of(error: Exception, name: str, now: datetime, redactor: Redactor) -> PollFailure:
    """Return what *error*, raised by the user's function, says.

    Args:
        error: as it was caught.
        name: of the function.
        now: the present time, for a ``Retry-After`` that is a date.
        redactor: removes the secrets that are known.
    """
    auth_error = auth_error_in(error)
    if auth_error is not None:
        return PollFailure(reason=str(auth_error), final=True, auth_error=auth_error)
    inner = innermost(error)
    if isinstance(inner, RestError):
        # Our own client's: it says all that there is, and no secret.
        reason = redactor.text(str(inner))
    else:
        reason = f"{name} raised {_described(inner, redactor)}{where_raised(error)}"
    response = _attribute(inner, "response")
    status = _status_of(inner, response)
    permanent = _attribute(inner, "permanent")
    if permanent is not True and permanent is not False:
        permanent = isinstance(inner, ConfigError) or (status is not None and is_permanent(status))
    return PollFailure(
        reason=reason,
        status=status,
        permanent=permanent,
        retry_after_s=_retry_after_of(inner, response, now),
    )


def _described(error: BaseException, redactor: Redactor) -> str:
    """Return the type and the text of *error*, without secrets."""
    status = _status_of(None, _attribute(error, "response"))
    if status is not None:
        # The text of such an error is the client's and mostly shows the whole address.
        said = shown_status(status)
    else:
        said = _SECRET_PARTS.sub("***", redactor.text(str(error)))
    return f"{type(error).__name__}: {said}"


def _attribute(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:
        # A property of somebody's class; what it says is not worth a crash.
        return None


def _status_of(error: BaseException | None, response: object) -> int | None:
    for value in (_attribute(error, "status"), _attribute(response, "status_code")):
        if is_whole(value) and 100 <= value < 600:
            return value
    return None


def _retry_after_of(error: BaseException, response: object, now: datetime) -> float | None:
    seconds = _attribute(error, "retry_after_s")
    if is_number(seconds) and seconds >= 0:
        return float(seconds)
    try:
        header = _attribute(response, "headers").get("retry-after")
    except Exception:
        return None
    return parse_retry_after(header, now) if isinstance(header, str) else None
