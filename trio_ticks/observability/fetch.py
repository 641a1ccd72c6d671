"""A small HTTP/1.1 client: GET one address over trio, with TLS for ``https``.

Rules: the answer's size and the time for it are bounded, whatever the other side does.
Each request has a connection of its own. The parts of an address that may be secret (a
user's password, a query) are in no error.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

import attrs
import h11
import trio

from ..errors import ConfigError, TickError
from ..hosts import ascii_host
from ..logs import one_line

__all__ = ["FetchError", "HttpAddress", "fetch"]

MAX_BYTES: Final = 32 * 1024 * 1024
_CHUNK: Final = 64 * 1024


class FetchError(TickError):
    """Nothing usable came from an address. The message has no address.

    It is one line without control characters, since it may repeat what came.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 500))


@attrs.frozen(slots=True)
class HttpAddress:
    """An ``http://`` or ``https://`` address, taken apart."""

    host: str
    port: int
    target: str
    tls: bool
    shown: str
    """The address without what may be a secret."""

    @classmethod
    def parse(cls, url: str) -> HttpAddress:
        """Return *url* taken apart.

        Raises:
            ConfigError: it is no address, or not one that this client can ask.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"the address cannot be read: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("the address must begin with http:// or https:// and name a host")
        if parts.username is not None:
            raise ConfigError(
                "the address must not hold a user or a password; this client sends none"
            )
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ConfigError("the address must be ASCII without spaces")
        ascii_host("the address", parts.hostname)
        tls = parts.scheme == "https"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        shown = (
            f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{parts.path or '/'}"
        )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            parts.hostname, port if port is not None else 443 if tls else 80, target, tls, shown
        )


async def fetch(url: str | HttpAddress, *, timeout_s: float = 5.0, accept: str = "*/*") -> bytes:
    """Return the body that is at *url*.

    Raises:
        ConfigError: *url* is no address.
        FetchError: it cannot be reached, takes longer than *timeout_s*, or answers with
            anything but status 200 or with more than 32 MiB.

    Cancellation: the connection is closed at once.
    """
    address = HttpAddress.parse(url) if isinstance(url, str) else url
    try:
        with trio.fail_after(timeout_s):
            stream: trio.abc.Stream = await trio.open_tcp_stream(address.host, address.port)
            if address.tls:
                stream = trio.SSLStream(
                    stream,
                    ssl.create_default_context(),
                    server_hostname=address.host,
                    https_compatible=True,
                )
            try:
                return await _ask(stream, address, accept)
            finally:
                # Closing TLS in order may wait for the other side, and nothing more is
                # wanted from it.
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError:
        raise FetchError(f"no answer within {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise FetchError(f"no TLS with it: {error.reason or error}") from error
    except trio.BrokenResourceError as error:
        raise FetchError(f"the connection broke: {error.__cause__ or error}") from error
    except OSError as error:
        raise FetchError(_why(error)) from error
    except h11.RemoteProtocolError as error:
        raise FetchError(f"it does not speak HTTP: {error}") from error


def _why(error: OSError) -> str:
    """Return the reason without the address, which trio's messages name."""
    causes = (
        error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else [error]
    )
    return " and ".join(dict.fromkeys(_reason(cause).lower() for cause in causes))


def _reason(error: BaseException) -> str:
    if (
        isinstance(error, OSError)
        and error.errno is not None
        and not isinstance(error, socket.gaierror)
    ):
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


async def _ask(stream: trio.abc.Stream, address: HttpAddress, accept: str) -> bytes:
    connection = h11.Connection(h11.CLIENT)
    default = address.port == (443 if address.tls else 80)
    host = f"[{address.host}]" if ":" in address.host else address.host
    headers = [
        ("Host", host if default else f"{host}:{address.port}"),
        ("Accept", accept),
        ("Connection", "close"),
    ]
    request = h11.Request(method="GET", target=address.target, headers=headers)
    await stream.send_all(
        (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    )
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BYTES:
                raise FetchError(f"it answers with more than {MAX_BYTES // 2**20} MiB")
        elif isinstance(event, h11.EndOfMessage):
            break
        elif isinstance(event, h11.ConnectionClosed):
            raise FetchError("the connection was closed without an answer")
    if status != 200:
        raise FetchError(f"it answers with HTTP status {status}")
    return bytes(body)
