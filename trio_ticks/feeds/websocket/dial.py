"""Opening the stream of a connection: look up, connect, pass the proxy, start TLS.

Rules: whatever fails becomes a :class:`ConnectFailed`. No stream is left open.
"""

from __future__ import annotations

import socket
import ssl

import trio

from .connect import ConnectFailed, OpenStream, Target
from .proxy import Proxy, open_tunnel
from .tls_stream import TlsStream

__all__ = ["dial"]


async def dial(
    target: Target,
    ssl_context: ssl.SSLContext | None,
    open_stream: OpenStream,
    proxy: Proxy | None = None,
    proxy_ssl_context: ssl.SSLContext | None = None,
) -> trio.abc.Stream:
    """Open the TCP or TLS stream to *target*, through *proxy* if there is one.

    Raises:
        ConnectFailed: it cannot be opened.

    Cancellation: a stream that was opened already is closed.
    """
    if proxy is None:
        stream = await _connect(open_stream, target.host, target.port, "")
    else:
        stream = await _connect(open_stream, proxy.host, proxy.port, " to the proxy")
        if proxy_ssl_context is not None:
            stream = await _start_tls(stream, proxy_ssl_context, proxy.host, "proxy")
        try:
            await open_tunnel(stream, proxy, target)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    if ssl_context is None:
        return stream
    return await _start_tls(stream, ssl_context, target.host, "server")


async def _connect(open_stream: OpenStream, host: str, port: int, to: str) -> trio.abc.Stream:
    try:
        return await open_stream(host, port)
    except socket.gaierror as error:
        # A resolver that cannot answer yet says nothing about the host: programs start
        # before the network does.
        raise ConnectFailed(
            f"cannot look up the {'proxy' if to else 'host'} {host!r}: {error.strerror}",
            permanent=error.errno != socket.EAI_AGAIN,
        ) from error
    except OSError as error:
        raise ConnectFailed(f"cannot connect{to}: {_describe(error)}") from error


async def _start_tls(
    stream: trio.abc.Stream, ssl_context: ssl.SSLContext, host: str, peer: str
) -> trio.abc.Stream:
    try:
        tls = TlsStream(stream, ssl_context, host)
    except (ssl.SSLError, ValueError) as error:
        # A context that is only for servers, or a name that no certificate can have.
        await trio.aclose_forcefully(stream)
        raise ConnectFailed(
            f"TLS with the {peer} cannot begin: {_describe(error)}", permanent=True
        ) from error
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ConnectFailed(
                f"the {peer}'s certificate is not acceptable: {cause.verify_message}",
                permanent=True,
            ) from cause
        whose = " with the proxy" if peer == "proxy" else ""
        raise ConnectFailed(
            f"the TLS handshake{whose} failed: {_describe(cause or error)}"
        ) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls


def _describe(error: BaseException) -> str:
    """Return the system's text for *error*.

    Where several addresses of a host failed, it is the text for the first of them.
    """
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        error = cause.exceptions[0]
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    return (
        (error.strerror if isinstance(error, OSError) else None)
        or str(error)
        or type(error).__name__
    )
