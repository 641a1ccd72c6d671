"""From a URL to an open WebSocket: where to connect, how, and what it means when that fails.

Rules: nothing in here shows a query string, user info or header; what a server says in refusing us is judged by its status alone.
Failures are values with a verdict (try again, or never), so that no caller has to guess from exceptions.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from os import PathLike, fspath
from typing import Final, final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs
import trio

from ..errors import ConfigError
from .backoff import parse_retry_after

__all__ = ["ConnectFailed", "HandshakeGate", "OpenStream", "Target", "dial", "make_ssl_context"]

OpenStream = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Opens the transport to a host and port; :func:`trio.open_tcp_stream` does, and so can a proxy's client."""

_MAX_HEAD: Final = 16_384
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})\b")
_SAFE_IN_PATH: Final = "/%:@!$&'()*+,;=-._~"
_SAFE_IN_QUERY: Final = _SAFE_IN_PATH + "?[]"
_MIN_SECRET: Final = 4
_RETRIED_CLIENT_ERRORS: Final = frozenset({408, 425, 429})


@final
@attrs.frozen(repr=False)
class Target:
    """Where a WebSocket URL points to. Shown without its query string, in which venues want keys."""

    secure: bool
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, url: object) -> Target:
        """Take *url* apart.

        Raises:
            ConfigError: it is no usable ``ws://`` or ``wss://`` URL. The message never repeats the URL: it may hold a key.
        """
        if not isinstance(url, str):
            raise ConfigError(f"url must be a str, not {type(url).__name__}")
        if not url.isprintable() or " " in url:
            # urlsplit() would quietly drop some of these.
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
            raise ConfigError("url must not have a user name or password in it: give an api_key, or put the key into the query string")
        if "#" in url:
            raise ConfigError("url must not have a fragment ('#') in it")
        try:
            host = host if host.isascii() else host.encode("idna").decode()
        except UnicodeError:
            raise ConfigError("url has a host name that cannot exist") from None
        secure = parts.scheme == "wss"
        path = quote(parts.path or "/", safe=_SAFE_IN_PATH)
        return cls(secure, host, port or (443 if secure else 80), path, quote(parts.query, safe=_SAFE_IN_QUERY))

    @property
    def resource(self) -> str:
        """What goes into the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What in the URL must not be shown: the query string, and its values, but not those too short to be a secret (``v=1``)."""
        if not self.query:
            return ()
        values = [value for _name, value in parse_qsl(self.query)] + [pair.partition("=")[2] for pair in self.query.split("&")]
        return (self.query, unquote(self.query), *(value for value in values if len(value) >= _MIN_SECRET))

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.path}"

    __repr__ = __str__


@final
class ConnectFailed(Exception):
    """A connection did not come about.

    Attributes:
        permanent: trying again cannot help.
        status: the HTTP status of the answer, if there was one.
        retry_after: how long the server wants us to wait, in seconds.
        unknown_host: ``"no such host"`` or ``"no resolver"`` where the name could not be looked up.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
        unknown_host: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.status = status
        self.retry_after = retry_after
        self.unknown_host = unknown_host


def make_ssl_context(ca: str | PathLike[str] | None) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, against the authorities in *ca* (a PEM file) or the system's.

    Raises:
        ConfigError: *ca* cannot be read, or holds no certificates.
    """
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=fspath(ca))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"ca must be a PEM file of certificates; {ca!r} cannot be used: {error}") from None


