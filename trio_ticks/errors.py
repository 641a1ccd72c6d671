"""The errors of the library, told apart by whose fault they are.

Every error that trio_ticks raises on purpose derives from :class:`TickError`. Its facts
are attributes, and its cause is chained.

Rules: no message ever holds an API key or a URL's query string.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BrokerError",
    "ConfigError",
    "FeedAuthError",
    "FeedBrokenError",
    "FeedClosedError",
    "FeedError",
    "HandlerTimeoutError",
    "KilledProcessError",
    "LedgerError",
    "QueueFullError",
    "RemoteHandlerError",
    "RestError",
    "TickError",
    "UnknownSymbolError",
    "VenueProtocolError",
    "WorkerCrashedError",
]


class TickError(Exception):
    """Base of every error that trio_ticks raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle passes args alone to the constructor, and most constructors here demand
        # keyword arguments. Errors must pass, since worker processes send theirs.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[TickError], args: tuple[Any, ...], facts: dict[str, Any]) -> TickError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigError(TickError, ValueError):
    """You asked for something that cannot work; the message says what to change."""


class LedgerError(TickError, AssertionError):
    """The ledger's law is broken: a bug in trio_ticks, or in a channel of your own."""


class QueueFullError(TickError):
    """The channel is full, and its strategy is :class:`~trio_ticks.Fail`.

    Attributes:
        maxsize: capacity of the channel, in ticks.
    """

    def __init__(self, message: str, *, maxsize: int) -> None:
        super().__init__(message)
        self.maxsize = maxsize


class BrokerError(TickError):
    """A buffer between processes cannot be used, and waiting does not mend that.

    The broker refuses us, or another program uses the same name with other settings.
    The message says what to do. A broker that is only away is waited for instead.

    Attributes:
        buffer: the buffer, as it may be shown: without a password.
    """

    def __init__(self, message: str, *, buffer: str) -> None:
        super().__init__(message)
        self.buffer = buffer


class HandlerTimeoutError(TickError, TimeoutError):
    """A handler took longer than ``handler_timeout``.

    Attributes:
        timeout_s: the limit, in seconds.
    """

    def __init__(self, message: str, *, timeout_s: float) -> None:
        super().__init__(message)
        self.timeout_s = timeout_s


class KilledProcessError(TickError):
    """A process died again and again while this tick was being handled.

    It came from a broker, which counts that; the tick is not handled any more.

    Attributes:
        deaths: how many processes died so; ``None``: only the ingest knows.
    """

    def __init__(self, message: str, *, deaths: int | None) -> None:
        super().__init__(message)
        self.deaths = deaths


class WorkerCrashedError(TickError):
    """A worker process ended while it held ticks.

    Attributes:
        exitcode: the exit code of the process. If it is negative, the signal that ended
            it; ``None`` if it is unknown.
    """

    def __init__(self, message: str, *, exitcode: int | None) -> None:
        super().__init__(message)
        self.exitcode = exitcode


class RemoteHandlerError(TickError):
    """Stands for an exception that cannot leave the worker process of its handler.

    Attributes:
        kind: the name of its class.
        traceback: all of it, as text.
    """

    def __init__(self, message: str, *, kind: str, traceback: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.traceback = traceback


class FeedError(TickError):
    """A feed cannot go on."""


class FeedClosedError(FeedError):
    """You used a feed that has ended or was closed."""


class FeedBrokenError(FeedError):
    """The venue cannot be reached, and trying again will not help.

    Attributes:
        url: the address, without user info and query string.
        status: the HTTP status that ended it, or ``None``.
        attempts: how many times a connection was tried.
    """

    def __init__(
        self, message: str, *, url: str | None = None, status: int | None = None, attempts: int = 1
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.attempts = attempts


class FeedAuthError(FeedBrokenError):
    """The venue refused the credentials (HTTP 401 or 403)."""


class RestError(FeedError):
    """A venue's REST interface gave no answer that can be used.

    Credentials that it refuses are a :class:`FeedAuthError` instead.

    Attributes:
        url: the address, without query string.
        status: the HTTP status of the last answer; ``None``: there was none.
        code: the venue's own code for the error, as text, if it gave one.
        permanent: whether the same request would fail again.
        retry_after_s: the seconds that the venue asks to wait, if it does.
        attempts: how many times the request was sent.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        status: int | None = None,
        code: str | None = None,
        permanent: bool = True,
        retry_after_s: float | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.code = code
        self.permanent = permanent
        self.retry_after_s = retry_after_s
        self.attempts = attempts


class UnknownSymbolError(RestError):
    """The venue has no such symbol, or several of that name.

    Attributes:
        types: the kinds of instrument that have the name, if there are several; one of
            them has to be chosen (``type=``).
    """

    types: tuple[str, ...] = ()


class VenueProtocolError(FeedError):
    """The venue sent bytes that its protocol does not allow.

    Attributes:
        code: the WebSocket close code that answers it (RFC 6455, section 7.4.1).
    """

    def __init__(self, message: str, *, code: int = 1002) -> None:
        super().__init__(message)
        self.code = code
