"""The address of a connection, and how a connection that never opened failed.

Rules: nothing in here shows a query string, user info or header. Every failure on the
way to an open WebSocket becomes a :class:`ConnectFailed` that says whether to try
again, so that no caller has to guess from exceptions.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from os import PathLike, fspath
from typing import Final, final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs
import trio

from ...errors import ConfigError
from ...hosts import ascii_host

__all__ = [
    "MIN_SECRET",
    "ConnectFailed",
    "OpenStream",
    "Target",
    "is_permanent",
    "make_ssl_context",
    "shown_status",
]

OpenStream = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Opens the transport to a host and port, as :func:`trio.open_tcp_stream` does.

The client of a proxy can take its place.
"""

_SAFE_IN_PATH: Final = "/%:@!$&'()*+,;=-._~"
_SAFE_IN_QUERY: Final = _SAFE_IN_PATH + "?[]"
_RETRIED_CLIENT_ERRORS: Final = frozenset({408, 425, 429})
MIN_SECRET: Final = 4
"""In characters. A shorter value, such as the 1 in ``v=1``, is no secret."""


def shown_status(status: int) -> str:
    """Return an HTTP *status* with its name, which is ours and not the server's."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def is_permanent(status: int) -> bool:
    """Tell whether the same request would be refused with this *status* again."""
    return 200 <= status < 500 and status not in _RETRIED_CLIENT_ERRORS


@final
@attrs.frozen(repr=False)
class Target:
    """A WebSocket URL, taken apart.

    ``str`` and ``repr`` leave out the query string, since some venues want the key in
    it.
    """

    secure: bool
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, url: object) -> Target:
        """Take *url* apart.

        Raises:
            ConfigError: it is no usable ``ws://`` or ``wss://`` URL. The message never
                repeats the URL, since that may hold a key.
        """
        if not isinstance(url, str):
            raise ConfigError(f"url must be a str, not {type(url).__name__}")
        if not url.isprintable() or " " in url:
            # urlsplit() removes tabs and line ends without an error.
            raise ConfigError("url must not have spaces or control characters in it")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError("url is not a valid URL: check the host and the port") from None
        if parts.scheme not in ("ws", "wss"):
            raise ConfigError("url must begin with ws:// or wss://")
        if not host or port == 0:
            raise ConfigError("url must have a host, and no port 0")
        if "@" in parts.netloc:
            raise ConfigError(
                "url must not have a user name or password in it: give an api_key, or put the"
                " key into the query string"
            )
        if "#" in url:
            raise ConfigError("url must not have a fragment ('#') in it")
        host = ascii_host("url", host)
        secure = parts.scheme == "wss"
        path = quote(parts.path or "/", safe=_SAFE_IN_PATH)
        return cls(
            secure,
            host,
            port or (443 if secure else 80),
            path,
            quote(parts.query, safe=_SAFE_IN_QUERY),
        )

    @property
    def resource(self) -> str:
        """The path and query string, for the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_parameter(self, name: str, value: str) -> Target:
        """Return the address with one more parameter in its query string.

        Raises:
            ConfigError: it has that parameter already.
        """
        if any(given == name for given, _value in parse_qsl(self.query, keep_blank_values=True)):
            raise ConfigError(f"give the key either as api_key or as {name} in the url")
        added = f"{quote(name, safe='')}={quote(value, safe='')}"
        return attrs.evolve(self, query=f"{self.query}&{added}" if self.query else added)

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The parts of the URL that must not be shown: the query string and its values.

        Values of fewer than 4 characters are left out.
        """
        if not self.query:
            return ()
        values = [value for _name, value in parse_qsl(self.query)] + [
            pair.partition("=")[2] for pair in self.query.split("&")
        ]
        return (
            self.query,
            unquote(self.query),
            *(value for value in values if len(value) >= MIN_SECRET),
        )

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.path}"

    __repr__ = __str__


@final
class ConnectFailed(Exception):
    """A connection could not be opened.

    Attributes:
        permanent: trying again cannot help, unless it has worked before.
        final: trying again cannot help in any case.
        status: the HTTP status of the answer, if there was one.
        retry_after: the value of the server's ``Retry-After`` header, unparsed.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        final: bool = False,
        status: int | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.final = final
        self.status = status
        self.retry_after = retry_after


def make_ssl_context(ca: str | PathLike[str] | None) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names.

    It trusts the authorities in *ca* (a PEM file), or those of the system for ``None``.

    Raises:
        ConfigError: *ca* cannot be read, or holds no certificates.
    """
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=fspath(ca))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"ca must be a PEM file of certificates; {ca!r} cannot be used: {error}"
        ) from None