async def dial(target: Target, ssl_context: ssl.SSLContext | None, open_stream: OpenStream) -> trio.abc.Stream:
    """Open the TCP or TLS stream to *target*.

    Raises:
        ConnectFailed: it cannot be opened.

    Cancellation: whatever was opened is closed.
    """
    try:
        stream = await open_stream(target.host, target.port)
    except socket.gaierror as error:
        kind = "no resolver" if error.errno == socket.EAI_AGAIN else "no such host"
        raise ConnectFailed(f"cannot look up the host {target.host!r}: {error.strerror}", unknown_host=kind) from error
    except OSError as error:
        raise ConnectFailed(f"cannot connect: {_describe(error)}") from error
    if ssl_context is None:
        return stream
    tls = trio.SSLStream(stream, ssl_context, server_hostname=target.host, https_compatible=True)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ConnectFailed(f"the server's certificate is not acceptable: {cause.verify_message}", permanent=True) from cause
        raise ConnectFailed(f"the TLS handshake failed: {_describe(cause or error)}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls


def _describe(error: BaseException) -> str:
    """Return what the system says about *error*; where several addresses were tried, about the first."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        error = cause.exceptions[0]
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


@final
class HandshakeGate(trio.abc.Stream):
    """Lets trio-websocket see an answer to its request only if that is "101 Switching Protocols", and then steps aside.

    trio-websocket waits for ever where the connection ends during the handshake, and where a refusal has a body that never
    ends; and its ``ConnectionRejected`` shows all that the server said. So refusals are judged here, by their head.

    Later it takes the text out of the server's Close frames: venues repeat in it the key that they refuse, and trio-websocket logs it.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._head = b""
        self._complete = False
        self._open = False
        self.failed: str | None = None
        """Why there will be no handshake, or ``None``."""
        self.on_failure: Callable[[], object] = lambda: None
        """Called when there will be no handshake."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the head of a good answer, and after that what the stream gives."""
        if self._open:
            return _without_close_reason(await self._stream.receive_some(max_bytes))
        try:
            return await self._receive_head()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fail("the connection was lost during the handshake")
            raise

    async def _receive_head(self) -> bytes:
        while not self._complete:
            data = await self._stream.receive_some()
            searched = max(0, len(self._head) - 2)
            self._head += data
            self._complete = _BLANK_LINE.search(self._head, searched) is not None
            if not data:
                return self._fail("the server closed the connection during the handshake")
            if not self._head.startswith(b"HTTP/"[: len(self._head)]):
                return self._fail("the answer is not HTTP")
            if len(self._head) > _MAX_HEAD:
                return self._fail("the answer has too many headers")
        if self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            return self._fail("refused")
        self._open = True
        return self._head

    def _fail(self, reason: str) -> bytes:
        self.failed = reason
        self.on_failure()
        return b""

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer, if it was ever seen."""
        match = _STATUS.match(self._head)
        return int(match[1]) if match else None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer, by their lower-case names, as far as it came."""
        lines = self._head.decode("latin-1").split("\n")[1:]
        pairs = (line.partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _colon, value in pairs}

    def verdict(self, otherwise: str) -> ConnectFailed:
        """Return why the handshake failed, and whether to try again; *otherwise* says it where the server did not."""
        status = self.status
        if status is None or status == HTTPStatus.SWITCHING_PROTOCOLS:
            return ConnectFailed(self.failed or otherwise)
        try:
            reason = f"the server answered {status} {HTTPStatus(status).phrase}"
        except ValueError:
            reason = f"the server answered {status}"
        after = self.headers.get("retry-after")
        return ConnectFailed(
            reason,
            # Not even a redirect or a page (200) becomes a WebSocket by asking again.
            permanent=200 <= status < 500 and status not in _RETRIED_CLIENT_ERRORS,
            status=status,
            retry_after=None if after is None else parse_retry_after(after, datetime.now(UTC)),
        )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, as the stream does."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if not self._open:
                self._fail("the connection was lost during the handshake")
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait, as the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


def _without_close_reason(frames: bytes | bytearray) -> bytes | bytearray:
    """Return control *frames* with no text in the Close frame that may end them (RFC 6455, section 5.5.1)."""
    position = 0
    while position < len(frames):
        opcode, size = frames[position], frames[position + 1]
        if opcode == 0x88 and size > 2:
            return frames[:position] + b"\x88\x02" + frames[position + 2 : position + 4]
        position += 2 + size
    return frames
