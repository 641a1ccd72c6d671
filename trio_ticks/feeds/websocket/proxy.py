"""A connection through an HTTP proxy: its address, and the request that opens a tunnel.

Plan: the feed connects to the proxy and sends ``CONNECT host:port`` (RFC 9110, section
9.3.6). After a 2xx answer the stream leads to the venue, as if it were the socket.

Rules: nothing shows the user name or the password, or quotes the proxy.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final, final
from urllib.parse import unquote, urlsplit

import attrs
import h11
import trio

from ...errors import ConfigError
from ...hosts import ascii_host
from .connect import MIN_SECRET, ConnectFailed, Target, is_permanent, shown_status
from .headers import USER_AGENT

__all__ = ["Proxy", "open_tunnel"]

_MAX_HEAD: Final = 16_384
_PORTS: Final = {"http": 80, "https": 443}
_SOCKS: Final = """{name}: SOCKS is not built in. Give open_stream= a function that connects\
 through it, such as this one with python-socks (pip install "python-socks[trio]"):

    from python_socks import ProxyError
    from python_socks.async_.trio import Proxy

    async def open_stream(host, port):
        proxy = Proxy.from_url("socks5://...")
        try:
            return trio.SocketStream(await proxy.connect(dest_host=host, dest_port=port))
        except ProxyError as error:
            raise OSError(f"the proxy: {{error}}") from error
"""


@final
@attrs.frozen(repr=False)
class Proxy:
    """The address of an HTTP proxy, taken apart."""

    secure: bool
    """Whether to speak TLS with the proxy itself."""
    host: str
    port: int
    credentials: str | None
    """User name and password, with a colon between them."""

    @classmethod
    def parse(cls, url: object, name: str = "proxy") -> Proxy:
        """Take *url* apart.

        Args:
            url: ``http://[user:password@]host:port``, or ``https://...``.
            name: of the setting, for the message.

        Raises:
            ConfigError: it is no such URL. The message never repeats it.
        """
        if not isinstance(url, str):
            raise ConfigError(f"{name} must be a str, not {type(url).__name__}")
        if not url.isprintable() or " " in url:
            raise ConfigError(f"{name} must not have spaces or control characters in it")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"{name} is not a valid URL: check the host and the port") from None
        if parts.scheme.startswith("socks"):
            raise ConfigError(_SOCKS.format(name=name))
        if parts.scheme not in _PORTS:
            raise ConfigError(f"{name} must begin with http:// or https://")
        if not host or port == 0:
            raise ConfigError(f"{name} must have a host, and no port 0")
        if parts.path not in ("", "/") or "?" in url or "#" in url:
            raise ConfigError(
                f"{name} must end after the port; write special characters of a password as in"
                " a URL: %23 for '#', %2F for '/'"
            )
        return cls(
            parts.scheme == "https",
            ascii_host(name, host),
            port or _PORTS[parts.scheme],
            _credentials(parts.netloc, name),
        )

    @property
    def authorization(self) -> str | None:
        """The value of the header ``Proxy-Authorization``."""
        if self.credentials is None:
            return None
        return "Basic " + b64encode(self.credentials.encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        if self.credentials is None or self.authorization is None:
            return ()
        found = (
            self.credentials,
            self.credentials.partition(":")[2],
            self.authorization.partition(" ")[2],
        )
        return tuple(secret for secret in found if len(secret) >= MIN_SECRET)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    __repr__ = __str__


def _credentials(netloc: str, name: str) -> str | None:
    """Return the user name and the password in *netloc*, decoded."""
    info, at, _ = netloc.rpartition("@")
    if not at:
        return None
    user, _, password = info.partition(":")
    user, password = unquote(user), unquote(password)
    if ":" in user or not user:
        raise ConfigError(f"{name} must have a user name without a colon before the password")
    return f"{user}:{password}"


async def open_tunnel(stream: trio.abc.Stream, proxy: Proxy, target: Target) -> None:
    """Have *proxy*, to which *stream* is connected, connect it to *target*.

    Raises:
        ConnectFailed: the proxy does not; the stream is of no further use.

    Cancellation: the stream is of no further use.
    """
    host = f"[{target.host}]" if ":" in target.host else target.host
    headers = [("Host", f"{host}:{target.port}"), ("User-Agent", USER_AGENT)]
    if proxy.authorization is not None:
        headers.append(("Proxy-Authorization", proxy.authorization))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = h11.Request(method="CONNECT", target=f"{host}:{target.port}", headers=headers)
    try:
        await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        answer = await _receive_answer(stream, http)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectFailed("the connection to the proxy was lost") from error
    except h11.RemoteProtocolError:
        # Its text may quote the answer.
        raise ConnectFailed("the proxy's answer is not HTTP") from None
    if not 200 <= answer.status_code < 300:
        raise _refusal(answer, proxy)
    if http.trailing_data[0]:
        # Both TLS and WebSocket begin with a message of ours: this is not the venue.
        raise ConnectFailed("the proxy sent more than its answer")


async def _receive_answer(stream: trio.abc.Stream, http: h11.Connection) -> h11.Response:
    received = 0
    while True:
        event = http.next_event()
        if isinstance(event, h11.Response):
            return event
        if isinstance(event, h11.InformationalResponse):
            continue
        data = await stream.receive_some(4096)
        received += len(data)
        if not data:
            raise ConnectFailed("the proxy closed the connection without an answer")
        if received > _MAX_HEAD:
            raise ConnectFailed("the proxy's answer has too many headers")
        http.receive_data(bytes(data))


def _refusal(answer: h11.Response, proxy: Proxy) -> ConnectFailed:
    """Return what an *answer* other than 2xx means.

    The status is no attribute of it: the caller would take a 401 or 403 for an answer
    of the venue to the API key.
    """
    status = answer.status_code
    headers = {name.lower(): value for name, value in answer.headers}
    offers = b", ".join(value for name, value in answer.headers if name == b"proxy-authenticate")
    if status != 407:
        reason = f"the proxy does not connect: it answered {shown_status(status)}"
    elif offers and b"basic" not in offers.lower():
        reason = "the proxy wants a log-in (407) of a kind that is not built in (not Basic)"
    elif proxy.credentials is None:
        reason = "the proxy wants a password (407): proxy='http://user:password@host:port'"
    else:
        reason = "the proxy does not accept the user name or the password (407)"
    return ConnectFailed(
        reason,
        permanent=is_permanent(status),
        retry_after=headers.get(b"retry-after", b"").decode("latin-1") or None,
    )
